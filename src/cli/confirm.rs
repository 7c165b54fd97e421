//! Confirmation on the terminal.

use std::io::{self, IsTerminal};

use anyhow::{Context, ensure};

/// Fails if nobody can be asked; `action` begins the message.
pub(super) fn require_terminal(action: &str) -> anyhow::Result<()> {
    ensure!(
        io::stdin().is_terminal(),
        "{action} needs a confirmation, but standard input is not a terminal: use --yes"
    );
    Ok(())
}

/// Asks a question and fails with `declined` unless the answer is `yes`.
pub(super) fn ask(question: &str, declined: &'static str) -> anyhow::Result<()> {
    eprint!("{question} Type `yes`: ");
    let mut answer = String::new();
    io::stdin().read_line(&mut answer).context("cannot read the answer")?;
    ensure!(answer.trim() == "yes", declined);
    Ok(())
}

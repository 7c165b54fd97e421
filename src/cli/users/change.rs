//! `users revoke`, `block`, `unblock` and `delete`: changes that reach ACS, now or a little later.

use std::io::{self, IsTerminal};

use anyhow::{Context, ensure};
use clap::{Args, Subcommand};
use serde_json::Value;

use super::{One, name};
use crate::{
    api::{ChangeRequest, ChangeResponse, OperationState},
    cli::{
        operations,
        remote::{Session, read},
        table,
    },
};

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Take every token of a user back, and refuse logins from before now.
    Revoke {
        #[command(flatten)]
        change: Change,
        /// Let logins from before now get new tokens.
        #[arg(long)]
        keep_sign_ins: bool,
        #[command(flatten)]
        wait: Wait,
    },
    /// Take every token of a user back, and give none until the user is unblocked.
    Block {
        #[command(flatten)]
        change: Change,
        #[command(flatten)]
        wait: Wait,
    },
    /// Let a blocked user have tokens again.
    Unblock {
        #[command(flatten)]
        change: Change,
    },
    /// Let a user's logins in again that a revocation by mistake shut out.
    AllowOlderSignIns {
        #[command(flatten)]
        change: Change,
    },
    /// Delete a user's identity at ACS, with its chat memberships, for good.
    Delete {
        #[command(flatten)]
        change: Change,
        /// Do not ask.
        #[arg(long)]
        yes: bool,
        #[command(flatten)]
        wait: Wait,
    },
}

/// To whom, and why.
#[derive(Debug, Args)]
pub(super) struct Change {
    #[command(flatten)]
    one: One,
    /// Why, for the audit trail.
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,
}

/// How long the command takes.
#[derive(Clone, Copy, Debug, Args)]
pub(super) struct Wait {
    /// Wait until ACS has confirmed it, two minutes at most.
    #[arg(long)]
    wait: bool,
}

impl Command {
    /// Makes sure that what cannot be undone is meant.
    pub(super) fn check(&self) -> anyhow::Result<()> {
        let Self::Delete { change, yes: false, .. } = self else {
            return Ok(());
        };
        let user = table::printable(&change.one.user);
        ensure!(io::stdin().is_terminal(), "deleting {user} cannot be undone, and there is nobody to ask: give --yes");
        eprint!("Delete the identity of {user} at ACS, with its chat memberships, for good? Type `yes`: ");
        let mut answer = String::new();
        io::stdin().read_line(&mut answer).context("cannot read the answer")?;
        ensure!(answer.trim() == "yes", "nothing was deleted");
        Ok(())
    }

    /// Makes the change and shows what became of it.
    pub(super) async fn run(self, session: &Session) -> anyhow::Result<()> {
        match self {
            Self::Revoke { change, keep_sign_ins, wait } => {
                let (user, mut request) = change.into_parts();
                request.reject_older_sign_ins = keep_sign_ins.then_some(false);
                let answer = session.client.post(&["users", &user, "revoke"], &request).await?;
                finish(session, "revoked", answer, wait).await
            }
            Self::Block { change, wait } => {
                let (user, request) = change.into_parts();
                let answer = session.client.post(&["users", &user, "block"], &request).await?;
                finish(session, "blocked", answer, wait).await
            }
            Self::Unblock { change } => {
                let (user, request) = change.into_parts();
                let answer = session.client.post(&["users", &user, "unblock"], &request).await?;
                finish(session, "unblocked", answer, Wait { wait: false }).await
            }
            Self::AllowOlderSignIns { change } => {
                let (user, request) = change.into_parts();
                let answer = session.client.post(&["users", &user, "allow-older-sign-ins"], &request).await?;
                session.show(&answer, |change: &ChangeResponse| {
                    format!("logins from before the last revocation of {} are good again\n", name(&change.user))
                })
            }
            Self::Delete { change, wait, .. } => {
                let (user, request) = change.into_parts();
                let answer = session.client.delete(&["users", &user], &request).await?;
                finish(session, "deleted", answer, wait).await
            }
        }
    }
}

impl Change {
    fn into_parts(self) -> (String, ChangeRequest) {
        let request = ChangeRequest { reason: self.reason, reject_older_sign_ins: None };
        (self.one.user, request)
    }
}

async fn finish(session: &Session, done: &str, mut answer: Value, wait: Wait) -> anyhow::Result<()> {
    let change: ChangeResponse = read(&answer)?;
    if let Some(operation) = change.operation
        && operation.state == OperationState::Pending
        && wait.wait
    {
        eprintln!("accepted; waiting for ACS to confirm operation {}", operation.id);
        answer["operation"] = operations::wait(session, operation.id).await?;
    }
    session.show(&answer, |change| describe(done, change))
}

fn describe(done: &str, change: &ChangeResponse) -> String {
    let user = table::printable(&format!("{} ({})", name(&change.user), change.user.id));
    match &change.operation {
        None => format!("{done} {user}; nothing had to be done at ACS\n"),
        Some(operation) if operation.state == OperationState::Completed => {
            format!("{done} {user}; ACS confirmed it\n{}", operations::describe(operation))
        }
        Some(operation) => format!(
            "accepted: {user} is {done} here; ACS has not confirmed it yet and is being retried until it does\n{}",
            operations::describe(operation)
        ),
    }
}

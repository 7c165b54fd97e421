//! `users revoke`, `block`, `unblock`, `allow-older-sign-ins` and `delete`.

use clap::{Args, Subcommand};
use serde_json::Value;

use super::one::{One, name};
use crate::{
    api::{ChangeRequest, ChangeResponse, OperationState},
    cli::{
        confirm, operations,
        remote::{Session, read},
        table,
    },
};

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Revoke all tokens of a user and reject earlier sign-ins.
    Revoke {
        #[command(flatten)]
        change: Change,
        /// Keep accepting earlier sign-ins: the user can get new tokens without signing in again.
        #[arg(long)]
        keep_sign_ins: bool,
        #[command(flatten)]
        wait: Wait,
    },
    /// Revoke all tokens of a user and issue no more until the user is unblocked.
    Block {
        #[command(flatten)]
        change: Change,
        #[command(flatten)]
        wait: Wait,
    },
    /// Issue tokens to a blocked user again.
    Unblock {
        #[command(flatten)]
        change: Change,
    },
    /// Undo an accidental revocation's sign-in cut-off.
    AllowOlderSignIns {
        #[command(flatten)]
        change: Change,
    },
    /// Permanently delete a user's identity at ACS, with its chat memberships.
    Delete {
        #[command(flatten)]
        change: Change,
        /// Do not ask for confirmation.
        #[arg(long)]
        yes: bool,
        #[command(flatten)]
        wait: Wait,
    },
}

/// The user and the reason.
#[derive(Debug, Args)]
pub(super) struct Change {
    #[command(flatten)]
    one: One,
    /// The reason, for the audit log.
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,
}

/// Whether to wait for ACS.
#[derive(Clone, Copy, Debug, Args)]
pub(super) struct Wait {
    /// Wait until ACS has confirmed the change, at most two minutes.
    #[arg(long)]
    wait: bool,
}

impl Command {
    /// Asks for confirmation of a deletion.
    pub(super) fn confirm(&self) -> anyhow::Result<()> {
        let Self::Delete { change, yes: false, .. } = self else {
            return Ok(());
        };
        let user = table::printable(&change.one.user);
        confirm::require_terminal(&format!("deleting {user}"))?;
        let question = format!("Permanently delete the identity of {user} at ACS, with its chat memberships?");
        confirm::ask(&question, "nothing was deleted")
    }

    /// Makes the change and shows the result.
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
                    format!("sign-ins of {} from before the last revocation are accepted again\n", name(&change.user))
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
        None => format!("{done} {user}; no change at ACS was needed\n"),
        Some(operation) if operation.state == OperationState::Completed => {
            format!("{done} {user}; ACS confirmed it\n{}", operations::describe(operation))
        }
        Some(operation) => format!(
            "accepted: {user} is {done} here; ACS has not confirmed it yet, the service keeps retrying\n{}",
            operations::describe(operation)
        ),
    }
}

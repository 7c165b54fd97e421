//! `operations`: the work at ACS that was accepted, and how far it is.

use std::time::Duration;

use anyhow::{Context, bail};
use clap::Args;
use serde_json::Value;
use tokio::time::Instant;
use uuid::Uuid;

use super::{
    remote::{ListArgs, Remote, Session, read},
    table,
};
use crate::{
    api::{OperationResponse, OperationState, OperationsPage},
    config::Variables,
};

/// How long `--wait` waits.
const PATIENCE: Duration = Duration::from_mins(2);
/// How often it looks.
const INTERVAL: Duration = Duration::from_secs(1);

/// Which operations.
#[derive(Debug, Args)]
pub(super) struct Options {
    /// Only this one, with everything that is known of it.
    #[arg(long, conflicts_with_all = ["state", "limit", "all"])]
    id: Option<Uuid>,
    /// Only those in this state.
    #[arg(long, value_parser = ["pending", "completed"])]
    state: Option<String>,
    #[command(flatten)]
    extent: ListArgs,
    #[command(flatten)]
    remote: Remote,
}

pub(super) async fn run(options: Options, environment: &Variables) -> anyhow::Result<()> {
    let session = options.remote.open(environment)?;
    if let Some(id) = options.id {
        return session.show(&get(&session, id).await?, describe);
    }
    let filter = [("state", options.state)];
    let answer = session.list("operations", "operations", &filter, &options.extent).await?;
    session.show(&answer, |page: &OperationsPage| {
        table::table(
            ["ID", "KIND", "STATE", "USER", "TRIES", "ACCEPTED", "CONFIRMED", "LAST ERROR"],
            page.operations.iter().map(row),
        )
    })
}

/// Waits until an operation is completed, and returns it.
pub(super) async fn wait(session: &Session, id: Uuid) -> anyhow::Result<Value> {
    let give_up = Instant::now() + PATIENCE;
    loop {
        let answer = get(session, id)
            .await
            .with_context(|| format!("it was accepted, but operation {id} cannot be looked at"))?;
        let operation: OperationResponse = read(&answer)?;
        if operation.state == OperationState::Completed {
            return Ok(answer);
        }
        if Instant::now() >= give_up {
            bail!(
                "ACS has not confirmed operation {id} after {} seconds; it is still being retried, last error: {}",
                PATIENCE.as_secs(),
                table::printable(operation.last_error.as_deref().unwrap_or_default())
            );
        }
        tokio::time::sleep(INTERVAL).await;
    }
}

/// Writes everything that is known of an operation.
pub(super) fn describe(operation: &OperationResponse) -> String {
    table::record([
        ("operation", operation.id.to_string()),
        ("kind", operation.kind.as_str().to_owned()),
        ("state", state(operation).to_owned()),
        ("user", operation.user.clone()),
        ("identity", operation.communication_user_id.clone()),
        ("reason", table::or_nothing(operation.reason.as_ref())),
        ("tries", operation.attempts.to_string()),
        ("last error", table::or_nothing(operation.last_error.as_ref())),
        ("next try", table::or_nothing(operation.next_attempt_at.map(table::time))),
        ("accepted", table::time(operation.created_at)),
        ("confirmed", table::or_nothing(operation.confirmed_at.map(table::time))),
        ("everywhere by", table::or_nothing(operation.propagates_by.map(table::time))),
    ])
}

async fn get(session: &Session, id: Uuid) -> anyhow::Result<Value> {
    session.client.get(&["operations", &id.to_string()], &[]).await
}

fn row(operation: &OperationResponse) -> [String; 8] {
    [
        operation.id.to_string(),
        operation.kind.as_str().to_owned(),
        state(operation).to_owned(),
        operation.user.clone(),
        operation.attempts.to_string(),
        table::time(operation.created_at),
        table::or_nothing(operation.confirmed_at.map(table::time)),
        table::or_nothing(operation.last_error.as_ref()),
    ]
}

fn state(operation: &OperationResponse) -> &'static str {
    match operation.state {
        OperationState::Pending => "pending",
        OperationState::Completed => "completed",
    }
}

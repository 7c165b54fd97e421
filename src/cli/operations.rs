//! `operations`: accepted operations at ACS and their state.

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
    api::{OperationResponse, OperationState},
    config::Variables,
};

/// How long `--wait` waits.
const TIMEOUT: Duration = Duration::from_mins(2);
const POLL_INTERVAL: Duration = Duration::from_secs(1);

/// Which operations to show.
#[derive(Debug, Args)]
pub(super) struct Options {
    /// Show the details of this operation.
    #[arg(long, conflicts_with_all = ["state", "limit", "all"])]
    id: Option<Uuid>,
    /// Only operations in this state.
    #[arg(long, value_parser = ["pending", "completed"])]
    state: Option<String>,
    #[command(flatten)]
    list: ListArgs,
    #[command(flatten)]
    remote: Remote,
}

pub(super) async fn run(options: Options, environment: &Variables) -> anyhow::Result<()> {
    let session = options.remote.open(environment)?;
    if let Some(id) = options.id {
        return session.show(&session.get("operations", id).await?, describe);
    }
    let header = ["ID", "KIND", "STATE", "USER", "ATTEMPTS", "ACCEPTED", "CONFIRMED", "LAST ERROR"];
    session.show_list("operations", "operations", &[("state", options.state)], &options.list, header, row).await
}

/// Waits until an operation is completed, and returns it.
pub(super) async fn wait(session: &Session, id: Uuid) -> anyhow::Result<Value> {
    let deadline = Instant::now() + TIMEOUT;
    loop {
        let answer = session
            .get("operations", id)
            .await
            .with_context(|| format!("the change was accepted, but the state of operation {id} is unknown"))?;
        let operation: OperationResponse = read(&answer)?;
        if operation.state == OperationState::Completed {
            return Ok(answer);
        }
        if Instant::now() >= deadline {
            bail!(
                "ACS has not confirmed operation {id} within {} seconds; the service keeps retrying. Last error: {}",
                TIMEOUT.as_secs(),
                table::printable(operation.last_error.as_deref().unwrap_or_default())
            );
        }
        tokio::time::sleep(POLL_INTERVAL).await;
    }
}

pub(super) fn describe(operation: &OperationResponse) -> String {
    table::record([
        ("operation", operation.id.to_string()),
        ("kind", operation.kind.as_str().to_owned()),
        ("state", state(operation).to_owned()),
        ("user", operation.user.clone()),
        ("identity", operation.communication_user_id.clone()),
        ("reason", table::optional(operation.reason.as_ref())),
        ("attempts", operation.attempts.to_string()),
        ("last error", table::optional(operation.last_error.as_ref())),
        ("next attempt", table::optional(operation.next_attempt_at.map(table::time))),
        ("accepted", table::time(operation.created_at)),
        ("confirmed", table::optional(operation.confirmed_at.map(table::time))),
        ("effective by", table::optional(operation.propagates_by.map(table::time))),
    ])
}

fn row(operation: &OperationResponse) -> [String; 8] {
    [
        operation.id.to_string(),
        operation.kind.as_str().to_owned(),
        state(operation).to_owned(),
        operation.user.clone(),
        operation.attempts.to_string(),
        table::time(operation.created_at),
        table::optional(operation.confirmed_at.map(table::time)),
        table::optional(operation.last_error.as_ref()),
    ]
}

fn state(operation: &OperationResponse) -> &'static str {
    match operation.state {
        OperationState::Pending => "pending",
        OperationState::Completed => "completed",
    }
}

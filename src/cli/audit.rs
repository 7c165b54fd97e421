//! `audit`: the audit log.

use chrono::{DateTime, SecondsFormat, Utc};
use clap::Args;

use super::{
    remote::{ListArgs, Remote},
    table,
};
use crate::{api::AuditEvent, config::Variables};

/// Which events to show.
#[derive(Debug, Args)]
pub(super) struct Options {
    /// Only events about this user: `u_…` or `<issuer key>:<subject>`.
    #[arg(long)]
    user: Option<String>,
    /// Only events caused by this actor: the name of an operator key or a user id.
    #[arg(long, value_name = "NAME")]
    actor: Option<String>,
    /// Only events of this kind, such as `access_revoked`.
    #[arg(long)]
    action: Option<String>,
    /// Only events at or after this time (RFC 3339).
    #[arg(long, value_name = "TIME")]
    since: Option<DateTime<Utc>>,
    /// Only events before this time (RFC 3339).
    #[arg(long, value_name = "TIME")]
    until: Option<DateTime<Utc>>,
    #[command(flatten)]
    list: ListArgs,
    #[command(flatten)]
    remote: Remote,
}

pub(super) async fn run(options: Options, environment: &Variables) -> anyhow::Result<()> {
    let session = options.remote.open(environment)?;
    let exact = |time: DateTime<Utc>| time.to_rfc3339_opts(SecondsFormat::AutoSi, true);
    let filter = [
        ("user", options.user),
        ("actor", options.actor),
        ("action", options.action),
        ("since", options.since.map(exact)),
        ("until", options.until.map(exact)),
    ];
    let header = ["AT", "ACTION", "ACTOR", "USER", "CLIENT", "REQUEST", "DETAIL"];
    session.show_list("audit", "events", &filter, &options.list, header, row).await
}

fn row(event: &AuditEvent) -> [String; 7] {
    let actor =
        if event.actor.is_empty() { event.actor_kind.clone() } else { format!("{}:{}", event.actor_kind, event.actor) };
    [
        table::time(event.at),
        event.action.clone(),
        actor,
        event.user.clone().unwrap_or_else(|| "everyone".to_owned()),
        table::optional(event.client.as_ref()),
        table::optional(event.request_id.as_ref()),
        table::optional(event.detail.as_ref()),
    ]
}

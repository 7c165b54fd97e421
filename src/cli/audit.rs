//! `audit`: who did what, and when.

use chrono::{DateTime, SecondsFormat, Utc};
use clap::Args;

use super::{
    remote::{ListArgs, Remote},
    table,
};
use crate::{
    api::{AuditEvent, AuditPage},
    config::Variables,
};

/// Which events.
#[derive(Debug, Args)]
pub(super) struct Options {
    /// About this user: `u_…` or `<issuer key>:<subject>`.
    #[arg(long)]
    user: Option<String>,
    /// By this one: an operator key's name or a user id.
    #[arg(long, value_name = "NAME")]
    actor: Option<String>,
    /// Of this kind, such as `access_revoked`.
    #[arg(long)]
    action: Option<String>,
    /// From this time on, RFC 3339.
    #[arg(long, value_name = "TIME")]
    since: Option<DateTime<Utc>>,
    /// Before this time, RFC 3339.
    #[arg(long, value_name = "TIME")]
    until: Option<DateTime<Utc>>,
    #[command(flatten)]
    extent: ListArgs,
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
    let answer = session.list("audit", "events", &filter, &options.extent).await?;
    session.show(&answer, |page: &AuditPage| {
        table::table(["AT", "ACTION", "ACTOR", "USER", "CLIENT", "REQUEST", "DETAIL"], page.events.iter().map(row))
    })
}

fn row(event: &AuditEvent) -> [String; 7] {
    let actor =
        if event.actor.is_empty() { event.actor_kind.clone() } else { format!("{}:{}", event.actor_kind, event.actor) };
    [
        table::time(event.at),
        event.action.clone(),
        actor,
        event.user.clone().unwrap_or_else(|| "everyone".to_owned()),
        table::or_nothing(event.client.as_ref()),
        table::or_nothing(event.request_id.as_ref()),
        table::or_nothing(event.detail.as_ref()),
    ]
}

//! `revoke` and `revocations`: bulk revocations and their progress.

use std::{fs, path::PathBuf, time::Duration};

use anyhow::{Context, ensure};
use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::Value;
use tokio::time::Instant;
use uuid::Uuid;

use super::{
    confirm,
    remote::{ListArgs, Remote, Session, read},
    table,
};
use crate::{
    api::{RevocationRequest, RevocationResponse},
    config::Variables,
};

const POLL_INTERVAL: Duration = Duration::from_secs(1);
/// How often progress is printed if there is no terminal.
const REPORT_INTERVAL: Duration = Duration::from_secs(10);

/// Whose access to revoke.
#[derive(Debug, Args)]
#[expect(clippy::struct_excessive_bools, reason = "each is an independent switch")]
pub(super) struct Options {
    /// Revoke access for everyone.
    #[arg(long, conflicts_with_all = ["users", "file"], required_unless_present_any = ["users", "file"])]
    all: bool,
    /// The users, each `u_…` or `<issuer key>:<subject>`.
    #[arg(value_name = "USER", conflicts_with = "file")]
    users: Vec<String>,
    /// A file with one user per line, at most 10,000.
    #[arg(long, value_name = "FILE")]
    file: Option<PathBuf>,
    /// The reason, for the audit log.
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,
    /// Keep accepting earlier sign-ins: users can get new tokens without signing in again.
    #[arg(long)]
    keep_sign_ins: bool,
    /// Only print how many users have tokens that are still valid.
    #[arg(long)]
    dry_run: bool,
    /// Do not ask for confirmation.
    #[arg(long)]
    yes: bool,
    /// Do not wait until ACS has confirmed all of it.
    #[arg(long)]
    no_wait: bool,
    #[command(flatten)]
    remote: Remote,
}

/// Which revocations to show.
#[derive(Debug, Args)]
pub(super) struct ListOptions {
    /// Show the details of this revocation.
    #[arg(long, conflicts_with_all = ["limit", "all"])]
    id: Option<Uuid>,
    #[command(flatten)]
    list: ListArgs,
    #[command(flatten)]
    remote: Remote,
}

pub(super) async fn run(options: Options, environment: &Variables) -> anyhow::Result<()> {
    let users = match &options.file {
        Some(file) => {
            let text = fs::read_to_string(file).with_context(|| format!("cannot read `{}`", file.display()))?;
            text.lines().map(str::trim).filter(|line| !line.is_empty()).map(str::to_owned).collect()
        }
        None => options.users,
    };
    let request = RevocationRequest {
        users: (!options.all).then_some(users),
        all: options.all,
        reason: options.reason,
        reject_older_sign_ins: options.keep_sign_ins.then_some(false),
        dry_run: options.dry_run,
    };
    let session = options.remote.open(environment)?;
    if !options.yes && !options.dry_run {
        ask(&session, &request).await?;
    }
    let mut answer = session.client.post(&["revocations"], &request).await?;
    let accepted: RevocationResponse = read(&answer)?;
    if let (Some(id), false) = (accepted.id, options.no_wait) {
        if options.keep_sign_ins {
            eprintln!("accepted as revocation {id}; waiting for ACS");
        } else {
            eprintln!("accepted as revocation {id}: earlier sign-ins no longer get tokens; waiting for ACS");
        }
        answer = follow(&session, id).await?;
        answer["unknown"] = accepted.unknown.clone().into();
    }
    session.show(&answer, describe)?;
    ensure!(accepted.unknown.is_empty(), "{} of the users are unknown", accepted.unknown.len());
    Ok(())
}

pub(super) async fn list(options: ListOptions, environment: &Variables) -> anyhow::Result<()> {
    let session = options.remote.open(environment)?;
    if let Some(id) = options.id {
        return session.show(&session.get("revocations", id).await?, describe);
    }
    let header = ["ID", "OF", "WITH TOKENS", "LEFT", "ACCEPTED", "COMPLETED", "BY", "REASON"];
    session.show_list("revocations", "revocations", &[], &options.list, header, row).await
}

fn row(revocation: &RevocationResponse) -> [String; 8] {
    [
        table::optional(revocation.id),
        target(revocation),
        revocation.total.to_string(),
        (revocation.waiting + revocation.pending).to_string(),
        table::time(revocation.created_at),
        table::optional(revocation.completed_at.map(table::time)),
        revocation.actor.clone(),
        table::optional(revocation.reason.as_ref()),
    ]
}

fn target(revocation: &RevocationResponse) -> String {
    if revocation.all { "everyone" } else { "a list" }.to_owned()
}

/// Asks for confirmation, naming the number of users with valid tokens.
async fn ask(session: &Session, request: &RevocationRequest) -> anyhow::Result<()> {
    let whom = match &request.users {
        Some(users) => format!("{} users", users.len()),
        None => "EVERYONE".to_owned(),
    };
    confirm::require_terminal(&format!("revoking access for {whom}"))?;
    let trial = RevocationRequest {
        users: request.users.clone(),
        all: request.all,
        dry_run: true,
        ..RevocationRequest::default()
    };
    let estimate: RevocationResponse = read(&session.client.post(&["revocations"], &trial).await?)?;
    let question = format!("Revoke access for {whom}, {} of them with valid tokens?", estimate.total);
    confirm::ask(&question, "nothing was revoked")
}

/// Shows the progress of a revocation until it is completed.
async fn follow(session: &Session, id: Uuid) -> anyhow::Result<Value> {
    // Draws nothing if standard error is not a terminal.
    let bar = ProgressBar::new(0);
    let style = ProgressStyle::with_template("{wide_bar} {pos}/{len} at ACS, {eta} left");
    bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
    let mut report_at = Instant::now() + REPORT_INTERVAL;
    loop {
        let answer = session.get("revocations", id).await.with_context(|| {
            format!("the revocation was accepted and continues; show its progress with `revocations --id {id}`")
        })?;
        let revocation: RevocationResponse = read(&answer)?;
        bar.set_length(revocation.total.max(revocation.confirmed).unsigned_abs());
        bar.set_position(revocation.confirmed.unsigned_abs());
        if revocation.completed_at.is_some() {
            bar.finish_and_clear();
            return Ok(answer);
        }
        if bar.is_hidden() && Instant::now() >= report_at {
            report_at += REPORT_INTERVAL;
            eprintln!("{} of {} confirmed by ACS", revocation.confirmed, revocation.total);
        }
        tokio::time::sleep(POLL_INTERVAL).await;
    }
}

fn describe(revocation: &RevocationResponse) -> String {
    let mut text = table::record([
        ("revocation", revocation.id.map_or_else(|| "dry run, nothing was changed".to_owned(), |id| id.to_string())),
        ("of", target(revocation)),
        ("with valid tokens", revocation.total.to_string()),
        ("waiting", revocation.waiting.to_string()),
        ("at ACS", revocation.pending.to_string()),
        ("confirmed", revocation.confirmed.to_string()),
        ("by", revocation.actor.clone()),
        ("reason", table::optional(revocation.reason.as_ref())),
        ("accepted", table::time(revocation.created_at)),
        ("completed", table::optional(revocation.completed_at.map(table::time))),
    ]);
    for unknown in &revocation.unknown {
        text += &table::record([("unknown user", unknown.clone())]);
    }
    text
}

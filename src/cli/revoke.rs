//! `revoke` and `revocations`: taking access away from many at once, and how far it has come.

use std::{
    fs,
    io::{self, IsTerminal},
    path::PathBuf,
    time::Duration,
};

use anyhow::{Context, ensure};
use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::Value;
use tokio::time::Instant;
use uuid::Uuid;

use super::{
    remote::{ListArgs, Remote, Session, read},
    table,
};
use crate::{
    api::{RevocationRequest, RevocationResponse, RevocationsPage},
    config::Variables,
};

/// How often it is looked how far a revocation has come, and how often that is told where there is no terminal.
const LOOK: Duration = Duration::from_secs(1);
const TELL: Duration = Duration::from_secs(10);

/// Whose access is revoked.
#[derive(Debug, Args)]
#[expect(clippy::struct_excessive_bools, reason = "each is a switch of its own")]
pub(super) struct Options {
    /// GlobalState's.
    #[arg(long, conflicts_with_all = ["users", "file"], required_unless_present_any = ["users", "file"])]
    all: bool,
    /// The users, each `u_…` or `<issuer key>:<subject>`.
    #[arg(value_name = "USER", conflicts_with = "file")]
    users: Vec<String>,
    /// A file with a user on each line; 10,000 at most.
    #[arg(long, value_name = "FILE")]
    file: Option<PathBuf>,
    /// Why, for the audit trail.
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,
    /// Let logins from before now get new tokens.
    #[arg(long)]
    keep_sign_ins: bool,
    /// Only tell how many users have tokens that are alive.
    #[arg(long)]
    dry_run: bool,
    /// Do not ask.
    #[arg(long)]
    yes: bool,
    /// Do not wait until ACS has confirmed everything.
    #[arg(long)]
    no_wait: bool,
    #[command(flatten)]
    remote: Remote,
}

/// Which revocations.
#[derive(Debug, Args)]
pub(super) struct ListOptions {
    /// Only this one.
    #[arg(long, conflicts_with_all = ["limit", "all"])]
    id: Option<Uuid>,
    #[command(flatten)]
    extent: ListArgs,
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
        eprintln!("accepted as revocation {id}: nobody of them gets a token on an older login any more");
        answer = follow(&session, id).await?;
        answer["unknown"] = accepted.unknown.clone().into();
    }
    session.show(&answer, describe)?;
    ensure!(accepted.unknown.is_empty(), "{} of the users are not known", accepted.unknown.len());
    Ok(())
}

pub(super) async fn list(options: ListOptions, environment: &Variables) -> anyhow::Result<()> {
    let session = options.remote.open(environment)?;
    if let Some(id) = options.id {
        return session.show(&get(&session, id).await?, describe);
    }
    let answer = session.list("revocations", "revocations", &[], &options.extent).await?;
    session.show(&answer, |page: &RevocationsPage| {
        let row = |revocation: &RevocationResponse| {
            [
                table::or_nothing(revocation.id),
                if revocation.all { "everyone" } else { "a list" }.to_owned(),
                revocation.total.to_string(),
                (revocation.waiting + revocation.pending).to_string(),
                table::time(revocation.created_at),
                table::or_nothing(revocation.completed_at.map(table::time)),
                revocation.actor.clone(),
                table::or_nothing(revocation.reason.as_ref()),
            ]
        };
        table::table(
            ["ID", "OF", "WITH TOKENS", "LEFT", "ACCEPTED", "COMPLETED", "BY", "REASON"],
            page.revocations.iter().map(row),
        )
    })
}

/// Makes sure that it is meant, telling how many it would hit.
async fn ask(session: &Session, request: &RevocationRequest) -> anyhow::Result<()> {
    let whom = match &request.users {
        Some(users) => format!("{} users", users.len()),
        None => "EVERYONE".to_owned(),
    };
    ensure!(
        io::stdin().is_terminal(),
        "revoking the access of {whom} needs a yes, and there is nobody to ask: give --yes"
    );
    let trial = RevocationRequest {
        users: request.users.clone(),
        all: request.all,
        dry_run: true,
        ..RevocationRequest::default()
    };
    let estimate: RevocationResponse = read(&session.client.post(&["revocations"], &trial).await?)?;
    eprint!("Revoke the access of {whom}, {} of them with living tokens? Type `yes`: ", estimate.total);
    let mut answer = String::new();
    io::stdin().read_line(&mut answer).context("cannot read the answer")?;
    ensure!(answer.trim() == "yes", "nobody was revoked");
    Ok(())
}

/// Shows how far a revocation has come until it is done.
async fn follow(session: &Session, id: Uuid) -> anyhow::Result<Value> {
    // Draws nothing where standard error is no terminal.
    let bar = ProgressBar::new(0);
    let style = ProgressStyle::with_template("{wide_bar} {pos}/{len} at ACS, {eta} left");
    bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
    let mut tell_at = Instant::now() + TELL;
    loop {
        let answer = get(session, id)
            .await
            .with_context(|| format!("it is accepted and goes on; look at it with `revocations --id {id}`"))?;
        let revocation: RevocationResponse = read(&answer)?;
        bar.set_length(revocation.total.max(revocation.confirmed).unsigned_abs());
        bar.set_position(revocation.confirmed.unsigned_abs());
        if revocation.completed_at.is_some() {
            bar.finish_and_clear();
            return Ok(answer);
        }
        if bar.is_hidden() && Instant::now() >= tell_at {
            tell_at += TELL;
            eprintln!("{} of {} confirmed by ACS", revocation.confirmed, revocation.total);
        }
        tokio::time::sleep(LOOK).await;
    }
}

async fn get(session: &Session, id: Uuid) -> anyhow::Result<Value> {
    session.client.get(&["revocations", &id.to_string()], &[]).await
}

fn describe(revocation: &RevocationResponse) -> String {
    let mut text = table::record([
        ("revocation", revocation.id.map_or_else(|| "a trial: nothing was done".to_owned(), |id| id.to_string())),
        ("of", if revocation.all { "everyone" } else { "a list" }.to_owned()),
        ("with living tokens", revocation.total.to_string()),
        ("waiting", revocation.waiting.to_string()),
        ("at ACS", revocation.pending.to_string()),
        ("confirmed", revocation.confirmed.to_string()),
        ("by", revocation.actor.clone()),
        ("reason", table::or_nothing(revocation.reason.as_ref())),
        ("accepted", table::time(revocation.created_at)),
        ("completed", table::or_nothing(revocation.completed_at.map(table::time))),
    ]);
    for unknown in &revocation.unknown {
        text += &table::record([("not known", unknown.clone())]);
    }
    text
}

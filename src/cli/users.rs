//! `users`: managing app users.

mod change;
mod one;

use anyhow::ensure;
use chrono::{DateTime, SecondsFormat, Utc};
use clap::{Args, Subcommand};
use serde_json::{Value, json};

use one::{One, name};

use super::{
    remote::{ListArgs, Remote, Session, read},
    table,
};
use crate::{
    api::{HeldTokenResponse, HeldTokens, ImportRequest, ResolvedUser, ResolvedUsers, UserResponse, UsersRequest},
    config::Variables,
};

/// The number of users that the service accepts in one call.
const MAX_ENSURED: usize = 100;

/// The subcommand.
#[derive(Debug, Args)]
pub(super) struct Options {
    #[command(subcommand)]
    command: Command,
    #[command(flatten)]
    remote: Remote,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// List users.
    List(List),
    /// Show the details of a user.
    Show(One),
    /// Show the fingerprints of the tokens that a user holds, or held at a given time.
    Tokens {
        #[command(flatten)]
        one: One,
        /// The time (RFC 3339); now by default.
        #[arg(long, value_name = "TIME")]
        at: Option<DateTime<Utc>>,
    },
    /// Create the ACS identities of users who have none, without issuing tokens.
    Ensure {
        /// The users, each `<issuer key>:<subject>`.
        #[arg(required = true, value_name = "USER")]
        users: Vec<String>,
    },
    /// Map a user to an existing ACS identity.
    Import {
        #[command(flatten)]
        one: One,
        /// The identity, `8:acs:…`.
        identity: String,
    },
    #[command(flatten)]
    Change(change::Command),
}

#[derive(Debug, Args)]
struct List {
    /// Only users of this issuer key.
    #[arg(long, value_name = "KEY")]
    issuer: Option<String>,
    /// Only users with this subject.
    #[arg(long)]
    subject: Option<String>,
    /// Only the user with this ACS identity.
    #[arg(long)]
    identity: Option<String>,
    /// Only users in this state.
    #[arg(long, value_parser = ["creating", "active", "deleting", "unbound"])]
    state: Option<String>,
    #[command(flatten)]
    page: ListArgs,
}

pub(super) async fn run(options: Options, environment: &Variables) -> anyhow::Result<()> {
    // Before the key is read.
    if let Command::Change(change) = &options.command {
        change.confirm()?;
    }
    let session = options.remote.open(environment)?;
    match options.command {
        Command::List(options) => list(&session, options).await,
        Command::Show(One { user }) => {
            let answer = session.client.get(&["users", &user], &[]).await?;
            session.show(&answer, describe)
        }
        Command::Tokens { one, at } => tokens(&session, &one.user, at).await,
        Command::Ensure { users } => ensure(&session, &users).await,
        Command::Import { one, identity } => {
            let request = ImportRequest { communication_user_id: identity };
            let answer = session.client.put(&["users", &one.user], &request).await?;
            session.show(&answer, describe)
        }
        Command::Change(change) => change.run(&session).await,
    }
}

async fn list(session: &Session, options: List) -> anyhow::Result<()> {
    let filter = [
        ("issuer", options.issuer),
        ("subject", options.subject),
        ("communicationUserId", options.identity),
        ("state", options.state),
    ];
    let header = ["USER", "STATE", "BLOCKED SINCE", "LAST TOKEN", "ID", "IDENTITY"];
    let row = |user: &UserResponse| {
        [
            name(user),
            user.state.as_str().to_owned(),
            table::optional(user.blocked_at.map(table::time)),
            table::optional(user.last_minted_at.map(table::time)),
            user.id.clone(),
            table::optional(user.communication_user_id.as_ref()),
        ]
    };
    session.show_list("users", "users", &filter, &options.page, header, row).await
}

async fn tokens(session: &Session, user: &str, at: Option<DateTime<Utc>>) -> anyhow::Result<()> {
    let at = at.map(|at| ("at", at.to_rfc3339_opts(SecondsFormat::AutoSi, true)));
    let query: Vec<_> = at.into_iter().collect();
    let answer = session.client.get(&["users", user, "tokens"], &query).await?;
    session.show(&answer, |held: &HeldTokens| {
        let row = |token: &HeldTokenResponse| {
            [
                table::time(token.issued_at),
                table::time(token.expires_on),
                table::optional(token.ended_at.map(table::time)),
                token.scopes.clone(),
                table::optional(token.client.as_ref()),
                table::optional(token.session_id.as_ref()),
                token.fingerprint.clone(),
            ]
        };
        table::table(
            ["ISSUED", "EXPIRES", "ENDED", "SCOPES", "CLIENT", "SESSION", "FINGERPRINT"],
            held.tokens.iter().map(row),
        )
    })
}

async fn ensure(session: &Session, users: &[String]) -> anyhow::Result<()> {
    let mut resolved = Vec::new();
    for users in users.chunks(MAX_ENSURED) {
        let request = UsersRequest { users: users.to_vec() };
        let mut answer = session.client.post(&["users", "ensure"], &request).await?;
        if let Value::Array(more) = answer["users"].take() {
            resolved.extend(more);
        }
    }
    let answer = json!({ "users": resolved });
    session.show(&answer, |resolved: &ResolvedUsers| {
        let row = |user: &ResolvedUser| {
            let mapping = user.user.as_ref();
            [
                user.query.clone(),
                table::optional(mapping.map(|user| &user.id)),
                table::optional(mapping.and_then(|user| user.communication_user_id.as_ref())),
                table::optional(user.problem.as_ref()),
            ]
        };
        table::table(["USER", "ID", "IDENTITY", "PROBLEM"], resolved.users.iter().map(row))
    })?;
    let resolved: ResolvedUsers = read(&answer)?;
    let good = |user: &&ResolvedUser| user.problem.is_none() && user.user.is_some();
    let missing = users.len().saturating_sub(resolved.users.iter().filter(good).count());
    ensure!(missing == 0, "{missing} of {} users could not be ensured", users.len());
    Ok(())
}

fn describe(user: &UserResponse) -> String {
    table::record([
        ("user", name(user)),
        ("id", user.id.clone()),
        ("state", user.state.as_str().to_owned()),
        ("identity", table::optional(user.communication_user_id.as_ref())),
        ("resource", table::optional(user.resource.as_ref())),
        ("blocked since", table::optional(user.blocked_at.map(table::time))),
        ("sign-ins valid from", table::optional(user.sign_ins_valid_from.map(table::time))),
        ("pending operation", table::optional(user.pending_operation)),
        ("last token", table::optional(user.last_minted_at.map(table::time))),
        ("created", table::time(user.created_at)),
        ("updated", table::time(user.updated_at)),
    ])
}

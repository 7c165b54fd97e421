//! The end of a run: the faults stop, all accepted work is done, and nothing is missing.

use std::{collections::BTreeSet, fs, time::Duration};

use reqwest::Method;
use serde_json::Value;
use sqlx::{Connection, PgConnection};

use crate::{
    clients::name,
    history::History,
    world::{ACCESS_KEY, ENCRYPTION_KEY, MAX_CALL_AGE_S, OPS_KEY, World},
};

/// How long accepted work may take: pauses grow to half of an operation's age.
const DONE_WITHIN: Duration = Duration::from_mins(4);
/// How long a call can act by the replicas' settings, and the two seconds of the protocol's G.
const LATE_CALLS_ARE_OVER: Duration = Duration::from_secs(MAX_CALL_AGE_S + 2);
/// How long a user with a new sign-in may have to wait.
const SERVED_WITHIN: Duration = Duration::from_secs(40);

pub async fn check(world: &World, history: &History) -> String {
    world.behave().await;
    world.wait_until_ready().await;
    finish(world).await;

    let ended = history.ended();
    for ended in &ended {
        if world.is_alive(&ended.issued.token).await {
            history.outlived(ended, "P4: the change is done, but a token from before it is alive at ACS");
        }
        if ended.deleted {
            let identity = world.emulator(&format!("identities/{}", ended.issued.identity)).await;
            if identity["exists"] == true {
                history.outlived(ended, "P4: a deleted identity is there at ACS");
            }
        }
    }

    let mut database = PgConnection::connect(&world.database).await.unwrap();
    let recorded: Vec<String> =
        sqlx::query_scalar("SELECT token_fingerprint FROM audit_events WHERE action = 'token_minted'")
            .fetch_all(&mut database)
            .await
            .unwrap();
    let recorded: BTreeSet<_> = recorded.into_iter().collect();
    let issued = history.issued();
    for issued in &issued {
        assert!(recorded.contains(&issued.fingerprint()), "a token was issued without an audit row");
    }

    let bound: Vec<String> =
        sqlx::query_scalar("SELECT acs_id FROM users WHERE state = 'active' AND subject LIKE 'user-%'")
            .fetch_all(&mut database)
            .await
            .unwrap();
    let orphans: i64 = sqlx::query_scalar("SELECT COUNT(*) FROM audit_events WHERE action = 'possible_orphan'")
        .fetch_one(&mut database)
        .await
        .unwrap();
    let alive = world.emulator("stats").await["identities"].as_i64().unwrap();
    let most = i64::try_from(bound.len()).unwrap() + orphans;
    assert!(alive <= most, "P1: {alive} identities at ACS, {} bound and {orphans} possible orphans", bound.len());

    let served = serve_all(world, history).await;
    look_for_secrets(world, history);
    format!(
        "at the end {} tokens from before a change were dead, {} tokens had their audit rows, {alive} identities for {} users \
         and {orphans} possible orphans, {served} users were served, no secret in {} logs",
        ended.len(),
        issued.len(),
        bound.len(),
        logs(world).len()
    )
}

async fn finish(world: &World) {
    let give_up = std::time::Instant::now() + DONE_WITHIN;
    loop {
        let mut left = None;
        if let Ok(mut database) = PgConnection::connect(&world.database).await {
            let open = "SELECT (SELECT COUNT(*) FROM operations WHERE completed_at IS NULL)
                             + (SELECT COUNT(*) FROM revocations WHERE completed_at IS NULL)";
            left = sqlx::query_scalar::<_, i64>(open).fetch_one(&mut database).await.ok();
        }
        if left == Some(0) {
            return;
        }
        assert!(std::time::Instant::now() < give_up, "P4: {left:?} pieces of accepted work are not done");
        tokio::time::sleep(Duration::from_millis(250)).await;
    }
}

/// Every user who signs in again gets a token that is alive.
async fn serve_all(world: &World, history: &History) -> usize {
    // A late call may end a token that is issued before it cannot act any more, but none after.
    tokio::time::sleep(LATE_CALLS_ARE_OVER).await;
    for user in 0..history.users() {
        let replica = &world.replicas[user % world.replicas.len()].url;
        let unblock = world.http.request(Method::POST, format!("{replica}/users/main:{}/unblock", name(user)));
        let status = unblock.bearer_auth(OPS_KEY).send().await.unwrap().status().as_u16();
        assert!([200, 404].contains(&status), "an unblock was answered {status}");
        let sign_in = world.sign_in(&name(user)).await;
        let give_up = std::time::Instant::now() + SERVED_WITHIN;
        loop {
            let answer = world.http.post(format!("{replica}/token")).bearer_auth(&sign_in).send().await.unwrap();
            let status = answer.status();
            let body: Value = answer.json().await.unwrap_or_default();
            if let Some(token) = body["token"].as_str() {
                assert!(world.is_alive(token).await, "H: user {user} was given a dead token");
                break;
            }
            assert!(std::time::Instant::now() < give_up, "H: user {user} is not served: {status} {body}");
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }
    history.users()
}

fn logs(world: &World) -> Vec<std::path::PathBuf> {
    let entries = fs::read_dir(world.folder.path()).unwrap();
    entries.map(|entry| entry.unwrap().path()).filter(|path| path.extension().is_some_and(|end| end == "log")).collect()
}

fn look_for_secrets(world: &World, history: &History) {
    // Every token and every sign-in token is a JWT, and begins so.
    let mut secrets = vec!["eyJ".to_owned(), ACCESS_KEY.to_owned(), OPS_KEY.to_owned(), ENCRYPTION_KEY.to_owned()];
    secrets.extend(history.issued().first().map(|issued| issued.token[..20].to_owned()));
    for path in logs(world) {
        let text = String::from_utf8_lossy(&fs::read(&path).unwrap()).into_owned();
        for secret in &secrets {
            let line = text.lines().find(|line| line.contains(secret.as_str()));
            assert!(line.is_none(), "a secret in {}: {line:?}", path.display());
        }
    }
}

//! The end of a run: the trouble stops, everything that was accepted settles, and nothing is missing anywhere.

use std::{collections::BTreeSet, fs, time::Duration};

use reqwest::Method;
use serde_json::Value;
use sqlx::{Connection, PgConnection};

use crate::{
    clients::name,
    history::History,
    world::{ACCESS_KEY, ENCRYPTION_KEY, MAX_CALL_AGE_S, OPS_KEY, World},
};

/// How long everything that was accepted may take to settle: pauses grow to half of an operation's age.
const SETTLES_WITHIN: Duration = Duration::from_mins(4);
/// How long a call can act, as the replicas are told, and the two seconds of the protocol's G.
const STRAYS_ARE_OVER: Duration = Duration::from_secs(MAX_CALL_AGE_S + 2);
/// How long an honest user with a new login may have to wait.
const SERVED_WITHIN: Duration = Duration::from_secs(40);

pub async fn check(world: &World, history: &History) -> String {
    world.behave().await;
    world.wait_until_ready().await;
    settle(world).await;

    let condemned = history.condemned();
    for condemned in &condemned {
        if world.is_alive(&condemned.handed.token).await {
            history.outlived(condemned, "P4: accepted and settled, but a token from before is alive at ACS");
        }
        if condemned.deleted {
            let identity = world.emulator(&format!("identities/{}", condemned.handed.identity)).await;
            if identity["exists"] == true {
                history.outlived(condemned, "P4: a deleted identity is there at ACS");
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
    let handed = history.handed();
    for handed in &handed {
        assert!(recorded.contains(&handed.fingerprint()), "a token was handed out without an audit row");
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
    assert!(alive <= most, "P1: {alive} identities at ACS, {} bound and {orphans} counted as lost", bound.len());

    let served = serve_everybody(world, history).await;
    look_for_secrets(world, history);
    format!(
        "at the end {} tokens from before a fence were dead, {} tokens had their audit rows, {alive} identities for {} users \
         and {orphans} counted as lost, {served} users were served, no secret in {} logs",
        condemned.len(),
        handed.len(),
        bound.len(),
        logs(world).len()
    )
}

async fn settle(world: &World) {
    let give_up = std::time::Instant::now() + SETTLES_WITHIN;
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
        assert!(std::time::Instant::now() < give_up, "P4: {left:?} accepted pieces of work do not settle");
        tokio::time::sleep(Duration::from_millis(250)).await;
    }
}

/// Everybody who is honest and signs in anew gets a token that is alive.
async fn serve_everybody(world: &World, history: &History) -> usize {
    // A call that acts late may cost a token that is handed out before it cannot act any more, but none after.
    tokio::time::sleep(STRAYS_ARE_OVER).await;
    for user in 0..history.users() {
        let replica = &world.replicas[user % world.replicas.len()].url;
        let unblock = world.http.request(Method::POST, format!("{replica}/users/main:{}/unblock", name(user)));
        let status = unblock.bearer_auth(OPS_KEY).send().await.unwrap().status().as_u16();
        assert!([200, 404].contains(&status), "an unblock was answered {status}");
        let login = world.sign_in(&name(user)).await;
        let give_up = std::time::Instant::now() + SERVED_WITHIN;
        loop {
            let answer = world.http.post(format!("{replica}/token")).bearer_auth(&login).send().await.unwrap();
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
    // Every token and every login is a JWT, and begins so.
    let mut secrets = vec!["eyJ".to_owned(), ACCESS_KEY.to_owned(), OPS_KEY.to_owned(), ENCRYPTION_KEY.to_owned()];
    secrets.extend(history.handed().first().map(|handed| handed.token[..20].to_owned()));
    for path in logs(world) {
        let text = String::from_utf8_lossy(&fs::read(&path).unwrap()).into_owned();
        for secret in &secrets {
            let line = text.lines().find(|line| line.contains(secret.as_str()));
            assert!(line.is_none(), "a secret in {}: {line:?}", path.display());
        }
    }
}

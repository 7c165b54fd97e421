//! Many users at the same moment over few connections: they share statements, and each gets what is theirs.

use std::time::Duration;

use futures_util::future::join_all;
use reqwest::Method;
use serde_json::json;
use sqlx::{Connection, PgConnection};

use crate::support::{Answer, Database, TestApp, database::on_each_database};

const SETTINGS: &str = "
[database]
max_connections = 6
[tokens]
encryption_keys = \"QUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUE=\"
";
const USERS: usize = 40;

struct User {
    sign_in: String,
    identity: String,
    token: String,
}

async fn start(database: &Database) -> (TestApp, Vec<User>) {
    let app = TestApp::start_with(database, SETTINGS).await;
    let mut users = Vec::new();
    for number in 0..USERS {
        let sign_in = app.issuer.sign_in(&format!("user{number}"));
        let answer = app.token(&sign_in, None).await;
        users.push(User { sign_in, identity: answer.identity(), token: answer.token() });
    }
    (app, users)
}

/// Asks for a token of every user at once. On Postgres a lock holds the first statements back, so that all other
/// requests are waiting when it is released, and share the next ones.
async fn ask_together(app: &TestApp, users: &[User], scopes: &[&str]) -> Vec<Answer> {
    let ask = join_all(users.iter().map(|user| app.token(&user.sign_in, Some(json!({"scopes": scopes})))));
    let Database::Postgres { url } = &app.database else { return ask.await };
    let mut connection = PgConnection::connect(url).await.unwrap();
    let mut lock = connection.begin().await.unwrap();
    sqlx::query("LOCK TABLE users IN ACCESS EXCLUSIVE MODE").execute(&mut *lock).await.unwrap();
    let release = async {
        tokio::time::sleep(Duration::from_millis(500)).await;
        lock.rollback().await.unwrap();
    };
    tokio::join!(ask, release).0
}

on_each_database! {
    async fn users_of_one_statement_get_their_own_cached_tokens(database) {
        let (app, users) = start(&database).await;
        app.clock.advance(Duration::from_secs(5));
        app.ops(Method::POST, "/users/test:user7/block", None).await;
        assert!(app.revoke("user9").await.status.is_success());
        for (number, (user, answer)) in users.iter().zip(ask_together(&app, &users, &["chat", "voip"]).await).enumerate() {
            match number {
                7 => answer.assert_problem(403, "user_blocked"),
                9 => answer.assert_problem(401, "reauthentication_required"),
                _ => assert_eq!((&answer.token(), &answer.identity()), (&user.token, &user.identity), "user{number}"),
            }
        }
    }

    async fn users_of_one_statement_are_recorded_each_for_themselves(database) {
        let (app, users) = start(&database).await;
        for (number, (user, answer)) in users.iter().zip(ask_together(&app, &users, &["chat"]).await).enumerate() {
            assert_eq!(answer.identity(), user.identity, "user{number}");
            let seen = app.acs.introspect(&answer.token()).await;
            assert_eq!((&seen["identity"], &seen["scopes"]), (&json!(user.identity), &json!(["chat"])), "user{number}");
            let again = app.token(&user.sign_in, Some(json!({"scopes": ["chat"]}))).await;
            assert_eq!(again.token(), answer.token(), "user{number} got the cached token");
        }
        let of_others = "SELECT COUNT(*) FROM audit_events a WHERE action = 'token_minted'
                         AND NOT EXISTS (SELECT 1 FROM users u WHERE u.id = a.user_id AND u.acs_id = a.acs_id)";
        assert_eq!(database.count(of_others).await, 0);
        let minted = "SELECT COUNT(*) FROM audit_events WHERE action = 'token_minted'";
        assert_eq!(database.count(minted).await, 2 * i64::try_from(USERS).unwrap());
    }
}

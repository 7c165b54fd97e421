//! Revocations of many users: one row counts for all of them at once, and ACS confirms each as its limits allow.

use std::time::Duration;

use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use sqlx::{Connection, PgConnection};

use crate::{
    reuse::REUSE,
    support::{Answer, Database, TestApp, database::on_each_database, eventually},
};

const SUBJECTS: [&str; 4] = ["alice", "bob", "carol", "dave"];

async fn revoke(app: &TestApp, request: Value) -> Answer {
    app.ops(Method::POST, "/revocations", Some(request)).await
}

async fn revoke_all(app: &TestApp) -> Value {
    let answer = revoke(app, json!({"all": true, "reason": "a key leaked"})).await;
    assert_eq!(answer.status, StatusCode::ACCEPTED, "{}", answer.text);
    answer.json()
}

/// Gives each user a token. Returns their sign-in tokens and tokens.
async fn sign_all_in(app: &TestApp, subjects: &[&str]) -> Vec<(String, String)> {
    let mut users = Vec::new();
    for subject in subjects {
        let sign_in = app.issuer.sign_in(subject);
        let token = app.token(&sign_in, None).await.token();
        users.push((sign_in, token));
    }
    users
}

async fn completed(app: &TestApp, revocation: &Value) -> Value {
    let path = format!("/revocations/{}", revocation["id"].as_str().unwrap());
    eventually(async || {
        let found = app.ops(Method::GET, &path, None).await.json();
        (!found["completedAt"].is_null()).then_some(found)
    })
    .await
}

on_each_database! {
    async fn revocation_of_all_users_counts_at_once_and_is_confirmed_later(database) {
        let app = TestApp::start_with(&database, REUSE).await;
        let other = app.another().await;
        let signed_in = sign_all_in(&app, &SUBJECTS).await;
        app.clock.advance(Duration::from_secs(5));
        let revocation = revoke_all(&app).await;
        assert_eq!((&revocation["all"], &revocation["total"]), (&json!(true), &json!(4)));
        for (sign_in, _) in &signed_in {
            for replica in [&app, &other] {
                replica.token(sign_in, None).await.assert_problem(401, "reauthentication_required");
            }
        }
        // Unknown users are concerned too.
        let old = app.issuer.sign_in_with("erin", json!({"iat": app.clock.now().timestamp() - 60}));
        app.token(&old, None).await.assert_problem(401, "reauthentication_required");
        let done = completed(&app, &revocation).await;
        assert_eq!((&done["waiting"], &done["pending"], &done["confirmed"]), (&json!(0), &json!(0), &json!(4)));
        assert_eq!((&done["actor"], &done["reason"]), (&json!("operator"), &json!("a key leaked")));
        for (_, token) in &signed_in {
            assert_eq!(app.acs.introspect(token).await["active"], false);
        }
        assert_eq!(app.acs.stats().await["calls"]["revoke"], 4);
        let sign_in = app.later_sign_in("alice");
        let token = eventually(async || {
            let answer = app.token(&sign_in, None).await;
            (answer.status == StatusCode::OK).then(|| answer.token())
        }).await;
        assert_eq!(app.acs.introspect(&token).await["active"], true);
        assert_eq!(app.token(&sign_in, None).await.token(), token, "it is cached");
        app.token(&app.issuer.sign_in("erin"), None).await.token();
        let trail = app.ops(Method::GET, "/audit?action=global_revocation", None).await.json();
        assert_eq!(trail["events"].as_array().unwrap().len(), 1);
        assert!(trail["events"][0]["user"].is_null());
        let trail = app.ops(Method::GET, "/audit?action=access_revoked", None).await.json();
        assert_eq!(trail["events"].as_array().unwrap().len(), 4, "each user's trail has it too");
        assert_eq!(trail["events"][0]["detail"]["revocation"], revocation["id"]);
    }

    async fn expired_tokens_need_no_call(database) {
        let app = TestApp::start_with(&database, REUSE).await;
        sign_all_in(&app, &SUBJECTS).await;
        app.clock.advance(Duration::from_mins(61));
        sign_all_in(&app, &SUBJECTS[..1]).await;
        let trial = revoke(&app, json!({"all": true, "dryRun": true})).await;
        assert_eq!((trial.status, &trial.json()["total"]), (StatusCode::OK, &json!(1)));
        assert!(trial.json()["id"].is_null());
        let revocation = revoke_all(&app).await;
        assert_eq!(revocation["total"], 1);
        assert_eq!(completed(&app, &revocation).await["confirmed"], 1);
        app.token(&app.later_sign_in("bob"), None).await.token();
        assert_eq!(app.acs.stats().await["calls"]["revoke"], 1, "no call for expired tokens");
    }

    async fn requests_in_progress_get_no_token_of_an_older_sign_in(database) {
        let app = TestApp::start(&database).await;
        sign_all_in(&app, &["alice"]).await;
        app.clock.advance(Duration::from_secs(5));
        let sign_ins = ["alice", "newcomer"].map(|subject| app.issuer.sign_in(subject));
        let delay = |operation| json!({"operation": operation, "kind": "delay", "delayMs": 1200});
        app.acs.faults(&[delay("issue"), delay("create")]).await;
        let (alice, newcomer, revocation) =
            tokio::join!(app.token(&sign_ins[0], None), app.token(&sign_ins[1], None), async {
                app.acs.wait_for_calls("issue", 1).await;
                app.acs.wait_for_calls("create", 2).await;
                app.clock.advance(Duration::from_secs(5));
                revoke_all(&app).await
            });
        alice.assert_problem(401, "reauthentication_required");
        newcomer.assert_problem(401, "reauthentication_required");
        completed(&app, &revocation).await;
        for subject in ["alice", "newcomer"] {
            let sign_in = app.later_sign_in(subject);
            let token = eventually(async || {
                let answer = app.token(&sign_in, None).await;
                (answer.status == StatusCode::OK).then(|| answer.token())
            }).await;
            assert_eq!(app.acs.introspect(&token).await["active"], true, "{subject}");
        }
    }

    async fn revocation_of_a_list_concerns_nobody_else(database) {
        let app = TestApp::start_with(&database, REUSE).await;
        let signed_in = sign_all_in(&app, &SUBJECTS).await;
        app.clock.advance(Duration::from_secs(5));
        let alice = app.user("alice").await["id"].as_str().unwrap().to_owned();
        let nobody = "u_0198f0c1a2b37c4d8e5f60718293a4b5";
        let users = json!([alice, "test:bob", nobody, "nowhere:x", "test:never-seen"]);
        let trial = revoke(&app, json!({"users": users, "dryRun": true})).await.json();
        assert_eq!((&trial["total"], &trial["unknown"]), (&json!(2), &json!([nobody, "nowhere:x", "test:never-seen"])));
        app.token(&signed_in[0].0, None).await.token();
        let answer = revoke(&app, json!({"users": users})).await;
        assert_eq!(answer.status, StatusCode::ACCEPTED, "{}", answer.text);
        let revocation = answer.json();
        assert_eq!((&revocation["total"], &revocation["unknown"]), (&json!(2), &json!([nobody, "nowhere:x"])));
        for (sign_in, _) in &signed_in[..2] {
            app.token(sign_in, None).await.assert_problem(401, "reauthentication_required");
        }
        for (sign_in, token) in &signed_in[2..] {
            assert_eq!(&app.token(sign_in, None).await.token(), token);
        }
        // An unknown user on the list is concerned as well.
        let old = app.issuer.sign_in_with("never-seen", json!({"iat": app.clock.now().timestamp() - 60}));
        app.token(&old, None).await.assert_problem(401, "reauthentication_required");
        assert_eq!(completed(&app, &revocation).await["confirmed"], 2);
        let listed = app.ops_as("viewer", Method::GET, "/revocations", None, &[]).await.json();
        assert_eq!(listed["revocations"][0]["id"], revocation["id"]);
    }

    async fn users_are_named_twice_and_ten_thousand_times(database) {
        let app = TestApp::start(&database).await;
        let signed_in = sign_all_in(&app, &["alice"]).await;
        app.clock.advance(Duration::from_secs(5));
        let alice = app.user("alice").await["id"].clone();
        let mut users: Vec<_> = (0..9_998).map(|number| json!(format!("test:new-{number}"))).collect();
        users.extend([json!("test:alice"), alice]);
        let revocation = revoke(&app, json!({"users": users})).await.json();
        assert_eq!((&revocation["total"], &revocation["unknown"]), (&json!(1), &Value::Null));
        app.token(&signed_in[0].0, None).await.assert_problem(401, "reauthentication_required");
        assert_eq!(completed(&app, &revocation).await["confirmed"], 1);
        assert_eq!(database.count("SELECT COUNT(*) FROM users WHERE generation = 1").await, 9_999);
        let revoked = "SELECT COUNT(*) FROM audit_events WHERE action = 'access_revoked'";
        assert_eq!(database.count(revoked).await, 9_999);
    }

    async fn revocation_of_all_users_can_leave_older_sign_ins_valid(database) {
        let app = TestApp::start_with(&database, REUSE).await;
        let signed_in = sign_all_in(&app, &["alice"]).await;
        app.clock.advance(Duration::from_secs(5));
        let answer = revoke(&app, json!({"all": true, "rejectOlderSignIns": false})).await.json();
        completed(&app, &answer).await;
        app.clock.advance(Duration::from_secs(3));
        let again = app.token(&signed_in[0].0, None).await.token();
        assert_ne!(again, signed_in[0].1);
        assert_eq!(app.acs.introspect(&signed_in[0].1).await["active"], false);
    }

    async fn older_sign_ins_are_allowed_again(database) {
        let app = TestApp::start(&database).await;
        let signed_in = sign_all_in(&app, &["alice", "bob"]).await;
        app.clock.advance(Duration::from_secs(5));
        let revocation = revoke_all(&app).await;
        let undo = async |role: &str, user: &str| {
            app.ops_as(role, Method::POST, &format!("/users/{user}/allow-older-sign-ins"), None, &[]).await
        };
        undo("revoker", "test:alice").await.assert_problem(403, "forbidden");
        undo("operator", "test:nobody").await.assert_problem(404, "not_found");
        let undone = undo("operator", "test:alice").await;
        assert_eq!(undone.status, StatusCode::OK, "{}", undone.text);
        assert!(undone.json()["user"]["signInsValidFrom"].is_null());
        completed(&app, &revocation).await;
        app.clock.advance(Duration::from_secs(3));
        app.token(&signed_in[0].0, None).await.token();
        app.token(&signed_in[1].0, None).await.assert_problem(401, "reauthentication_required");
        assert_eq!(app.acs.introspect(&signed_in[0].1).await["active"], false, "revoked tokens stay revoked");
        let trail = app.ops(Method::GET, "/audit?action=older_sign_ins_allowed", None).await.json();
        assert_eq!(trail["events"].as_array().unwrap().len(), 1);
        assert!(trail["events"][0]["detail"]["signInsValidFrom"].is_string());
    }

    /// The background calls leave a quarter of the quota free for users who sign in.
    async fn new_sign_in_goes_before_the_other_users_of_a_revocation(database) {
        let app = TestApp::start_with(&database, "[quota]\nrevoke = 8").await;
        let subjects: Vec<_> = (0..20).map(|number| format!("user{number}")).collect();
        sign_all_in(&app, &subjects.iter().map(String::as_str).collect::<Vec<_>>()).await;
        app.clock.advance(Duration::from_secs(5));
        let revocation = revoke_all(&app).await;
        let path = format!("/revocations/{}", revocation["id"].as_str().unwrap());
        eventually(async || (app.acs.stats().await["calls"]["revoke"] == 6).then_some(())).await;
        // Users are worked through in the order of their ids: this one is the last.
        let sign_in = app.later_sign_in("user19");
        let token = eventually(async || {
            let answer = app.token(&sign_in, None).await;
            (answer.status == StatusCode::OK).then(|| answer.token())
        }).await;
        assert_eq!(app.acs.introspect(&token).await["active"], true);
        let found = app.ops(Method::GET, &path, None).await.json();
        assert!(found["completedAt"].is_null() && found["confirmed"].as_i64() < Some(20), "{found}");
        // The others follow in time.
        eventually(async || {
            app.clock.advance(Duration::from_secs(2));
            let found = app.ops(Method::GET, &path, None).await.json();
            (!found["completedAt"].is_null()).then_some(())
        }).await;
        assert_eq!(app.acs.stats().await["calls"]["revoke"], 20);
    }
}

#[tokio::test]
async fn invalid_requests_are_refused() {
    let app = TestApp::start(&Database::sqlite()).await;
    let many: Vec<_> = (0..10_001).map(|number| format!("test:{number}")).collect();
    for request in [
        json!({}),
        json!({"all": false, "users": []}),
        json!({"all": true, "users": ["test:alice"]}),
        json!({"users": ["alice"]}),
        json!({"users": many}),
        json!({"all": true, "reason": "x".repeat(501)}),
        json!({"all": true, "everyone": true}),
    ] {
        revoke(&app, request).await.assert_problem(400, "invalid_request");
    }
    for role in ["viewer", "revoker", "minter"] {
        let answer = app.ops_as(role, Method::POST, "/revocations", Some(json!({"all": true})), &[]).await;
        answer.assert_problem(403, "forbidden");
    }
    let unknown = "/revocations/0198f0c1-a2b3-7c4d-8e5f-60718293a4b5";
    app.ops(Method::GET, unknown, None).await.assert_problem(404, "not_found");
    assert_eq!(app.ops(Method::GET, "/revocations", None).await.json()["revocations"], json!([]));
}

#[tokio::test]
async fn a_repeated_request_revokes_once() {
    let app = TestApp::start(&Database::sqlite()).await;
    let ask = async || {
        let headers = [("idempotency-key", "once")];
        app.ops_as("operator", Method::POST, "/revocations", Some(json!({"all": true})), &headers).await.json()
    };
    assert_eq!(ask().await["id"], ask().await["id"]);
    assert_eq!(app.ops(Method::GET, "/revocations", None).await.json()["revocations"].as_array().unwrap().len(), 1);
}

/// Somebody holds the row of one user for too long: none of the list is changed, and the next attempt changes all.
#[tokio::test]
async fn list_is_revoked_whole_or_not_at_all() {
    let Some(database) = Database::postgres().await else { return };
    let app = TestApp::start(&database).await;
    sign_all_in(&app, &SUBJECTS).await;
    let mut other = PgConnection::connect(&database.url()).await.unwrap();
    let mut lock = other.begin().await.unwrap();
    sqlx::query("SELECT id FROM users WHERE subject = 'carol' FOR UPDATE").execute(&mut *lock).await.unwrap();
    let list = json!({"users": ["test:alice", "test:bob", "test:carol", "test:dave", "test:never-seen"]});
    revoke(&app, list.clone()).await.assert_problem(503, "store_unavailable");
    lock.rollback().await.unwrap();
    let changed = "SELECT (SELECT COUNT(*) FROM users WHERE generation > 0 OR subject = 'never-seen')
                        + (SELECT COUNT(*) FROM operations) + (SELECT COUNT(*) FROM revocations)
                        + (SELECT COUNT(*) FROM audit_events WHERE action = 'access_revoked')";
    assert_eq!(database.count(changed).await, 0);
    let revocation = revoke(&app, list).await.json();
    assert_eq!(revocation["total"], 4);
    assert_eq!(completed(&app, &revocation).await["confirmed"], 4);
    assert_eq!(database.count("SELECT COUNT(*) FROM users WHERE generation = 1").await, 5);
}

//! Revocations of many: everybody is stopped by one row, ACS follows at its pace, and whoever signs in anew is served.

use std::time::Duration;

use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use crate::{
    reuse::REUSE,
    support::{Answer, Database, TestApp, database::on_each_database, eventually},
};

const SUBJECTS: [&str; 4] = ["alice", "bob", "carol", "dave"];

async fn revoke(app: &TestApp, request: Value) -> Answer {
    app.ops(Method::POST, "/revocations", Some(request)).await
}

async fn revoke_everyone(app: &TestApp) -> Value {
    let answer = revoke(app, json!({"all": true, "reason": "a key leaked"})).await;
    assert_eq!(answer.status, StatusCode::ACCEPTED, "{}", answer.text);
    answer.json()
}

/// Gives each user a token, by the login that is returned with it.
async fn sign_in(app: &TestApp, subjects: &[&str]) -> Vec<(String, String)> {
    let mut held = Vec::new();
    for subject in subjects {
        let login = app.issuer.login(subject);
        let token = app.token(&login, None).await.token();
        held.push((login, token));
    }
    held
}

async fn completed(app: &TestApp, revocation: &Value) -> Value {
    let path = format!("/revocations/{}", revocation["id"].as_str().unwrap());
    eventually(async || {
        let found = app.ops(Method::GET, &path, None).await.json();
        (!found["completedAt"].is_null()).then_some(found)
    })
    .await
}

/// A login that is surely of a later second.
fn newer_login(app: &TestApp, subject: &str) -> String {
    app.clock.advance(Duration::from_secs(1));
    app.issuer.login(subject)
}

on_each_database! {
    async fn everyone_is_stopped_at_once_and_revoked_in_the_end(database) {
        let app = TestApp::start_with(&database, REUSE).await;
        let other = app.another().await;
        let held = sign_in(&app, &SUBJECTS).await;
        app.clock.advance(Duration::from_secs(5));
        let revocation = revoke_everyone(&app).await;
        assert_eq!((&revocation["all"], &revocation["total"]), (&json!(true), &json!(4)));
        for (login, _) in &held {
            for replica in [&app, &other] {
                replica.token(login, None).await.assert_problem(401, "reauthentication_required");
            }
        }
        // Those who have never been seen are stopped too.
        let old = app.issuer.login_with("erin", json!({"iat": app.clock.now().timestamp() - 60}));
        app.token(&old, None).await.assert_problem(401, "reauthentication_required");
        let done = completed(&app, &revocation).await;
        assert_eq!((&done["waiting"], &done["pending"], &done["confirmed"]), (&json!(0), &json!(0), &json!(4)));
        assert_eq!((&done["actor"], &done["reason"]), (&json!("operator"), &json!("a key leaked")));
        for (_, token) in &held {
            assert_eq!(app.acs.introspect(token).await["active"], false);
        }
        assert_eq!(app.acs.stats().await["calls"]["revoke"], 4);
        let login = newer_login(&app, "alice");
        let token = eventually(async || {
            let answer = app.token(&login, None).await;
            (answer.status == StatusCode::OK).then(|| answer.token())
        }).await;
        assert_eq!(app.acs.introspect(&token).await["active"], true);
        assert_eq!(app.token(&login, None).await.token(), token, "it is kept");
        app.token(&app.issuer.login("erin"), None).await.token();
        let trail = app.ops(Method::GET, "/audit?action=global_revocation", None).await.json();
        assert_eq!(trail["events"].as_array().unwrap().len(), 1);
        assert!(trail["events"][0]["user"].is_null());
        let trail = app.ops(Method::GET, "/audit?action=access_revoked", None).await.json();
        assert_eq!(trail["events"].as_array().unwrap().len(), 4, "and each user's trail tells of it");
        assert_eq!(trail["events"][0]["detail"]["revocation"], revocation["id"]);
    }

    async fn tokens_that_are_over_cost_nothing(database) {
        let app = TestApp::start_with(&database, REUSE).await;
        sign_in(&app, &SUBJECTS).await;
        app.clock.advance(Duration::from_mins(61));
        sign_in(&app, &SUBJECTS[..1]).await;
        let trial = revoke(&app, json!({"all": true, "dryRun": true})).await;
        assert_eq!((trial.status, &trial.json()["total"]), (StatusCode::OK, &json!(1)));
        assert!(trial.json()["id"].is_null());
        let revocation = revoke_everyone(&app).await;
        assert_eq!(revocation["total"], 1);
        assert_eq!(completed(&app, &revocation).await["confirmed"], 1);
        app.token(&newer_login(&app, "bob"), None).await.token();
        assert_eq!(app.acs.stats().await["calls"]["revoke"], 1, "nobody asked ACS about tokens that are over");
    }

    async fn whoever_is_being_served_meanwhile_gets_nothing_old(database) {
        let app = TestApp::start(&database).await;
        sign_in(&app, &["alice"]).await;
        app.clock.advance(Duration::from_secs(5));
        let logins = ["alice", "newcomer"].map(|subject| app.issuer.login(subject));
        let delay = |operation| json!({"operation": operation, "kind": "delay", "delayMs": 1200});
        app.acs.faults(&[delay("issue"), delay("create")]).await;
        let (alice, newcomer, revocation) =
            tokio::join!(app.token(&logins[0], None), app.token(&logins[1], None), async {
                app.acs.wait_for_calls("issue", 1).await;
                app.acs.wait_for_calls("create", 2).await;
                app.clock.advance(Duration::from_secs(5));
                revoke_everyone(&app).await
            });
        alice.assert_problem(401, "reauthentication_required");
        newcomer.assert_problem(401, "reauthentication_required");
        completed(&app, &revocation).await;
        for subject in ["alice", "newcomer"] {
            let login = newer_login(&app, subject);
            let token = eventually(async || {
                let answer = app.token(&login, None).await;
                (answer.status == StatusCode::OK).then(|| answer.token())
            }).await;
            assert_eq!(app.acs.introspect(&token).await["active"], true, "{subject}");
        }
    }

    async fn a_list_is_revoked_and_nobody_else(database) {
        let app = TestApp::start_with(&database, REUSE).await;
        let held = sign_in(&app, &SUBJECTS).await;
        app.clock.advance(Duration::from_secs(5));
        let alice = app.user("alice").await["id"].as_str().unwrap().to_owned();
        let nobody = "u_0198f0c1a2b37c4d8e5f60718293a4b5";
        let users = json!([alice, "test:bob", nobody, "nowhere:x", "test:never-seen"]);
        let trial = revoke(&app, json!({"users": users, "dryRun": true})).await.json();
        assert_eq!((&trial["total"], &trial["unknown"]), (&json!(2), &json!([nobody, "nowhere:x", "test:never-seen"])));
        app.token(&held[0].0, None).await.token();
        let answer = revoke(&app, json!({"users": users})).await;
        assert_eq!(answer.status, StatusCode::ACCEPTED, "{}", answer.text);
        let revocation = answer.json();
        assert_eq!((&revocation["total"], &revocation["unknown"]), (&json!(2), &json!([nobody, "nowhere:x"])));
        for (login, _) in &held[..2] {
            app.token(login, None).await.assert_problem(401, "reauthentication_required");
        }
        for (login, token) in &held[2..] {
            assert_eq!(&app.token(login, None).await.token(), token);
        }
        // Whoever is on the list without having been seen is stopped as well.
        let old = app.issuer.login_with("never-seen", json!({"iat": app.clock.now().timestamp() - 60}));
        app.token(&old, None).await.assert_problem(401, "reauthentication_required");
        assert_eq!(completed(&app, &revocation).await["confirmed"], 2);
        let listed = app.ops_as("viewer", Method::GET, "/revocations", None, &[]).await.json();
        assert_eq!(listed["revocations"][0]["id"], revocation["id"]);
    }

    async fn older_logins_may_stay_good(database) {
        let app = TestApp::start_with(&database, REUSE).await;
        let held = sign_in(&app, &["alice"]).await;
        app.clock.advance(Duration::from_secs(5));
        let answer = revoke(&app, json!({"all": true, "rejectOlderSignIns": false})).await.json();
        completed(&app, &answer).await;
        app.clock.advance(Duration::from_secs(3));
        let again = app.token(&held[0].0, None).await.token();
        assert_ne!(again, held[0].1);
        assert_eq!(app.acs.introspect(&held[0].1).await["active"], false);
    }

    async fn older_logins_are_let_in_again(database) {
        let app = TestApp::start(&database).await;
        let held = sign_in(&app, &["alice", "bob"]).await;
        app.clock.advance(Duration::from_secs(5));
        let revocation = revoke_everyone(&app).await;
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
        app.token(&held[0].0, None).await.token();
        app.token(&held[1].0, None).await.assert_problem(401, "reauthentication_required");
        assert_eq!(app.acs.introspect(&held[0].1).await["active"], false, "what was revoked stays revoked");
        let trail = app.ops(Method::GET, "/audit?action=older_sign_ins_allowed", None).await.json();
        assert_eq!(trail["events"].as_array().unwrap().len(), 1);
        assert!(trail["events"][0]["detail"]["signInsValidFrom"].is_string());
    }

    /// Three quarters of the limit are for the many; whoever signs in anew does not stand behind them.
    async fn a_new_login_goes_before_the_many(database) {
        let app = TestApp::start_with(&database, "[quota]\nrevoke = 8").await;
        let subjects: Vec<_> = (0..20).map(|number| format!("user{number}")).collect();
        sign_in(&app, &subjects.iter().map(String::as_str).collect::<Vec<_>>()).await;
        app.clock.advance(Duration::from_secs(5));
        let revocation = revoke_everyone(&app).await;
        let path = format!("/revocations/{}", revocation["id"].as_str().unwrap());
        eventually(async || (app.acs.stats().await["calls"]["revoke"] == 6).then_some(())).await;
        // Whoever has not been dealt with yet: the order is that of their ids, so it is the last ones.
        let login = app.issuer.login("user19");
        let token = eventually(async || {
            let answer = app.token(&login, None).await;
            (answer.status == StatusCode::OK).then(|| answer.token())
        }).await;
        assert_eq!(app.acs.introspect(&token).await["active"], true);
        let found = app.ops(Method::GET, &path, None).await.json();
        assert!(found["completedAt"].is_null() && found["confirmed"].as_i64() < Some(20), "{found}");
        // As time goes by the others follow.
        eventually(async || {
            app.clock.advance(Duration::from_secs(2));
            let found = app.ops(Method::GET, &path, None).await.json();
            (!found["completedAt"].is_null()).then_some(())
        }).await;
        assert_eq!(app.acs.stats().await["calls"]["revoke"], 20);
    }
}

#[tokio::test]
async fn requests_that_mean_nothing_are_refused() {
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

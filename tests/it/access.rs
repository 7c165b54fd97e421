//! Revoke, block, delete and what undoes them: after the answer no older sign-in gets a token, and accepted work is done.

use std::time::Duration;

use chrono::{DateTime, Utc};
use reqwest::{Method, StatusCode};
use serde_json::json;

use crate::support::{Answer, Database, TestApp, database::on_each_database, eventually};

/// A sign-in token from a minute ago: older than anything that happens in a test.
pub fn old_sign_in(app: &TestApp, user: &str) -> String {
    let then = app.clock.now().timestamp() - 60;
    app.issuer.sign_in_with(user, json!({"iat": then}))
}

/// Gives a user a token, long enough ago that a revocation counts at once. Returns the sign-in token and the token.
pub async fn user_with_token(app: &TestApp) -> (String, String) {
    let sign_in = old_sign_in(app, "alice");
    let token = app.token(&sign_in, None).await.token();
    app.clock.advance(Duration::from_secs(5));
    (sign_in, token)
}

/// Gets a token for a sign-in of a later second.
pub async fn new_token(app: &TestApp) -> String {
    app.token(&app.later_sign_in("alice"), None).await.token()
}

pub async fn is_active(app: &TestApp, token: &str) -> bool {
    app.acs.introspect(token).await["active"] == true
}

pub const PENDING: &str = "SELECT COUNT(*) FROM operations WHERE completed_at IS NULL";
pub const COMPLETED_EVENTS: &str = "SELECT COUNT(*) FROM audit_events WHERE action = 'operation_completed'";

/// Users and what is done to them.
const CHANGES: [(&str, &str); 5] =
    [("rita", "revoke"), ("bert", "block"), ("dora", "delete"), ("mia", "me/revoke"), ("all", "revoke all")];

async fn change_access(app: &TestApp, user: &str, change: &str) {
    let path = format!("/users/test:{user}");
    let answer = match change {
        "delete" => app.ops(Method::DELETE, &path, None).await,
        "revoke all" => app.ops(Method::POST, "/revocations", Some(json!({"all": true}))).await,
        "me/revoke" => {
            let request = app.http.post(format!("{}/me/revoke", app.url)).bearer_auth(app.issuer.sign_in(user));
            Answer::of(request.send().await.unwrap()).await
        }
        other => app.ops(Method::POST, &format!("{path}/{other}"), None).await,
    };
    assert!(answer.status.is_success(), "{change}: {}", answer.text);
    if change == "block" {
        app.ops(Method::POST, &format!("{path}/unblock"), None).await;
    }
}

on_each_database! {
    async fn revocation_ends_tokens_and_older_sign_ins(database) {
        let app = TestApp::start(&database).await;
        let (old, token) = user_with_token(&app).await;
        let answer = app.revoke("alice").await;
        assert_eq!(answer.status, StatusCode::OK, "{}", answer.text);
        let operation = &answer.json()["operation"];
        assert_eq!((&operation["kind"], &operation["state"]), (&json!("revoke"), &json!("completed")));
        assert!(operation["confirmedAt"].is_string() && operation["propagatesBy"].is_string());
        assert!(!is_active(&app, &token).await);
        let refused = app.token(&old, None).await;
        refused.assert_problem(401, "reauthentication_required");
        let challenge = refused.header("www-authenticate");
        assert!(challenge.contains("insufficient_user_authentication") && challenge.contains("max_age="), "{challenge}");
        let new = new_token(&app).await;
        assert!(is_active(&app, &new).await, "a token issued after the hold is alive");
        assert_eq!(app.acs.stats().await["calls"]["revoke"], 1);
    }

    /// ACS compares whole seconds: only a later call surely ends a token of a moment ago, but one is made at once.
    async fn revocation_right_after_a_mint_is_confirmed_by_a_later_call(database) {
        let app = TestApp::start(&database).await;
        let token = app.token(&old_sign_in(&app, "alice"), None).await.token();
        let answer = app.revoke("alice").await;
        assert_eq!(answer.status, StatusCode::OK, "{}", answer.text);
        assert_eq!(answer.json()["operation"]["attempts"], 2);
        assert!(!is_active(&app, &token).await);
        let no_reuse = "SELECT COUNT(*) FROM users WHERE no_reuse_before IS NOT NULL";
        assert_eq!(database.count(no_reuse).await, 0, "both calls were answered: none can act later");
    }

    async fn revocation_of_an_unknown_user_refuses_older_sign_ins(database) {
        let app = TestApp::start(&database).await;
        let old = old_sign_in(&app, "alice");
        for _ in 0..2 {
            let answer = app.revoke("alice").await;
            assert_eq!(answer.status, StatusCode::OK, "{}", answer.text);
            assert!(answer.json()["operation"].is_null());
        }
        app.token(&old, None).await.assert_problem(401, "reauthentication_required");
        assert_eq!(app.user("alice").await["state"], "unbound");
        new_token(&app).await;
        assert_eq!(app.acs.stats().await["identities"], 1);
    }

    async fn revocation_can_leave_older_sign_ins_valid(database) {
        let app = TestApp::start(&database).await;
        let (old, token) = user_with_token(&app).await;
        let body = Some(json!({"rejectOlderSignIns": false, "reason": "lost phone"}));
        let answer = app.ops(Method::POST, "/users/test:alice/revoke", body).await;
        assert_eq!(answer.json()["operation"]["reason"], "lost phone");
        assert!(!is_active(&app, &token).await);
        assert!(is_active(&app, &app.token(&old, None).await.token()).await);
    }

    async fn block_refuses_every_sign_in_until_unblocked(database) {
        let app = TestApp::start(&database).await;
        let (old, token) = user_with_token(&app).await;
        assert_eq!(app.ops(Method::POST, "/users/test:alice/block", None).await.status, StatusCode::OK);
        assert!(!is_active(&app, &token).await);
        app.token(&app.issuer.sign_in("alice"), None).await.assert_problem(403, "user_blocked");
        assert!(app.user("alice").await["blockedAt"].is_string());
        assert_eq!(app.ops(Method::POST, "/users/test:alice/unblock", None).await.status, StatusCode::OK);
        app.token(&old, None).await.assert_problem(401, "reauthentication_required");
        assert!(is_active(&app, &new_token(&app).await).await);
    }

    async fn deleted_user_gets_a_new_identity_with_a_newer_sign_in_only(database) {
        let app = TestApp::start(&database).await;
        let (old, token) = user_with_token(&app).await;
        let first = app.me(&old).await.identity();
        let answer = app.ops(Method::DELETE, "/users/test:alice", None).await;
        assert_eq!(answer.status, StatusCode::OK, "{}", answer.text);
        assert!(!is_active(&app, &token).await);
        app.token(&old, None).await.assert_problem(401, "reauthentication_required");
        app.me(&old).await.assert_problem(404, "not_found");
        let again = app.ops(Method::DELETE, "/users/test:alice", None).await;
        assert_eq!((again.status, again.json()["operation"].is_null()), (StatusCode::OK, true));
        let second = app.token(&app.later_sign_in("alice"), None).await;
        assert_ne!(second.identity(), first);
        assert_eq!(app.acs.stats().await["identities"], 1);
    }

    /// Promise 4, and promise 2 until it is done.
    async fn accepted_revocation_survives_an_outage(database) {
        let app = TestApp::start(&database).await;
        let (old, token) = user_with_token(&app).await;
        app.acs.fault(json!({"operation": "revoke", "kind": "status", "status": 503})).await;
        let answer = app.revoke("alice").await;
        assert_eq!(answer.status, StatusCode::ACCEPTED, "{}", answer.text);
        assert_eq!(answer.json()["operation"]["state"], "pending");
        let id = answer.json()["operation"]["id"].as_str().unwrap().to_owned();
        assert_eq!(app.user("alice").await["pendingOperation"], id);
        app.token(&old, None).await.assert_problem(401, "reauthentication_required");
        app.token(&app.later_sign_in("alice"), None).await.assert_problem(503, "operation_in_progress");
        app.acs.fault(json!({"operation": "exchange", "kind": "status", "status": 503})).await;
        app.clock.advance(Duration::from_mins(2));
        let done = eventually(async || {
            let operation = app.ops(Method::GET, &format!("/operations/{id}"), None).await.json();
            (operation["state"] == "completed").then_some(operation)
        })
        .await;
        assert!(done["attempts"].as_i64().unwrap() > 1);
        assert!(!is_active(&app, &token).await);
        assert!(is_active(&app, &new_token(&app).await).await);
    }

    async fn another_replica_does_what_a_dead_one_accepted(database) {
        let app = TestApp::start(&database).await;
        let (_, token) = user_with_token(&app).await;
        app.acs.fault(json!({"operation": "revoke", "kind": "hang", "count": 1})).await;
        let other = app.another().await;
        let accepted = tokio::spawn(async move { app.revoke("alice").await });
        other.acs.wait_for_calls("revoke", 1).await;
        accepted.abort();
        other.clock.advance(Duration::from_secs(30));
        eventually(async || (database.count(PENDING).await == 0).then_some(())).await;
        assert!(!is_active(&other, &token).await);
        assert_eq!(database.count(COMPLETED_EVENTS).await, 1);
    }

    async fn unanswered_call_is_repeated_and_remembered(database) {
        let app = TestApp::start(&database).await;
        user_with_token(&app).await;
        app.acs.fault(json!({"operation": "revoke", "kind": "drop_after", "count": 1})).await;
        assert_eq!(app.revoke("alice").await.status, StatusCode::OK);
        let no_reuse = "SELECT COUNT(*) FROM users WHERE no_reuse_before > held_until";
        assert_eq!(database.count(no_reuse).await, 1, "the unanswered call may still act");
        assert!(is_active(&app, &new_token(&app).await).await);
    }

    async fn revoke_and_delete_may_cross(database) {
        let app = TestApp::start(&database).await;
        let (_, token) = user_with_token(&app).await;
        app.acs.fault(json!({"operation": "*", "kind": "status", "status": 503})).await;
        let revoked = app.revoke("alice").await;
        let deleted = app.ops(Method::DELETE, "/users/test:alice", None).await;
        let revoked_again = app.revoke("alice").await;
        assert_eq!((revoked.status, deleted.status), (StatusCode::ACCEPTED, StatusCode::ACCEPTED));
        // The deletion ends the tokens now, and it is not done: the answer must not look done.
        let kind = revoked_again.json()["operation"]["kind"].clone();
        assert_eq!((revoked_again.status, kind), (StatusCode::ACCEPTED, json!("delete")));
        assert_eq!(app.ops(Method::DELETE, "/users/test:alice", None).await.status, StatusCode::ACCEPTED);
        app.token(&app.later_sign_in("alice"), None).await.assert_problem(409, "user_deleting");
        app.acs.fault(json!({"operation": "exchange", "kind": "status", "status": 503})).await;
        eventually(async || (database.count(PENDING).await == 0).then_some(())).await;
        assert!(!is_active(&app, &token).await);
        assert_eq!(app.user("alice").await["state"], "unbound");
        assert!(is_active(&app, &new_token(&app).await).await);
    }

    async fn completion_that_a_crash_prevented_is_written_once(database) {
        let app = TestApp::start(&database).await;
        user_with_token(&app).await;
        app.ops(Method::DELETE, "/users/test:alice", None).await;
        let (clock, acs, issuer) = (app.clock.clone(), app.acs.clone(), app.issuer.clone());
        app.stop().await.unwrap();
        // As if the process had died between the answer of ACS and the write.
        database.execute("UPDATE users SET state = 'deleting', acs_id = (SELECT acs_id FROM operations)").await;
        database.execute("UPDATE operations SET completed_at = NULL, attempts = 1, unanswered = 1").await;
        database.execute("DELETE FROM audit_events WHERE action = 'operation_completed'").await;
        let app = TestApp::replica(&database, "", &clock, acs, issuer).await;
        eventually(async || (database.count(PENDING).await == 0).then_some(())).await;
        assert_eq!(app.user("alice").await["state"], "unbound");
        assert_eq!(database.count(COMPLETED_EVENTS).await, 1);
    }

    async fn lease_of_a_dead_process_expires(database) {
        let app = TestApp::start(&database).await;
        let (_, token) = user_with_token(&app).await;
        app.acs.fault(json!({"operation": "revoke", "kind": "status", "status": 503})).await;
        assert_eq!(app.revoke("alice").await.status, StatusCode::ACCEPTED);
        let dead = "UPDATE operations SET leased_by = id, leased_until = $1";
        database.execute_at(dead, app.clock.now() + Duration::from_mins(5)).await;
        app.acs.fault(json!({"operation": "exchange", "kind": "status", "status": 503})).await;
        tokio::time::sleep(Duration::from_millis(300)).await;
        assert_eq!(database.count(PENDING).await, 1, "the lease holder may still be working on it");
        app.clock.advance(Duration::from_mins(6));
        eventually(async || (database.count(PENDING).await == 0).then_some(())).await;
        assert!(!is_active(&app, &token).await);
    }

    /// The settings name another resource. Its answers say nothing about tokens of the first.
    async fn operation_of_another_resource_stays_pending(database) {
        let app = TestApp::start(&database).await;
        let (_, token) = user_with_token(&app).await;
        let (clock, acs, issuer) = (app.clock.clone(), app.acs.clone(), app.issuer.clone());
        app.stop().await.unwrap();
        let elsewhere = TestApp::start(&Database::sqlite()).await;
        let wrong = TestApp::start_with_endpoint(&database, &elsewhere.acs.url).await;
        let answer = wrong.ops(Method::POST, "/users/test:alice/revoke", None).await;
        assert_eq!(answer.status, StatusCode::ACCEPTED, "{}", answer.text);
        assert_eq!(elsewhere.acs.stats().await["calls"]["revoke"], 0);
        // The replica with the right settings does it.
        let app = TestApp::replica(&database, "", &clock, acs, issuer).await;
        eventually(async || (!is_active(&app, &token).await).then_some(())).await;
    }

    /// With wrong settings "not owned" confirms nothing: the tokens stay valid at the right resource.
    async fn answer_not_owned_confirms_nothing(database) {
        let app = TestApp::start(&database).await;
        app.token(&app.issuer.sign_in("first"), None).await.token();
        let foreign = "8:acs:00000000-0000-0000-0000-000000000001_00000000-0000-0000-0000-000000000002";
        database.execute("UPDATE users SET last_minted_at = NULL, acs_id = '8:acs:00000000-0000-0000-0000-000000000001_00000000-0000-0000-0000-000000000002'").await;
        let answer = app.revoke("first").await;
        assert_eq!(answer.status, StatusCode::ACCEPTED, "{}", answer.text);
        assert_eq!(answer.json()["operation"]["communicationUserId"], foreign);
        assert!(answer.json()["operation"]["lastError"].as_str().unwrap().contains("does not belong"));
    }

    async fn users_sign_themselves_out_everywhere(database) {
        let app = TestApp::start(&database).await;
        let (old, token) = user_with_token(&app).await;
        let revoke = app.http.post(format!("{}/me/revoke", app.url)).bearer_auth(&old).send().await.unwrap();
        assert_eq!(revoke.status(), StatusCode::OK);
        assert!(!is_active(&app, &token).await);
        app.token(&old, None).await.assert_problem(401, "reauthentication_required");
        let again = app.http.post(format!("{}/me/revoke", app.url)).bearer_auth(&old).send().await.unwrap();
        assert_eq!(again.status(), StatusCode::UNAUTHORIZED, "a revoked sign-in cannot revoke again");
        let by_the_user = "SELECT COUNT(*) FROM audit_events WHERE action = 'access_revoked' AND actor_kind = 'user'";
        assert_eq!(database.count(by_the_user).await, 1);
    }

    async fn sign_in_from_before_a_purged_deletion_is_refused(database) {
        let app = TestApp::start(&database).await;
        user_with_token(&app).await;
        app.ops(Method::DELETE, "/users/test:alice", None).await;
        app.clock.advance(Duration::from_hours(181 * 24));
        let later = app.another().await;
        eventually(async || (database.count("SELECT COUNT(*) FROM users").await == 0).then_some(())).await;
        assert_eq!(database.count("SELECT COUNT(*) FROM audit_events WHERE action = 'user_purged'").await, 1);
        let claims = json!({"iat": later.clock.now().timestamp() - 181 * 24 * 3600});
        later.token(&later.issuer.sign_in_with("alice", claims), None).await.assert_problem(401, "reauthentication_required");
        new_token(&later).await;
    }

    /// JWTs know whole seconds only: a sign-in of the second of a change may be older than the change.
    async fn sign_in_of_the_second_of_a_change_is_refused(database) {
        for (user, change) in CHANGES {
            let app = TestApp::start(&database).await;
            let earlier = app.issuer.sign_in(user);
            app.token(&earlier, None).await.token();
            app.clock.advance(Duration::from_secs(5));
            let before = app.clock.now().timestamp();
            change_access(&app, user, change).await;
            let after = app.clock.now().timestamp();

            let valid_from: DateTime<Utc> = app.user(user).await["signInsValidFrom"].as_str().unwrap().parse().unwrap();
            assert!((before + 1..=after + 1).contains(&valid_from.timestamp()), "{change}: {valid_from}");
            assert_eq!(valid_from.timestamp_subsec_millis(), 0, "{change}");
            let of_second = |second: i64| app.issuer.sign_in_with(user, json!({"iat": second, "exp": second + 3600}));
            let same_second = of_second(valid_from.timestamp() - 1);
            for refused in [&earlier, &of_second(before), &same_second] {
                app.token(refused, None).await.assert_problem(401, "reauthentication_required");
            }
            app.clock.advance(Duration::from_secs(1));
            app.token(&same_second, None).await.assert_problem(401, "reauthentication_required");
            app.token(&of_second(valid_from.timestamp()), None).await.token();
        }
    }

    async fn unblock_of_a_user_who_is_not_blocked_changes_nothing(database) {
        let app = TestApp::start(&database).await;
        user_with_token(&app).await;
        let before = app.user("alice").await;
        let answer = app.ops(Method::POST, "/users/test:alice/unblock", None).await;
        assert_eq!((answer.status, &answer.json()["user"]), (StatusCode::OK, &before));
        assert_eq!(app.user("alice").await, before);
        assert_eq!(database.count("SELECT COUNT(*) FROM audit_events WHERE action = 'user_unblocked'").await, 0);
    }
}

#[tokio::test]
async fn users_delete_themselves_only_where_allowed() {
    let database = Database::sqlite();
    let app = TestApp::start(&database).await;
    let (sign_in, _) = user_with_token(&app).await;
    let delete = |app: &TestApp, sign_in: &str| app.http.delete(format!("{}/me", app.url)).bearer_auth(sign_in).send();
    assert_eq!(delete(&app, &sign_in).await.unwrap().status(), StatusCode::FORBIDDEN);

    let app = TestApp::start_with(&Database::sqlite(), "[users]\nself_delete = true").await;
    let (old, _) = user_with_token(&app).await;
    app.revoke("alice").await;
    assert_eq!(delete(&app, &old).await.unwrap().status(), StatusCode::UNAUTHORIZED, "a revoked sign-in cannot delete");
    assert_eq!(delete(&app, &app.later_sign_in("alice")).await.unwrap().status(), StatusCode::OK);
    eventually(async || (app.acs.stats().await["identities"] == 0).then_some(())).await;
}

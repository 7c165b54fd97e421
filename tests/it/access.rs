//! Taking access away: once it was answered nothing gets out, and whatever was accepted gets done.

use std::time::Duration;

use reqwest::{Method, StatusCode};
use serde_json::json;

use crate::support::{Database, TestApp, database::on_each_database, eventually};

/// A login from a minute ago: surely older than anything that happens in a test.
fn old_login(app: &TestApp, user: &str) -> String {
    let then = app.clock.now().timestamp() - 60;
    app.issuer.login_with(user, json!({"iat": then}))
}

/// A user with a token, long enough ago that a revocation counts at once.
async fn user_with_token(app: &TestApp) -> (String, String) {
    let login = old_login(app, "alice");
    let token = app.token(&login, None).await.token();
    app.clock.advance(Duration::from_secs(5));
    (login, token)
}

async fn new_token(app: &TestApp) -> String {
    app.token(&app.issuer.login("alice"), None).await.token()
}

async fn is_active(app: &TestApp, token: &str) -> bool {
    app.acs.introspect(token).await["active"] == true
}

const PENDING: &str = "SELECT COUNT(*) FROM operations WHERE completed_at IS NULL";
const COMPLETED_EVENTS: &str = "SELECT COUNT(*) FROM audit_events WHERE action = 'operation_completed'";

on_each_database! {
    async fn revocation_ends_tokens_and_older_logins(database) {
        let app = TestApp::start(&database).await;
        let (old, token) = user_with_token(&app).await;
        let answer = app.revoke("alice").await;
        assert_eq!(answer.status, StatusCode::OK, "{}", answer.text);
        let operation = &answer.json()["operation"];
        assert_eq!((&operation["kind"], &operation["state"]), (&json!("revoke"), &json!("completed")));
        assert!(operation["confirmedAt"].is_string() && operation["propagatesBy"].is_string());
        assert!(!is_active(&app, &token).await);
        app.token(&old, None).await.assert_problem(401, "reauthentication_required");
        let fresh = new_token(&app).await;
        assert!(is_active(&app, &fresh).await, "what is handed out after the hold is alive");
        assert_eq!(app.acs.stats().await["calls"]["revoke"], 1);
    }

    /// ACS reckons in whole seconds: only a later call surely ends a token of a moment ago, but one goes out at once.
    async fn revocation_right_after_a_mint_is_confirmed_by_a_later_call(database) {
        let app = TestApp::start(&database).await;
        let token = app.token(&old_login(&app, "alice"), None).await.token();
        let answer = app.revoke("alice").await;
        assert_eq!(answer.status, StatusCode::OK, "{}", answer.text);
        assert_eq!(answer.json()["operation"]["attempts"], 2);
        assert!(!is_active(&app, &token).await);
        let no_reuse = "SELECT COUNT(*) FROM users WHERE no_reuse_before IS NOT NULL";
        assert_eq!(database.count(no_reuse).await, 0, "both calls were answered: none can act later");
    }

    async fn revocation_of_somebody_unknown_keeps_the_thief_out(database) {
        let app = TestApp::start(&database).await;
        let old = old_login(&app, "alice");
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

    async fn logins_can_be_spared(database) {
        let app = TestApp::start(&database).await;
        let (old, token) = user_with_token(&app).await;
        let body = Some(json!({"rejectOlderSignIns": false, "reason": "lost phone"}));
        let answer = app.ops(Method::POST, "/users/test:alice/revoke", body).await;
        assert_eq!(answer.json()["operation"]["reason"], "lost phone");
        assert!(!is_active(&app, &token).await);
        assert!(is_active(&app, &app.token(&old, None).await.token()).await);
    }

    async fn block_keeps_everybody_out_until_lifted(database) {
        let app = TestApp::start(&database).await;
        let (old, token) = user_with_token(&app).await;
        assert_eq!(app.ops(Method::POST, "/users/test:alice/block", None).await.status, StatusCode::OK);
        assert!(!is_active(&app, &token).await);
        app.token(&app.issuer.login("alice"), None).await.assert_problem(403, "user_blocked");
        assert!(app.user("alice").await["blockedAt"].is_string());
        assert_eq!(app.ops(Method::POST, "/users/test:alice/unblock", None).await.status, StatusCode::OK);
        app.token(&old, None).await.assert_problem(401, "reauthentication_required");
        assert!(is_active(&app, &new_token(&app).await).await);
    }

    async fn deleted_user_starts_afresh_with_a_newer_login_only(database) {
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
        let second = app.token(&app.issuer.login("alice"), None).await;
        assert_ne!(second.identity(), first);
        assert_eq!(app.acs.stats().await["identities"], 1);
    }

    /// Promise 4, and promise 2 while it is being kept.
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
        app.token(&app.issuer.login("alice"), None).await.assert_problem(503, "operation_in_progress");
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

    async fn a_lost_answer_is_asked_for_again_and_remembered(database) {
        let app = TestApp::start(&database).await;
        user_with_token(&app).await;
        app.acs.fault(json!({"operation": "revoke", "kind": "drop_after", "count": 1})).await;
        assert_eq!(app.revoke("alice").await.status, StatusCode::OK);
        let no_reuse = "SELECT COUNT(*) FROM users WHERE no_reuse_before > held_until";
        assert_eq!(database.count(no_reuse).await, 1, "the unanswered call may still act");
        assert!(is_active(&app, &new_token(&app).await).await);
    }

    /// A call that nobody waits for any more acts when the user is already being served again.
    async fn a_late_revocation_costs_a_token_but_not_the_user(database) {
        let app = TestApp::start(&database).await;
        user_with_token(&app).await;
        app.acs.fault(json!({"operation": "revoke", "kind": "late", "delayMs": 6000, "count": 1})).await;
        assert_eq!(app.revoke("alice").await.status, StatusCode::OK);
        app.clock.advance(Duration::from_secs(3));
        let early = new_token(&app).await;
        assert!(is_active(&app, &early).await);
        eventually(async || (!is_active(&app, &early).await).then_some(())).await;
        app.clock.advance(Duration::from_secs(2));
        assert!(is_active(&app, &new_token(&app).await).await);
    }

    async fn overlapping_revocations_are_both_done_before_the_hold_ends(database) {
        let app = TestApp::start(&database).await;
        user_with_token(&app).await;
        app.acs.fault(json!({"operation": "revoke", "kind": "delay", "delayMs": 1500, "count": 1})).await;
        let (slow, quick) = tokio::join!(app.revoke("alice"), async {
            app.acs.wait_for_calls("revoke", 1).await;
            let quick = app.revoke("alice").await;
            let held = database.count(PENDING).await;
            (quick, held)
        });
        assert_eq!((slow.status, quick.0.status, quick.1), (StatusCode::OK, StatusCode::OK, 1));
        assert!(is_active(&app, &new_token(&app).await).await);
        assert_eq!(database.count(COMPLETED_EVENTS).await, 2);
    }

    async fn mint_in_flight_over_a_whole_revocation_is_thrown_away(database) {
        let app = TestApp::start(&database).await;
        let (old, _) = user_with_token(&app).await;
        app.acs.fault(json!({"operation": "issue", "kind": "delay", "delayMs": 1500, "count": 1})).await;
        let (refused, revoked) = tokio::join!(app.token(&old, None), async {
            app.acs.wait_for_calls("issue", 1).await;
            let revoked = app.revoke("alice").await;
            // The hold is over too, so that nothing but the generation stands in the way.
            app.clock.advance(Duration::from_secs(5));
            revoked
        });
        assert_eq!(revoked.status, StatusCode::OK);
        refused.assert_problem(401, "reauthentication_required");
        let minted_after = "SELECT COUNT(*) FROM audit_events WHERE action = 'token_minted'";
        assert_eq!(database.count(minted_after).await, 1);
    }

    async fn delete_while_creating_is_not_undone(database) {
        let app = TestApp::start(&database).await;
        let old = old_login(&app, "alice");
        app.acs.fault(json!({"operation": "create", "kind": "delay", "delayMs": 800, "count": 1})).await;
        let (refused, deleted) = tokio::join!(app.token(&old, None), async {
            app.acs.wait_for_calls("create", 1).await;
            app.ops(Method::DELETE, "/users/test:alice", None).await
        });
        assert_eq!(deleted.status, StatusCode::OK);
        refused.assert_problem(401, "reauthentication_required");
        eventually(async || (app.acs.stats().await["identities"] == 0).then_some(())).await;
        assert_eq!(app.user("alice").await["state"], "unbound");
        let counted = "SELECT COUNT(*) FROM audit_events WHERE action IN ('possible_orphan', 'identity_discarded')";
        assert_eq!(database.count(counted).await, 2);
    }

    async fn block_reaches_who_waits_on_a_hold(database) {
        let app = TestApp::start(&database).await;
        user_with_token(&app).await;
        app.acs.fault(json!({"operation": "revoke", "kind": "status", "status": 503})).await;
        let ops = Method::POST;
        assert_eq!(app.revoke("alice").await.status, StatusCode::ACCEPTED);
        let login = app.issuer.login("alice");
        let (refused, blocked) = tokio::join!(app.token(&login, None), async {
            tokio::time::sleep(Duration::from_millis(200)).await;
            app.ops(ops, "/users/test:alice/block", None).await
        });
        assert_eq!(blocked.status, StatusCode::ACCEPTED);
        refused.assert_problem(403, "user_blocked");
    }

    async fn revoke_and_delete_may_cross(database) {
        let app = TestApp::start(&database).await;
        let (_, token) = user_with_token(&app).await;
        app.acs.fault(json!({"operation": "*", "kind": "status", "status": 503})).await;
        let revoked = app.revoke("alice").await;
        let deleted = app.ops(Method::DELETE, "/users/test:alice", None).await;
        let revoked_again = app.revoke("alice").await;
        assert_eq!((revoked.status, deleted.status), (StatusCode::ACCEPTED, StatusCode::ACCEPTED));
        // What ends the tokens now is the deletion, and it is not done: nobody may take it for done.
        let told = revoked_again.json()["operation"]["kind"].clone();
        assert_eq!((revoked_again.status, told), (StatusCode::ACCEPTED, json!("delete")));
        assert_eq!(app.ops(Method::DELETE, "/users/test:alice", None).await.status, StatusCode::ACCEPTED);
        app.token(&app.issuer.login("alice"), None).await.assert_problem(409, "user_deleting");
        app.acs.fault(json!({"operation": "exchange", "kind": "status", "status": 503})).await;
        eventually(async || (database.count(PENDING).await == 0).then_some(())).await;
        assert!(!is_active(&app, &token).await);
        assert_eq!(app.user("alice").await["state"], "unbound");
        assert!(is_active(&app, &new_token(&app).await).await);
    }

    /// The completion that a process could not write any more is written by the next one, once.
    async fn crash_between_the_answer_and_the_write_is_healed(database) {
        let app = TestApp::start(&database).await;
        user_with_token(&app).await;
        app.ops(Method::DELETE, "/users/test:alice", None).await;
        let (clock, acs, issuer) = (app.clock.clone(), app.acs.clone(), app.issuer.clone());
        app.stop().await.unwrap();
        // As if ACS had deleted the identity and nobody had been left to note it.
        database.execute("UPDATE users SET state = 'deleting', acs_id = (SELECT acs_id FROM operations)").await;
        database.execute("UPDATE operations SET completed_at = NULL, attempts = 1, unanswered = 1").await;
        database.execute("DELETE FROM audit_events WHERE action = 'operation_completed'").await;
        let app = TestApp::replica(&database, "", &clock, acs, issuer).await;
        eventually(async || (database.count(PENDING).await == 0).then_some(())).await;
        assert_eq!(app.user("alice").await["state"], "unbound");
        assert_eq!(database.count(COMPLETED_EVENTS).await, 1);
    }

    async fn lease_of_a_dead_process_runs_out(database) {
        let app = TestApp::start(&database).await;
        let (_, token) = user_with_token(&app).await;
        app.acs.fault(json!({"operation": "revoke", "kind": "status", "status": 503})).await;
        assert_eq!(app.revoke("alice").await.status, StatusCode::ACCEPTED);
        let dead = "UPDATE operations SET leased_by = id, leased_until = $1";
        database.execute_at(dead, app.clock.now() + Duration::from_mins(5)).await;
        app.acs.fault(json!({"operation": "exchange", "kind": "status", "status": 503})).await;
        tokio::time::sleep(Duration::from_millis(300)).await;
        assert_eq!(database.count(PENDING).await, 1, "somebody may still be at it");
        app.clock.advance(Duration::from_mins(6));
        eventually(async || (database.count(PENDING).await == 0).then_some(())).await;
        assert!(!is_active(&app, &token).await);
    }

    /// Two replicas hold the same deletion; the slow one comes back when the user has long started afresh.
    async fn slow_lease_holder_changes_nothing(database) {
        let app = TestApp::start(&database).await;
        user_with_token(&app).await;
        app.acs.fault(json!({"operation": "delete", "kind": "delay", "delayMs": 3000, "count": 1})).await;
        let deletion = app.ops(Method::DELETE, "/users/test:alice", None);
        let (_, second) = tokio::join!(deletion, async {
            app.acs.wait_for_calls("delete", 1).await;
            app.clock.advance(Duration::from_secs(30));
            eventually(async || (app.user("alice").await["state"] == "unbound").then_some(())).await;
            app.token(&app.issuer.login("alice"), None).await
        });
        let state = app.user("alice").await;
        assert_eq!((&state["state"], &state["communicationUserId"]), (&json!("active"), &json!(second.identity())));
        assert!(is_active(&app, &second.token()).await);
        assert_eq!(database.count(COMPLETED_EVENTS).await, 1);
    }

    /// The settings name another resource, whose answers say nothing about tokens of the first.
    async fn another_resource_confirms_nothing(database) {
        let app = TestApp::start(&database).await;
        let (_, token) = user_with_token(&app).await;
        let (clock, acs, issuer) = (app.clock.clone(), app.acs.clone(), app.issuer.clone());
        app.stop().await.unwrap();
        let elsewhere = TestApp::start(&Database::sqlite()).await;
        let astray = TestApp::start_with_endpoint(&database, &elsewhere.acs.url).await;
        let answer = astray.ops(Method::POST, "/users/test:alice/revoke", None).await;
        assert_eq!(answer.status, StatusCode::ACCEPTED, "{}", answer.text);
        assert_eq!(elsewhere.acs.stats().await["calls"]["revoke"], 0);
        // The replica with the right settings does it.
        let app = TestApp::replica(&database, "", &clock, acs, issuer).await;
        eventually(async || (!is_active(&app, &token).await).then_some(())).await;
    }

    /// With wrong settings "not owned" is no confirmation: the tokens live on at the right resource.
    async fn a_foreign_resource_confirms_nothing(database) {
        let app = TestApp::start(&database).await;
        app.token(&app.issuer.login("first"), None).await.token();
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
        assert_eq!(again.status(), StatusCode::UNAUTHORIZED, "a revoked login cannot lock its owner out again");
        let by_the_user = "SELECT COUNT(*) FROM audit_events WHERE action = 'access_revoked' AND actor_kind = 'user'";
        assert_eq!(database.count(by_the_user).await, 1);
    }

    async fn what_is_forgotten_stays_out(database) {
        let app = TestApp::start(&database).await;
        let (old, _) = user_with_token(&app).await;
        app.ops(Method::DELETE, "/users/test:alice", None).await;
        app.clock.advance(Duration::from_hours(181 * 24));
        let later = app.another().await;
        eventually(async || (database.count("SELECT COUNT(*) FROM users").await == 0).then_some(())).await;
        assert_eq!(database.count("SELECT COUNT(*) FROM audit_events WHERE action = 'user_purged'").await, 1);
        let claims = json!({"iat": later.clock.now().timestamp() - 181 * 24 * 3600});
        later.token(&later.issuer.login_with("alice", claims), None).await.assert_problem(401, "reauthentication_required");
        drop(old);
        new_token(&later).await;
    }
}

#[tokio::test]
async fn users_delete_themselves_only_where_allowed() {
    let database = Database::sqlite();
    let app = TestApp::start(&database).await;
    let (login, _) = user_with_token(&app).await;
    let delete = |app: &TestApp, login: &str| app.http.delete(format!("{}/me", app.url)).bearer_auth(login).send();
    assert_eq!(delete(&app, &login).await.unwrap().status(), StatusCode::FORBIDDEN);

    let app = TestApp::start_with(&Database::sqlite(), "[users]\nself_delete = true").await;
    let (old, _) = user_with_token(&app).await;
    app.revoke("alice").await;
    assert_eq!(delete(&app, &old).await.unwrap().status(), StatusCode::UNAUTHORIZED, "a stolen login cannot delete");
    assert_eq!(delete(&app, &app.issuer.login("alice")).await.unwrap().status(), StatusCode::OK);
    eventually(async || (app.acs.stats().await["identities"] == 0).then_some(())).await;
}

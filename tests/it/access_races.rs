//! Changes of access while a request or another change is in progress.

use std::time::Duration;

use reqwest::{Method, StatusCode};
use serde_json::json;

use crate::{
    access::{COMPLETED_EVENTS, PENDING, is_active, new_token, old_sign_in, user_with_token},
    support::{Database, TestApp, database::on_each_database, eventually},
};

/// Delays the next call of an operation.
async fn delay(app: &TestApp, operation: &str, ms: u64) {
    app.acs.fault(json!({"operation": operation, "kind": "delay", "delayMs": ms, "count": 1})).await;
}

on_each_database! {
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

    async fn token_minted_during_a_revocation_is_discarded(database) {
        let app = TestApp::start(&database).await;
        let (old, _) = user_with_token(&app).await;
        app.acs.fault(json!({"operation": "issue", "kind": "delay", "delayMs": 1500, "count": 1})).await;
        let (refused, revoked) = tokio::join!(app.token(&old, None), async {
            app.acs.wait_for_calls("issue", 1).await;
            let revoked = app.revoke("alice").await;
            // The hold is over too, so that only the generation prevents the token.
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
        let old = old_sign_in(&app, "alice");
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

    async fn block_reaches_a_request_that_waits_for_a_hold(database) {
        let app = TestApp::start(&database).await;
        user_with_token(&app).await;
        app.acs.fault(json!({"operation": "revoke", "kind": "status", "status": 503})).await;
        assert_eq!(app.revoke("alice").await.status, StatusCode::ACCEPTED);
        let sign_in = app.later_sign_in("alice");
        let (refused, blocked) = tokio::join!(app.token(&sign_in, None), async {
            tokio::time::sleep(Duration::from_millis(200)).await;
            app.ops(Method::POST, "/users/test:alice/block", None).await
        });
        assert_eq!(blocked.status, StatusCode::ACCEPTED);
        refused.assert_problem(403, "user_blocked");
    }

    /// The slow holder of an expired lease finishes after the user got a new identity.
    async fn slow_lease_holder_changes_nothing(database) {
        let app = TestApp::start(&database).await;
        user_with_token(&app).await;
        app.acs.fault(json!({"operation": "delete", "kind": "delay", "delayMs": 3000, "count": 1})).await;
        let deletion = app.ops(Method::DELETE, "/users/test:alice", None);
        let (_, second) = tokio::join!(deletion, async {
            app.acs.wait_for_calls("delete", 1).await;
            app.clock.advance(Duration::from_secs(30));
            eventually(async || (app.user("alice").await["state"] == "unbound").then_some(())).await;
            app.token(&app.later_sign_in("alice"), None).await
        });
        let state = app.user("alice").await;
        assert_eq!((&state["state"], &state["communicationUserId"]), (&json!("active"), &json!(second.identity())));
        assert!(is_active(&app, &second.token()).await);
        assert_eq!(database.count(COMPLETED_EVENTS).await, 1);
    }

    /// A call that timed out acts after the user got a new token.
    async fn late_call_may_end_a_new_token_but_not_a_later_one(database) {
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

    /// Promise 2: the request reads again and gets a token of the new generation.
    async fn token_minted_across_a_revocation_is_replaced(database) {
        let app = TestApp::start(&database).await;
        let (sign_in, _) = user_with_token(&app).await;
        delay(&app, "issue", 1000).await;
        let (answer, revoked) = tokio::join!(app.token(&sign_in, None), async {
            app.acs.wait_for_calls("issue", 1).await;
            let body = Some(json!({"rejectOlderSignIns": false}));
            let revoked = app.ops(Method::POST, "/users/test:alice/revoke", body).await;
            app.clock.advance(Duration::from_secs(5));
            revoked
        });
        assert_eq!(revoked.status, StatusCode::OK);
        assert!(is_active(&app, &answer.token()).await);
        assert_eq!(app.acs.stats().await["calls"]["issue"], 2, "the first token was discarded");
        let minted = "SELECT COUNT(*) FROM audit_events WHERE action = 'token_minted' AND generation = 1";
        assert_eq!(database.count(minted).await, 1);
    }

    /// Promise 2 for the first token: the identity stays, its first token is not returned.
    async fn first_token_created_across_a_revocation_is_replaced(database) {
        let app = TestApp::start(&database).await;
        let sign_in = old_sign_in(&app, "alice");
        delay(&app, "create", 800).await;
        let (answer, revoked) = tokio::join!(app.token(&sign_in, None), async {
            app.acs.wait_for_calls("create", 1).await;
            app.ops(Method::POST, "/users/test:alice/revoke", Some(json!({"rejectOlderSignIns": false}))).await
        });
        assert_eq!(revoked.status, StatusCode::OK);
        assert!(is_active(&app, &answer.token()).await);
        let stats = app.acs.stats().await;
        assert_eq!((&stats["calls"]["create"], &stats["calls"]["issue"]), (&json!(1), &json!(1)));
        assert_eq!(stats["identities"], 1);
    }

    async fn user_blocked_during_a_mint_gets_no_token(database) {
        let app = TestApp::start(&database).await;
        user_with_token(&app).await;
        delay(&app, "issue", 800).await;
        let sign_in = app.issuer.sign_in("alice");
        let (answer, blocked) = tokio::join!(app.token(&sign_in, None), async {
            app.acs.wait_for_calls("issue", 1).await;
            app.ops(Method::POST, "/users/test:alice/block", None).await
        });
        assert_eq!(blocked.status, StatusCode::OK);
        answer.assert_problem(403, "user_blocked");
    }

    /// Promise 1: a user deleted during the creation gets another identity, and the first one is deleted.
    async fn identity_whose_claim_ended_is_discarded(database) {
        let app = TestApp::start(&database).await;
        // Newer than the deletion, so that the request goes on after it.
        let sign_in = app.issuer.sign_in_with("alice", json!({"iat": app.clock.now().timestamp() + 20}));
        delay(&app, "create", 800).await;
        let (answer, deleted) = tokio::join!(app.token(&sign_in, None), async {
            app.acs.wait_for_calls("create", 1).await;
            app.ops(Method::DELETE, "/users/test:alice", None).await
        });
        assert_eq!(deleted.status, StatusCode::OK);
        assert_eq!(answer.identity(), app.me(&sign_in).await.identity());
        let discarded = "SELECT COUNT(*) FROM operations WHERE kind = 'discard' AND completed_at IS NOT NULL
                         AND acs_id NOT IN (SELECT acs_id FROM users)";
        eventually(async || (database.count(discarded).await == 1).then_some(())).await;
        assert_eq!(app.acs.stats().await["identities"], 1);
        assert!(is_active(&app, &answer.token()).await);
    }

    async fn request_waits_for_a_hold(database) {
        let app = TestApp::start(&database).await;
        user_with_token(&app).await;
        app.acs.fault(json!({"operation": "revoke", "kind": "status", "status": 503})).await;
        assert_eq!(app.revoke("alice").await.status, StatusCode::ACCEPTED);
        let sign_in = app.later_sign_in("alice");
        let (answer, ()) = tokio::join!(app.token(&sign_in, None), async {
            tokio::time::sleep(Duration::from_millis(200)).await;
            assert_eq!(app.acs.stats().await["calls"]["issue"], 0);
            app.acs.faults(&[]).await;
            eventually(async || (database.count(PENDING).await == 0).then_some(())).await;
            app.clock.advance(Duration::from_secs(3));
        });
        assert!(is_active(&app, &answer.token()).await);
    }
}

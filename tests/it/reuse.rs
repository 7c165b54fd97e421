//! Reuse of cached tokens and sharing of mints: never a token that a later change of access ended.

use std::time::Duration;

use acs_token_vendor::store::{Settings, Store};
use reqwest::{Method, StatusCode};
use serde_json::json;

use crate::support::{ACCESS_KEY, Answer, Database, SECOND_KEY, TestApp, database::on_each_database};

pub const REUSE: &str = "[tokens]\nencryption_keys = \"QUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUE=\"";
const ROTATED: &str = "[tokens]\nencryption_keys = [\"QkJCQkJCQkJCQkJCQkJCQkJCQkJCQkJCQkJCQkJCQkI=\", \
                       \"QUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUE=\"]";
const OTHER_KEY: &str = "[tokens]\nencryption_keys = \"QkJCQkJCQkJCQkJCQkJCQkJCQkJCQkJCQkJCQkJCQkI=\"";

const CACHED: &str = "SELECT COUNT(*) FROM users WHERE cached_tokens IS NOT NULL OR cached_until_day IS NOT NULL";
const DROP_CACHE: &str = "UPDATE users SET cached_tokens = NULL, cached_until_day = NULL";

async fn issues(app: &TestApp) -> u64 {
    app.acs.stats().await["calls"]["issue"].as_u64().unwrap()
}

fn minutes(minutes: u64) -> Duration {
    Duration::from_mins(minutes)
}

on_each_database! {
    async fn cached_token_is_returned_by_every_replica(database) {
        let app = TestApp::start_with(&database, REUSE).await;
        let sign_in = app.issuer.sign_in("alice");
        let first = app.token(&sign_in, None).await;
        let other = app.another().await;
        for replica in [&app, &other, &app] {
            let again = replica.token(&app.issuer.sign_in("alice"), None).await;
            assert_eq!((again.token(), &again.json()["expiresOn"]), (first.token(), &first.json()["expiresOn"]));
        }
        assert_eq!(issues(&app).await, 0, "the token of the creation served all of them");
        assert_eq!(app.metric("vendor_tokens_issued_total{source=\"cached\"}").await, 2);
        assert_eq!(app.acs.introspect(&first.token()).await["active"], true);
    }

    async fn without_an_encryption_key_nothing_is_cached(database) {
        let app = TestApp::start(&database).await;
        let sign_in = app.issuer.sign_in("alice");
        assert_ne!(app.token(&sign_in, None).await.token(), app.token(&sign_in, None).await.token());
        assert_eq!(database.count(CACHED).await, 0);
    }

    async fn other_scopes_get_a_token_of_their_own(database) {
        let app = TestApp::start_with(&database, REUSE).await;
        let sign_in = app.issuer.sign_in("alice");
        let both = app.token(&sign_in, None).await.token();
        let ask = async |scopes| app.token(&sign_in, Some(json!({"scopes": scopes}))).await;
        let chat = ask(["chat"].as_slice()).await.token();
        assert_ne!(chat, both);
        assert_eq!(ask(&["chat"]).await.token(), chat);
        assert_eq!(ask(&["voip", "chat"]).await.token(), both, "the order does not matter");
        assert_eq!(issues(&app).await, 1);
    }

    async fn token_is_not_reused_within_the_margin(database) {
        let app = TestApp::start_with(&database, REUSE).await;
        let user = app.issuer.sign_in_with("alice", json!({"exp": app.clock.now().timestamp() + 86_400}));
        let first = app.token(&user, None).await.token();
        app.clock.advance(minutes(39));
        assert_eq!(app.token(&user, None).await.token(), first);
        app.clock.advance(minutes(2));
        let second = app.token(&user, None).await;
        assert_ne!(second.token(), first);
        assert_eq!(app.token(&user, None).await.token(), second.token(), "the new one is cached");
    }

    async fn cached_token_never_lives_longer_than_was_asked_for(database) {
        let app = TestApp::start_with(&database, REUSE).await;
        let sign_in = app.issuer.sign_in("alice");
        let ask = async |minutes| app.token(&sign_in, Some(json!({"expiresInMinutes": minutes}))).await.token();
        let long = ask(120).await;
        assert_eq!(ask(120).await, long);
        let short = ask(60).await;
        assert_ne!(short, long);
        assert_eq!(ask(120).await, short, "a token with less life than was asked for is good enough");
    }

    /// Promise 3: a change of access drops the cached tokens.
    async fn tokens_from_before_a_change_of_access_are_never_reused(database) {
        let app = TestApp::start_with(&database, REUSE).await;
        for (subject, method, path) in [
            ("rita", Method::POST, "/users/test:rita/revoke"),
            ("bert", Method::POST, "/users/test:bert/block"),
            ("dora", Method::DELETE, "/users/test:dora"),
        ] {
            let old = app.token(&app.issuer.sign_in(subject), None).await.token();
            app.clock.advance(Duration::from_secs(10));
            assert_eq!(app.ops(method, path, None).await.status, StatusCode::OK);
            assert_eq!(database.count(CACHED).await, 0);
            app.clock.advance(Duration::from_secs(10));
            if subject == "bert" {
                app.ops(Method::POST, "/users/test:bert/unblock", None).await;
            }
            let new = app.token(&app.issuer.sign_in(subject), None).await;
            assert_ne!(new.token(), old);
            assert_eq!(app.acs.introspect(&new.token()).await["active"], true);
            assert_eq!(app.token(&app.issuer.sign_in(subject), None).await.token(), new.token());
            database.execute(DROP_CACHE).await;
        }
    }

    /// Every change drops the cached tokens. Were one left behind, its generation would still prevent it.
    async fn token_of_an_older_generation_is_not_reused(database) {
        let app = TestApp::start_with(&database, REUSE).await;
        let sign_in = app.issuer.sign_in("alice");
        let first = app.token(&sign_in, None).await.token();
        database.execute("UPDATE users SET generation = generation + 1").await;
        assert_ne!(app.token(&sign_in, None).await.token(), first);
    }

    /// Rotating an access key of the resource ends the tokens that were made with it.
    async fn token_is_not_reused_without_the_access_key_that_made_it(database) {
        let app = TestApp::start_with(&database, REUSE).await;
        let sign_in = app.issuer.sign_in("alice");
        let first = app.token(&sign_in, None).await.token();
        let replica = async |keys| {
            let mut acs = app.acs.clone();
            acs.keys = keys;
            TestApp::replica(&database, REUSE, &app.clock, acs, app.issuer.clone()).await
        };
        let both = replica((SECOND_KEY, Some(ACCESS_KEY))).await;
        assert_eq!(both.token(&sign_in, None).await.token(), first, "the first key is still one of ours");
        let retired = replica((SECOND_KEY, None)).await;
        let second = retired.token(&sign_in, None).await.token();
        assert_ne!(second, first);
        assert_ne!(app.token(&sign_in, None).await.token(), second, "and the other way round");
    }

    async fn encryption_keys_can_be_replaced(database) {
        let app = TestApp::start_with(&database, REUSE).await;
        let sign_in = app.issuer.sign_in("alice");
        let first = app.token(&sign_in, None).await.token();
        let rotated = app.another_with(ROTATED).await;
        assert_eq!(rotated.token(&sign_in, None).await.token(), first, "every key decrypts");
        let without = app.another_with(OTHER_KEY).await;
        let second = without.token(&sign_in, None).await.token();
        assert_ne!(second, first, "a new token replaces one that no key decrypts");
        assert_eq!(without.metric("vendor_undecryptable_cached_tokens_total").await, 1);
        assert_eq!(rotated.token(&sign_in, None).await.token(), second);
    }

    /// Promise 7. Also with write access to the database, tokens cannot be swapped.
    async fn cached_tokens_cannot_be_moved_to_another_user(database) {
        let app = TestApp::start_with(&database, REUSE).await;
        let (alice, bob) = (app.issuer.sign_in("alice"), app.issuer.sign_in("bob"));
        let token = app.token(&alice, None).await.token();
        app.token(&bob, None).await.token();
        let encrypted: Vec<u8> = database.bytes("SELECT cached_tokens FROM users ORDER BY id LIMIT 1").await;
        let secret = token.rsplit('.').next().unwrap().as_bytes();
        assert!(encrypted.len() > token.len() && !encrypted.windows(secret.len()).any(|part| part == secret));
        database.execute("UPDATE users SET cached_tokens = (SELECT cached_tokens FROM users ORDER BY id LIMIT 1)").await;
        assert_ne!(app.token(&bob, None).await.token(), token);
        assert_eq!(app.token(&alice, None).await.token(), token);
    }

    async fn expired_tokens_are_deleted(database) {
        let app = TestApp::start_with(&database, REUSE).await;
        app.token(&app.issuer.sign_in("alice"), None).await.token();
        let settings = Settings { url: database.url().into(), ..Settings::default() };
        let store = Store::connect(&settings).await.unwrap();
        assert_eq!(store.delete_expired_tokens(app.clock.now()).await.unwrap(), 0);
        assert_eq!(store.delete_expired_tokens(app.clock.now() + Duration::from_hours(26)).await.unwrap(), 1);
        assert_eq!(database.count(CACHED).await, 0);
    }

    /// An unanswered revocation may act late: nothing that it could end is cached until it cannot act any more.
    async fn nothing_is_cached_while_a_late_revocation_may_act(database) {
        let app = TestApp::start_with(&database, REUSE).await;
        let sign_in = app.issuer.sign_in("alice");
        app.token(&sign_in, None).await.token();
        database.execute(DROP_CACHE).await;
        database.execute_at("UPDATE users SET no_reuse_before = $1", app.clock.now() + minutes(15)).await;
        assert_ne!(app.token(&sign_in, None).await.token(), app.token(&sign_in, None).await.token());
        assert_eq!(database.count(CACHED).await, 0);
        app.clock.advance(minutes(15));
        assert_eq!(app.token(&sign_in, None).await.token(), app.token(&sign_in, None).await.token());
    }

    async fn cached_token_is_returned_when_acs_fails(database) {
        let app = TestApp::start_with(&database, &format!("{REUSE}\ntimeout = \"1s\"")).await;
        let user = app.issuer.sign_in_with("alice", json!({"exp": app.clock.now().timestamp() + 86_400}));
        let first = app.token(&user, None).await.token();
        app.clock.advance(minutes(50));
        for fault in [
            json!({"operation": "issue", "kind": "status", "status": 503}),
            json!({"operation": "issue", "kind": "hang"}),
            json!({"operation": "issue", "kind": "status", "status": 429, "retryAfterSeconds": 60}),
        ] {
            app.acs.fault(fault).await;
            let stale = app.token(&user, None).await;
            assert_eq!(stale.token(), first);
            let json = stale.json();
            assert!(json["refreshAfter"].as_str() < json["expiresOn"].as_str());
            assert!(json["refreshAfter"].as_str().unwrap() > app.clock.now().to_rfc3339().as_str(), "clients must not refresh at once: {json}");
        }
        assert_eq!(app.metric("vendor_tokens_issued_total{source=\"stale\"}").await, 3);
        app.clock.advance(minutes(2));
        app.acs.fault(json!({"operation": "issue", "kind": "status", "status": 403})).await;
        app.token(&user, None).await.assert_problem(502, "upstream_rejected");
        app.clock.advance(minutes(7));
        app.acs.fault(json!({"operation": "issue", "kind": "status", "status": 503})).await;
        app.token(&user, None).await.assert_problem(503, "upstream_unavailable");
    }

    async fn blocked_user_gets_no_cached_token_when_acs_fails(database) {
        let app = TestApp::start_with(&database, &format!("{REUSE}\ntimeout = \"2s\"")).await;
        let user = app.issuer.sign_in_with("alice", json!({"exp": app.clock.now().timestamp() + 86_400}));
        app.token(&user, None).await.token();
        app.clock.advance(minutes(50));
        app.acs.fault(json!({"operation": "issue", "kind": "hang"})).await;
        let (answer, blocked) = tokio::join!(app.token(&user, None), async {
            app.acs.wait_for_calls("issue", 1).await;
            app.ops(Method::POST, "/users/test:alice/block", None).await
        });
        assert!(blocked.status.is_success());
        answer.assert_problem(403, "user_blocked");
    }

    async fn operator_who_gets_a_cached_token_is_audited(database) {
        let app = TestApp::start_with(&database, REUSE).await;
        let first = app.token(&app.issuer.sign_in("alice"), Some(json!({"scopes": ["chat"]}))).await.token();
        let body = Some(json!({"scopes": ["chat"]}));
        let again = app.ops_as("minter", Method::POST, "/users/test:alice/token", body, &[]).await;
        assert_eq!(again.token(), first);
        let audit = app.ops(Method::GET, "/audit?action=token_reused", None).await.json();
        let event = &audit["events"][0];
        assert_eq!((&event["actor"], &event["tokenScopes"]), (&json!("minter"), &json!("chat")));
        assert_eq!(audit["events"].as_array().unwrap().len(), 1, "tokens returned to their own user leave no event");
    }

    /// Also where nothing is cached.
    async fn requests_of_one_moment_share_a_mint(database) {
        let app = TestApp::start(&database).await;
        let sign_in = app.issuer.sign_in("alice");
        app.token(&sign_in, None).await.token();
        app.acs.fault(json!({"operation": "issue", "kind": "delay", "delayMs": 1500, "count": 1})).await;
        let answers: Vec<Answer> = futures_util::future::join_all((0..20).map(|_| app.token(&sign_in, None))).await;
        let token = answers[0].token();
        assert!(answers.iter().all(|answer| answer.token() == token));
        assert_eq!(issues(&app).await, 1);
        assert_eq!(app.metric("vendor_tokens_issued_total{source=\"shared\"}").await, 19);
    }

    async fn mint_goes_on_when_its_first_request_is_cancelled(database) {
        let app = TestApp::start(&database).await;
        let sign_in = app.issuer.sign_in("alice");
        app.token(&sign_in, None).await.token();
        app.acs.fault(json!({"operation": "issue", "kind": "delay", "delayMs": 1000, "count": 1})).await;
        tokio::select! {
            _ = app.token(&sign_in, None) => panic!("answered too early"),
            () = app.acs.wait_for_calls("issue", 1) => {}
        }
        app.token(&sign_in, None).await.token();
        assert_eq!(issues(&app).await, 1, "the second request joined the mint of the first");
    }

    /// Promise 2: a new sign-in during a revocation must not share the mint of an older one.
    async fn mint_is_not_shared_across_a_revocation(database) {
        let app = TestApp::start_with(&database, REUSE).await;
        let old = app.issuer.sign_in("alice");
        app.token(&old, None).await.token();
        database.execute(DROP_CACHE).await;
        app.clock.advance(Duration::from_secs(10));
        app.acs.fault(json!({"operation": "issue", "kind": "delay", "delayMs": 3500, "count": 1})).await;
        let (before, after) = tokio::join!(app.token(&old, None), async {
            app.acs.wait_for_calls("issue", 1).await;
            assert_eq!(app.revoke("alice").await.status, StatusCode::OK);
            app.clock.advance(Duration::from_secs(10));
            app.token(&app.issuer.sign_in("alice"), None).await
        });
        before.assert_problem(401, "reauthentication_required");
        assert_eq!(app.acs.introspect(&after.token()).await["active"], true);
        assert_eq!(issues(&app).await, 2);
    }
}

#[tokio::test]
async fn refused_access_key_is_replaced_by_the_other() {
    let app = TestApp::start(&Database::sqlite()).await;
    let mut acs = app.acs.clone();
    acs.keys = ("YSBrZXkgdGhhdCB3YXMgcm90YXRlZCBhd2F5", Some(SECOND_KEY));
    let replica = TestApp::replica(&Database::sqlite(), "", &app.clock, acs, app.issuer.clone()).await;
    for _ in 0..3 {
        replica.token(&app.issuer.sign_in("alice"), None).await.token();
    }
    assert_eq!(app.acs.stats().await["unauthorized"], 1, "the key that works is remembered");
}

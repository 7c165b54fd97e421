//! `POST /token` and `GET /me`: the main job and what callers may ask of it.

use std::time::Duration;

use chrono::{DateTime, Utc};
use reqwest::{Method, StatusCode};
use serde_json::json;

use crate::support::{Database, TestApp, database::on_each_database};

on_each_database! {
    /// ACS no longer knows the identity of a user who was deleted while a token was on its way.
    async fn deletion_meanwhile_is_not_blamed_on_acs(database) {
        let app = TestApp::start(&database).await;
        let sign_in = app.issuer.sign_in("alice");
        app.token(&sign_in, None).await.token();
        app.acs.fault(json!({"operation": "issue", "kind": "delay", "delayMs": 1200})).await;
        let (refused, ()) = tokio::join!(app.token(&sign_in, None), async {
            app.acs.wait_for_calls("issue", 1).await;
            app.clock.advance(Duration::from_secs(2));
            app.ops(Method::DELETE, "/users/test:alice", None).await;
        });
        refused.assert_problem(401, "reauthentication_required");
    }

    async fn first_token_creates_the_identity(database) {
        let app = TestApp::start(&database).await;
        let sign_in = app.issuer.sign_in("alice");
        app.me(&sign_in).await.assert_problem(404, "not_found");

        let answer = app.token(&sign_in, None).await;
        let body = answer.json();
        let seen = app.acs.introspect(&answer.token()).await;
        assert_eq!(seen["active"], true);
        assert_eq!(seen["identity"], answer.identity());
        assert_eq!(seen["scopes"], json!(["chat", "voip"]));
        assert_eq!(body["scopes"], json!(["chat", "voip"]));
        assert_eq!(body["endpoint"], app.acs.url);

        let expires_on: DateTime<Utc> = body["expiresOn"].as_str().unwrap().parse().unwrap();
        let refresh_after: DateTime<Utc> = body["refreshAfter"].as_str().unwrap().parse().unwrap();
        assert_eq!(body["expiresOnTimestamp"], expires_on.timestamp_millis());
        assert_eq!((expires_on - refresh_after).num_minutes(), 10);
        assert_eq!(answer.header("cache-control"), "no-store");
        assert!(!answer.headers.contains_key("etag"));

        let me = app.me(&sign_in).await;
        assert_eq!(me.identity(), answer.identity());
        assert!(me.json()["id"].as_str().unwrap().starts_with("u_"));
        let stats = app.acs.stats().await;
        assert_eq!(stats["calls"]["create"], 1, "one call for identity and token");
        assert_eq!(stats["calls"]["issue"], 0);
        assert_eq!(stats["unauthorized"], 0);
    }

    async fn later_tokens_are_of_the_same_identity(database) {
        let app = TestApp::start(&database).await;
        let first = app.token(&app.issuer.sign_in("alice"), None).await;
        let second = app.token(&app.issuer.sign_in("alice"), None).await;
        let other = app.token(&app.issuer.sign_in("bob"), None).await;
        assert_eq!(first.identity(), second.identity());
        assert_ne!(first.identity(), other.identity());
        assert_eq!(app.acs.stats().await["identities"], 2);
    }

    async fn the_mapping_survives_a_restart(database) {
        let app = TestApp::start(&database).await;
        let first = app.token(&app.issuer.sign_in("alice"), None).await;
        let again = app.another().await;
        app.stop().await.unwrap();
        let second = again.token(&again.issuer.sign_in("alice"), None).await;
        assert_eq!(first.identity(), second.identity());
    }

    async fn each_mint_has_its_audit_row(database) {
        let app = TestApp::start(&database).await;
        for _ in 0..3 {
            app.token(&app.issuer.sign_in("alice"), None).await.token();
        }
        let minted = "SELECT COUNT(*) FROM audit_events WHERE action = 'token_minted' AND length(token_fingerprint) = 64
                      AND token_scopes = 'chat,voip' AND token_expires_at IS NOT NULL AND generation = 0
                      AND request_id IS NOT NULL AND actor_kind = 'user' AND actor = user_id";
        assert_eq!(database.count(minted).await, 3);
        assert_eq!(database.count("SELECT COUNT(*) FROM audit_events WHERE action = 'identity_bound'").await, 1);
        assert_eq!(database.count("SELECT COUNT(*) FROM users WHERE last_minted_at IS NOT NULL").await, 1);
    }
}

#[tokio::test]
async fn scopes_and_life_are_as_asked() {
    let app = TestApp::start(&Database::sqlite()).await;
    let sign_in = app.issuer.sign_in("alice");
    let life = |answer: &crate::support::Answer| {
        let ms = answer.json()["expiresOnTimestamp"].as_i64().unwrap();
        (ms - app.clock.now().timestamp_millis() + 30_000) / 60_000
    };
    let answer = app.token(&sign_in, Some(json!({"scopes": ["voip"], "expiresInMinutes": 90}))).await;
    assert_eq!(answer.json()["scopes"], json!(["voip"]));
    assert_eq!(app.acs.introspect(&answer.token()).await["scopes"], json!(["voip"]));
    assert_eq!(life(&answer), 90);
    assert_eq!(life(&app.token(&sign_in, None).await), 60, "an hour where nothing is asked");
    let longest = app.token(&sign_in, Some(json!({"expiresInMinutes": 1440}))).await;
    assert_eq!(life(&longest), 120, "never longer than granted");
}

#[tokio::test]
async fn nobody_gets_more_than_the_policy_grants() {
    let app = TestApp::start(&Database::sqlite()).await;
    let guest = app.issuer.sign_in_with("guest", json!({"role": "guest"}));
    assert_eq!(app.token(&guest, None).await.json()["scopes"], json!(["chat.join.limited"]));
    let refused = app.token(&guest, Some(json!({"scopes": ["chat.join.limited", "voip"]}))).await;
    refused.assert_problem(403, "scope_not_allowed");
    assert!(refused.text.contains("`voip`"));

    let nobody = app.issuer.sign_in_with("nobody", json!({"role": "none"}));
    app.token(&nobody, None).await.assert_problem(403, "forbidden");
    assert_eq!(app.acs.stats().await["identities"], 1, "no identity without a grant");
}

#[tokio::test]
async fn bad_requests_are_named() {
    let app = TestApp::start(&Database::sqlite()).await;
    let sign_in = app.issuer.sign_in("alice");
    for (body, named) in [
        (json!({"scope": ["chat"]}), "unknown field `scope`"),
        (json!({"scopes": ["fax"]}), "`scopes[0]`"),
        (json!({"scopes": "chat"}), "`scopes`"),
        (json!({"scopes": []}), "`scopes`"),
        (json!({"expiresInMinutes": 59}), "`expiresInMinutes`"),
        (json!({"expiresInMinutes": 1441}), "`expiresInMinutes`"),
        (json!({"expiresInMinutes": -5}), "`expiresInMinutes`"),
        (json!({"expiresInMinutes": "60"}), "`expiresInMinutes`"),
        (json!([]), "the body"),
    ] {
        let answer = app.token(&sign_in, Some(body)).await;
        answer.assert_problem(400, "invalid_request");
        assert!(answer.json()["detail"].as_str().unwrap().contains(named), "{}", answer.text);
    }
    assert_eq!(app.acs.stats().await["calls"]["create"], 0);
}

#[tokio::test]
async fn bodies_that_are_not_small_json_are_refused() {
    let app = TestApp::start(&Database::sqlite()).await;
    let post = |content_type: &'static str, body: String| {
        let request = app.http.post(format!("{}/token", app.url)).bearer_auth(app.issuer.sign_in("alice"));
        async move {
            crate::support::Answer::of(request.header("content-type", content_type).body(body).send().await.unwrap())
                .await
        }
    };
    post("application/json", "{".into()).await.assert_problem(400, "invalid_request");
    post("application/json", "{} {}".into()).await.assert_problem(400, "invalid_request");
    post("text/plain", "{}".into()).await.assert_problem(415, "unsupported_media_type");
    post("application/json", format!("\"{}\"", "a".repeat(20_000))).await.assert_problem(413, "payload_too_large");
    assert_eq!(post("application/json", String::new()).await.status, StatusCode::OK, "an empty body is no body");
    assert_eq!(post("application/json; charset=utf-8", "{}".into()).await.status, StatusCode::OK);
}

//! Sign-in tokens: every accepted one was verified, and a refusal does not reveal the reason.

use std::{sync::atomic::Ordering, time::Duration};

use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use reqwest::StatusCode;
use serde_json::{Value, json};

use crate::support::{Answer, Database, TestApp, issuer::TestKey};

async fn start() -> TestApp {
    let app = TestApp::start(&Database::sqlite()).await;
    // The keys are cached from now on, so that later fetches are caused by requests.
    app.token(&app.issuer.sign_in("first"), None).await.token();
    app
}

#[tokio::test]
async fn a_request_without_a_sign_in_token_is_refused() {
    let app = start().await;
    let request = || app.http.post(format!("{}/token", app.url));
    for request in [
        request(),
        request().header("authorization", "Basic YTpi"),
        request().header("authorization", "Bearer"),
        request().bearer_auth(app.issuer.sign_in("a")).header("authorization", "Bearer x"),
    ] {
        let answer = Answer::of(request.send().await.unwrap()).await;
        answer.assert_problem(401, "missing_credentials");
        assert_eq!(answer.header("www-authenticate"), "Bearer");
    }
}

#[tokio::test]
async fn all_invalid_sign_in_tokens_get_the_same_response() {
    let app = start().await;
    let issuer = &app.issuer;
    let now = app.clock.now().timestamp();
    let key = issuer.keys.lock().unwrap()[0].clone();
    let good = issuer.claims("mallory");
    let typed = |typ: &str| key.sign(&Header { typ: Some(typ.to_owned()), ..key.header() }, &good);
    let tampered = {
        let sign_in = issuer.sign_in("mallory");
        let parts: Vec<_> = sign_in.split('.').collect();
        let mut claims = good.clone();
        claims["sub"] = json!("alice");
        format!("{}.{}.{}", parts[0], BASE64_URL_SAFE_NO_PAD.encode(claims.to_string()), parts[2])
    };
    let by_secret = {
        let public = key.public.clone();
        let secret = EncodingKey::from_secret(serde_json::to_string(&public).unwrap().as_bytes());
        jsonwebtoken::encode(&Header { kid: Some(key.id.clone()), ..Header::new(Algorithm::HS256) }, &good, &secret)
            .unwrap()
    };
    let unsigned = {
        let part = |value: Value| BASE64_URL_SAFE_NO_PAD.encode(value.to_string());
        format!("{}.{}.", part(json!({"alg": "none"})), part(good.clone()))
    };
    let foreign_key = TestKey::new(&key.id);
    let own_key_inside = Header { jwk: Some(foreign_key.public.clone()), ..foreign_key.header() };
    let invalid = [
        ("garbage", "garbage".to_owned()),
        ("empty", String::from(".")),
        ("another issuer", issuer.sign_in_with("mallory", json!({"iss": "https://evil.example"}))),
        ("no issuer", issuer.sign_in_with("mallory", json!({"iss": null}))),
        ("another audience", issuer.sign_in_with("mallory", json!({"aud": "other"}))),
        ("no audience", issuer.sign_in_with("mallory", json!({"aud": null}))),
        ("expired", issuer.sign_in_with("mallory", json!({"exp": now - 31}))),
        ("without expiry", issuer.sign_in_with("mallory", json!({"exp": null}))),
        ("not yet valid", issuer.sign_in_with("mallory", json!({"nbf": now + 60}))),
        ("from the future", issuer.sign_in_with("mallory", json!({"iat": now + 60}))),
        ("issued in 1970", issuer.sign_in_with("mallory", json!({"iat": 0}))),
        ("issued before 1970", issuer.sign_in_with("mallory", json!({"iat": -1, "auth_time": now}))),
        ("expired in 1970", issuer.sign_in_with("mallory", json!({"exp": 0}))),
        ("signed in in the future", issuer.sign_in_with("mallory", json!({"auth_time": now + 60}))),
        ("without time", issuer.sign_in_with("mallory", json!({"iat": null}))),
        ("without subject", issuer.sign_in_with("mallory", json!({"sub": null}))),
        ("empty subject", issuer.sign_in_with("mallory", json!({"sub": ""}))),
        ("long subject", issuer.sign_in_with("mallory", json!({"sub": "x".repeat(257)}))),
        ("subject with NUL", issuer.sign_in_with("mallory", json!({"sub": "a\u{0}b"}))),
        ("numeric subject", issuer.sign_in_with("mallory", json!({"sub": 7}))),
        ("security event", typed("secevent+jwt")),
        ("logout token", typed("logout+jwt")),
        ("tampered", tampered),
        ("signed with the public key", by_secret),
        ("unsigned", unsigned),
        ("signed by another key of the same id", foreign_key.sign(&foreign_key.header(), &good)),
        ("bringing its own key", foreign_key.sign(&own_key_inside, &good)),
    ];
    let mut texts = std::collections::HashSet::new();
    for (name, sign_in) in invalid {
        let answer = app.token(&sign_in, None).await;
        assert_eq!(answer.status, StatusCode::UNAUTHORIZED, "{name}: {}", answer.text);
        answer.assert_problem(401, "invalid_token");
        let mut body = answer.json();
        body["requestId"].take();
        texts.insert((body.to_string(), answer.header("www-authenticate").to_owned()));
    }
    assert_eq!(texts.len(), 1, "{texts:?}");
    assert_eq!(app.acs.stats().await["identities"], 1);
}

#[tokio::test]
async fn unusual_but_valid_sign_in_tokens_are_accepted() {
    let app = start().await;
    let now = app.clock.now().timestamp();
    let key = app.issuer.keys.lock().unwrap()[0].clone();
    let untyped = Header { typ: None, kid: None, ..key.header() };
    let access_token = Header { typ: Some("at+jwt".into()), ..key.header() };
    for sign_in in [
        app.issuer.sign_in_with("ä/%: zoë@example.com", json!({})),
        app.issuer.sign_in_with("a", json!({"aud": ["other", "vendor"]})),
        app.issuer.sign_in_with("a", json!({"exp": now - 25, "iat": now - 100})),
        app.issuer.sign_in_with("a", json!({"iat": now + 25})),
        app.issuer.sign_in_with("a", json!({"iat": null, "auth_time": now - 5})),
        app.issuer.sign_in_with("a", json!({"nbf": 0, "auth_time": 0})),
        key.sign(&untyped, &app.issuer.claims("a")),
        key.sign(&access_token, &app.issuer.claims("a")),
    ] {
        let answer = app.token(&sign_in, None).await;
        assert_eq!(answer.status, StatusCode::OK, "{}", answer.text);
    }
}

#[tokio::test]
async fn a_new_key_is_fetched_when_it_is_first_used() {
    let app = start().await;
    let before = app.issuer.fetches.load(Ordering::SeqCst);
    app.clock.advance(Duration::from_mins(1));
    app.issuer.keys.lock().unwrap().insert(0, TestKey::new("second"));
    app.token(&app.issuer.sign_in("alice"), None).await.token();
    assert_eq!(app.issuer.fetches.load(Ordering::SeqCst), before + 1);
}

#[tokio::test]
async fn unknown_keys_do_not_hammer_the_issuer() {
    let app = start().await;
    let before = app.issuer.fetches.load(Ordering::SeqCst);
    app.clock.advance(Duration::from_mins(1));
    let stranger = TestKey::new("stranger");
    let sign_in = stranger.sign(&stranger.header(), &app.issuer.claims("mallory"));
    app.issuer.is_down.store(true, Ordering::SeqCst);
    for answer in futures_util::future::join_all((0..20).map(|_| app.token(&sign_in, None))).await {
        answer.assert_problem(401, "invalid_token");
    }
    app.token(&sign_in, None).await.assert_problem(401, "invalid_token");
    // Attempts count, not successes: one for all of them, although it failed.
    assert_eq!(app.issuer.fetches.load(Ordering::SeqCst), before + 1);
    app.token(&app.issuer.sign_in("alice"), None).await.token();
}

#[tokio::test]
async fn the_last_good_keys_are_used_for_a_limited_time_while_the_issuer_is_unavailable() {
    let app = start().await;
    app.issuer.is_down.store(true, Ordering::SeqCst);
    app.clock.advance(Duration::from_hours(23));
    app.token(&app.issuer.sign_in("alice"), None).await.token();
    app.clock.advance(Duration::from_hours(2));
    app.token(&app.issuer.sign_in("alice"), None).await.assert_problem(503, "keys_unavailable");
    app.clock.advance(Duration::from_secs(5));
    app.issuer.is_down.store(false, Ordering::SeqCst);
    app.token(&app.issuer.sign_in("alice"), None).await.token();
}

#[tokio::test]
async fn a_withdrawn_key_is_refused_after_the_next_refresh() {
    let app = start().await;
    let old = app.issuer.sign_in("alice");
    app.issuer.keys.lock().unwrap()[0] = TestKey::new("second");
    app.clock.advance(Duration::from_mins(1));
    app.token(&old, None).await.token();
    app.token(&app.issuer.sign_in("alice"), None).await.token();
    app.token(&old, None).await.assert_problem(401, "invalid_token");
}

/// Some identity providers write 0 for a sign-in time that they do not know. Taken literally, it would be older than every
/// revocation.
#[tokio::test]
async fn an_unset_sign_in_time_does_not_lock_a_user_out() {
    let app = start().await;
    for auth_time in [json!(0), json!(-1), json!(-1e300), json!(0.5)] {
        let sign_in = || app.issuer.sign_in_with("alice", json!({"auth_time": auth_time}));
        let old = sign_in();
        app.token(&old, None).await.token();
        app.clock.advance(Duration::from_secs(2));
        assert_eq!(app.revoke("alice").await.status, StatusCode::OK);
        app.clock.advance(Duration::from_secs(2));
        assert_eq!(app.token(&old, None).await.status, StatusCode::UNAUTHORIZED, "{auth_time}");
        assert_eq!(app.token(&sign_in(), None).await.status, StatusCode::OK, "{auth_time}");
    }
}

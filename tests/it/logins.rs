//! Logins: whoever is let in was verified, and whoever is not learns nothing about why.

use std::{sync::atomic::Ordering, time::Duration};

use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use reqwest::StatusCode;
use serde_json::{Value, json};

use crate::support::{Answer, Database, TestApp, issuer::TestKey};

async fn start() -> TestApp {
    let app = TestApp::start(&Database::sqlite()).await;
    // Keys are there from now on: what is counted below is asked for by requests.
    app.token(&app.issuer.login("first"), None).await.token();
    app
}

#[tokio::test]
async fn a_request_without_login_is_asked_for_one() {
    let app = start().await;
    let request = || app.http.post(format!("{}/token", app.url));
    for request in [
        request(),
        request().header("authorization", "Basic YTpi"),
        request().header("authorization", "Bearer"),
        request().bearer_auth(app.issuer.login("a")).header("authorization", "Bearer x"),
    ] {
        let answer = Answer::of(request.send().await.unwrap()).await;
        answer.assert_problem(401, "missing_credentials");
        assert_eq!(answer.header("www-authenticate"), "Bearer");
    }
}

#[tokio::test]
async fn every_fault_of_a_login_is_answered_with_the_same_text() {
    let app = start().await;
    let issuer = &app.issuer;
    let now = app.clock.now().timestamp();
    let key = issuer.keys.lock().unwrap()[0].clone();
    let good = issuer.claims("mallory");
    let typed = |typ: &str| key.sign(&Header { typ: Some(typ.to_owned()), ..key.header() }, &good);
    let tampered = {
        let login = issuer.login("mallory");
        let parts: Vec<_> = login.split('.').collect();
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
    let faulty = [
        ("garbage", "garbage".to_owned()),
        ("empty", String::from(".")),
        ("another issuer", issuer.login_with("mallory", json!({"iss": "https://evil.example"}))),
        ("no issuer", issuer.login_with("mallory", json!({"iss": null}))),
        ("another audience", issuer.login_with("mallory", json!({"aud": "other"}))),
        ("no audience", issuer.login_with("mallory", json!({"aud": null}))),
        ("expired", issuer.login_with("mallory", json!({"exp": now - 31}))),
        ("without expiry", issuer.login_with("mallory", json!({"exp": null}))),
        ("not yet valid", issuer.login_with("mallory", json!({"nbf": now + 60}))),
        ("from the future", issuer.login_with("mallory", json!({"iat": now + 60}))),
        ("signed in in the future", issuer.login_with("mallory", json!({"auth_time": now + 60}))),
        ("without time", issuer.login_with("mallory", json!({"iat": null}))),
        ("without subject", issuer.login_with("mallory", json!({"sub": null}))),
        ("empty subject", issuer.login_with("mallory", json!({"sub": ""}))),
        ("long subject", issuer.login_with("mallory", json!({"sub": "x".repeat(257)}))),
        ("subject with NUL", issuer.login_with("mallory", json!({"sub": "a\u{0}b"}))),
        ("numeric subject", issuer.login_with("mallory", json!({"sub": 7}))),
        ("security event", typed("secevent+jwt")),
        ("logout token", typed("logout+jwt")),
        ("tampered", tampered),
        ("signed with the public key", by_secret),
        ("unsigned", unsigned),
        ("signed by another key of the same id", foreign_key.sign(&foreign_key.header(), &good)),
        ("bringing its own key", foreign_key.sign(&own_key_inside, &good)),
    ];
    let mut texts = std::collections::HashSet::new();
    for (name, login) in faulty {
        let answer = app.token(&login, None).await;
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
async fn odd_but_good_logins_are_let_in() {
    let app = start().await;
    let now = app.clock.now().timestamp();
    let key = app.issuer.keys.lock().unwrap()[0].clone();
    let untyped = Header { typ: None, kid: None, ..key.header() };
    let access_token = Header { typ: Some("at+jwt".into()), ..key.header() };
    for login in [
        app.issuer.login_with("ä/%: zoë@example.com", json!({})),
        app.issuer.login_with("a", json!({"aud": ["other", "vendor"]})),
        app.issuer.login_with("a", json!({"exp": now - 25, "iat": now - 100})),
        app.issuer.login_with("a", json!({"iat": now + 25})),
        app.issuer.login_with("a", json!({"iat": null, "auth_time": now - 5})),
        key.sign(&untyped, &app.issuer.claims("a")),
        key.sign(&access_token, &app.issuer.claims("a")),
    ] {
        let answer = app.token(&login, None).await;
        assert_eq!(answer.status, StatusCode::OK, "{}", answer.text);
    }
}

#[tokio::test]
async fn a_new_key_is_fetched_when_it_is_first_used() {
    let app = start().await;
    let before = app.issuer.fetches.load(Ordering::SeqCst);
    app.clock.advance(Duration::from_mins(1));
    app.issuer.keys.lock().unwrap().insert(0, TestKey::new("second"));
    app.token(&app.issuer.login("alice"), None).await.token();
    assert_eq!(app.issuer.fetches.load(Ordering::SeqCst), before + 1);
}

#[tokio::test]
async fn unknown_keys_do_not_hammer_the_issuer() {
    let app = start().await;
    let before = app.issuer.fetches.load(Ordering::SeqCst);
    app.clock.advance(Duration::from_mins(1));
    let stranger = TestKey::new("stranger");
    let login = stranger.sign(&stranger.header(), &app.issuer.claims("mallory"));
    app.issuer.is_down.store(true, Ordering::SeqCst);
    for answer in futures_util::future::join_all((0..20).map(|_| app.token(&login, None))).await {
        answer.assert_problem(401, "invalid_token");
    }
    app.token(&login, None).await.assert_problem(401, "invalid_token");
    // Attempts count, not successes: one for all of them, although it failed.
    assert_eq!(app.issuer.fetches.load(Ordering::SeqCst), before + 1);
    app.token(&app.issuer.login("alice"), None).await.token();
}

#[tokio::test]
async fn last_good_keys_serve_while_the_issuer_is_away_but_not_for_ever() {
    let app = start().await;
    app.issuer.is_down.store(true, Ordering::SeqCst);
    app.clock.advance(Duration::from_hours(23));
    app.token(&app.issuer.login("alice"), None).await.token();
    app.clock.advance(Duration::from_hours(2));
    app.token(&app.issuer.login("alice"), None).await.assert_problem(503, "keys_unavailable");
    app.clock.advance(Duration::from_secs(5));
    app.issuer.is_down.store(false, Ordering::SeqCst);
    app.token(&app.issuer.login("alice"), None).await.token();
}

#[tokio::test]
async fn a_withdrawn_key_ends_with_the_next_refresh() {
    let app = start().await;
    let old = app.issuer.login("alice");
    app.issuer.keys.lock().unwrap()[0] = TestKey::new("second");
    app.clock.advance(Duration::from_mins(1));
    app.token(&old, None).await.token();
    app.token(&app.issuer.login("alice"), None).await.token();
    app.token(&old, None).await.assert_problem(401, "invalid_token");
}

//! Failures of ACS: retried where that helps, else reported.

use axum::{Router, http::StatusCode, response::Html};
use serde_json::json;

use crate::support::{Database, TestApp, serve};

async fn start() -> TestApp {
    let app = TestApp::start(&Database::sqlite()).await;
    app.token(&app.issuer.sign_in("alice"), None).await.token();
    app
}

#[tokio::test]
async fn short_failures_are_not_seen_by_callers() {
    let app = start().await;
    for rule in [
        json!({"operation": "issue", "kind": "status", "status": 503, "count": 2}),
        json!({"operation": "issue", "kind": "status", "status": 500, "count": 1}),
        json!({"operation": "issue", "kind": "status", "status": 429, "retryAfterSeconds": 1, "count": 1}),
        json!({"operation": "issue", "kind": "drop_before", "count": 1}),
        json!({"operation": "issue", "kind": "drop_after", "count": 1}),
    ] {
        app.acs.fault(rule).await;
        app.token(&app.issuer.sign_in("alice"), None).await.token();
    }
}

#[tokio::test]
async fn creation_is_retried_when_it_certainly_had_no_effect() {
    let app = start().await;
    app.acs.fault(json!({"operation": "create", "kind": "status", "status": 429, "count": 2})).await;
    app.token(&app.issuer.sign_in("bob"), None).await.token();
    let stats = app.acs.stats().await;
    assert_eq!((&stats["calls"]["create"], &stats["identities"]), (&json!(4), &json!(2)));
}

#[tokio::test]
async fn creation_is_not_retried_when_it_may_have_had_an_effect() {
    let app = start().await;
    app.acs.fault(json!({"operation": "create", "kind": "status", "status": 503, "count": 1})).await;
    app.token(&app.issuer.sign_in("bob"), None).await.assert_problem(503, "upstream_unavailable");
    assert_eq!(app.acs.stats().await["calls"]["create"], 2);
    app.token(&app.issuer.sign_in("bob"), None).await.token();
}

#[tokio::test]
async fn throttling_beyond_the_timeout_is_passed_on_with_its_wait() {
    let app = start().await;
    app.acs.fault(json!({"operation": "*", "kind": "status", "status": 429, "retryAfterSeconds": 30})).await;
    let answer = app.token(&app.issuer.sign_in("alice"), None).await;
    answer.assert_problem(503, "upstream_throttled");
    assert_eq!(answer.header("retry-after"), "30");
}

#[tokio::test]
async fn a_hanging_acs_is_unavailable() {
    let database = Database::sqlite();
    let app = TestApp::start_with(&database, "[tokens]\ntimeout = \"1s\"").await;
    app.acs.fault(json!({"operation": "create", "kind": "hang"})).await;
    app.token(&app.issuer.sign_in("alice"), None).await.assert_problem(503, "upstream_unavailable");
}

#[tokio::test]
async fn lasting_failures_are_reported() {
    let app = start().await;
    app.acs.fault(json!({"operation": "*", "kind": "status", "status": 503})).await;
    app.token(&app.issuer.sign_in("alice"), None).await.assert_problem(503, "upstream_unavailable");
}

#[tokio::test]
async fn a_refused_access_key_is_not_the_callers_fault() {
    let elsewhere = TestApp::start(&Database::sqlite()).await;
    let app = TestApp::start_with_endpoint(&Database::sqlite(), &elsewhere.acs.url).await;
    app.acs.fault(json!({"operation": "*", "kind": "status", "status": 401})).await;
    let answer = app.token(&app.issuer.sign_in("alice"), None).await;
    answer.assert_problem(502, "upstream_rejected");
    assert!(!answer.text.contains("Denied"), "what ACS said is for the log: {}", answer.text);
}

#[tokio::test]
async fn an_unreachable_acs_is_reported_and_leaves_no_claim_behind() {
    let database = Database::sqlite();
    let app = TestApp::start_with_endpoint(&database, "http://127.0.0.1:9").await;
    app.token(&app.issuer.sign_in("alice"), None).await.assert_problem(503, "upstream_unavailable");
    assert_eq!(database.count("SELECT COUNT(*) FROM audit_events").await, 0, "nothing reached ACS: no orphan");
    assert_eq!(database.count("SELECT COUNT(*) FROM users WHERE state = 'unbound' AND claim_id IS NULL").await, 1);
}

#[tokio::test]
async fn pages_instead_of_json_are_failures() {
    // 200 is not the documented 201 of a creation, so somebody else answered, and the creation may have had an effect.
    let pages = [
        (StatusCode::OK, 503),
        (StatusCode::NOT_FOUND, 503),
        (StatusCode::BAD_GATEWAY, 503),
        (StatusCode::FORBIDDEN, 502),
    ];
    for (status, code) in pages {
        let page = Router::new().fallback(async move || (status, Html("<html>maintenance</html>")));
        let url = serve(page).await;
        let app = TestApp::start_with_endpoint(&Database::sqlite(), &url).await;
        let answer = app.token(&app.issuer.sign_in("alice"), None).await;
        assert_eq!(answer.status.as_u16(), code, "{status}: {}", answer.text);
    }
}

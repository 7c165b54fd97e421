//! Every error is a problem document, and browsers may read it.

use std::time::Duration;

use reqwest::{Method, StatusCode};

use crate::support::{Answer, Database, TestApp};

const ORIGIN: &str = "https://app.example.com";

async fn start() -> TestApp {
    let cors = format!("[server]\ncors_origins = [\"{ORIGIN}\"]");
    TestApp::start_with(&Database::sqlite(), &cors).await
}

async fn send(app: &TestApp, method: Method, path: &str, headers: &[(&str, &str)]) -> Answer {
    let mut request = app.http.request(method, format!("{}{path}", app.url));
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    Answer::of(request.send().await.unwrap()).await
}

#[tokio::test]
async fn unknown_paths_and_methods_are_problems() {
    let app = start().await;
    send(&app, Method::GET, "/nothing", &[]).await.assert_problem(404, "not_found");
    send(&app, Method::GET, "/", &[]).await.assert_problem(404, "not_found");
    send(&app, Method::GET, "/docs", &[]).await.assert_problem(404, "not_found");
    let wrong = send(&app, Method::GET, "/token", &[]).await;
    wrong.assert_problem(405, "method_not_allowed");
    assert_eq!(wrong.header("allow"), "POST");
}

#[tokio::test]
async fn probes_are_not_on_the_public_listener() {
    let app = start().await;
    for path in ["/livez", "/readyz"] {
        send(&app, Method::GET, path, &[]).await.assert_problem(404, "not_found");
        assert_eq!(app.http.get(format!("{}{path}", app.admin_url)).send().await.unwrap().status(), StatusCode::OK);
    }
}

#[tokio::test]
async fn readiness_reports_the_database_and_the_keys() {
    let app = start().await;
    app.token(&app.issuer.sign_in("alice"), None).await.token();
    let answer = Answer::of(app.http.get(format!("{}/readyz", app.admin_url)).send().await.unwrap()).await;
    let expected = serde_json::json!({"status": "ready", "database": "available", "keys": {"test": "available"}});
    assert_eq!(answer.json(), expected);
}

#[tokio::test]
async fn preflights_need_no_credentials_and_errors_can_be_read_by_browsers() {
    let app = start().await;
    let preflight = [
        ("origin", ORIGIN),
        ("access-control-request-method", "POST"),
        ("access-control-request-headers", "authorization,content-type"),
    ];
    let answer = send(&app, Method::OPTIONS, "/token", &preflight).await;
    assert_eq!(answer.status, StatusCode::OK);
    assert_eq!(answer.header("access-control-allow-origin"), ORIGIN);
    assert!(answer.header("access-control-allow-headers").contains("authorization"));

    for (method, path) in [(Method::POST, "/token"), (Method::GET, "/token"), (Method::GET, "/nothing")] {
        let answer = send(&app, method, path, &[("origin", ORIGIN)]).await;
        assert!(answer.status.is_client_error());
        assert_eq!(answer.header("access-control-allow-origin"), ORIGIN, "{path}");
        assert!(answer.header("access-control-expose-headers").contains("retry-after"));
    }
    let foreign = send(&app, Method::POST, "/token", &[("origin", "https://evil.example")]).await;
    assert_eq!(foreign.header("access-control-allow-origin"), "");
    assert_eq!(foreign.header("vary"), "origin");
}

/// The same sign-in token never becomes valid again, so there is nothing to retry.
#[tokio::test]
async fn a_sign_in_that_is_too_old_learns_from_when_on_sign_ins_are_accepted() {
    let app = start().await;
    let old = app.issuer.sign_in("alice");
    app.token(&old, None).await.token();
    app.clock.advance(Duration::from_secs(5));
    assert_eq!(app.revoke("alice").await.status, StatusCode::OK);
    let refused = app.token(&old, None).await;
    refused.assert_problem(401, "reauthentication_required");
    assert_eq!(refused.json()["signInsValidFrom"], app.user("alice").await["signInsValidFrom"]);
    assert_eq!(refused.json()["title"], "Sign in again");
    assert!(send(&app, Method::GET, "/me", &[]).await.json().get("signInsValidFrom").is_none());
}

#[tokio::test]
async fn requests_keep_a_plain_id_and_get_a_new_one_otherwise() {
    let app = start().await;
    let id = |headers: &'static [(&'static str, &'static str)]| {
        let app = &app;
        async move {
            let answer = send(app, Method::GET, "/me", headers).await;
            answer.assert_problem(401, "missing_credentials");
            answer.header("x-request-id").to_owned()
        }
    };
    assert_eq!(id(&[("x-request-id", "abc-123")]).await, "abc-123");
    assert_eq!(id(&[]).await.len(), 36);
    assert_eq!(id(&[("x-request-id", "a b\"c")]).await.len(), 36);
}

#[tokio::test]
async fn answers_are_never_cached_or_sniffed() {
    let app = start().await;
    for path in ["/me", "/nothing"] {
        let answer = send(&app, Method::GET, path, &[]).await;
        assert_eq!(answer.header("cache-control"), "no-store");
        assert_eq!(answer.header("x-content-type-options"), "nosniff");
    }
}

#[tokio::test]
async fn people_can_read_the_api_where_wanted() {
    let app = TestApp::start_with(&Database::sqlite(), "[server]\ndocs = true").await;
    let page = Answer::of(app.http.get(format!("{}/docs/", app.url)).send().await.unwrap()).await;
    assert_eq!(page.status, StatusCode::OK);
    assert!(page.header("content-security-policy").starts_with("default-src 'self'"));
    for asset in ["swagger-ui-bundle.js", "swagger-initializer.js", "swagger-ui.css"] {
        let answer = app.http.get(format!("{}/docs/{asset}", app.url)).send().await.unwrap();
        assert_eq!(answer.status(), StatusCode::OK, "{asset}");
    }
}

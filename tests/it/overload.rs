//! Overload and slow clients: refused early, with a hint for what to do next, and without harm to other callers.

use std::time::Duration;

use reqwest::{Method, StatusCode};
use serde_json::json;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::support::{Answer, Database, TestApp, eventually};

async fn start(more: &str) -> TestApp {
    TestApp::start_with(&Database::sqlite(), more).await
}

async fn connect(app: &TestApp) -> TcpStream {
    TcpStream::connect(app.url.strip_prefix("http://").unwrap()).await.unwrap()
}

/// Reads until the server closes the connection.
async fn read_to_end(mut connection: TcpStream) -> String {
    let mut text = Vec::new();
    // A reset also ends the connection.
    let _ = connection.read_to_end(&mut text).await;
    String::from_utf8(text).unwrap()
}

#[tokio::test]
async fn each_user_has_a_limit_that_responses_report() {
    let app = start("[limits.user]\nrequests = 3\nper = \"1h\"").await;
    let (alice, bob) = (app.issuer.sign_in("alice"), app.issuer.sign_in("bob"));
    let first = app.token(&alice, None).await;
    first.token();
    assert_eq!(first.header("ratelimit-policy"), "\"user\";q=3;w=3600");
    assert_eq!(first.header("ratelimit"), "\"user\";r=2;t=1200");
    assert_eq!(app.me(&alice).await.header("ratelimit"), "\"user\";r=1;t=1200");
    app.token(&alice, None).await.token();
    let refused = app.token(&app.issuer.sign_in("alice"), None).await;
    refused.assert_problem(429, "rate_limited");
    let wait: u64 = refused.header("retry-after").parse().unwrap();
    assert!((1100..=1200).contains(&wait), "{refused:?}");
    assert_eq!(refused.header("ratelimit"), format!("\"user\";r=0;t={wait}"));
    app.token(&bob, None).await.token();
    assert_eq!(app.metric("vendor_requests_rate_limited_total{limit=\"user\"}").await, 1);
    assert_eq!(app.revoke("alice").await.status, StatusCode::OK, "operators have no rate limit");
}

#[tokio::test]
async fn signing_out_everywhere_has_a_limit_of_its_own() {
    let app =
        start("[limits]\nself_revoke = { requests = 1, per = \"1h\" }\nuser = { requests = 3, per = \"1h\" }").await;
    let revoke = async || {
        let sign_in = app.issuer.sign_in("alice");
        Answer::of(app.http.post(format!("{}/me/revoke", app.url)).bearer_auth(sign_in).send().await.unwrap()).await
    };
    assert_eq!(revoke().await.status, StatusCode::OK);
    revoke().await.assert_problem(429, "rate_limited");
    app.clock.advance(Duration::from_secs(5));
    assert_eq!(app.token(&app.issuer.sign_in("alice"), None).await.header("ratelimit"), "\"user\";r=2;t=1200");
}

#[tokio::test]
async fn bad_logins_of_an_address_are_counted_behind_declared_proxies_only() {
    let ask = async |app: &TestApp, client: &str, sign_in: &str| {
        let request =
            app.http.post(format!("{}/token", app.url)).bearer_auth(sign_in).header("x-forwarded-for", client);
        Answer::of(request.send().await.unwrap()).await
    };
    let limits = "[limits]\nfailed_sign_ins = { requests = 2, per = \"1h\" }\n";
    let app = start(&format!("{limits}[server]\ntrusted_proxies = \"127.0.0.0/8\"")).await;
    let (good, bad) = (app.issuer.sign_in("alice"), app.issuer.sign_in_with("alice", json!({"exp": 1})));
    for _ in 0..2 {
        ask(&app, "198.51.100.7", &bad).await.assert_problem(401, "invalid_token");
    }
    let refused = ask(&app, "198.51.100.7", &bad).await;
    refused.assert_problem(429, "rate_limited");
    assert!(refused.header("ratelimit").starts_with("\"failed_sign_ins\";r=0"), "{refused:?}");
    ask(&app, "198.51.100.7", &good).await.token();
    ask(&app, "198.51.100.8", &bad).await.assert_problem(401, "invalid_token");
    for (client, status) in [("2001:db8::1", 401), ("2001:db8::2", 401), ("2001:db8::3", 429), ("2001:db8:0:1::3", 401)]
    {
        assert_eq!(ask(&app, client, &bad).await.status.as_u16(), status, "{client}");
    }

    let open = start(limits).await;
    let bad = open.issuer.sign_in_with("alice", json!({"exp": 1}));
    for _ in 0..5 {
        ask(&open, "198.51.100.7", &bad).await.assert_problem(401, "invalid_token");
    }
}

#[tokio::test]
async fn too_many_at_once_are_refused_and_operators_get_through() {
    let app = start("[server]\nmax_in_flight = 2").await;
    let sign_ins = ["alice", "bob", "carol"].map(|subject| app.issuer.sign_in(subject));
    for sign_in in &sign_ins {
        app.token(sign_in, None).await.token();
    }
    app.acs.fault(json!({"operation": "issue", "kind": "delay", "delayMs": 1500, "count": 2})).await;
    let (first, second, ()) = tokio::join!(app.token(&sign_ins[0], None), app.token(&sign_ins[1], None), async {
        app.acs.wait_for_calls("issue", 2).await;
        let refused = app.token(&sign_ins[2], None).await;
        refused.assert_problem(503, "overloaded");
        assert!((1..=3).contains(&refused.header("retry-after").parse::<u64>().unwrap()), "{refused:?}");
        assert_eq!(app.revoke("carol").await.status, StatusCode::OK);
        assert_eq!(app.ops(Method::GET, "/users", None).await.status, StatusCode::OK);
    });
    first.token();
    second.token();
    assert_eq!(app.metric("vendor_requests_shed_total{limit=\"users\"}").await, 1);
    app.token(&app.issuer.sign_in("alice"), None).await.token();
}

#[tokio::test]
async fn request_head_that_does_not_end_is_given_up() {
    let app = start("[server]\nidle_timeout = \"300ms\"").await;
    let mut connection = connect(&app).await;
    connection.write_all(b"POST /token HTTP/1.1\r\nhost: x\r\nauthorization: Bea").await.unwrap();
    assert_eq!(read_to_end(connection).await, "");
}

/// The timeout begins again with each request.
#[tokio::test]
async fn idle_connection_is_kept_for_the_next_request() {
    let app = start("[server]\nidle_timeout = \"1500ms\"").await;
    let mut connection = connect(&app).await;
    for _ in 0..3 {
        connection.write_all(b"GET /me HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
        let mut answer = [0; 4096];
        let length = connection.read(&mut answer).await.unwrap();
        assert!(answer[..length].starts_with(b"HTTP/1.1 401"), "the connection is still open");
        tokio::time::sleep(Duration::from_millis(700)).await;
    }
}

#[tokio::test]
async fn idle_connection_is_closed_in_the_end() {
    let app = start("[server]\nidle_timeout = \"300ms\"").await;
    let mut connection = connect(&app).await;
    connection.write_all(b"GET /me HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    assert!(read_to_end(connection).await.starts_with("HTTP/1.1 401"));
}

#[tokio::test]
async fn slow_body_holds_no_permit_and_is_given_up() {
    let app = start("[server]\nmax_in_flight = 1\nbody_timeout = \"2s\"").await;
    let sign_in = app.issuer.sign_in("alice");
    let mut slow = connect(&app).await;
    let head = format!(
        "POST /token HTTP/1.1\r\nhost: x\r\nconnection: close\r\nauthorization: Bearer {sign_in}\r\n\
         content-type: application/json\r\ncontent-length: 2\r\n\r\n{{"
    );
    slow.write_all(head.as_bytes()).await.unwrap();
    for _ in 0..3 {
        app.token(&sign_in, None).await.token();
    }
    let answer = read_to_end(slow).await;
    assert!(answer.starts_with("HTTP/1.1 400") && answer.contains("took too long"), "{answer}");
}

#[tokio::test]
async fn request_head_over_64_kib_is_refused_at_once() {
    let app = start("").await;
    let mut connection = connect(&app).await;
    let filler = format!("x-filler: {}\r\n", "x".repeat(1000));
    let head = format!("GET /me HTTP/1.1\r\nhost: x\r\n{}", filler.repeat(65));
    // Without its end: were there no bound, the server would go on waiting for the rest.
    connection.write_all(head.as_bytes()).await.unwrap();
    let answer = tokio::time::timeout(Duration::from_secs(20), read_to_end(connection)).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 431"), "{answer}");
}

#[tokio::test]
async fn client_that_does_not_read_its_responses_is_given_up() {
    const REQUESTS: usize = 400;
    let app = start("[server]\nwrite_timeout = \"300ms\"").await;
    let mut connection = connect(&app).await;
    let requests = "GET /openapi.json HTTP/1.1\r\nhost: x\r\n\r\n".repeat(REQUESTS);
    connection.write_all(requests.as_bytes()).await.unwrap();
    let counted = async || app.metric("vendor_request_seconds_count{route=\"/openapi.json\",status=\"200\"}").await;
    // Once the buffers between the two are full, nothing more is answered.
    let mut before = 0;
    eventually(async || {
        tokio::time::sleep(Duration::from_millis(400)).await;
        let now = counted().await;
        (std::mem::replace(&mut before, now) == now && now > 0).then_some(())
    })
    .await;
    let answers = read_to_end(connection).await.matches("HTTP/1.1 200").count();
    assert!(answers < REQUESTS, "{answers}");
}

#[tokio::test]
async fn connections_over_the_limit_wait() {
    let app = start("[server]\nmax_connections = 2").await;
    let (first, mut second) = (connect(&app).await, connect(&app).await);
    // Both are accepted once the second has an answer.
    second.write_all(b"GET /me HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    assert!(second.read(&mut [0; 4096]).await.unwrap() > 0);
    let mut third = connect(&app).await;
    third.write_all(b"GET /me HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await.unwrap();
    let waiting = tokio::time::timeout(Duration::from_millis(300), third.read(&mut [0; 1])).await;
    assert!(waiting.is_err(), "the third connection is not accepted yet");
    drop(first);
    assert!(read_to_end(third).await.starts_with("HTTP/1.1 401"));
}

#[tokio::test]
async fn requests_are_counted_by_route_and_status() {
    let app = start("").await;
    app.token(&app.issuer.sign_in("alice"), None).await.token();
    app.me("not a token").await.assert_problem(401, "invalid_token");
    let counted = async |labels: &str| app.metric(&format!("vendor_request_seconds_count{{{labels}}}")).await;
    eventually(async || (counted("route=\"/token\",status=\"200\"").await == 1).then_some(())).await;
    assert_eq!(counted("route=\"/me\",status=\"401\"").await, 1);
}

//! Operators and backends: what each role may do, and how wrong requests are refused.

use std::time::Duration;

use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::support::{
    Answer, Database, TestApp,
    database::on_each_database,
    eventually,
    ops::{ODD_SUBJECTS, key, segment},
};

async fn get(app: &TestApp, path: &str) -> Answer {
    app.ops(Method::GET, path, None).await
}

on_each_database! {
    async fn odd_subjects_are_users_like_any_other(database) {
        let app = TestApp::start(&database).await;
        for subject in ODD_SUBJECTS {
            let identity = app.token(&app.issuer.sign_in(subject), None).await.identity();
            let path = format!("/users/{}", segment(&format!("test:{subject}")));
            let user = get(&app, &path).await.json();
            assert_eq!((&user["subject"], &user["communicationUserId"]), (&json!(subject), &json!(identity)));
            app.clock.advance(Duration::from_secs(3));
            let revoked = app.ops(Method::POST, &format!("{path}/revoke"), None).await;
            assert_eq!(revoked.status, StatusCode::OK, "{subject}: {}", revoked.text);
            let found = app.ops(Method::POST, "/users/lookup", Some(json!({"users": [format!("test:{subject}")]}))).await;
            assert_eq!(found.json()["users"][0]["user"]["id"], user["id"]);
        }
    }

    async fn pages_follow_each_other(database) {
        let app = TestApp::start(&database).await;
        let users: Vec<_> = (0..7).map(|n| format!("test:user-{n}")).collect();
        app.ops_as("minter", Method::POST, "/users/ensure", Some(json!({"users": users})), &[]).await;
        let mut seen = Vec::new();
        let mut path = "/users?limit=3".to_owned();
        loop {
            let page = get(&app, &path).await.json();
            seen.extend(page["users"].as_array().unwrap().iter().map(|user| user["subject"].clone()));
            let Some(cursor) = page["nextCursor"].as_str() else { break };
            let elsewhere = get(&app, &format!("/users?limit=3&state=active&cursor={cursor}")).await;
            elsewhere.assert_problem(400, "invalid_request");
            assert!(elsewhere.text.contains("belongs to another query"));
            path = format!("/users?limit=3&cursor={cursor}");
        }
        seen.sort_by_key(Value::to_string);
        assert_eq!(seen, (0..7).map(|n| json!(format!("user-{n}"))).collect::<Vec<_>>());
        let one = get(&app, "/users?issuer=test&subject=user-3&state=active").await.json();
        assert_eq!(one["users"].as_array().unwrap().len(), 1);
        let by_identity = one["users"][0]["communicationUserId"].as_str().unwrap();
        let found = get(&app, &format!("/users?communicationUserId={}", segment(by_identity))).await.json();
        assert_eq!(found["users"], one["users"]);
        assert_eq!(get(&app, "/users?issuer=other").await.json()["users"], json!([]));
    }

    async fn backends_resolve_ensure_and_mint(database) {
        let app = TestApp::start(&database).await;
        let ask = async |path: &str, body: Value| app.ops_as("minter", Method::POST, path, Some(body), &[]).await;
        let ensured = ask("/users/ensure", json!({"users": ["test:bob", "test:carol", "test:bob"]})).await.json();
        let bob = ensured["users"][0]["user"].clone();
        assert_eq!(ensured["users"][2]["user"]["communicationUserId"], bob["communicationUserId"]);
        let stats = app.acs.stats().await;
        assert_eq!((&stats["identities"], &stats["calls"]["issue"]), (&json!(2), &json!(0)));
        assert!(bob["lastMintedAt"].is_null());

        let names = json!({"users": ["test:bob", bob["id"], bob["communicationUserId"], "test:nobody"]});
        let found = ask("/users/lookup", names).await.json();
        for index in 0..3 {
            assert_eq!(found["users"][index]["user"]["id"], bob["id"]);
        }
        assert!(found["users"][3]["user"].is_null());

        let token = ask("/users/test:bob/token", json!({})).await;
        assert_eq!(token.identity(), bob["communicationUserId"]);
        assert_eq!(token.json()["scopes"], json!(["chat", "voip.join"]));
        ask("/users/test:bob/token", json!({"scopes": ["voip"]})).await.assert_problem(403, "scope_not_allowed");
        ask(&format!("/users/u_{}/token", "0".repeat(32)), json!({})).await.assert_problem(404, "not_found");
        ask("/users/test:dave/token", json!({})).await.token();
        let by_the_key = "SELECT COUNT(*) FROM audit_events WHERE action = 'token_minted' AND actor_kind = 'operator_key' AND actor = 'minter'";
        assert_eq!(database.count(by_the_key).await, 2);
        // What a backend ensured is the user's own when the user comes.
        assert_eq!(app.token(&app.issuer.sign_in("bob"), None).await.identity(), token.identity());
    }

    async fn imports_bind_what_is_free_and_nothing_else(database) {
        let app = TestApp::start(&database).await;
        let taken = app.token(&app.issuer.sign_in("alice"), None).await.identity();
        let guid = &taken[6..42];
        let own = format!("8:acs:{guid}_00000000-0000-0000-0000-000000000001");
        let put = async |user: &str, id: &str| {
            app.ops(Method::PUT, &format!("/users/{user}"), Some(json!({"communicationUserId": id}))).await
        };
        assert_eq!(put("test:bob", &own).await.status, StatusCode::CREATED);
        assert_eq!(put("test:bob", &own).await.status, StatusCode::OK);
        put("test:carol", &own).await.assert_problem(409, "mapping_conflict");
        put("test:bob", &taken).await.assert_problem(409, "mapping_conflict");
        put("test:alice", &own).await.assert_problem(409, "mapping_conflict");
        put("test:dave", "8:orgid:x").await.assert_problem(400, "invalid_request");
        let foreign = "8:acs:00000000-0000-0000-0000-000000000001_00000000-0000-0000-0000-000000000002";
        put("test:dave", foreign).await.assert_problem(400, "invalid_request");
        assert_eq!(app.user("bob").await["communicationUserId"], own);
        app.clock.advance(Duration::from_secs(3));
        app.ops(Method::DELETE, "/users/test:alice", None).await;
        let condemned = put("test:erin", &taken).await;
        condemned.assert_problem(409, "mapping_conflict");
        assert!(condemned.text.contains("was deleted"), "{}", condemned.text);
    }

    async fn repeating_a_write_changes_nothing(database) {
        let app = TestApp::start(&database).await;
        app.token(&app.issuer.sign_in("alice"), None).await.token();
        app.clock.advance(Duration::from_secs(3));
        let revoke = async |body: Value| {
            let header = [("idempotency-key", "password-change-4711")];
            app.ops_as("revoker", Method::POST, "/users/test:alice/revoke", Some(body), &header).await
        };
        let first = revoke(json!({"reason": "password"})).await;
        let second = revoke(json!({"reason": "password"})).await;
        assert_eq!((first.status, &first.text), (second.status, &second.text));
        assert_eq!(second.header("idempotency-replayed"), "true");
        assert_eq!(database.count("SELECT COUNT(*) FROM operations").await, 1);
        revoke(json!({"reason": "other"})).await.assert_problem(422, "idempotency_mismatch");
        app.clock.advance(Duration::from_hours(25));
        assert_eq!(revoke(json!({"reason": "other"})).await.status, StatusCode::OK);
        assert_eq!(database.count("SELECT COUNT(*) FROM operations").await, 2);
    }

    async fn a_write_that_failed_may_be_repeated(database) {
        let app = TestApp::start(&database).await;
        let unblock = async || {
            let header = [("idempotency-key", "k")];
            app.ops_as("revoker", Method::POST, "/users/test:alice/unblock", None, &header).await
        };
        unblock().await.assert_problem(404, "not_found");
        app.token(&app.issuer.sign_in("alice"), None).await.token();
        assert_eq!(unblock().await.status, StatusCode::OK);
    }

    async fn the_trail_answers_who_held_which_token(database) {
        let app = TestApp::start_with(&database, "[server]\ntrusted_proxies = [\"127.0.0.1\"]").await;
        let sign_in = app.issuer.sign_in_with("alice", json!({"jti": "login-1", "sid": "session-1"}));
        let request = app.http.post(format!("{}/token", app.url)).bearer_auth(&sign_in);
        let answer = request.header("x-forwarded-for", "198.51.100.7").header("x-request-id", "r-1").send().await.unwrap();
        let token = Answer::of(answer).await.token();
        let then = app.clock.now();
        app.clock.advance(Duration::from_mins(1));
        app.revoke("alice").await;
        let at = segment(&then.to_rfc3339());
        let held = get(&app, &format!("/users/test:alice/tokens?at={at}")).await.json();
        let held = &held["tokens"][0];
        let fingerprint = acs_token_vendor::domain::token::AccessToken::new(token).fingerprint();
        assert_eq!(held["fingerprint"], fingerprint);
        let told: Vec<_> = ["client", "signInId", "sessionId", "requestId"].iter().map(|name| held[*name].clone()).collect();
        assert_eq!(told, ["198.51.100.7", "login-1", "session-1", "r-1"]);
        assert!(held["endedAt"].is_string());
        let before = segment(&(then - chrono::Duration::hours(1)).to_rfc3339());
        assert_eq!(get(&app, &format!("/users/test:alice/tokens?at={before}")).await.json()["tokens"], json!([]));

        let events = get(&app, "/audit?user=test:alice").await.json();
        let actions: Vec<_> = events["events"].as_array().unwrap().iter().map(|event| event["action"].clone()).collect();
        assert_eq!(actions, ["operation_completed", "access_revoked", "token_minted", "identity_bound"]);
        let by_operator = get(&app, "/audit?actor=operator&action=access_revoked&limit=1").await.json();
        assert_eq!(by_operator["events"][0]["actorKind"], "operator_key");
        let none = get(&app, &format!("/audit?until={}", segment("2020-01-01T00:00:00Z"))).await.json();
        assert_eq!(none["events"], json!([]));
    }

    async fn operations_are_listed_by_state(database) {
        let app = TestApp::start(&database).await;
        app.token(&app.issuer.sign_in("alice"), None).await.token();
        app.clock.advance(Duration::from_secs(3));
        app.acs.fault(json!({"operation": "revoke", "kind": "status", "status": 400})).await;
        let pending = app.revoke("alice").await.json();
        assert_eq!(get(&app, "/operations?state=pending").await.json()["operations"][0]["id"], pending["operation"]["id"]);
        assert_eq!(get(&app, "/operations?state=completed").await.json()["operations"], json!([]));
        app.acs.fault(json!({"operation": "exchange", "kind": "status", "status": 503})).await;
        eventually(async || (get(&app, "/operations?state=pending").await.json()["operations"] == json!([])).then_some(())).await;
        assert_eq!(get(&app, "/operations").await.json()["operations"].as_array().unwrap().len(), 1);
        get(&app, &format!("/operations/{}", uuid::Uuid::nil())).await.assert_problem(404, "not_found");
        get(&app, "/operations/x").await.assert_problem(404, "not_found");
    }
}

/// Otherwise the store would be closed before the response is stored, and a repeated request would be handled twice.
#[tokio::test]
async fn a_write_whose_caller_is_gone_is_finished_before_the_service_stops() {
    let app = TestApp::start(&Database::sqlite()).await;
    let stopping = app.another().await;
    const BEGUN: &str = "SELECT COUNT(*) FROM idempotency_keys";
    const STORED: &str = "SELECT COUNT(*) FROM idempotency_keys WHERE status = 200";
    app.acs.fault(json!({"operation": "create", "kind": "delay", "delayMs": 2000})).await;
    let sign_in = app.issuer.sign_in("bob");
    let (created, ()) = tokio::join!(app.token(&sign_in, None), async {
        app.acs.wait_for_calls("create", 1).await;
        // Waits for the identity that the other replica is creating.
        let request = app.http.post(format!("{}/users/ensure", stopping.url)).bearer_auth(key("minter"));
        let request = request.header("idempotency-key", "k").json(&json!({"users": ["test:bob"]}));
        let caller = tokio::spawn(request.send());
        eventually(async || (app.database.count(BEGUN).await == 1).then_some(())).await;
        caller.abort();
        stopping.stop().await.unwrap();
        assert_eq!(app.database.count(STORED).await, 1);
    });
    created.token();
}

#[tokio::test]
async fn too_large_and_unreadable_bodies_are_told_apart() {
    let app = TestApp::start(&Database::sqlite()).await;
    for (headers, line) in [(&[][..], ""), (&[("idempotency-key", "k")], "idempotency-key: k\r\n")] {
        let large = json!({"reason": "x".repeat(2 * 1024 * 1024)});
        let answer = app.ops_as("revoker", Method::POST, "/users/test:a/revoke", Some(large), headers).await;
        answer.assert_problem(413, "payload_too_large");

        let request = format!(
            "POST /users/test:a/revoke HTTP/1.1\r\nhost: x\r\nconnection: close\r\nauthorization: Bearer {}\r\n\
             content-type: application/json\r\ntransfer-encoding: chunked\r\n{line}\r\nnot a chunk size\r\n",
            key("revoker"),
        );
        let mut connection = tokio::net::TcpStream::connect(app.url.strip_prefix("http://").unwrap()).await.unwrap();
        connection.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        connection.read_to_string(&mut answer).await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 400") && answer.contains("could not be read"), "{answer}");
    }
}

#[tokio::test]
async fn each_role_allows_its_own_routes_only() {
    let app = TestApp::start(&Database::sqlite()).await;
    let routes = [
        (Method::GET, "/users", "viewer"),
        (Method::GET, "/users/test:a", "viewer"),
        (Method::GET, "/users/test:a/tokens", "viewer"),
        (Method::GET, "/operations", "viewer"),
        (Method::GET, "/audit", "viewer"),
        (Method::POST, "/users/test:a/revoke", "revoker"),
        (Method::POST, "/users/test:a/block", "revoker"),
        (Method::POST, "/users/test:a/unblock", "revoker"),
        (Method::POST, "/users/test:a/token", "minter"),
        (Method::DELETE, "/users/test:a", "operator"),
    ];
    for (method, path, needed) in routes {
        for role in ["viewer", "revoker", "minter", "operator"] {
            let answer = app.ops_as(role, method.clone(), path, None, &[]).await;
            let may = role == needed || role == "operator";
            // The operator's key of the tests has no scopes, so it may mint by its role but has no grant.
            let refused = answer.status == StatusCode::FORBIDDEN && !answer.text.contains("no grant");
            assert_eq!(refused, !may, "{role} {method} {path}: {}", answer.text);
        }
    }
}

#[tokio::test]
async fn sign_in_tokens_and_keys_are_not_interchangeable() {
    let app = TestApp::start(&Database::sqlite()).await;
    let sign_in = app.issuer.sign_in("alice");
    let as_user = app.http.get(format!("{}/users", app.url)).bearer_auth(&sign_in).send().await.unwrap();
    Answer::of(as_user).await.assert_problem(401, "invalid_token");
    app.token(&key("operator"), None).await.assert_problem(401, "invalid_token");
    let nobody = app.http.get(format!("{}/users", app.url)).send().await.unwrap();
    Answer::of(nobody).await.assert_problem(401, "missing_credentials");
}

#[tokio::test]
async fn invalid_queries_and_bodies_are_named() {
    let app = TestApp::start(&Database::sqlite()).await;
    let long = segment(&format!("test:{}", "x".repeat(257)));
    for (path, named) in [
        ("/users/alice", "`u_…`"),
        ("/users/test:", "a subject is"),
        ("/users/test:a%00b", "a subject is"),
        ("/users/test:%FF", "UTF-8"),
        ("/users/TEST:a", "issuer key"),
        ("/users/u_1", "user id"),
        (&format!("/users/{long}"), "a subject is"),
        ("/users?limit=0", "`limit`"),
        ("/users?limit=many", "limit"),
        ("/users?state=asleep", "state"),
        ("/users?nonsense=1", "nonsense"),
        ("/users?cursor=%21", "`cursor`"),
        ("/users?communicationUserId=alice", "`communicationUserId`"),
        ("/audit?user=alice", "`user`"),
        ("/audit?since=yesterday", "since"),
        ("/audit?actor=%00", "`actor`"),
        ("/operations?state=lost", "state"),
    ] {
        let answer = get(&app, path).await;
        answer.assert_problem(400, "invalid_request");
        let detail = answer.json()["detail"].as_str().unwrap().to_owned();
        assert!(detail.contains(named), "{path}: {detail}");
    }
    for (path, body) in [
        ("/users/lookup", json!({"users": []})),
        ("/users/lookup", json!({"users": ["nobody"]})),
        ("/users/lookup", json!({"users": vec!["test:a"; 1001]})),
        ("/users/tset:a/revoke", json!({})),
        ("/users/ensure", json!({"users": vec!["test:a"; 101]})),
        ("/users/ensure", json!({"names": []})),
        ("/users/test:a/revoke", json!({"reason": "x".repeat(501)})),
        ("/users/test:a/block", json!({"rejectOlderSignIns": true})),
    ] {
        app.ops(Method::POST, path, Some(body)).await.assert_problem(400, "invalid_request");
    }
    app.ops(Method::POST, "/users/ensure", None).await.assert_problem(400, "invalid_request");
}

#[tokio::test]
async fn a_thousand_users_are_looked_up_at_once() {
    let app = TestApp::start(&Database::sqlite()).await;
    let id =
        app.ops_as("minter", Method::POST, "/users/ensure", Some(json!({"users": ["test:bob"]})), &[]).await.json();
    let longest = format!("test:{}", "ü".repeat(128));
    let mut users = vec![json!(longest); 999];
    users.push(id["users"][0]["user"]["id"].clone());
    let found = app.ops_as("minter", Method::POST, "/users/lookup", Some(json!({"users": users})), &[]).await.json();
    assert_eq!(found["users"].as_array().unwrap().len(), 1000);
    assert_eq!(found["users"][999]["user"]["subject"], "bob");
}

#[tokio::test]
async fn operators_may_have_a_listener_of_their_own() {
    let app = TestApp::start_with(&Database::sqlite(), "[ops]\nlisten = \"127.0.0.1:0\"").await;
    get(&app, "/users").await.assert_problem(404, "not_found");
    let ops = app.ops_url.clone().unwrap();
    let asked = app.http.get(format!("{ops}/users")).bearer_auth(key("viewer")).send().await.unwrap();
    assert_eq!(asked.status(), StatusCode::OK);
    let token = app.http.post(format!("{ops}/token")).bearer_auth(app.issuer.sign_in("a")).send().await.unwrap();
    assert_eq!(token.status(), StatusCode::NOT_FOUND);
}

//! The emulator over HTTP, compared with recorded exchanges of ACS.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod rig;

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use serde_json::{Value, json};

use rig::*;

#[tokio::test]
async fn recorded_exchanges_are_answered_as_acs_did() {
    let file: Value = serde_json::from_str(RECORDED).unwrap();
    let rig = Rig::start().await;
    let mut replayed = 0;
    for exchange in file["exchanges"].as_array().unwrap() {
        let (request, response) = (&exchange["request"], &exchange["response"]);
        let name = exchange["name"].as_str().unwrap();
        let target = request["path_and_query"].as_str().unwrap();
        if target.starts_with("/teamsUser") || target.contains("2020-07-20") {
            continue;
        }
        let own = rig.create().await;
        let id = if name.contains("zero guid") { FOREIGN } else { &own };
        let body = match &request["body"] {
            Value::Null => String::new(),
            Value::String(_) => json!({ "createTokenWithScopes": ["chat"] }).to_string(),
            body => body.to_string(),
        };
        let method = request["method"].as_str().unwrap();
        let answer = rig.call(method, &target.replace("<id>", id), &body).await;
        assert_eq!(answer.status, response["status"], "{name}");
        assert_eq!(sanitised(&answer.body), sanitised(&response["body"]), "{name}");
        let content_type = answer.headers.get("content-type").map(|value| value.to_str().unwrap());
        assert_eq!(content_type, response["headers"]["Content-Type"].as_str(), "{name}");
        replayed += 1;
    }
    assert_eq!(replayed, 13);
}

#[tokio::test]
async fn answers_carry_the_recorded_headers() {
    let rig = Rig::start().await;
    let mut request = rig.request("POST", CREATE, "");
    set(&mut request, &[("x-ms-client-request-id", "mine".to_owned())]);
    let headers = rig.execute(request).await.headers;
    assert_eq!(headers["x-ms-client-request-id"], "mine");
    assert_eq!(headers["request-context"], "appId=");
    assert_eq!(headers["ms-cv"].len(), 24);
    assert!(headers.contains_key("api-supported-versions"));
}

#[tokio::test]
async fn created_token_has_the_chosen_scopes_and_lifetime() {
    let rig = Rig::start().await;
    let body = r#"{"createTokenWithScopes":["chat","voip.join"],"expiresInMinutes":90}"#;
    let before = rig.clock.now();
    let body = rig.call("POST", CREATE, body).await.body;
    let expires: DateTime<Utc> = body["accessToken"]["expiresOn"].as_str().unwrap().parse().unwrap();
    assert!((before..=rig.clock.now()).contains(&(expires - TimeDelta::minutes(90))));
    let token = body["accessToken"]["token"].as_str().unwrap();
    let judged = rig.introspect(token).await;
    assert_eq!(judged["identity"], body["identity"]["id"]);
    assert_eq!(judged["scopes"], json!(["chat", "voip.join"]));
    assert_eq!(judged["active"], true);
    rig.clock.advance(Duration::from_mins(90));
    assert_eq!(rig.reason(token).await, "expired");
}

#[tokio::test]
async fn both_keys_and_both_date_headers_are_accepted() {
    let rig = Rig::start().await;
    let mut request = rig.request("POST", CREATE, "");
    let [(_, date), hash, (_, authorization)] = sign(SECONDARY, "POST", CREATE, &rig.host, &date(rig.clock.now()), "");
    let authorization = authorization.replace("x-ms-date", "date");
    request.headers_mut().remove("x-ms-date");
    set(&mut request, &[("date", date), hash, ("authorization", authorization)]);
    assert_eq!(rig.execute(request).await.status, 201);
}

#[tokio::test]
async fn badly_signed_requests_are_denied() {
    const DENIED: &str = "Denied by the resource provider.";
    const HASH: &str = "Request 'x-ms-content-sha256' differs from generated content hash.";
    let rig = Rig::start().await;
    let good = || rig.request("POST", CREATE, "{}");
    let with = |name: &'static str, value: &str| {
        let mut request = good();
        set(&mut request, &[(name, value.to_owned())]);
        request
    };
    let without = |name: &str| {
        let mut request = good();
        request.headers_mut().remove(name);
        request
    };
    let dated = |seconds: i64| {
        let mut request = good();
        let date = date(rig.clock.now() + TimeDelta::seconds(seconds));
        set(&mut request, &sign(PRIMARY, "POST", CREATE, &rig.host, &date, "{}"));
        request
    };
    let [.., (_, other_key)] = sign("b3RoZXI=", "POST", CREATE, &rig.host, &date(rig.clock.now()), "{}");
    let mut tampered = good();
    *tampered.body_mut() = Some("{ }".into());
    let cases = [
        ("no authorization", without("authorization"), DENIED),
        ("no date", without("x-ms-date"), DENIED),
        ("no content hash", without("x-ms-content-sha256"), DENIED),
        ("bearer", with("authorization", "Bearer token"), DENIED),
        ("other key", with("authorization", &other_key), DENIED),
        ("date unsigned", with("authorization", &other_key.replace("x-ms-date;", "")), DENIED),
        ("other host", with("host", "my-resource.communication.azure.com"), DENIED),
        ("other body", tampered, HASH),
        ("other hash", with("x-ms-content-sha256", "AAAA"), HASH),
        ("date not a date", with("x-ms-date", "yesterday"), DENIED),
        ("old date", dated(-960), DENIED),
        ("early date", dated(960), DENIED),
    ];
    let count = cases.len();
    for (name, request, message) in cases {
        let answer = rig.execute(request).await;
        assert_eq!((answer.status, answer.body), (401, error("Denied", message)), "{name}");
    }
    assert_eq!(rig.execute(good()).await.status, 201);
    let stats = rig.control("stats").await;
    assert_eq!((&stats["unauthorized"], &stats["identities"]), (&json!(count), &json!(1)));
}

#[tokio::test]
async fn revoked_token_introspects_inactive() {
    let rig = Rig::start().await;
    let id = rig.create().await;
    let (first, second) = (rig.token(&id).await, rig.token(&id).await);
    assert_ne!(first, second);
    assert_eq!(rig.reason(&first).await, Value::Null);
    let answer = rig.revoke(&id).await;
    assert_eq!((answer.status, answer.body), (204, Value::Null));
    assert_eq!(rig.reason(&first).await, "revoked");
    assert_eq!(rig.reason(&second).await, "revoked");
    rig.clock.advance(Duration::from_secs(1));
    let third = rig.token(&id).await;
    assert_eq!(rig.reason(&third).await, Value::Null);
    let report = rig.control(&format!("identities/{}", id.replace(':', "%3A"))).await;
    let expected = json!({ "id": id, "exists": true, "tokensIssued": 3, "tokensActive": 1 });
    assert_eq!(report, expected);
}

#[tokio::test]
async fn deleting_an_identity_invalidates_its_tokens() {
    let rig = Rig::start().await;
    let id = rig.create().await;
    let token = rig.token(&id).await;
    assert_eq!(rig.delete(&id).await.status, 204);
    assert_eq!(rig.reason(&token).await, "identity_deleted");
    let not_found = error("IdentityNotFound", "Provided identity doesn't exist.");
    for answer in [rig.issue(&id).await, rig.revoke(&id).await] {
        assert_eq!((answer.status, answer.body), (404, not_found.clone()));
    }
    assert_eq!(rig.delete(&id).await.status, 204);
    let report = rig.control(&format!("identities/{id}")).await;
    let expected = json!({ "id": id, "exists": false, "tokensIssued": 1, "tokensActive": 0 });
    assert_eq!(report, expected);
}

#[tokio::test]
async fn foreign_and_malformed_identities_are_refused() {
    let rig = Rig::start().await;
    let not_owned = error("IdentityNotOwned", "Provided identity doesn't belong to the resource.");
    for answer in [rig.issue(FOREIGN).await, rig.revoke(FOREIGN).await, rig.delete(FOREIGN).await] {
        assert_eq!((answer.status, answer.body), (401, not_owned.clone()));
    }
    for answer in [rig.issue("alice").await, rig.revoke("alice").await, rig.delete("alice").await] {
        assert_eq!((answer.status, &answer.body["error"]["code"]), (400, &json!("ValidationError")));
    }
    let expected = json!({ "id": "alice", "exists": false, "tokensIssued": 0, "tokensActive": 0 });
    assert_eq!(rig.control("identities/alice").await, expected);
}

#[tokio::test]
async fn identity_of_an_earlier_run_is_adopted_unless_strict() {
    let id = Rig::start().await.create().await;
    let restarted = Rig::start().await;
    assert_eq!(restarted.issue(&id).await.status, 200);
    assert_eq!(restarted.control("stats").await["identities"], 1);
    let strict = Rig::start_with(true).await;
    for answer in [strict.issue(&id).await, strict.revoke(&id).await, strict.delete(&id).await] {
        assert_eq!((answer.status, &answer.body["error"]["code"]), (404, &json!("IdentityNotFound")));
    }
}

#[tokio::test]
async fn token_of_an_earlier_run_is_unknown() {
    let earlier = Rig::start().await;
    let token = earlier.token(&earlier.create().await).await;
    let restarted = Rig::start().await;
    assert_eq!(restarted.reason(&token).await, "unknown_token");
    assert_ne!(restarted.control("jwks").await, earlier.control("jwks").await);
}

#[tokio::test]
async fn every_mistake_is_answered_in_the_error_shape() {
    let rig = Rig::start().await;
    let issue = format!("/identities/{}/:issueAccessToken?api-version=2023-10-01", rig.create().await);
    let large = "x".repeat(70_000);
    for (method, target, body, status, code) in [
        ("POST", "/identities", "", 400, "ApiVersionUnspecified"),
        ("POST", "/identities?api-version=1", "", 400, "UnsupportedApiVersion"),
        ("GET", CREATE, "", 405, "MethodNotAllowed"),
        ("POST", "/nowhere?api-version=2023-10-01", "", 404, "NotFound"),
        ("POST", "/teamsUser/:exchangeAccessToken?api-version=2023-10-01", "{}", 404, "NotFound"),
        ("POST", CREATE, "{", 400, "ValidationError"),
        ("POST", CREATE, &large, 413, "PayloadTooLarge"),
        ("POST", &issue, "", 400, "ValidationError"),
        ("POST", &issue, r#"{"scopes":["pstn"]}"#, 400, "ValidationError"),
        ("PATCH", "/_emulator/stats", "", 405, "MethodNotAllowed"),
        ("GET", "/_emulator/nothing", "", 404, "NotFound"),
        ("POST", "/_emulator/introspect", "[]", 400, "ValidationError"),
    ] {
        let answer = rig.call(method, target, body).await;
        assert_eq!((answer.status, &answer.body["error"]["code"]), (status, &json!(code)), "{target}");
    }
    let message = format!(
        "The HTTP resource that matches the request URI 'http://{}/identities' does not support the API version '1'.",
        rig.host
    );
    let mut expected = error("UnsupportedApiVersion", &message);
    expected["error"]["innerError"] = Value::Null;
    assert_eq!(rig.call("POST", "/identities?api-version=1", "").await.body, expected);
    assert_eq!(rig.control("stats").await["calls"]["exchange"], 0);
}

#[tokio::test]
async fn status_fault_answers_without_acting_until_spent() {
    let rig = Rig::start().await;
    let create = || rig.call("POST", CREATE, "");
    rig.fault(json!({ "operation": "create", "kind": "status", "status": 429, "retryAfterSeconds": 7, "count": 1 }))
        .await;
    let throttled = create().await;
    assert_eq!((throttled.status, &throttled.body["error"]["code"]), (429, &json!("TooManyRequests")));
    assert_eq!(throttled.headers["retry-after"], "7");
    assert_eq!(create().await.status, 201);
    rig.fault(json!({ "operation": "*", "kind": "status", "status": 503 })).await;
    let unavailable = create().await;
    assert_eq!(unavailable.status, 503);
    assert!(!unavailable.headers.contains_key("retry-after"));
    assert_eq!(rig.call("DELETE", "/_emulator/faults", "").await.status, 204);
    assert_eq!(create().await.status, 201);
    let calls = json!({ "create": 4, "issue": 0, "revoke": 0, "delete": 0, "exchange": 0 });
    let expected = json!({ "identities": 2, "calls": calls, "unauthorized": 0, "throttled": 1 });
    assert_eq!(rig.control("stats").await, expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn dropped_connection_sends_no_byte_of_a_response() {
    let rig = Rig::start().await;
    for (kind, identities) in [("drop_before", 0), ("drop_after", 2)] {
        rig.fault(json!({ "operation": "create", "kind": kind })).await;
        assert!(rig.raw_create().is_empty(), "{kind}");
        let result = rig.client.execute(rig.request("POST", CREATE, "")).await;
        assert!(result.unwrap_err().is_request(), "{kind}");
        assert_eq!(rig.control("stats").await["identities"], identities, "{kind}");
    }
}

#[tokio::test]
async fn late_call_acts_after_its_client_has_disconnected() {
    let rig = Rig::start().await;
    rig.fault(json!({ "operation": "create", "kind": "late", "delayMs": 50 })).await;
    let result = rig.client.execute(rig.request("POST", CREATE, "")).await;
    assert!(result.unwrap_err().is_request());
    rig.until(|stats| stats["identities"] == 1).await;
}

#[tokio::test]
async fn delayed_call_is_answered_and_hanging_call_is_not() {
    let rig = Rig::start().await;
    rig.fault(json!({ "operation": "create", "kind": "delay", "delayMs": 5 })).await;
    rig.create().await;
    rig.fault(json!({ "operation": "create", "kind": "hang" })).await;
    let mut request = rig.request("POST", CREATE, "");
    *request.timeout_mut() = Some(Duration::from_millis(300));
    assert!(rig.client.execute(request).await.unwrap_err().is_timeout());
    let stats = rig.control("stats").await;
    assert_eq!((&stats["identities"], &stats["calls"]["create"]), (&json!(1), &json!(2)));
}

#[tokio::test]
async fn held_calls_act_once_the_rules_are_replaced_or_cleared() {
    let rig = Rig::start().await;
    for method in ["PUT", "DELETE"] {
        let before = rig.control("stats").await["identities"].as_u64().unwrap();
        rig.fault(json!({ "operation": "create", "kind": "hold", "count": 1 })).await;
        let calls = rig.control("stats").await["calls"]["create"].as_u64().unwrap();
        let call = rig.client.execute(rig.request("POST", CREATE, ""));
        let mut held = tokio::spawn(call);
        rig.until(|stats| stats["calls"]["create"] == calls + 1).await;
        // The rule is used up, so the next call is not held.
        rig.create().await;
        assert!(tokio::time::timeout(Duration::from_millis(50), &mut held).await.is_err(), "{method}");
        assert_eq!(rig.control("stats").await["identities"], before + 1, "{method}");
        assert!(rig.call(method, "/_emulator/faults", r#"{"rules":[]}"#).await.status < 300);
        assert_eq!(held.await.unwrap().unwrap().status(), 201, "{method}");
        assert_eq!(rig.control("stats").await["identities"], before + 2, "{method}");
    }
}

#[tokio::test]
async fn held_call_whose_client_disconnects_is_never_carried_out() {
    let rig = Rig::start().await;
    rig.fault(json!({ "operation": "create", "kind": "hold" })).await;
    let mut request = rig.request("POST", CREATE, "");
    *request.timeout_mut() = Some(Duration::from_millis(300));
    assert!(rig.client.execute(request).await.unwrap_err().is_timeout());
    assert_eq!(rig.call("DELETE", "/_emulator/faults", "").await.status, 204);
    rig.create().await;
    assert_eq!(rig.control("stats").await["identities"], 1);
}

#[tokio::test]
async fn bad_fault_rule_is_refused_and_changes_nothing() {
    let rig = Rig::start().await;
    let good = json!({ "operation": "issue", "kind": "status", "status": 500, "share": 0.5, "count": 3 });
    rig.fault(good.clone()).await;
    let bad = json!({ "rules": [{ "operation": "issue", "kind": "hang" }, { "operation": "issue", "kind": "delay" }] });
    let answer = rig.call("PUT", "/_emulator/faults", &bad.to_string()).await;
    assert_eq!((answer.status, &answer.body["error"]["target"]), (400, &json!("rules[1].delayMs")));
    assert_eq!(rig.control("faults").await, json!({ "rules": [good] }));
}

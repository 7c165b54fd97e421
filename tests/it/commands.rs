//! The binary, as people and scripts run it.

use std::process::Stdio;

use reqwest::Method;
use serde_json::{Value, json};

use crate::support::{
    client, eventually,
    process::{Running, binary, dev, run, sign_in, token},
};

#[tokio::test]
async fn dev_issues_a_token_and_keeps_the_identity_over_restarts() {
    let folder = tempfile::tempdir().unwrap();
    let first = dev(&folder);
    let url = first.url("service");
    let subject_token = sign_in(&url, json!({"user": "alice"})).await;
    let answer = token(&url, &subject_token).await;
    let introspect = format!("{}/_emulator/introspect", first.url("emulator"));
    let seen: Value =
        client().post(introspect).json(&json!({"token": answer.token()})).send().await.unwrap().json().await.unwrap();
    assert_eq!(seen["active"], true);
    let ready = client().get(format!("{}/readyz", first.url("probes"))).send().await.unwrap();
    assert!(ready.status().is_success());
    assert!(first.terminate(), "SIGTERM ends it without an error");

    let second = dev(&folder);
    // The port and with it the issuer have changed: a new sign-in is the same user.
    let url = second.url("service");
    let again = token(&url, &sign_in(&url, json!({"user": "alice"})).await).await;
    assert_eq!(again.identity(), answer.identity());
}

#[tokio::test]
async fn dev_verifies_sign_in_tokens() {
    let folder = tempfile::tempdir().unwrap();
    let dev = dev(&folder);
    let url = dev.url("service");
    for bad in [
        json!({"user": "alice", "expiresInSeconds": -60}),
        json!({"user": "alice", "issuedSecondsAgo": -120}),
        json!({"user": "alice", "claims": {"aud": "other"}}),
        json!({"user": "alice", "claims": {"iss": "https://evil.example"}}),
    ] {
        token(&url, &sign_in(&url, bad).await).await.assert_problem(401, "invalid_token");
    }
    let old = sign_in(&url, json!({"user": "alice", "issuedSecondsAgo": 1800, "claims": {"name": "A"}})).await;
    token(&url, &old).await.token();
    let refused = client().post(format!("{url}/dev/login")).json(&json!({"usr": "x"})).send().await.unwrap();
    assert!(refused.status().is_client_error());
}

#[tokio::test]
async fn quickstart_runs_every_step_and_leaves_nothing() {
    let emulator = Running::start(&["emulator", "--listen", "127.0.0.1:0", "--access-key", "c2VjcmV0"], "http://");
    let url = emulator.url("ACS emulator on");
    let connection = format!("endpoint={url}/;accesskey=c2VjcmV0");
    let (good, said, complained) = run(&["quickstart"], &[("COMMUNICATION_SERVICES_CONNECTION_STRING", &connection)]);
    assert!(good, "{said}{complained}");
    for step in ["Created an identity", "scope `voip` that expires at", "without naming a user", "Revoked", "Deleted"] {
        assert!(said.contains(step), "no `{step}` in:\n{said}");
    }
    assert!(!said.contains("eyJ"), "no token is shown");
    let stats: Value = client().get(format!("{url}/_emulator/stats")).send().await.unwrap().json().await.unwrap();
    assert_eq!(stats["identities"], 0);
    assert_eq!(stats["calls"], json!({"create": 2, "issue": 1, "revoke": 1, "delete": 2, "exchange": 0}));

    let wrong_key = format!("endpoint={url}/;accesskey=b3RoZXI=");
    let (good, _, complained) = run(&["quickstart"], &[("COMMUNICATION_SERVICES_CONNECTION_STRING", &wrong_key)]);
    assert!(!good);
    assert!(complained.contains("could not create an identity") && complained.contains("`Denied`"), "{complained}");
}

#[test]
fn quickstart_names_what_it_needs() {
    let (good, _, complained) = run(&["quickstart"], &[]);
    assert!(!good && complained.contains("set COMMUNICATION_SERVICES_CONNECTION_STRING"), "{complained}");
    let nobody = "endpoint=http://127.0.0.1:9;accesskey=c2VjcmV0";
    let (good, _, complained) = run(&["quickstart"], &[("COMMUNICATION_SERVICES_CONNECTION_STRING", nobody)]);
    assert!(!good && complained.contains("ACS could not be reached"), "{complained}");
}

#[test]
fn settings_can_be_checked_without_starting() {
    let (good, _, complained) = run(&["check-config"], &[]);
    assert!(!good && complained.contains("acs.connection_string") && complained.contains("issuers"), "{complained}");
    let good_settings = [
        ("COMMUNICATION_SERVICES_CONNECTION_STRING", "endpoint=https://r.example;accesskey=c2VjcmV0"),
        ("VENDOR__ISSUERS__MAIN__ISSUER", "https://login.example.com"),
        ("VENDOR__ISSUERS__MAIN__AUDIENCE", "my-app"),
        ("VENDOR__ISSUERS__MAIN__POLICY__SCOPES", "chat,voip"),
    ];
    let (good, said, complained) = run(&["check-config"], &good_settings);
    assert!(good && said == "configuration OK\n", "{complained}");
    let (good, _, complained) = run(&["serve", "--config", "/does/not/exist.toml"], &good_settings);
    assert!(!good && complained.contains("exist.toml"), "{complained}");
}

#[test]
fn migrate_is_done_once() {
    let folder = tempfile::tempdir().unwrap();
    let url = format!("sqlite:{}/vendor.db", folder.path().display());
    let settings = [
        ("DATABASE_URL", url.as_str()),
        ("COMMUNICATION_SERVICES_CONNECTION_STRING", "endpoint=https://r.example;accesskey=c2VjcmV0"),
        ("VENDOR__ISSUERS__MAIN__ISSUER", "https://login.example.com"),
        ("VENDOR__ISSUERS__MAIN__AUDIENCE", "my-app"),
        ("VENDOR__ISSUERS__MAIN__POLICY__SCOPES", "chat"),
    ];
    let (good, said, _) = run(&["migrate"], &settings);
    assert!(good && said.contains("migration(s): [1]"), "{said}");
    let (good, said, _) = run(&["migrate"], &settings);
    assert!(good && said.contains("up to date"), "{said}");
}

#[test]
fn openapi_is_printed_in_both_formats() {
    let (good, yaml, _) = run(&["openapi"], &[]);
    assert!(good && yaml.starts_with("openapi: 3."), "{yaml}");
    let (good, json, _) = run(&["openapi", "--format", "json"], &[]);
    let json: Value = serde_json::from_str(&json).unwrap();
    assert!(good && json["paths"]["/token"]["post"]["operationId"] == "issue_token");
}

#[tokio::test]
async fn the_parts_of_dev_work_as_separate_processes() {
    let emulator = Running::start(&["emulator", "--listen", "127.0.0.1:0", "--access-key", "c2VjcmV0"], "http://");
    let issuer = Running::start(&["dev-issuer", "--listen", "127.0.0.1:0"], "http://");
    let (acs, issuer_url) = (emulator.url("ACS emulator on"), issuer.url("mock identity provider on"));
    let folder = tempfile::tempdir().unwrap();
    let (listen, admin) = (free_address(), free_address());
    let serve = |stderr: Stdio| {
        binary()
            .arg("serve")
            .env("VENDOR__SERVER__LISTEN", &listen)
            .env("VENDOR__ADMIN__LISTEN", &admin)
            .env("VENDOR__SHUTDOWN__DELAY", "0s")
            .env("DATABASE_URL", format!("sqlite:{}/vendor.db", folder.path().display()))
            .env("COMMUNICATION_SERVICES_CONNECTION_STRING", format!("endpoint={acs}/;accesskey=c2VjcmV0"))
            .env("VENDOR__ISSUERS__DEV__ISSUER", format!("{issuer_url}/dev"))
            .env("VENDOR__ISSUERS__DEV__AUDIENCE", "acs-token-vendor-dev")
            .env("VENDOR__ISSUERS__DEV__POLICY__SCOPES", "voip")
            .stderr(stderr)
            .spawn()
            .unwrap()
    };
    let service = Running { child: serve(Stdio::null()), said: Vec::new() };
    eventually(async || run(&["healthcheck"], &[("VENDOR__ADMIN__LISTEN", &admin)]).0.then_some(())).await;
    let subject_token = sign_in(&issuer_url, json!({"user": "alice"})).await;
    token(&format!("http://{listen}"), &subject_token).await.token();
    assert!(service.terminate());
    let (good, _, complained) = run(&["healthcheck"], &[("VENDOR__ADMIN__LISTEN", &admin)]);
    assert!(!good && complained.contains("did not respond"), "{complained}");
}

#[tokio::test]
async fn a_page_of_an_allowed_origin_can_sign_in_and_get_a_token_from_dev() {
    let folder = tempfile::tempdir().unwrap();
    let origin = "http://localhost:5173";
    let data = folder.path().to_str().unwrap();
    let any = "127.0.0.1:0";
    let arguments = ["dev", "--listen", any, "--admin-listen", any, "--emulator-listen", any, "--data", data];
    let dev = Running::start(&[&arguments[..], &["--cors-origin", origin]].concat(), "curl -s -X POST");
    let url = dev.url("service");
    for (path, headers) in [("/dev/login", "content-type"), ("/token", "authorization,content-type")] {
        let preflight = client()
            .request(Method::OPTIONS, format!("{url}{path}"))
            .header("origin", origin)
            .header("access-control-request-method", "POST")
            .header("access-control-request-headers", headers);
        let answer = preflight.send().await.unwrap();
        assert!(answer.status().is_success(), "{path}: {answer:?}");
        assert_eq!(answer.headers()["access-control-allow-origin"], origin, "{path}");
        let allowed = answer.headers()["access-control-allow-headers"].to_str().unwrap().to_ascii_lowercase();
        assert!(headers.split(',').all(|header| allowed.contains(header)), "{path}: {allowed}");
    }
    let request = client().post(format!("{url}/dev/login")).header("origin", origin).json(&json!({"user": "alice"}));
    let signed_in = request.send().await.unwrap();
    assert_eq!(signed_in.headers()["access-control-allow-origin"], origin);
    let signed_in: Value = signed_in.json().await.unwrap();
    token(&url, signed_in["access_token"].as_str().unwrap()).await.token();
}

/// An address that was free a moment ago.
fn free_address() -> String {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string()
}

//! The operator commands, against a running `dev` and against unexpected responses.

use std::{
    fs,
    io::{BufRead, BufReader, Write},
    process::{Command, Output, Stdio},
};

use acs_token_vendor::dev::OPS_KEY;
use axum::{
    Json, Router,
    http::{HeaderMap, StatusCode, Uri, header},
    response::{IntoResponse, Redirect},
    routing::{get, post},
};
use serde_json::{Value, json};

use crate::support::{
    self, client,
    process::{Running, binary, dev, run, sign_in, token},
};

/// Success, standard output and standard error of a command.
type Outcome = (bool, String, String);

/// Runs a command as the operator of a service.
fn operator(url: &str, arguments: &[&str]) -> Outcome {
    run(arguments, &[("VENDOR_URL", url), ("VENDOR_OPS_KEY", OPS_KEY)])
}

/// A command as [`operator`] runs it, with pipes.
fn piped(url: &str, arguments: &[&str]) -> Command {
    let mut command = binary();
    command.args(arguments).envs([("VENDOR_URL", url), ("VENDOR_OPS_KEY", OPS_KEY)]);
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// Runs a command that must succeed and returns its output.
fn said(url: &str, arguments: &[&str]) -> String {
    let (good, said, complained) = operator(url, arguments);
    assert!(good, "{arguments:?}: {said}\n{complained}");
    said
}

/// Runs a command that must succeed and returns its JSON.
fn json_of(url: &str, arguments: &[&str]) -> Value {
    let said = said(url, &[arguments, &["--json"]].concat());
    serde_json::from_str(&said).unwrap_or_else(|error| panic!("{arguments:?}: {error}\n{said}"))
}

/// Runs a command that must fail and returns its error output.
fn complaint(url: &str, arguments: &[&str]) -> String {
    let (good, said, complained) = operator(url, arguments);
    assert!(!good, "{arguments:?}: {said}");
    complained
}

fn assert_says(text: &str, parts: &[&str]) {
    for part in parts {
        assert!(text.contains(part), "no `{part}` in: {text}");
    }
}

/// Runs a command on another thread, because this runtime serves its requests.
async fn beside(url: &str, arguments: &[&str]) -> Outcome {
    let url = url.to_owned();
    let arguments: Vec<_> = arguments.iter().copied().map(str::to_owned).collect();
    let command = move || operator(&url, &arguments.iter().map(String::as_str).collect::<Vec<_>>());
    tokio::task::spawn_blocking(command).await.unwrap()
}

fn start() -> (tempfile::TempDir, Running, String) {
    let folder = tempfile::tempdir().unwrap();
    let running = dev(&folder);
    let url = running.url("service");
    (folder, running, url)
}

#[tokio::test]
async fn operators_manage_a_user_from_the_first_token_to_deletion() {
    let (_folder, _running, url) = start();
    let sign_in = sign_in(&url, json!({"user": "alice"})).await;
    let minted = token(&url, &sign_in).await;
    let identity = minted.identity();

    let table = said(&url, &["users", "list"]);
    let (header, row) = table.split_once('\n').unwrap();
    assert!(header.starts_with("USER") && header.ends_with("IDENTITY"), "{table}");
    assert!(row.starts_with("dev:alice") && row.contains(&identity), "{table}");
    assert_eq!(header.find("IDENTITY"), row.find(&identity), "{table}");

    let record = said(&url, &["users", "show", "dev:alice"]);
    let parts = format!("state: active\nidentity: {identity}\n");
    assert_says(&record, &[&parts, "blocked since: -\n"]);
    let user = json_of(&url, &["users", "show", "dev:alice"]);
    assert_eq!(json_of(&url, &["users", "show", user["id"].as_str().unwrap()]), user);

    let held = json_of(&url, &["users", "tokens", "dev:alice"]);
    assert_eq!(held["tokens"].as_array().unwrap().len(), 1, "{held}");
    assert!(said(&url, &["users", "tokens", "dev:alice"]).contains("FINGERPRINT"));
    let before = json_of(&url, &["users", "tokens", "dev:alice", "--at", "2020-01-01T00:00:00Z"]);
    assert_eq!(before["tokens"], json!([]));

    let revoke = ["users", "revoke", "dev:alice", "--reason", "lost phone", "--wait"];
    let revoked = said(&url, &revoke);
    assert!(revoked.starts_with("revoked dev:alice"), "{revoked}");
    assert_says(&revoked, &["state: completed", "lost phone", "effective by: 2"]);

    let blocked = json_of(&url, &["users", "block", "dev:alice", "--wait"]);
    assert!(blocked["user"]["blockedAt"].is_string(), "{blocked}");
    assert!(said(&url, &["users", "unblock", "dev:alice", "--reason", "found"]).starts_with("unblocked dev:alice"));
    assert!(json_of(&url, &["users", "show", "dev:alice"])["blockedAt"].is_null());

    let refused = complaint(&url, &["users", "delete", "dev:alice"]);
    assert_says(&refused, &["--yes"]);
    assert_eq!(json_of(&url, &["users", "show", "dev:alice"])["state"], "active");
    let deleted = said(&url, &["users", "delete", "dev:alice", "--yes", "--wait"]);
    assert!(deleted.starts_with("deleted dev:alice"), "{deleted}");
    // Deleting again is not an error.
    said(&url, &["users", "delete", "dev:alice", "--yes"]);

    let operations = json_of(&url, &["operations", "--state", "completed"]);
    let id = operations["operations"][0]["id"].as_str().unwrap();
    let record = said(&url, &["operations", "--id", id]);
    assert!(record.starts_with(&format!("operation: {id}\nkind: revoke\n")), "{record}");
    let pending = said(&url, &["operations", "--state", "pending"]);
    assert_eq!(pending.lines().count(), 1, "a header only");

    let trail = json_of(&url, &["audit", "--user", "dev:alice"]);
    let event = |action: &str| {
        let events = trail["events"].as_array().unwrap();
        events.iter().find(|event| event["action"] == action).unwrap_or_else(|| panic!("no {action}: {trail}"))
    };
    for action in ["access_revoked", "user_blocked", "user_unblocked", "user_deleted"] {
        assert_eq!((&event(action)["actorKind"], &event(action)["actor"]), (&json!("operator_key"), &json!("dev")));
    }
    assert_eq!(event("token_minted")["actorKind"], "user");
    let table = said(&url, &["audit", "--actor", "dev", "--action", "access_revoked"]);
    assert_eq!(table.lines().count(), 2, "{table}");
    assert_says(&table, &["operator_key:dev", "lost phone"]);
    let later = said(&url, &["audit", "--since", "2999-01-01T00:00:00+02:00"]);
    assert_eq!(later.lines().count(), 1, "{later}");
    let unknown = complaint(&url, &["audit", "--action", "mischief"]);
    assert_says(&unknown, &["(invalid_request)"]);
}

#[tokio::test]
async fn operators_ensure_and_import_users_before_their_first_sign_in() {
    let (_folder, running, url) = start();
    let odd = "dev:a/b %:ü";
    let ensured = said(&url, &["users", "ensure", odd, "dev:bob"]);
    assert_eq!(ensured.lines().count(), 3, "{ensured}");
    assert_eq!(json_of(&url, &["users", "show", odd])["subject"], "a/b %:ü");
    assert!(said(&url, &["users", "revoke", odd, "--keep-sign-ins", "--wait"]).contains(odd));
    assert!(json_of(&url, &["users", "show", odd])["signInsValidFrom"].is_null());
    let by_subject = said(&url, &["users", "list", "--subject", "a/b %:ü"]);
    assert_eq!(by_subject.lines().count(), 2, "{by_subject}");
    assert!(said(&url, &["audit", "--user", odd]).contains("access_revoked"));

    let bob = json_of(&url, &["users", "show", "dev:bob"]);
    let bobs = bob["communicationUserId"].as_str().unwrap();
    let filters = ["--identity", bobs, "--state=active", "--issuer=dev"];
    let by_identity = json_of(&url, &[&["users", "list"], &filters[..]].concat());
    assert_eq!(by_identity["users"][0]["subject"], "bob");
    let taken = complaint(&url, &["users", "import", "dev:carol", bobs]);
    assert_says(&taken, &["(mapping_conflict)", ", request "]);
    let (resource, _) = bobs.split_once('_').unwrap();
    let old = format!("{resource}_00000000-0000-0000-0000-00000000beef");
    for _ in 0..2 {
        let imported = said(&url, &["users", "import", "dev:carol", &old]);
        assert_says(&imported, &[&format!("identity: {old}\n")]);
    }

    let rule = json!({"operation": "create", "kind": "status", "status": 503});
    set_faults(&running, json!([rule])).await;
    let (good, table, complained) = operator(&url, &["users", "ensure", "dev:bob", "dev:erin"]);
    assert!(!good);
    assert_says(&complained, &["1 of 2 users could not be ensured"]);
    assert_says(&table, &[bobs, "upstream_unavailable"]);
    assert!(complaint(&url, &["users", "ensure", "nonsense"]).contains("(invalid_request)"));
    assert!(complaint(&url, &["users", "show", "nonsense"]).contains("<issuer key>:<subject>"));
    let unknown = complaint(&url, &["users", "show", "dev:nobody"]);
    assert!(unknown.starts_with("error: "), "{unknown}");
    assert_says(&unknown, &["(not_found)"]);
}

#[tokio::test]
async fn a_revocation_that_acs_does_not_confirm_is_shown_as_accepted_and_can_be_waited_for() {
    let (_folder, running, url) = start();
    said(&url, &["users", "ensure", "dev:alice"]);
    let rule = json!({"operation": "revoke", "kind": "status", "status": 503});
    set_faults(&running, json!([rule])).await;
    let mut waiting = piped(&url, &["users", "revoke", "dev:alice", "--wait"]).spawn().unwrap();
    let accepted = said(&url, &["users", "block", "dev:alice"]);
    assert!(accepted.starts_with("accepted: dev:alice"), "{accepted}");
    let said_first = BufReader::new(waiting.stderr.as_mut().unwrap()).lines().next();
    let line = said_first.unwrap().unwrap();
    let pending = said(&url, &["operations", "--state", "pending"]);
    let (_, id) = line.rsplit_once(' ').unwrap();
    assert_says(&line, &["accepted; waiting for ACS"]);
    assert_says(&pending, &[id, "pending"]);
    set_faults(&running, json!([])).await;
    let Output { status, stdout, .. } = waiting.wait_with_output().unwrap();
    let confirmed = String::from_utf8(stdout).unwrap();
    assert!(status.success());
    assert_says(&confirmed, &["revoked dev:alice", id, "state: completed"]);
}

async fn set_faults(running: &Running, rules: Value) {
    let url = format!("{}/_emulator/faults", running.url("emulator"));
    let answer = client().put(url).json(&json!({"rules": rules})).send().await.unwrap();
    assert!(answer.status().is_success());
}

#[test]
fn lists_are_followed_to_their_limit() {
    let (_folder, _running, url) = start();
    let users: Vec<_> = (0..105).map(|number| format!("dev:user{number}")).collect();
    let arguments: Vec<_> = ["users", "ensure"].into_iter().chain(users.iter().map(String::as_str)).collect();
    assert_eq!(said(&url, &arguments).lines().count(), 106);
    let count = |arguments: &[&str]| json_of(&url, arguments)["users"].as_array().unwrap().len();
    assert_eq!(count(&["users", "list"]), 100);
    assert_eq!(count(&["users", "list", "--limit", "7"]), 7);
    assert_eq!(count(&["users", "list", "--all"]), 105);
    let (_, table, hint) = operator(&url, &["users", "list", "--limit", "1"]);
    assert!(table.lines().count() == 2 && hint.contains("--all"), "{table}{hint}");
}

#[test]
fn the_key_comes_from_the_environment_a_file_or_standard_input_and_nowhere_else() {
    let (folder, _running, url) = start();
    let list = ["users", "list", "--url", &url];
    let (good, _, complained) = run(&list, &[]);
    assert!(!good);
    assert_says(&complained, &["VENDOR_OPS_KEY", "--key-file"]);
    let wrong = "atv_dev_wrong-but-still-not-to-be-shown";
    let (good, _, complained) = run(&list, &[("VENDOR_OPS_KEY", wrong)]);
    assert!(!good);
    assert_says(&complained, &["(invalid_token)", ", request "]);
    assert!(!complained.contains(wrong));
    let (good, _, complained) = run(&list, &[("VENDOR_OPS_KEY", "two\nlines")]);
    assert!(!good && complained.contains("characters") && !complained.contains("two"), "{complained}");

    let file = folder.path().join("key");
    fs::write(&file, format!("{OPS_KEY}\n")).unwrap();
    let with_file = [&list[..], &["--key-file", file.to_str().unwrap()]].concat();
    // An option overrides the environment.
    assert!(run(&with_file, &[("VENDOR_OPS_KEY", wrong)]).0);
    let (good, _, complained) = run(&[&list[..], &["--key-file", "/does/not/exist"]].concat(), &[]);
    assert!(!good);
    assert_says(&complained, &["/does/not/exist"]);

    let mut command = piped(&url, &["users", "list", "--key-stdin"]);
    command.env_remove("VENDOR_OPS_KEY").stdin(Stdio::piped());
    let mut child = command.spawn().unwrap();
    child.stdin.take().unwrap().write_all(OPS_KEY.as_bytes()).unwrap();
    let Output { status, stderr, .. } = child.wait_with_output().unwrap();
    assert!(status.success(), "{}", String::from_utf8_lossy(&stderr));
    // As an argument it would be visible in the list of processes.
    assert!(!run(&[&list[..], &["--key", OPS_KEY]].concat(), &[]).0);
}

#[test]
fn a_service_that_does_not_respond_is_named() {
    let complained = complaint("http://127.0.0.1:9", &["users", "list"]);
    assert!(complained.starts_with("error: no response from http://127.0.0.1:9/"), "{complained}");
    let complained = complaint("http://vendor.example", &["audit"]);
    assert_says(&complained, &["VENDOR_URL is plain http", "--allow-http"]);
}

#[tokio::test]
async fn values_chosen_by_others_cannot_control_the_terminal() {
    let user = json!({
        "id": "u_0198f0c1a2b37c4d8e5f60718293a4b5", "issuer": "dev", "subject": "a\u{1b}]0;owned\u{7}\nstate: active",
        "state": "unbound", "communicationUserId": null, "resource": null, "blockedAt": null, "signInsValidFrom": null,
        "pendingOperation": null, "lastMintedAt": null,
        "createdAt": "2026-01-01T00:00:00Z", "updatedAt": "2026-01-01T00:00:00Z", "newMember": "\u{9b}31m",
    });
    let shown = Json(user.clone());
    let listed = Json(json!({"users": [user.clone()], "nextCursor": null}));
    let router =
        Router::new().route("/users/{user}", get(async move || shown)).route("/users", get(async move || listed));
    let url = support::serve(router).await;
    for arguments in [&["users", "show", "dev:a"][..], &["users", "list"], &["users", "show", "dev:a", "--json"]] {
        let (good, said, complained) = beside(&url, arguments).await;
        assert!(good, "{complained}");
        let controls = |c: char| c.is_control() && c != '\n';
        assert!(!said.contains(controls) && !said.contains("\nstate: active"), "{said:?}");
    }
    let (_, said, _) = beside(&url, &["users", "show", "dev:a", "--json"]).await;
    // Scripts get the value unchanged.
    assert_eq!(serde_json::from_str::<Value>(&said).unwrap(), user);
}

#[tokio::test]
async fn responses_of_another_server_are_recognised() {
    let elsewhere = support::serve(Router::new().fallback(async |headers: HeaderMap| {
        assert!(!headers.contains_key(header::AUTHORIZATION));
        "{}"
    }));
    let elsewhere = elsewhere.await;
    let router = Router::new()
        .route("/users", get(async move || Redirect::temporary(&elsewhere)))
        .route("/audit", get(async || "<html>"))
        .route("/operations", get(async || Json(json!({"nextCursor": null}))))
        .route("/users/{user}", get(async || (StatusCode::NOT_FOUND, "nothing here")));
    let url = support::serve(router).await;
    for (arguments, expected) in [
        (&["users", "list"][..], "307"),
        (&["audit"], "without JSON"),
        (&["operations"], "`operations`"),
        (&["users", "show", "dev:a"], "404"),
    ] {
        let (good, said, complained) = beside(&url, arguments).await;
        assert!(!good && said.is_empty(), "{arguments:?}: {said}");
        assert_says(&complained, &[expected, "is this the address of the service?"]);
    }
}

#[tokio::test]
async fn each_write_has_an_idempotency_key_and_a_user_is_one_segment() {
    let echo = async |uri: Uri, headers: HeaderMap, body: String| {
        let key = headers.get("idempotency-key").unwrap().to_str().unwrap();
        let detail = format!("{} {key} {body}", uri.path());
        let problem = json!({
            "type": "urn:acs-token-vendor:problem:overloaded", "title": "The service is too busy", "status": 503,
            "code": "overloaded", "detail": detail, "requestId": "r1",
        });
        let kind = [(header::CONTENT_TYPE, "application/problem+json")];
        (StatusCode::SERVICE_UNAVAILABLE, kind, problem.to_string()).into_response()
    };
    let url = support::serve(Router::new().route("/v/{*rest}", post(echo).delete(echo))).await;
    let url = format!("{url}/v/");
    let revoke = ["users", "revoke", "dev:a/b %:ü", "--keep-sign-ins", "--reason", "why"];
    let (good, _, first) = beside(&url, &revoke).await;
    assert!(!good && first.starts_with("error: The service is too busy (overloaded): "), "{first}");
    assert_says(&first, &["/v/users/dev%3Aa%2Fb%20%25%3A%C3%BC/revoke "]);
    assert!(first.contains(r#"{"reason":"why","rejectOlderSignIns":false}, request r1"#), "{first}");
    let (_, _, second) = beside(&url, &revoke).await;
    assert_ne!(first, second, "each command has another key");
    let (_, _, deletion) = beside(&url, &["users", "delete", "dev:a", "--yes"]).await;
    assert_says(&deletion, &["/v/users/dev%3Aa ", "{}, request r1"]);
}

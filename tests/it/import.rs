//! Streamed imports over HTTP and on the command line, and exports.

use std::{fmt::Write, fs, io, time::Duration};

use acs_token_vendor::dev::OPS_KEY;
use futures_util::stream;
use reqwest::{Method, header};
use serde_json::{Value, json};

use crate::support::{
    Answer, Database, TestApp,
    database::on_each_database,
    eventually,
    ops::{ODD_SUBJECTS, key},
    process::{dev, run},
};

const RESOURCE: &str = "ac80d96a-85de-48b1-995d-a3a3fa3627c8";

fn identity(number: usize) -> String {
    format!("8:acs:{RESOURCE}_{number:08}")
}

fn line(subject: &str, identity: &str) -> String {
    json!({"issuer": "test", "subject": subject, "communicationUserId": identity}).to_string()
}

async fn post(app: &TestApp, role: &str, content_type: &str, body: Vec<u8>) -> Answer {
    let request = app.http.post(format!("{}/users/import", app.url)).bearer_auth(key(role));
    Answer::of(request.header(header::CONTENT_TYPE, content_type).body(body).send().await.unwrap()).await
}

async fn import(app: &TestApp, lines: &[String]) -> Vec<Value> {
    let answer = post(app, "operator", "application/x-ndjson", lines.join("\n").into_bytes()).await;
    assert_eq!(answer.status, 200, "{}", answer.text);
    answer.text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn results(answers: &[Value]) -> Vec<&str> {
    answers.iter().map(|answer| answer["result"].as_str().unwrap()).collect()
}

on_each_database! {
    async fn each_line_has_a_result_in_order(database) {
        let app = TestApp::start(&database).await;
        let minted = app.token(&app.issuer.sign_in("minted"), None).await.identity();
        let identity = |number: usize| format!("{}_{number:08}", minted.split_once('_').unwrap().0);
        app.ops(Method::PUT, "/users/test:taken", Some(json!({"communicationUserId": identity(1)}))).await;
        let lines = [
            line("alice", &identity(2)),
            line("alice", &identity(2)),
            line("alice", &identity(3)),
            line("bob", &identity(1)),
            line("minted", &identity(4)),
            "{\"issuer\": \"test\"}".to_owned(),
            json!(["test", "eve", identity(9)]).to_string(),
            String::new(),
            line("", &identity(5)),
            line("carol", "8:acs:x"),
            json!({"issuer": "nowhere", "subject": "x", "communicationUserId": identity(6)}).to_string(),
            line(&"x".repeat(20_000), &identity(7)),
            line("dave", &identity(8)),
        ];
        let answers = import(&app, &lines).await;
        assert_eq!(answers.iter().map(|answer| answer["line"].as_u64().unwrap()).collect::<Vec<_>>(), (1..=13).collect::<Vec<_>>());
        let expected = [
            "imported", "unchanged", "conflict", "conflict", "conflict", "invalid", "invalid", "invalid", "invalid", "invalid",
            "invalid", "invalid", "imported",
        ];
        assert_eq!(results(&answers), expected, "{answers:?}");
        assert!(answers[5]["detail"].as_str().unwrap().contains("subject"), "{answers:?}");
        assert!(answers[6]["detail"].as_str().unwrap().contains("must be a JSON object"), "{answers:?}");
        assert!(answers[11]["detail"].as_str().unwrap().contains("16384"), "{answers:?}");
        assert_eq!(app.user("alice").await["communicationUserId"], identity(2));
        assert_eq!(app.user("dave").await["state"], "active");
        let trail = app.ops(Method::GET, "/audit?action=identity_imported", None).await.json();
        assert_eq!(trail["events"].as_array().unwrap().len(), 3);
        assert_eq!(trail["events"][0]["actor"], "operator");
    }

    async fn an_import_can_be_repeated(database) {
        let app = TestApp::start(&database).await;
        let mut lines: Vec<_> = (0..1200).map(|number| line(&format!("user{number}"), &identity(number))).collect();
        assert!(results(&import(&app, &lines[..700]).await).iter().all(|result| *result == "imported"));
        lines.extend(ODD_SUBJECTS.iter().enumerate().map(|(index, subject)| line(subject, &identity(9000 + index))));
        let answers = import(&app, &lines).await;
        let results = results(&answers);
        assert!(results[..700].iter().all(|result| *result == "unchanged"));
        assert!(results[700..].iter().all(|result| *result == "imported"));
        assert_eq!(database.count("SELECT COUNT(*) FROM users WHERE state = 'active'").await, 1200 + 12);
    }

    async fn an_identity_that_was_deleted_is_not_imported(database) {
        let app = TestApp::start(&database).await;
        let gone = app.token(&app.issuer.sign_in("alice"), None).await.identity();
        app.ops(Method::DELETE, "/users/test:alice", None).await;
        let answers = import(&app, &[line("bob", &gone), line("carol", &gone)]).await;
        assert_eq!(results(&answers), ["conflict", "conflict"], "{answers:?}");
        assert_eq!(database.count("SELECT COUNT(*) FROM users WHERE subject = 'bob'").await, 0, "no user is created");
    }

    /// The old service may have issued tokens that this one does not know.
    async fn imported_users_are_revoked_with_everyone(database) {
        let app = TestApp::start(&database).await;
        import(&app, &[line("alice", &identity(1))]).await;
        let answer = app.ops(Method::POST, "/revocations", Some(json!({"all": true}))).await.json();
        assert_eq!(answer["total"], 1);
    }
}

#[tokio::test]
async fn only_operators_import_and_only_json_lines() {
    let app = TestApp::start(&Database::sqlite()).await;
    let body = || line("alice", &identity(1)).into_bytes();
    post(&app, "minter", "application/x-ndjson", body()).await.assert_problem(403, "forbidden");
    post(&app, "operator", "application/json", body()).await.assert_problem(415, "unsupported_media_type");
    assert_eq!(post(&app, "operator", "application/x-ndjson", Vec::new()).await.text, "");
    let bad = [b"\xff\xfe\n".to_vec(), line("alice", &identity(1)).into_bytes()].concat();
    let answer = post(&app, "operator", "application/x-ndjson", bad).await;
    let first: Value = serde_json::from_str(answer.text.lines().next().unwrap()).unwrap();
    assert_eq!((&first["line"], &first["result"]), (&json!(1), &json!("invalid")));
    assert!(first["detail"].as_str().unwrap().contains("UTF-8"), "{first}");
}

/// The timeouts for idle and slow connections do not apply to a stream.
#[tokio::test]
async fn a_client_may_pause_between_lines() {
    let app =
        TestApp::start_with(&Database::sqlite(), "[server]\nidle_timeout = \"300ms\"\nwrite_timeout = \"300ms\"").await;
    let lines = stream::unfold(0, async |number| {
        tokio::time::sleep(Duration::from_millis(700)).await;
        let line = line(&format!("user{number}"), &identity(number)) + "\n";
        (number < 4).then_some((Ok::<_, io::Error>(line), number + 1))
    });
    let request = app.http.post(format!("{}/users/import", app.url)).bearer_auth(key("operator"));
    let request = request.header(header::CONTENT_TYPE, "application/x-ndjson");
    let answer = Answer::of(request.body(reqwest::Body::wrap_stream(lines)).send().await.unwrap()).await;
    assert_eq!(answer.text.matches("imported").count(), 4, "{}", answer.text);
}

/// Otherwise imports would escape `ops.max_in_flight` as soon as their response begins.
#[tokio::test]
async fn a_stream_holds_its_permit_until_it_ends() {
    let app = TestApp::start_with(&Database::sqlite(), "[ops]\nmax_in_flight = 1").await;
    let (more, lines) = tokio::sync::mpsc::channel::<io::Result<String>>(1);
    let lines = stream::unfold(lines, async |mut lines| lines.recv().await.map(|line| (line, lines)));
    more.send(Ok(line("alice", &identity(1)) + "\n")).await.unwrap();
    let request = app.http.post(format!("{}/users/import", app.url)).bearer_auth(key("operator"));
    let request = request.header(header::CONTENT_TYPE, "application/x-ndjson");
    let mut answer = request.body(reqwest::Body::wrap_stream(lines)).send().await.unwrap();
    let first = answer.chunk().await.unwrap().unwrap();
    assert!(first.starts_with(b"{\"line\":1,\"result\":\"imported\""), "{first:?}");

    let list = async || app.ops(Method::GET, "/users", None).await;
    list().await.assert_problem(503, "overloaded");
    drop(more);
    assert_eq!(answer.chunk().await.unwrap(), None);
    eventually(async || (list().await.status == 200).then_some(())).await;
}

#[tokio::test]
async fn exported_files_can_be_imported() {
    let folder = tempfile::tempdir().unwrap();
    let running = dev(&folder);
    let url = running.url("service");
    let operator = |arguments: &[&str]| run(arguments, &[("VENDOR_URL", &url), ("VENDOR_OPS_KEY", OPS_KEY)]);
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let mut csv = "subject,issuer,identity,remark\n".to_owned();
    for number in 0..50 {
        writeln!(csv, "\"user, {number}\",dev,{},x", identity(number)).unwrap();
    }
    fs::write(path("users.csv"), &csv).unwrap();
    let (good, said, complained) = operator(&["import", &path("users.csv")]);
    assert!(good && said.contains("50 imported, 0 unchanged, 0 failed"), "{said}\n{complained}");

    csv += "nobody,dev,8:acs:x,\nuser51,dev\n";
    fs::write(path("more.csv"), &csv).unwrap();
    let (good, said, complained) = operator(&["import", &path("more.csv")]);
    assert!(!good && said.contains("0 imported, 50 unchanged, 2 failed"), "{said}\n{complained}");
    assert!(complained.contains("line 52: `communicationUserId`") && complained.contains("line 53:"), "{complained}");
    let (good, said, _) = operator(&["import", &path("more.csv"), "--from-line", "50"]);
    assert!(!good && said.contains("0 imported, 2 unchanged, 2 failed"), "{said}");

    let (good, _, complained) = operator(&["export", "--output", &path("out.jsonl")]);
    assert!(good && complained.contains("50 mappings exported"), "{complained}");
    let out = fs::read_to_string(path("out.jsonl")).unwrap();
    let first: Value = serde_json::from_str(out.lines().next().unwrap()).unwrap();
    assert_eq!(first, json!({"issuer": "dev", "subject": "user, 0", "communicationUserId": identity(0)}));
    let (good, said, _) = operator(&["import", &path("out.jsonl")]);
    assert!(good && said.contains("0 imported, 50 unchanged, 0 failed"), "{said}");
    let (good, said, _) = operator(&["export", "--format", "csv"]);
    assert!(good && said.starts_with("issuer,subject,communicationUserId\ndev,\"user, 0\",8:acs:"), "{said}");

    let (good, _, complained) = operator(&["import", &path("out.txt")]);
    assert!(!good && complained.contains("--format"), "{complained}");
    fs::write(path("headless.csv"), "a,b\n1,2\n").unwrap();
    let (good, _, complained) = operator(&["import", &path("headless.csv")]);
    assert!(!good && complained.contains("no column `issuer`"), "{complained}");
}

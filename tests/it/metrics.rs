//! Metrics: each registered one moves when what it counts happens.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use reqwest::StatusCode;
use serde_json::json;

use crate::support::{Database, TestApp, eventually};

const KEY: &str = "[tokens]\nencryption_keys = \"QUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUE=\"\n";
/// Another key, so that what the first one encrypted does not decrypt, and limits that a test reaches.
const SETTINGS: &str = "[tokens]\nencryption_keys = \"QkJCQkJCQkJCQkJCQkJCQkJCQkJCQkJCQkJCQkJCQkI=\"\n\
                        [server]\nmax_in_flight = 1\n[limits]\nuser = { requests = 5, per = \"1h\" }\n[quota]\nissue = 3\n";

/// All samples of each registered metric.
async fn read(app: &TestApp) -> BTreeMap<String, Vec<String>> {
    let text = app.http.get(format!("{}/metrics", app.admin_url)).send().await.unwrap().text().await.unwrap();
    let names = text.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split_once(' '));
    names
        .map(|(name, _)| {
            let samples = text.lines().filter(|line| line.starts_with(name)).map(str::to_owned);
            (name.to_owned(), samples.collect())
        })
        .collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_metric_moves() {
    let database = Database::sqlite();
    let first = TestApp::start_with(&database, KEY).await;
    first.token(&first.issuer.sign_in("alice"), None).await.token();
    let app = first.another_with(SETTINGS).await;
    let before = read(&app).await;
    let mut moved = BTreeSet::new();
    let mut expect = async |names: &[&str]| {
        let now = read(&app).await;
        for name in names {
            assert_ne!(before.get(*name), now.get(*name), "{name} did not move");
            moved.insert((*name).to_owned());
        }
    };

    let alice = app.issuer.sign_in("alice");
    app.token(&alice, None).await.token();
    let counted = ["vendor_tokens_issued", "vendor_undecryptable_cached_tokens", "vendor_upstream_call_seconds"];
    expect(&counted).await;
    expect(&["vendor_request_seconds"]).await;

    app.acs.fault(json!({"operation": "create", "kind": "delay", "delayMs": 1000, "count": 1})).await;
    let calls = app.acs.stats().await["calls"]["create"].as_u64().unwrap();
    let bob = app.issuer.sign_in("bob");
    let (served, ()) = tokio::join!(app.token(&bob, None), async {
        app.acs.wait_for_calls("create", calls + 1).await;
        app.token(&alice, None).await.assert_problem(503, "overloaded");
    });
    served.token();
    expect(&["vendor_requests_shed"]).await;

    let scopes = [json!(["chat"]), json!(["voip"]), json!(["chat", "voip"])];
    let mut answers = Vec::new();
    for scopes in scopes.iter().cycle().take(6) {
        database.execute("UPDATE users SET cached_tokens = NULL").await;
        answers.push(app.token(&bob, Some(json!({"scopes": scopes}))).await);
    }
    assert!(answers.iter().any(|answer| answer.status == StatusCode::SERVICE_UNAVAILABLE), "{answers:?}");
    answers.last().unwrap().assert_problem(429, "rate_limited");
    expect(&["vendor_quota_refusals", "vendor_requests_rate_limited"]).await;

    app.acs.fault(json!({"operation": "revoke", "kind": "status", "status": 503})).await;
    assert_eq!(app.revoke("bob").await.status, StatusCode::ACCEPTED);
    app.clock.advance(Duration::from_secs(90));
    let age = async || app.metric("vendor_oldest_pending_operation_age_seconds").await;
    eventually(async || (age().await >= 90).then_some(())).await;
    expect(&["vendor_oldest_pending_operation_age_seconds"]).await;
    app.acs.faults(&[]).await;
    app.clock.advance(Duration::from_mins(1));
    eventually(async || (age().await == 0).then_some(())).await;

    // A metric without samples is not exported, so the registrations are counted in the source.
    let registered = include_str!("../../src/metrics.rs").matches("registry.register").count();
    assert_eq!(moved.len(), registered, "this test must move every registered metric: {moved:?}");
}

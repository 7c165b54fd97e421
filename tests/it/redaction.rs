//! No secret in any log, at any level, from any crate.

use std::{
    io,
    sync::{Arc, Mutex},
};

use serde_json::json;
use tracing_subscriber::fmt::MakeWriter;

use crate::support::{ACCESS_KEY, Database, TestApp, ops};

/// A log in memory.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Log {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}

/// One test in a process of its own, because a log is for the whole process.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_secret_is_logged_at_trace() {
    let log = Log::default();
    let subscriber = tracing_subscriber::fmt().with_max_level(tracing::Level::TRACE).with_writer(log.clone()).finish();
    // Under a runner with one process for all tests, another test's log may be there already: then this one proves nothing.
    assert!(tracing::subscriber::set_global_default(subscriber).is_ok(), "run with cargo nextest");

    let app = TestApp::start(&Database::sqlite()).await;
    let good = app.issuer.login("alice");
    let guest = app.issuer.login_with("guest", json!({"role": "guest"}));
    let expired = app.issuer.login_with("alice", json!({"exp": 1}));
    let mut secrets = vec![good.clone(), guest.clone(), expired.clone(), ACCESS_KEY.to_owned()];
    for login in [&good, &good, &guest] {
        secrets.push(app.token(login, None).await.token());
    }
    app.token(&expired, None).await.assert_problem(401, "invalid_token");
    app.token(&guest, Some(json!({"scopes": ["voip"]}))).await.assert_problem(403, "scope_not_allowed");
    app.token(&good, Some(json!({"token": good}))).await.assert_problem(400, "invalid_request");
    app.me(&good).await;
    let header = [("idempotency-key", "k")];
    app.ops_as("operator", reqwest::Method::POST, "/users/test:guest/revoke", None, &header).await;
    secrets.push(ops::key("operator"));
    for fault in [
        json!({"operation": "*", "kind": "status", "status": 503, "count": 1}),
        json!({"operation": "*", "kind": "drop_after", "count": 1}),
    ] {
        app.acs.fault(fault).await;
        secrets.push(app.token(&good, None).await.token());
    }
    app.stop().await.unwrap();

    let log = String::from_utf8_lossy(&log.0.lock().unwrap()).into_owned();
    for proof in ["token issued", "request refused", "INSERT INTO audit_events"] {
        assert!(log.contains(proof), "the log is not what it should be: no `{proof}` in {} bytes", log.len());
    }
    for secret in secrets {
        // A signature is the secret part of a token: without it the rest is worth nothing, so both are looked for.
        let signature = secret.rsplit('.').next().unwrap();
        for part in [secret.as_str(), signature] {
            let place = log.find(part).map(|at| log[at.saturating_sub(300)..at].to_owned());
            assert_eq!(place, None, "a secret was logged after this");
        }
    }
    assert!(!log.contains("Signature="), "a request signature was logged");
}

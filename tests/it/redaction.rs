//! No secret in any log, at any level, from any crate.

use std::{
    io,
    sync::{Arc, Mutex},
};

use acs_token_vendor::domain::clock::Clock;
use reqwest::Method;
use serde_json::json;
use tracing_subscriber::fmt::MakeWriter;

use crate::{
    reuse::REUSE,
    support::{Database, SECOND_KEY, TestAcs, TestApp, TestIssuer, database::on_each_database, ops},
};

/// An access key that ACS does not accept any more, so that the second key is used too.
const ROTATED_KEY: &str = "YSBrZXkgdGhhdCB3YXMgcm90YXRlZCBhd2F5";
const ENCRYPTION_KEY: &str = "QUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUE=";
const PASSWORD: &str = "the-password-of-the-database";

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

/// Adds a password that the server does not ask for.
fn with_password(database: Database) -> Database {
    match database {
        Database::Postgres { url } => Database::Postgres { url: url.replacen('@', &format!(":{PASSWORD}@"), 1) },
        sqlite @ Database::Sqlite { .. } => sqlite,
    }
}

on_each_database! {
    /// A log is for the whole process, so each case needs one of its own, as `cargo nextest` gives it.
    async fn no_secret_is_logged_at_trace(database) {
        let log = Log::default();
        let subscriber = tracing_subscriber::fmt().with_max_level(tracing::Level::TRACE).with_writer(log.clone()).finish();
        assert!(tracing::subscriber::set_global_default(subscriber).is_ok(), "run with cargo nextest");

        let database = with_password(database);
        let clock = Clock::default();
        let mut acs = TestAcs::start(&clock).await;
        acs.keys = (ROTATED_KEY, Some(SECOND_KEY));
        let issuer = TestIssuer::start(&clock).await;
        let app = TestApp::replica(&database, REUSE, &clock, acs, issuer).await;
        let good = app.issuer.sign_in("alice");
        let guest = app.issuer.sign_in_with("guest", json!({"role": "guest"}));
        let expired = app.issuer.sign_in_with("alice", json!({"exp": 1}));
        let keys = [ROTATED_KEY, SECOND_KEY, ENCRYPTION_KEY, PASSWORD].map(str::to_owned);
        let mut secrets = Vec::from(keys);
        secrets.extend(["operator", "viewer"].map(ops::key));
        secrets.extend([good.clone(), guest.clone(), expired.clone()]);
        let tokens = [app.token(&good, None).await.token(), app.token(&good, None).await.token()];
        assert_eq!(tokens[0], tokens[1], "the second one was cached");
        secrets.push(tokens[0].clone());
        secrets.push(app.token(&guest, None).await.token());
        app.token(&expired, None).await.assert_problem(401, "invalid_token");
        app.token(&guest, Some(json!({"scopes": ["voip"]}))).await.assert_problem(403, "scope_not_allowed");
        app.token(&good, Some(json!({"token": good}))).await.assert_problem(400, "invalid_request");
        app.me(&good).await.identity();
        app.ops_as("viewer", Method::POST, "/users/test:guest/revoke", None, &[]).await.assert_problem(403, "forbidden");
        let header = [("idempotency-key", "k")];
        let revoked = app.ops_as("operator", Method::POST, "/users/test:guest/revoke", None, &header).await;
        assert!(revoked.status.is_success(), "{}", revoked.text);
        for (fault, scopes) in [
            (json!({"operation": "*", "kind": "status", "status": 503, "count": 1}), ["chat"]),
            (json!({"operation": "*", "kind": "drop_after", "count": 1}), ["voip"]),
        ] {
            app.acs.fault(fault).await;
            secrets.push(app.token(&good, Some(json!({"scopes": scopes}))).await.token());
        }
        // A cached token that cannot be decrypted.
        secrets.push(app.token(&app.issuer.sign_in("bob"), None).await.token());
        let swap = "UPDATE users SET cached_tokens = (SELECT cached_tokens FROM users WHERE subject = 'bob') WHERE subject = 'alice'";
        assert_eq!(database.execute(swap).await, 1);
        secrets.push(app.token(&good, None).await.token());
        assert_eq!(app.metric("vendor_undecryptable_cached_tokens_total").await, 1);
        assert_eq!(app.acs.stats().await["unauthorized"], 1, "the first access key was refused");
        app.stop().await.unwrap();

        let log = String::from_utf8_lossy(&log.0.lock().unwrap()).into_owned();
        for proof in ["INSERT INTO audit_events", "UPDATE users", "invalid_token"] {
            assert!(log.contains(proof), "the log has no `{proof}` in {} bytes", log.len());
        }
        for secret in secrets {
            // The signature is the secret part of a token.
            let signature = secret.rsplit('.').next().unwrap();
            for part in [secret.as_str(), signature] {
                let before = log.find(part).map(|at| String::from_utf8_lossy(&log.as_bytes()[at.saturating_sub(300)..at]).into_owned());
                assert_eq!(before, None, "a secret was logged after this");
            }
        }
        assert!(!log.contains("Signature="), "a request signature was logged");
    }
}

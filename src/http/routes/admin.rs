//! The admin listener: liveness, readiness and metrics, for probes and monitoring only.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU8, Ordering},
    },
    time::Duration,
};

use axum::{
    Json, Router,
    extract::State,
    http::{HeaderName, StatusCode, header::CONTENT_TYPE},
    routing::get,
};

use crate::api::Readiness;
use crate::http::Api;

/// Where the process is in its life, as `/readyz` tells it.
#[derive(Clone, Debug, Default)]
pub struct Lifecycle(Arc<AtomicU8>);

const STARTING: u8 = 0;
const READY: u8 = 1;
const STOPPING: u8 = 2;

impl Lifecycle {
    /// Requests are welcome from now on.
    pub fn ready(&self) {
        self.0.store(READY, Ordering::Relaxed);
    }

    /// New requests should go elsewhere from now on.
    pub fn stopping(&self) {
        self.0.store(STOPPING, Ordering::Relaxed);
    }

    fn word(&self) -> &'static str {
        match self.0.load(Ordering::Relaxed) {
            STARTING => "starting",
            READY => "ready",
            _ => "stopping",
        }
    }
}

/// Builds the admin router.
pub fn router(api: Api, lifecycle: Lifecycle) -> Router {
    Router::new()
        .route("/livez", get(async || "ok\n"))
        .route("/readyz", get(readyz))
        .route("/metrics", get(metrics))
        .with_state((api, lifecycle))
}

/// The content type is that of OpenMetrics 1.0, which Prometheus reads.
async fn metrics(State((api, _)): State<(Api, Lifecycle)>) -> ([(HeaderName, &'static str); 1], String) {
    ([(CONTENT_TYPE, "application/openmetrics-text; version=1.0.0; charset=utf-8")], api.metrics.render())
}

/// Ready is who has started and is not stopping: were every replica to leave the load balancer when the database is away,
/// callers would see the proxy's bare error instead of ours with `Retry-After`.
async fn readyz(State((api, lifecycle)): State<(Api, Lifecycle)>) -> (StatusCode, Json<Readiness>) {
    let word = |good: bool| if good { "available" } else { "unavailable" }.to_owned();
    let status = lifecycle.word();
    // A probe has no patience: a database that takes longer is as good as away.
    let database = tokio::time::timeout(Duration::from_millis(500), api.store.ping()).await;
    let code = if status == "ready" { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let body = Readiness {
        status: status.to_owned(),
        database: word(database.is_ok_and(|answer| answer.is_ok())),
        keys: api.authenticator.readiness().map(|(key, ready)| (key.to_owned(), word(ready))).collect(),
    };
    (code, Json(body))
}

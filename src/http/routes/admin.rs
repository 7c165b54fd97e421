//! The admin listener: liveness, readiness and metrics, for probes and monitoring only.

use std::time::Duration;

use axum::{
    Json, Router,
    extract::State,
    http::{HeaderName, StatusCode, header::CONTENT_TYPE},
    routing::get,
};
use tokio::{sync::watch, time::timeout};

use crate::{api::Readiness, http::state::AppState};

/// The longest that a probe waits for the database.
const PING_TIMEOUT: Duration = Duration::from_millis(500);

/// The phase of the process, as `/readyz` reports it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Lifecycle {
    #[default]
    Starting,
    Ready,
    Stopping,
}

impl Lifecycle {
    fn as_str(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Ready => "ready",
            Self::Stopping => "stopping",
        }
    }
}

pub(crate) fn router(state: AppState, lifecycle: watch::Receiver<Lifecycle>) -> Router {
    Router::new()
        .route("/livez", get(async || "ok\n"))
        .route("/readyz", get(readyz))
        .route("/metrics", get(metrics))
        .with_state((state, lifecycle))
}

type AdminState = State<(AppState, watch::Receiver<Lifecycle>)>;

/// The content type is that of OpenMetrics 1.0, which Prometheus reads.
async fn metrics(State((state, _)): AdminState) -> ([(HeaderName, &'static str); 1], String) {
    ([(CONTENT_TYPE, "application/openmetrics-text; version=1.0.0; charset=utf-8")], state.metrics.render())
}

/// The database is reported but does not decide: if every replica left the load balancer while it is unavailable, callers
/// would see the proxy's bare error instead of ours with `Retry-After`.
async fn readyz(State((state, lifecycle)): AdminState) -> (StatusCode, Json<Readiness>) {
    let word = |is_available: bool| if is_available { "available" } else { "unavailable" }.to_owned();
    let phase = *lifecycle.borrow();
    let database = timeout(PING_TIMEOUT, state.store.ping()).await;
    let status = if phase == Lifecycle::Ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let body = Readiness {
        status: phase.as_str().to_owned(),
        database: word(matches!(database, Ok(Ok(())))),
        keys: state.authenticator.readiness().map(|(key, is_ready)| (key.to_owned(), word(is_ready))).collect(),
    };
    (status, Json(body))
}

//! Limits how many requests are handled at once. Requests over the limit are refused at once, which costs almost nothing.

use std::{sync::Arc, time::Duration};

use axum::{
    body::{Body, HttpBody},
    extract::{Request, State},
    middleware::Next,
    response::Response,
};
use futures_util::StreamExt;
use tokio::sync::Semaphore;

use crate::{
    http::problem::{Code, Problem},
    metrics::Metrics,
};

/// The range of `Retry-After` in seconds; random, so that refused clients do not all come back at the same moment.
const RETRY_AFTER: std::ops::RangeInclusive<u64> = 1..=3;

/// The concurrency limit of one kind of caller.
#[derive(Clone)]
pub(in crate::http) struct ConcurrencyLimit {
    name: &'static str,
    permits: Arc<Semaphore>,
    metrics: Arc<Metrics>,
}

impl ConcurrencyLimit {
    pub(in crate::http) fn new(name: &'static str, permits: usize, metrics: &Arc<Metrics>) -> Self {
        Self { name, permits: Arc::new(Semaphore::new(permits)), metrics: Arc::clone(metrics) }
    }
}

/// Holds a permit until the response is complete, including a body that is streamed.
pub(in crate::http) async fn limit(
    State(limit): State<ConcurrencyLimit>,
    request: Request,
    next: Next,
) -> Result<Response, Problem> {
    let Ok(permit) = limit.permits.try_acquire_owned() else {
        limit.metrics.request_shed(limit.name);
        return Err(Problem::new(Code::Overloaded).retry_after(Duration::from_secs(fastrand::u64(RETRY_AFTER))));
    };
    let response = next.run(request).await;
    if response.body().size_hint().exact().is_some() {
        return Ok(response);
    }
    Ok(response.map(|body| {
        Body::from_stream(body.into_data_stream().inspect(move |_| {
            let _held = &permit;
        }))
    }))
}

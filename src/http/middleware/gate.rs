//! What a request has to pass before its handler: its body must be there, there must be room, and its login must be good
//! and not over its limit.
//!
//! In this order: a slow body holds no place, a place is cheaper to refuse than a login is to check, and a limit needs to
//! know whose it is.

use std::{net::IpAddr, sync::Arc, time::Duration};

use axum::{
    body::{Body, HttpBody},
    extract::{Request, State},
    http::{HeaderMap, HeaderName, HeaderValue},
    middleware::Next,
    response::Response,
};
use futures_util::StreamExt;
use tokio::sync::{Semaphore, SemaphorePermit};

use crate::http::{
    Api, Limits,
    extract::bearer,
    middleware::access_log::ClientAddress,
    problem::{Code, Problem},
};
use crate::{
    auth,
    limit::{Limit, RateLimitStatus, Turns},
    metrics::Metrics,
};

/// The largest body that a user's request may have.
const MAX_BODY_BYTES: usize = 16 * 1024;

const RATE_LIMIT: HeaderName = HeaderName::from_static("ratelimit");
const RATE_LIMIT_POLICY: HeaderName = HeaderName::from_static("ratelimit-policy");

/// The gate before the routes of app users.
#[derive(Clone)]
pub(in crate::http) struct Gate {
    pub(in crate::http) api: Api,
    pub(in crate::http) share: Share,
    pub(in crate::http) limit: fn(&Limits) -> &Limit,
    /// How long a body may take.
    pub(in crate::http) body_patience: Duration,
}

/// Lets a user's request pass; the answer tells how the user stands.
pub(in crate::http) async fn pass(State(gate): State<Gate>, request: Request, next: Next) -> Result<Response, Problem> {
    let Gate { api, share, limit, body_patience } = &gate;
    let mut request = whole_body(request, *body_patience).await?;
    let _place = share.take()?;
    let token = bearer(request.headers()).ok_or(auth::Error::Missing)?;
    let login = match api.authenticator.authenticate(token).await {
        Ok(login) => login,
        Err(error) => return Err(count_failure(api, &request, error)),
    };
    let standing = limit(&api.limits).count(&login.app_user);
    if standing.is_exceeded {
        return Err(refused(api, standing));
    }
    request.extensions_mut().insert(login);
    let mut response = next.run(request).await;
    write(response.headers_mut(), standing);
    Ok(response)
}

/// Reads the whole body, so that a client who sends it slowly waits for itself only.
async fn whole_body(request: Request, patience: Duration) -> Result<Request, Problem> {
    if request.body().is_end_stream() {
        return Ok(request);
    }
    let (parts, body) = request.into_parts();
    let body = tokio::time::timeout(patience, collect(body)).await;
    let body = body.map_err(|_| Problem::new(Code::InvalidRequest).detail("the body took too long to arrive"))??;
    Ok(Request::from_parts(parts, body.into()))
}

async fn collect(body: Body) -> Result<Vec<u8>, Problem> {
    let mut bytes = Vec::new();
    let mut chunks = body.into_data_stream();
    while let Some(chunk) = chunks.next().await {
        let chunk = chunk.map_err(|_| Problem::new(Code::InvalidRequest).detail("the body could not be read"))?;
        if bytes.len() + chunk.len() > MAX_BODY_BYTES {
            return Err(Problem::new(Code::PayloadTooLarge));
        }
        bytes.extend_from_slice(&chunk);
    }
    Ok(bytes)
}

/// The places for requests of one kind of caller: who finds none is refused at once, which costs next to nothing.
#[derive(Clone)]
pub(in crate::http) struct Share {
    name: &'static str,
    places: Arc<Semaphore>,
    turns: Arc<Turns>,
    metrics: Arc<Metrics>,
}

impl Share {
    pub(in crate::http) fn new(name: &'static str, places: usize, metrics: &Arc<Metrics>) -> Self {
        Self {
            name,
            places: Arc::new(Semaphore::new(places)),
            turns: Arc::new(Turns::new(places)),
            metrics: Arc::clone(metrics),
        }
    }

    fn take(&self) -> Result<Place<'_>, Problem> {
        let permit = self.places.try_acquire().map_err(|_| {
            self.metrics.request_shed(self.name);
            Problem::new(Code::Overloaded).retry_after(self.turns.next())
        })?;
        Ok(Place { _permit: permit, turns: &self.turns })
    }
}

/// A place that is held while a request is answered.
struct Place<'a> {
    _permit: SemaphorePermit<'a>,
    turns: &'a Turns,
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.turns.served();
    }
}

/// Holds a place while a request is answered.
pub(in crate::http) async fn shed(
    State(share): State<Share>,
    request: Request,
    next: Next,
) -> Result<Response, Problem> {
    let _place = share.take()?;
    Ok(next.run(request).await)
}

/// Refuses a login, and whoever presents too many bad ones from one address with something else to read.
///
/// A good login is never refused for what its neighbours do, so the address is looked at only after the login.
fn count_failure(api: &Api, request: &Request, error: auth::Error) -> Problem {
    let is_callers_fault = match error {
        auth::Error::Invalid(_) | auth::Error::UnknownIssuer => true,
        auth::Error::Missing | auth::Error::UnknownKey | auth::Error::KeysUnavailable { .. } => false,
    };
    let client = request.extensions().get::<ClientAddress>().and_then(|client| client.0);
    match (&api.limits.failed_sign_ins, client) {
        (Some(limit), Some(client)) if is_callers_fault => {
            let standing = limit.count(network(client));
            if standing.is_exceeded { refused(api, standing) } else { error.into() }
        }
        _ => error.into(),
    }
}

/// One subscriber has a whole IPv6 network of 64 bits (RFC 6177), so its addresses count as one.
fn network(client: IpAddr) -> u64 {
    match client {
        IpAddr::V4(address) => u64::from(u32::from(address)),
        IpAddr::V6(address) => u64::from_be_bytes(address.octets()[..8].try_into().unwrap_or_default()) | 1 << 63,
    }
}

fn refused(api: &Api, standing: RateLimitStatus) -> Problem {
    api.metrics.request_rate_limited(standing.limit);
    Problem::new(Code::RateLimited).retry_after(standing.next_in).standing(standing)
}

/// Writes how a caller stands (draft-ietf-httpapi-ratelimit-headers-10).
pub(in crate::http) fn write(headers: &mut HeaderMap, standing: RateLimitStatus) {
    let RateLimitStatus { limit, rate, remaining, next_in, .. } = standing;
    let seconds = |time: Duration| time.as_millis().div_ceil(1000);
    let policy = format!("\"{limit}\";q={};w={}", rate.requests, seconds(rate.per));
    let state = format!("\"{limit}\";r={remaining};t={}", seconds(next_in));
    for (name, value) in [(RATE_LIMIT_POLICY, policy), (RATE_LIMIT, state)] {
        if let Ok(value) = HeaderValue::try_from(value) {
            headers.insert(name, value);
        }
    }
}

//! The layers around the routes; their order stands in `http.rs`.

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::{Duration, Instant},
};

use axum::{
    Json,
    extract::{ConnectInfo, MatchedPath, Request, State},
    http::{HeaderMap, HeaderName, HeaderValue, Method, header},
    middleware::Next,
    response::{IntoResponse, Response},
};
use chrono::{DateTime, Utc};
use ipnet::IpNet;
use tower_http::cors::{AllowOrigin, CorsLayer};
use tracing::Instrument;
use uuid::Uuid;

use crate::http::{
    middleware::gate,
    problem::{Code, Problem},
};
use crate::{api::ProblemDocument, domain::user::UserId, metrics::Metrics, tokens::issue::TokenSource};

/// Headers whose values no layer may log.
pub(in crate::http) const SENSITIVE_HEADERS: [HeaderName; 2] = [header::AUTHORIZATION, header::COOKIE];

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// What a request is called in answers, logs and the audit trail.
#[derive(Clone, Debug)]
pub(in crate::http) struct RequestId(pub(in crate::http) Arc<str>);

/// The address of whoever sent a request, as far as it can be known.
#[derive(Clone, Copy, Debug)]
pub(in crate::http) struct ClientAddress(pub(in crate::http) Option<IpAddr>);

/// What the outermost layer works with.
#[derive(Clone)]
pub(in crate::http) struct Observer {
    pub(in crate::http) trusted: Arc<[IpNet]>,
    pub(in crate::http) metrics: Arc<Metrics>,
}

/// Names a request, finds out who sent it, and sees it to its end: the one place where failures are written and logged,
/// and where every request leaves its line in the log.
pub(in crate::http) async fn observe(State(observer): State<Observer>, mut request: Request, next: Next) -> Response {
    let begun = Instant::now();
    let id = RequestId(request_id(request.headers()).into());
    let peer = request.extensions().get::<ConnectInfo<SocketAddr>>().map(|info| info.0.ip().to_canonical());
    let client = peer.map(|peer| behind_proxies(peer, request.headers(), &observer.trusted));
    // The route is logged as its template, because a path may name a person.
    let route = request.extensions().get::<MatchedPath>().cloned();
    let route = || route.as_ref().map_or("-", MatchedPath::as_str);
    let span = tracing::info_span!("request", method = %request.method(), route = route(), id = &*id.0);
    request.extensions_mut().insert(id.clone());
    request.extensions_mut().insert(ClientAddress(client));
    let mut response = next.run(request).instrument(span.clone()).await;
    let took = begun.elapsed();
    let latency_us = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
    // One line for each request, however it ended.
    span.in_scope(|| match (response.extensions_mut().remove::<Problem>(), response.extensions_mut().remove()) {
        (Some(problem), _) => {
            problem.log(Some(latency_us));
            render(problem, &mut response, &id);
        }
        (None, Some(issued_event)) => log_token(&issued_event, latency_us),
        (None, None) => tracing::info!(status = response.status().as_u16(), latency_us, "answered"),
    });
    if let Ok(value) = HeaderValue::from_str(&id.0) {
        response.headers_mut().insert(REQUEST_ID, value);
    }
    observer.metrics.request(route(), response.status().as_u16(), took);
    response
}

/// What the log keeps of a token that leaves the house: enough to find who received which.
#[derive(Clone)]
pub(in crate::http) struct TokenIssuedEvent {
    pub(in crate::http) user: UserId,
    pub(in crate::http) fingerprint: String,
    pub(in crate::http) how: TokenSource,
    pub(in crate::http) expires_on: DateTime<Utc>,
    pub(in crate::http) sign_in_id: Option<String>,
    pub(in crate::http) session_id: Option<String>,
    pub(in crate::http) client: Option<IpAddr>,
}

fn log_token(token: &TokenIssuedEvent, latency_us: u64) {
    tracing::info!(
        status = 200,
        latency_us,
        user = token.user.as_str(),
        fingerprint = token.fingerprint,
        how = token.how.as_str(),
        expires_on = %token.expires_on,
        sign_in_jti = token.sign_in_id,
        sign_in_sid = token.session_id,
        client = token.client.map(tracing::field::display),
        "token handed out"
    );
}

/// Returns what the request says that it is called, if that is a plain short word, else a new name.
fn request_id(headers: &HeaderMap) -> String {
    let is_plain = |text: &&str| {
        (1..=64).contains(&text.len()) && text.bytes().all(|c| c.is_ascii_alphanumeric() || b"-_.".contains(&c))
    };
    let given = headers.get(&REQUEST_ID).and_then(|value| value.to_str().ok()).filter(is_plain);
    given.map_or_else(|| Uuid::now_v7().to_string(), str::to_owned)
}

/// Walks `X-Forwarded-For` from its end, where the nearest proxy wrote, as long as who wrote is trusted.
fn behind_proxies(peer: IpAddr, headers: &HeaderMap, trusted: &[IpNet]) -> IpAddr {
    let is_trusted = |address: &IpAddr| trusted.iter().any(|network| network.contains(address));
    if !is_trusted(&peer) {
        return peer;
    }
    let forwarded = headers.get_all("x-forwarded-for").iter().filter_map(|value| value.to_str().ok());
    let mut hops: Vec<_> = forwarded.flat_map(|line| line.split(',')).map(str::trim).collect();
    let mut client = peer;
    while is_trusted(&client) {
        match hops.pop().and_then(|hop| hop.parse::<IpAddr>().ok()) {
            Some(hop) => client = hop.to_canonical(),
            None => break,
        }
    }
    client
}

/// Gives a problem its body.
fn render(problem: Problem, response: &mut Response, id: &RequestId) {
    let (status, code, title) = problem.code.describe();
    let document = ProblemDocument {
        kind: format!("urn:acs-token-vendor:problem:{code}"),
        title: title.to_owned(),
        status: status.as_u16(),
        code: code.to_owned(),
        detail: problem.detail.as_ref().map(ToString::to_string),
        request_id: id.0.to_string(),
    };
    let rendered = Json(document).into_response();
    // The headers that layers and routes have set stay: CORS and `Allow` among them.
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
    headers.remove(header::CONTENT_LENGTH);
    for (name, value) in problem.headers() {
        headers.insert(name, value);
    }
    if let Some(standing) = problem.standing {
        gate::write(headers, *standing);
    }
    *response.body_mut() = rendered.into_body();
}

/// Refuses a request that takes too long.
pub(in crate::http) async fn deadline(timeout: Duration, request: Request, next: Next) -> Response {
    match tokio::time::timeout(timeout, next.run(request)).await {
        Ok(response) => response,
        Err(_) => Problem::response(Code::Overloaded),
    }
}

/// Lets the configured browser origins call.
pub(in crate::http) fn cors(origins: &[String]) -> CorsLayer {
    let origins: Vec<HeaderValue> = origins.iter().filter_map(|origin| HeaderValue::from_str(origin).ok()).collect();
    CorsLayer::new()
        .allow_origin(AllowOrigin::list(origins))
        .allow_methods([Method::GET, Method::POST, Method::PUT, Method::DELETE])
        .allow_headers([
            header::AUTHORIZATION,
            header::CONTENT_TYPE,
            HeaderName::from_static("idempotency-key"),
            REQUEST_ID,
        ])
        .expose_headers([
            header::RETRY_AFTER,
            header::WWW_AUTHENTICATE,
            HeaderName::from_static("ratelimit"),
            HeaderName::from_static("ratelimit-policy"),
            REQUEST_ID,
        ])
        .max_age(Duration::from_mins(10))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_trusted_proxies_are_believed() {
        let trusted: Vec<IpNet> = vec!["10.0.0.0/8".parse().unwrap(), "192.0.2.7/32".parse().unwrap()];
        let client = |peer: &str, lines: &[&str]| {
            let mut headers = HeaderMap::new();
            for line in lines {
                headers.append("x-forwarded-for", line.parse().unwrap());
            }
            behind_proxies(peer.parse().unwrap(), &headers, &trusted).to_string()
        };
        assert_eq!(client("203.0.113.1", &["198.51.100.1"]), "203.0.113.1", "a stranger may write what they like");
        assert_eq!(client("10.0.0.1", &["198.51.100.1"]), "198.51.100.1");
        assert_eq!(client("10.0.0.1", &["1.1.1.1, 198.51.100.1, 192.0.2.7"]), "198.51.100.1");
        assert_eq!(client("10.0.0.1", &["1.1.1.1", "198.51.100.1"]), "198.51.100.1");
        assert_eq!(client("10.0.0.1", &["garbage"]), "10.0.0.1");
        assert_eq!(client("10.0.0.1", &[]), "10.0.0.1");
    }
}

//! The outermost layer: names the request, writes problems, and logs and counts the response.

use std::{
    net::{IpAddr, SocketAddr},
    sync::{Arc, OnceLock},
    time::Instant,
};

use axum::{
    Json,
    extract::{ConnectInfo, MatchedPath, Request, State},
    http::{HeaderMap, HeaderName, HeaderValue, header},
    middleware::Next,
    response::{IntoResponse, Response},
};
use ipnet::IpNet;
use tracing::Instrument;
use uuid::Uuid;

use super::rate_limit;
use crate::{
    http::{
        context::{REQUEST_ID, RequestInfo},
        outcome::{Outcome, TokenIssued},
        problem::Problem,
    },
    metrics::Metrics,
};

/// Headers whose values no layer may log.
pub(in crate::http) const SENSITIVE_HEADERS: [HeaderName; 2] = [header::AUTHORIZATION, header::COOKIE];

#[derive(Clone)]
pub(in crate::http) struct AccessLog {
    pub(in crate::http) trusted_proxies: Arc<[IpNet]>,
    pub(in crate::http) metrics: Arc<Metrics>,
}

/// Every request leaves one line in the log, however it ended.
pub(in crate::http) async fn access_log(State(log): State<AccessLog>, mut request: Request, next: Next) -> Response {
    let start = Instant::now();
    let peer = request.extensions().get::<ConnectInfo<SocketAddr>>().map(|info| info.0.ip().to_canonical());
    let info = Arc::new(RequestInfo {
        id: request_id(request.headers()),
        client: peer.map(|peer| client_address(peer, request.headers(), &log.trusted_proxies)),
        rate_limit: OnceLock::new(),
    });
    // The route is logged as its template, because a path may name a person.
    let route = request.extensions().get::<MatchedPath>().cloned();
    let route = route.as_ref().map_or("-", MatchedPath::as_str);
    let span = tracing::info_span!("request", method = %request.method(), route, id = info.id);
    request.extensions_mut().insert(Arc::clone(&info));
    let mut response = next.run(request).instrument(span.clone()).await;
    let took = start.elapsed();
    let latency_us = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
    span.in_scope(|| match response.extensions_mut().remove() {
        Some(Outcome::Problem(problem)) => {
            problem.log(Some(latency_us));
            write_problem(&problem, &mut response, &info.id);
        }
        Some(Outcome::TokenIssued(token)) => log_token(&token, latency_us),
        Some(Outcome::Partial) | None => {
            tracing::info!(status = response.status().as_u16(), latency_us, "answered");
        }
    });
    if let Ok(value) = HeaderValue::from_str(&info.id) {
        response.headers_mut().insert(REQUEST_ID, value);
    }
    if let Some(status) = info.rate_limit.get() {
        rate_limit::write(response.headers_mut(), *status);
    }
    log.metrics.request(route, response.status().as_u16(), took);
    response
}

fn log_token(token: &TokenIssued, latency_us: u64) {
    tracing::info!(
        status = 200,
        latency_us,
        user = token.user.as_str(),
        fingerprint = token.fingerprint,
        source = token.source.as_str(),
        expires_on = %token.expires_on,
        sign_in_jti = token.sign_in_id,
        sign_in_sid = token.session_id,
        client = token.client.map(tracing::field::display),
        "token issued"
    );
}

/// Takes the request's own id if it is a plain short word, else a new one.
///
/// `SetRequestIdLayer` of tower-http would take any id that comes from outside.
fn request_id(headers: &HeaderMap) -> String {
    let is_plain = |text: &&str| {
        (1..=64).contains(&text.len()) && text.bytes().all(|c| c.is_ascii_alphanumeric() || b"-_.".contains(&c))
    };
    let given = headers.get(&REQUEST_ID).and_then(|value| value.to_str().ok()).filter(is_plain);
    given.map_or_else(|| Uuid::now_v7().to_string(), str::to_owned)
}

/// Walks `X-Forwarded-For` from its end, where the nearest proxy wrote, as long as the writer is trusted.
fn client_address(peer: IpAddr, headers: &HeaderMap, trusted: &[IpNet]) -> IpAddr {
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

/// Writes the body and the headers of a problem; headers that routes and layers have set stay, such as `Allow` and CORS.
fn write_problem(problem: &Problem, response: &mut Response, request_id: &str) {
    *response.body_mut() = Json(problem.document(request_id)).into_response().into_body();
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
    headers.remove(header::CONTENT_LENGTH);
    headers.extend(problem.headers());
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
            client_address(peer.parse().unwrap(), &headers, &trusted).to_string()
        };
        assert_eq!(client("203.0.113.1", &["198.51.100.1"]), "203.0.113.1", "other clients may send anything");
        assert_eq!(client("10.0.0.1", &["198.51.100.1"]), "198.51.100.1");
        assert_eq!(client("10.0.0.1", &["1.1.1.1, 198.51.100.1, 192.0.2.7"]), "198.51.100.1");
        assert_eq!(client("10.0.0.1", &["1.1.1.1", "198.51.100.1"]), "198.51.100.1");
        assert_eq!(client("10.0.0.1", &["garbage"]), "10.0.0.1");
        assert_eq!(client("10.0.0.1", &[]), "10.0.0.1");
    }
}

//! Lets the configured browser origins call.

use std::time::Duration;

use axum::http::{HeaderValue, Method, header};
use tower_http::cors::{AllowOrigin, CorsLayer};

use super::{idempotency, rate_limit};
use crate::http::context::REQUEST_ID;

pub(in crate::http) fn layer(origins: &[String]) -> CorsLayer {
    let origins: Vec<HeaderValue> = origins.iter().filter_map(|origin| HeaderValue::from_str(origin).ok()).collect();
    CorsLayer::new()
        .allow_origin(AllowOrigin::list(origins))
        .allow_methods([Method::GET, Method::POST, Method::PUT, Method::DELETE])
        .allow_headers([header::AUTHORIZATION, header::CONTENT_TYPE, idempotency::KEY, REQUEST_ID])
        .expose_headers([
            header::RETRY_AFTER,
            header::WWW_AUTHENTICATE,
            rate_limit::RATE_LIMIT,
            rate_limit::RATE_LIMIT_POLICY,
            REQUEST_ID,
        ])
        .max_age(Duration::from_mins(10))
}

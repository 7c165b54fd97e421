//! What is known of a request before its handler: the one request extension, inserted by the access log.

use std::{
    net::IpAddr,
    sync::{Arc, OnceLock},
};

use axum::{
    extract::FromRequestParts,
    http::{HeaderName, request::Parts},
};

use crate::{domain::audit::RequestContext, limit::RateLimitStatus};

pub(super) const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

#[derive(Debug, Default)]
pub(super) struct RequestInfo {
    pub(super) id: String,
    /// The address of the client, as far as trusted proxies tell.
    pub(super) client: Option<IpAddr>,
    /// Set where the request was counted against a limit; the access log writes it into the response's headers.
    pub(super) rate_limit: OnceLock<RateLimitStatus>,
}

impl RequestInfo {
    pub(super) fn of(parts: &Parts) -> Arc<Self> {
        parts.extensions.get::<Arc<Self>>().cloned().unwrap_or_default()
    }
}

/// The request's id and client address, for the audit trail.
pub(super) struct Context(pub(super) RequestContext);

impl<S: Sync> FromRequestParts<S> for Context {
    type Rejection = std::convert::Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Self::Rejection> {
        let info = RequestInfo::of(parts);
        Ok(Self(RequestContext { request_id: Some(info.id.clone()), client: info.client }))
    }
}

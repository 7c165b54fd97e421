//! Our HTTP API on axum: routes, the order of the middleware, and problems for everything that goes wrong.

mod admin;
mod docs;
mod extract;
mod me;
mod middleware;
mod problem;
mod token;

use std::{sync::Arc, time::Duration};

use axum::{Router, extract::DefaultBodyLimit, http::HeaderValue, middleware as axum_middleware};
use serde::Deserialize;
use tower::ServiceBuilder;
use tower_http::{
    catch_panic::CatchPanicLayer, sensitive_headers::SetSensitiveRequestHeadersLayer,
    set_header::SetResponseHeaderLayer, trace::TraceLayer,
};
use utoipa::OpenApi;
use utoipa_axum::{router::OpenApiRouter, routes};

use crate::{auth::Authenticator, domain::policy::Words, service::Service};
use problem::{Code, Problem};

pub use admin::{Lifecycle, router as admin_router};
pub use docs::openapi;

/// The largest body that a user's request may have.
const MAX_BODY_BYTES: usize = 16 * 1024;

/// The public listener.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// Where to listen.
    pub listen: String,
    /// Browser origins that may call, exactly as browsers send them; none by default.
    pub cors_origins: Words,
    /// How long a request may take in all.
    #[serde(with = "humantime_serde")]
    pub request_timeout: Duration,
    /// Whether `/docs` shows the API to people.
    pub docs: bool,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            listen: "127.0.0.1:8080".to_owned(),
            cors_origins: Words::default(),
            request_timeout: Duration::from_secs(15),
            docs: false,
        }
    }
}

/// What handlers work with.
#[derive(Clone)]
pub struct Api {
    /// The use cases.
    pub service: Arc<Service>,
    /// Who checks logins.
    pub authenticator: Arc<Authenticator>,
}

/// Builds the public router; `extra` is served beside the API and goes through the same middleware.
pub fn public_router(api: Api, settings: &Settings, extra: Router) -> Router {
    let (router, openapi) = api_routes().with_state(api).split_for_parts();
    let router = router
        .merge(docs::router(openapi, settings.docs))
        .merge(extra)
        .fallback(async || Problem::new(Code::NotFound))
        .method_not_allowed_fallback(async || Problem::new(Code::MethodNotAllowed));
    let timeout = settings.request_timeout;
    router.layer(
        ServiceBuilder::new()
            // First, so that everything after it, the log included, can name the request.
            .layer(axum_middleware::from_fn(middleware::request_id))
            // Before the trace, so that no layer below can log a login.
            .layer(SetSensitiveRequestHeadersLayer::new(middleware::SENSITIVE_HEADERS))
            .layer(
                TraceLayer::new_for_http()
                    .make_span_with(middleware::span)
                    .on_request(())
                    .on_response(middleware::log_response)
                    .on_failure(()),
            )
            // Inside the span, so that the one log line of a problem belongs to its request.
            .layer(axum_middleware::from_fn(middleware::render_problems))
            // Outside of everything that can refuse: preflights need no login, and errors need CORS headers to be read.
            .layer(middleware::cors(&settings.cors_origins.0))
            .layer(CatchPanicLayer::custom(|_| Problem::response(Code::InternalError)))
            .layer(SetResponseHeaderLayer::if_not_present(
                axum::http::header::X_CONTENT_TYPE_OPTIONS,
                HeaderValue::from_static("nosniff"),
            ))
            .layer(SetResponseHeaderLayer::if_not_present(
                axum::http::header::CACHE_CONTROL,
                HeaderValue::from_static("no-store"),
            ))
            .layer(axum_middleware::from_fn(move |request, next| middleware::deadline(timeout, request, next)))
            .layer(DefaultBodyLimit::max(MAX_BODY_BYTES)),
    )
}

/// The documented routes: what is here is in `openapi.yaml`.
fn api_routes() -> OpenApiRouter<Api> {
    OpenApiRouter::with_openapi(docs::Documentation::openapi())
        .routes(routes!(token::issue_token))
        .routes(routes!(me::get_me))
}

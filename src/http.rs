//! Our HTTP API on axum: routes, the order of the middleware, and problems for everything that goes wrong.

mod access;
mod admin;
mod audit;
mod docs;
mod extract;
mod idempotency;
mod me;
mod middleware;
mod operations;
mod paging;
mod problem;
mod token;
mod users;
mod view;

use std::{sync::Arc, time::Duration};

use axum::{Router, extract::DefaultBodyLimit, http::HeaderValue, middleware as axum_middleware};
use ipnet::IpNet;
use serde::Deserialize;
use tower::ServiceBuilder;
use tower_http::{
    catch_panic::CatchPanicLayer, sensitive_headers::SetSensitiveRequestHeadersLayer,
    set_header::SetResponseHeaderLayer, trace::TraceLayer,
};
use utoipa::OpenApi;
use utoipa_axum::{router::OpenApiRouter, routes};

use crate::{
    auth::{Authenticator, Operators},
    domain::policy::Words,
    metrics::Metrics,
    service::Service,
};
use problem::{Code, Problem};

pub use admin::{Lifecycle, router as admin_router};

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
    /// Networks of proxies whose `X-Forwarded-For` is believed, such as `10.0.0.0/8`; none by default.
    pub trusted_proxies: Words,
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
            trusted_proxies: Words::default(),
            request_timeout: Duration::from_secs(15),
            docs: false,
        }
    }
}

/// The largest body that an operator's request may have: a thousand references of the greatest length.
const MAX_OPS_BODY_BYTES: usize = 512 * 1024;

/// What handlers work with.
#[derive(Clone)]
pub struct Api {
    /// The use cases.
    pub service: Arc<Service>,
    /// Who checks logins.
    pub authenticator: Arc<Authenticator>,
    /// Who knows operators' keys.
    pub operators: Arc<Operators>,
    /// What is counted.
    pub metrics: Arc<Metrics>,
}

/// The routers of the listeners that take requests.
pub struct Routers {
    /// For app users, and for operators too unless they have a listener of their own.
    pub public: Router,
    /// For operators alone.
    pub ops: Option<Router>,
}

/// Builds the routers; `extra` is served beside the public API and goes through the same middleware.
#[must_use]
pub fn routers(api: &Api, settings: &Settings, own_ops: bool, extra: Router) -> Routers {
    let documents = docs::router(openapi(), settings.docs);
    let ops = ops_routes(api).split_for_parts().0.with_state(api.clone());
    let public = user_routes().split_for_parts().0.with_state(api.clone()).merge(documents).merge(extra);
    if own_ops {
        Routers { public: with_middleware(public, settings), ops: Some(with_middleware(ops, settings)) }
    } else {
        Routers { public: with_middleware(public.merge(ops), settings), ops: None }
    }
}

/// Puts the layers around routes; the outermost comes first.
fn with_middleware(router: Router, settings: &Settings) -> Router {
    let trusted: Arc<[IpNet]> = settings.trusted_networks().unwrap_or_default().into();
    let timeout = settings.request_timeout;
    router
        .fallback(async || Problem::new(Code::NotFound))
        .method_not_allowed_fallback(async || Problem::new(Code::MethodNotAllowed))
        .layer(
            ServiceBuilder::new()
            // First, so that everything after it, the log included, can name the request.
            .layer(axum_middleware::from_fn(middleware::request_id))
            .layer(axum_middleware::from_fn(move |request, next| {
                middleware::client_address(Arc::clone(&trusted), request, next)
            }))
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

impl Settings {
    /// Reads the networks of trusted proxies; a single address is a network too.
    ///
    /// # Errors
    /// The first text that is none.
    pub fn trusted_networks(&self) -> Result<Vec<IpNet>, String> {
        let parse = |text: &String| {
            let address = || text.parse::<std::net::IpAddr>().map(IpNet::from);
            text.parse::<IpNet>().or_else(|_| address()).map_err(|_| text.clone())
        };
        self.trusted_proxies.0.iter().map(parse).collect()
    }
}

/// The documented routes for app users.
fn user_routes() -> OpenApiRouter<Api> {
    OpenApiRouter::with_openapi(docs::Documentation::openapi())
        .routes(routes!(token::issue_token))
        .routes(routes!(me::get_me, access::delete_me))
        .routes(routes!(access::revoke_me))
}

/// The documented routes for operators and backends.
fn ops_routes(api: &Api) -> OpenApiRouter<Api> {
    let idempotent = axum_middleware::from_fn_with_state(api.clone(), idempotency::idempotent);
    // Operators are known before their bodies are read.
    let large = DefaultBodyLimit::max(MAX_OPS_BODY_BYTES);
    documented_ops_routes().layer(idempotent).layer(large).merge(documented_token_routes())
}

fn documented_ops_routes() -> OpenApiRouter<Api> {
    OpenApiRouter::new()
        .routes(routes!(users::list_users))
        .routes(routes!(users::lookup_users))
        .routes(routes!(users::ensure_users))
        .routes(routes!(users::get_user, users::import_user, access::delete_user))
        .routes(routes!(users::list_tokens))
        .routes(routes!(access::revoke_user))
        .routes(routes!(access::block_user))
        .routes(routes!(access::unblock_user))
        .routes(routes!(operations::list_operations))
        .routes(routes!(operations::get_operation))
        .routes(routes!(audit::list_audit))
}

/// Apart, because answers with tokens must not be kept for repeated requests.
fn documented_token_routes() -> OpenApiRouter<Api> {
    OpenApiRouter::new().routes(routes!(users::issue_user_token))
}

/// Returns the description of the whole API: what is routed is in `openapi.yaml`.
#[must_use]
pub fn openapi() -> utoipa::openapi::OpenApi {
    user_routes().merge(documented_ops_routes()).merge(documented_token_routes()).split_for_parts().1
}

//! The HTTP API on axum: the routes, and the order of the layers around them.

mod authenticate;
mod context;
mod extract;
mod middleware;
mod outcome;
mod paging;
mod problem;
mod routes;
mod server;
mod state;
mod view;

use std::{sync::Arc, time::Duration};

use axum::{
    Router,
    extract::Request,
    http::{HeaderValue, header},
    middleware::{Next, from_fn, from_fn_with_state},
    response::{IntoResponse, Response},
};
use ipnet::IpNet;
use serde::Deserialize;
use tower::ServiceBuilder;
use tower_http::{
    catch_panic::CatchPanicLayer, sensitive_headers::SetSensitiveRequestHeadersLayer,
    set_header::SetResponseHeaderLayer,
};
use utoipa::OpenApi;
use utoipa_axum::{router::OpenApiRouter, routes};

use crate::domain::string_list::StringList;
use middleware::{
    access_log::{self, AccessLog},
    body,
    concurrency::{self, ConcurrencyLimit},
    cors, idempotency,
};
use problem::{Code, Problem};
use routes::{access, audit, docs, import, me, operations, revocations, token, users};

pub(crate) use middleware::rate_limit::Limits;
pub(crate) use routes::admin::{Lifecycle, router as admin_router};
pub(crate) use server::{ServerSettings, serve};
pub(crate) use state::AppState;

/// The public listener (`[server]`).
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    pub listen: String,
    /// Browser origins that may call, exactly as browsers send them.
    pub cors_origins: StringList,
    /// Networks of proxies whose `X-Forwarded-For` is trusted, such as `10.0.0.0/8`.
    pub trusted_proxies: StringList,
    /// The maximum duration of a request, except for streams.
    #[serde(with = "humantime_serde")]
    pub request_timeout: Duration,
    /// How long the body of an app user's request may take to arrive.
    #[serde(with = "humantime_serde")]
    pub body_timeout: Duration,
    /// How long a write of a response may make no progress.
    #[serde(with = "humantime_serde")]
    pub write_timeout: Duration,
    /// How long a connection may wait for the complete head of its next request. Must be longer than the idle timeout of a
    /// load balancer, which otherwise sends requests into connections that are being closed.
    #[serde(with = "humantime_serde")]
    pub idle_timeout: Duration,
    pub max_connections: usize,
    /// The maximum number of app users' requests that are handled at once.
    pub max_in_flight: usize,
    /// Whether to serve `/docs`.
    pub docs: bool,
}

impl Default for Settings {
    fn default() -> Self {
        let ServerSettings { max_connections, idle_timeout, write_timeout } = ServerSettings::default();
        Self {
            listen: "127.0.0.1:8080".to_owned(),
            cors_origins: StringList::default(),
            trusted_proxies: StringList::default(),
            request_timeout: Duration::from_secs(15),
            body_timeout: Duration::from_secs(5),
            write_timeout,
            idle_timeout,
            max_connections,
            max_in_flight: 1024,
            docs: false,
        }
    }
}

impl Settings {
    pub(crate) fn connections(&self) -> ServerSettings {
        let Self { max_connections, idle_timeout, write_timeout, .. } = *self;
        ServerSettings { max_connections, idle_timeout, write_timeout }
    }

    /// Parses the networks of trusted proxies; a single address is a network too.
    ///
    /// # Errors
    /// The first text that is neither.
    pub(crate) fn trusted_networks(&self) -> Result<Vec<IpNet>, String> {
        let parse = |text: &String| {
            let address = || text.parse::<std::net::IpAddr>().map(IpNet::from);
            text.parse::<IpNet>().or_else(|_| address()).map_err(|_| text.clone())
        };
        self.trusted_proxies.0.iter().map(parse).collect()
    }
}

/// How operators are served.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ops {
    pub(crate) own_listener: bool,
    /// The maximum number of their requests that are handled at once.
    pub(crate) max_in_flight: usize,
}

/// The routers of the listeners that take requests.
pub(crate) struct Routers {
    /// For app users, and for operators too unless they have a listener of their own.
    pub(crate) public: Router,
    /// For operators only.
    pub(crate) ops: Option<Router>,
}

/// Builds the routers; `extra` is served beside the public API, behind the same layers.
pub(crate) fn routers(state: &AppState, settings: &Settings, ops: Ops, extra: Router) -> Routers {
    let users = ConcurrencyLimit::new("users", settings.max_in_flight, &state.metrics);
    let users = user_routes()
        .layer(from_fn_with_state(users, concurrency::limit))
        // Outside of the concurrency limit: a slow body holds no permit.
        .layer(from_fn_with_state(settings.body_timeout, body::buffer));
    // A limit of their own, so that revocations get through however many tokens are requested.
    let operators = ConcurrencyLimit::new("operators", ops.max_in_flight, &state.metrics);
    let operators = operator_routes()
        .layer(from_fn_with_state(state.clone(), idempotency::idempotency))
        .merge(operator_routes_without_idempotency())
        .layer(from_fn_with_state(operators, concurrency::limit));
    let router = |routes: OpenApiRouter<AppState>| routes.split_for_parts().0.with_state(state.clone());
    let public = router(users).merge(docs::router(openapi(), settings.docs)).merge(extra);
    let operators = router(operators);
    if ops.own_listener {
        Routers { public: layered(public, state, settings), ops: Some(layered(operators, state, settings)) }
    } else {
        Routers { public: layered(public.merge(operators), state, settings), ops: None }
    }
}

/// Puts the common layers around routes, the outermost first.
fn layered(router: Router, state: &AppState, settings: &Settings) -> Router {
    let access_log = AccessLog {
        trusted_proxies: settings.trusted_networks().unwrap_or_default().into(),
        metrics: Arc::clone(&state.metrics),
    };
    let request_timeout = settings.request_timeout;
    router
        .fallback(async || Problem::new(Code::NotFound))
        .method_not_allowed_fallback(async || Problem::new(Code::MethodNotAllowed))
        .layer(
            ServiceBuilder::new()
                // First, so that no layer can log a credential.
                .layer(SetSensitiveRequestHeadersLayer::new(access_log::SENSITIVE_HEADERS))
                // Around everything that can fail, because it writes, logs and counts problems.
                .layer(from_fn_with_state(access_log, access_log::access_log))
                // Around everything that can refuse: preflights carry no credentials, and errors need CORS headers.
                .layer(cors::layer(&settings.cors_origins.0))
                .layer(CatchPanicLayer::custom(|_| Problem::new(Code::InternalError).into_response()))
                .layer(SetResponseHeaderLayer::if_not_present(
                    header::X_CONTENT_TYPE_OPTIONS,
                    HeaderValue::from_static("nosniff"),
                ))
                .layer(SetResponseHeaderLayer::if_not_present(
                    header::CACHE_CONTROL,
                    HeaderValue::from_static("no-store"),
                ))
                .layer(from_fn(move |request, next| timeout(request_timeout, request, next))),
        )
}

/// As tower-http's `TimeoutLayer`, but with a problem as its response.
async fn timeout(timeout: Duration, request: Request, next: Next) -> Result<Response, Problem> {
    tokio::time::timeout(timeout, next.run(request)).await.map_err(|_| Problem::new(Code::Overloaded))
}

fn user_routes() -> OpenApiRouter<AppState> {
    OpenApiRouter::new()
        .routes(routes!(token::issue_token))
        .routes(routes!(me::get_me, me::delete_me))
        .routes(routes!(me::revoke_me))
}

fn operator_routes() -> OpenApiRouter<AppState> {
    OpenApiRouter::new()
        .routes(routes!(users::list_users))
        .routes(routes!(users::lookup_users))
        .routes(routes!(users::ensure_users))
        .routes(routes!(users::get_user, import::import_user, access::delete_user))
        .routes(routes!(users::list_tokens))
        .routes(routes!(access::revoke_user))
        .routes(routes!(access::block_user))
        .routes(routes!(access::unblock_user))
        .routes(routes!(access::allow_older_sign_ins))
        .routes(routes!(revocations::revoke_many, revocations::list_revocations))
        .routes(routes!(revocations::get_revocation))
        .routes(routes!(operations::list_operations))
        .routes(routes!(operations::get_operation))
        .routes(routes!(audit::list_audit))
}

/// Tokens must not be stored for repeated requests, and streams cannot be.
fn operator_routes_without_idempotency() -> OpenApiRouter<AppState> {
    OpenApiRouter::new().routes(routes!(token::issue_user_token)).routes(routes!(import::import_users))
}

/// The description of the whole API, as in `openapi.yaml`.
#[must_use]
pub fn openapi() -> utoipa::openapi::OpenApi {
    let mut api = OpenApiRouter::with_openapi(docs::Documentation::openapi())
        .merge(user_routes())
        .merge(operator_routes())
        .merge(operator_routes_without_idempotency())
        .split_for_parts()
        .1;
    docs::add_problems(&mut api);
    api
}

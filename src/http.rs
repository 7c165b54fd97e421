//! Our HTTP API on axum: routes, the order of the middleware, and problems for everything that goes wrong.

mod connection;
mod extract;
mod middleware;
mod paging;
mod problem;
mod routes;
mod server;
mod view;

use std::{sync::Arc, time::Duration};

use axum::{Router, extract::DefaultBodyLimit, http::HeaderValue, middleware as axum_middleware};
use ipnet::IpNet;
use serde::Deserialize;
use tower::ServiceBuilder;
use tower_http::{
    catch_panic::CatchPanicLayer, sensitive_headers::SetSensitiveRequestHeadersLayer,
    set_header::SetResponseHeaderLayer,
};
use utoipa::OpenApi;
use utoipa_axum::{router::OpenApiRouter, routes};

use crate::{
    auth::{Authenticator, Operators},
    domain::{clock::Clock, string_list::StringList},
    jobs::Jobs,
    limit::{self, Limit},
    metrics::Metrics,
    store::Store,
    tokens::Tokens,
    users::Users,
};
use middleware::{access_log, gate, idempotency};
use problem::{Code, Problem};
use routes::{access, audit, docs, import, me, operations, revocations, token, users};

pub use routes::admin::{Lifecycle, router as admin_router};
pub use server::{Patience, serve};

/// The public listener.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// Where to listen.
    pub listen: String,
    /// Browser origins that may call, exactly as browsers send them; none by default.
    pub cors_origins: StringList,
    /// Networks of proxies whose `X-Forwarded-For` is believed, such as `10.0.0.0/8`; none by default.
    pub trusted_proxies: StringList,
    /// How long a request may take in all.
    #[serde(with = "humantime_serde")]
    pub request_timeout: Duration,
    /// How long the head of a request may take from its first byte on, and each step of taking an answer.
    #[serde(with = "humantime_serde")]
    pub header_timeout: Duration,
    /// How long the body of a user's request may take.
    #[serde(with = "humantime_serde")]
    pub body_timeout: Duration,
    /// How long a connection may lie idle; longer than the load balancer's, or it sends requests into closing connections.
    #[serde(with = "humantime_serde")]
    pub idle_timeout: Duration,
    /// How many connections are held at once.
    pub max_connections: usize,
    /// How many requests of users are answered at once; more are refused at once.
    pub max_in_flight: usize,
    /// Whether `/docs` shows the API to people.
    pub docs: bool,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            listen: "127.0.0.1:8080".to_owned(),
            cors_origins: StringList::default(),
            trusted_proxies: StringList::default(),
            request_timeout: Duration::from_secs(15),
            header_timeout: Patience::default().head,
            body_timeout: Duration::from_secs(5),
            idle_timeout: Patience::default().idle,
            max_connections: Patience::default().connections,
            max_in_flight: 1024,
            docs: false,
        }
    }
}

/// The largest body that an operator's request may have: ten thousand references of a usual length.
const MAX_OPS_BODY_BYTES: usize = 1024 * 1024;

/// The limits for callers, counted in this replica.
pub struct Limits {
    user: Limit,
    self_revoke: Limit,
    failed_sign_ins: Option<Limit>,
}

impl Limits {
    /// Makes the limits; failed logins are counted only where it is known who the clients are.
    #[must_use]
    pub fn new(settings: &limit::Settings, clients_are_known: bool) -> Self {
        Self {
            user: Limit::new("user", settings.user),
            self_revoke: Limit::new("self_revoke", settings.self_revoke),
            failed_sign_ins: clients_are_known.then(|| Limit::new("failed_sign_ins", settings.failed_sign_ins)),
        }
    }

    /// Forgets callers who have rested.
    pub fn forget_rested(&self) {
        [Some(&self.user), Some(&self.self_revoke), self.failed_sign_ins.as_ref()]
            .into_iter()
            .flatten()
            .for_each(Limit::forget_rested);
    }
}

/// How operators are served.
#[derive(Clone, Copy, Debug)]
pub struct Ops {
    /// Whether they have a listener of their own.
    pub own_listener: bool,
    /// How many of their requests are answered at once.
    pub max_in_flight: usize,
}

/// What handlers work with.
#[derive(Clone)]
pub struct Api {
    pub(crate) tokens: Arc<Tokens>,
    pub(crate) users: Arc<Users>,
    pub(crate) jobs: Arc<Jobs>,
    pub(crate) store: Store,
    pub(crate) clock: Clock,
    /// Who checks logins.
    pub authenticator: Arc<Authenticator>,
    /// Who knows operators' keys.
    pub operators: Arc<Operators>,
    /// What is counted.
    pub metrics: Arc<Metrics>,
    /// What callers may do how often.
    pub limits: Arc<Limits>,
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
pub fn routers(api: &Api, settings: &Settings, ops: Ops, extra: Router) -> Routers {
    let documents = docs::router(openapi(), settings.docs);
    let Ops { own_listener: own_ops, max_in_flight } = ops;
    // A share of their own, so that a revocation gets through when tokens are asked for beyond all measure.
    let share = gate::Share::new("operators", max_in_flight, &api.metrics);
    let ops = ops_routes(api).layer(axum_middleware::from_fn_with_state(share, gate::shed));
    let ops = ops.split_for_parts().0.with_state(api.clone());
    let public = user_routes(api, settings).split_for_parts().0.with_state(api.clone()).merge(documents).merge(extra);
    if own_ops {
        Routers { public: with_middleware(public, api, settings), ops: Some(with_middleware(ops, api, settings)) }
    } else {
        Routers { public: with_middleware(public.merge(ops), api, settings), ops: None }
    }
}

/// Puts the layers around routes; the outermost comes first.
fn with_middleware(router: Router, api: &Api, settings: &Settings) -> Router {
    let trusted = settings.trusted_networks().unwrap_or_default().into();
    let observer = access_log::Observer { trusted, metrics: Arc::clone(&api.metrics) };
    let timeout = settings.request_timeout;
    router
        .fallback(async || Problem::new(Code::NotFound))
        .method_not_allowed_fallback(async || Problem::new(Code::MethodNotAllowed))
        .layer(
            ServiceBuilder::new()
            // First, so that no layer can log a login.
            .layer(SetSensitiveRequestHeadersLayer::new(access_log::SENSITIVE_HEADERS))
            // Around everything that can fail, because only here are problems written, logged and counted.
            .layer(axum_middleware::from_fn_with_state(observer, access_log::observe))
            // Outside of everything that can refuse: preflights need no login, and errors need CORS headers to be read.
            .layer(access_log::cors(&settings.cors_origins.0))
            .layer(CatchPanicLayer::custom(|_| Problem::response(Code::InternalError)))
            .layer(SetResponseHeaderLayer::if_not_present(
                axum::http::header::X_CONTENT_TYPE_OPTIONS,
                HeaderValue::from_static("nosniff"),
            ))
            .layer(SetResponseHeaderLayer::if_not_present(
                axum::http::header::CACHE_CONTROL,
                HeaderValue::from_static("no-store"),
            ))
            .layer(axum_middleware::from_fn(move |request, next| access_log::deadline(timeout, request, next))),
        )
}

impl Settings {
    /// What the clients of a listener are granted.
    #[must_use]
    pub fn patience(&self) -> Patience {
        Patience { connections: self.max_connections, head: self.header_timeout, idle: self.idle_timeout }
    }

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

/// The routes for app users, each behind the gate that knows its limit.
fn user_routes(api: &Api, settings: &Settings) -> OpenApiRouter<Api> {
    let share = gate::Share::new("users", settings.max_in_flight, &api.metrics);
    let gate = |limit: fn(&Limits) -> &Limit| {
        let gate = gate::Gate { api: api.clone(), share: share.clone(), limit, body_patience: settings.body_timeout };
        axum_middleware::from_fn_with_state(gate, gate::pass)
    };
    OpenApiRouter::new()
        .merge(documented_user_routes().layer(gate(|limits| &limits.user)))
        .merge(documented_self_revoke().layer(gate(|limits| &limits.self_revoke)))
}

fn documented_user_routes() -> OpenApiRouter<Api> {
    OpenApiRouter::new().routes(routes!(token::issue_token)).routes(routes!(me::get_me, access::delete_me))
}

/// Apart, because it has a limit of its own.
fn documented_self_revoke() -> OpenApiRouter<Api> {
    OpenApiRouter::new().routes(routes!(access::revoke_me))
}

/// The documented routes for operators and backends.
fn ops_routes(api: &Api) -> OpenApiRouter<Api> {
    let idempotent = axum_middleware::from_fn_with_state(api.clone(), idempotency::idempotent);
    // Operators are known before their bodies are read.
    let large = DefaultBodyLimit::max(MAX_OPS_BODY_BYTES);
    documented_ops_routes().layer(idempotent).layer(large).merge(documented_unkept_routes())
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
        .routes(routes!(access::allow_older_sign_ins))
        .routes(routes!(revocations::revoke_many, revocations::list_revocations))
        .routes(routes!(revocations::get_revocation))
        .routes(routes!(operations::list_operations))
        .routes(routes!(operations::get_operation))
        .routes(routes!(audit::list_audit))
}

/// Apart, because answers with tokens must not be kept for repeated requests, and streams cannot be.
fn documented_unkept_routes() -> OpenApiRouter<Api> {
    OpenApiRouter::new().routes(routes!(users::issue_user_token)).routes(routes!(import::import_users))
}

/// Returns the description of the whole API: what is routed is in `openapi.yaml`.
#[must_use]
pub fn openapi() -> utoipa::openapi::OpenApi {
    OpenApiRouter::with_openapi(docs::Documentation::openapi())
        .merge(documented_user_routes())
        .merge(documented_self_revoke())
        .merge(documented_ops_routes())
        .merge(documented_unkept_routes())
        .split_for_parts()
        .1
}

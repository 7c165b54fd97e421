//! The service put together: listeners first, then everything else, then running until told to stop.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use anyhow::{Context, bail};
use axum::Router;
use tokio::{net::TcpListener, sync::watch, task::JoinSet};
use tokio_util::sync::CancellationToken;

use crate::{
    acs,
    acs::retry::Upstream,
    auth::Authenticator,
    config::Settings,
    domain::clock::Clock,
    http::{self, AppState, Lifecycle, Limits, Ops, Routers, ServerSettings},
    jobs::{self, Jobs, worker},
    metrics::Metrics,
    shutdown::{self, Stop},
    store::{self, Store},
    tokens::{self, Tokens},
    users::{self, Users},
};

/// File descriptors for everything but client connections.
const OTHER_DESCRIPTORS: usize = 256;
/// How often callers whose rate limits are unused are forgotten.
const FORGET_INTERVAL: Duration = Duration::from_mins(1);
/// How long stopping waits for the database's connections.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);
/// How long a start waits for the database: containers start in any order.
const DATABASE_TIMEOUT: Duration = Duration::from_secs(30);

/// The open ports: known before anything is served.
#[derive(Debug)]
pub struct Listeners {
    public: TcpListener,
    admin: TcpListener,
    ops: Option<TcpListener>,
}

impl Listeners {
    /// Opens the ports, the operators' own where they have one; port 0 takes a free one.
    ///
    /// # Errors
    /// When a port cannot be had.
    pub async fn bind(public: SocketAddr, admin: SocketAddr, ops: Option<SocketAddr>) -> anyhow::Result<Self> {
        let ops = match ops {
            Some(address) => Some(bind(address).await?),
            None => None,
        };
        Ok(Self { public: bind(public).await?, admin: bind(admin).await?, ops })
    }

    /// Returns the public listener's address.
    ///
    /// # Errors
    /// When the system does not tell.
    pub fn public_address(&self) -> std::io::Result<SocketAddr> {
        self.public.local_addr()
    }

    /// Returns the admin listener's address.
    ///
    /// # Errors
    /// When the system does not tell.
    pub fn admin_address(&self) -> std::io::Result<SocketAddr> {
        self.admin.local_addr()
    }
}

/// Lets the process hold as many connections as it may: the limit that a shell sets is often far lower.
fn raise_descriptor_limit(wanted: usize) {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    if limit.current < limit.maximum {
        let raised = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit });
        if raised.is_ok() {
            return raise_descriptor_limit(wanted);
        }
    }
    if limit.current.is_some_and(|current| current < wanted as u64) {
        tracing::warn!(limit = limit.current, wanted, "fewer descriptors than `server.max_connections` may need");
    }
}

/// Opens a port.
///
/// # Errors
/// When it cannot be had.
pub async fn bind(address: SocketAddr) -> anyhow::Result<TcpListener> {
    TcpListener::bind(address).await.with_context(|| format!("cannot listen on {address}"))
}

/// Everything of a service, not yet running.
pub struct App {
    listeners: Listeners,
    routers: Routers,
    admin: Router,
    lifecycle: watch::Sender<Lifecycle>,
    limits: Arc<Limits>,
    connections: ServerSettings,
    worker: worker::Settings,
    authenticator: Arc<Authenticator>,
    jobs: Arc<Jobs>,
    store: Store,
    shutdown: shutdown::Settings,
}

/// Puts a service together; `extra` is served beside the API.
///
/// # Errors
/// When the database cannot be opened or its schema cannot be brought up to date.
pub async fn build(settings: Settings, listeners: Listeners, clock: Clock, extra: Router) -> anyhow::Result<App> {
    raise_descriptor_limit(settings.server.max_connections + OTHER_DESCRIPTORS);
    let store = open_store(&settings.database).await?;
    store.migrate().await.context("cannot bring the database's schema up to date")?;
    let http = http_client(&settings)?;
    let acs = acs::Client::new(http.clone(), settings.connection, &settings.acs, clock.clone());
    let metrics = Arc::new(Metrics::default());
    let upstream = Upstream::new(acs, &store, &clock, &settings.quota, Arc::clone(&metrics));
    let upstream = Arc::new(upstream);
    let issuers = Arc::new(settings.issuers.iter().map(|(key, _)| key.clone()).collect());
    let jobs = Jobs::new(jobs::Parts {
        store: store.clone(),
        upstream: Arc::clone(&upstream),
        clock: clock.clone(),
        metrics: Arc::clone(&metrics),
        max_call_age: settings.acs.max_call_age,
        tombstone_ttl: settings.users.tombstone_ttl,
        audit_retention: settings.audit.retention,
    });
    let timeout = settings.tokens.timeout;
    let tokens = Tokens::new(tokens::Parts {
        store: store.clone(),
        upstream: Arc::clone(&upstream),
        jobs: Arc::clone(&jobs),
        clock: clock.clone(),
        settings: settings.tokens,
        tombstone_ttl: settings.users.tombstone_ttl,
        issuers: Arc::clone(&issuers),
        metrics: Arc::clone(&metrics),
    });
    let users = Users::new(users::Parts {
        store: store.clone(),
        upstream,
        jobs: Arc::clone(&jobs),
        tokens: Arc::clone(&tokens),
        clock: clock.clone(),
        settings: settings.users,
        timeout,
        issuers,
    });
    let authenticator = Arc::new(Authenticator::new(&settings.auth, settings.issuers, &http, &clock));
    let state = AppState {
        tokens,
        users,
        jobs: Arc::clone(&jobs),
        store: store.clone(),
        clock,
        authenticator: Arc::clone(&authenticator),
        operators: Arc::new(settings.operators),
        metrics,
        limits: Arc::new(Limits::new(&settings.limits, !settings.server.trusted_proxies.0.is_empty())),
    };
    let ops = Ops { own_listener: listeners.ops.is_some(), max_in_flight: settings.ops_max_in_flight };
    let limits = Arc::clone(&state.limits);
    let lifecycle = watch::Sender::new(Lifecycle::Starting);
    Ok(App {
        routers: http::routers(&state, &settings.server, ops, extra),
        admin: http::admin_router(state, lifecycle.subscribe()),
        listeners,
        lifecycle,
        limits,
        connections: settings.server.connections(),
        worker: settings.worker,
        authenticator,
        jobs,
        store,
        shutdown: settings.shutdown,
    })
}

/// Opens the database, waiting for one that is still starting.
///
/// # Errors
/// When it cannot be had.
pub async fn open_store(settings: &store::Settings) -> anyhow::Result<Store> {
    let give_up = tokio::time::Instant::now() + DATABASE_TIMEOUT;
    loop {
        match Store::connect(settings).await {
            Err(store::Error::Unavailable(error)) if tokio::time::Instant::now() < give_up => {
                tracing::warn!(error = &error as &dyn std::error::Error, "waiting for the database");
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
            other => return other.context("cannot open the database"),
        }
    }
}

/// Makes the HTTP client of the process.
///
/// # Errors
/// When TLS cannot be set up.
pub fn http_client(settings: &Settings) -> anyhow::Result<reqwest::Client> {
    // A proxy of the environment is for the way out, not for an emulator on this machine.
    client_builder(settings.connection.endpoint.is_loopback()).build().context("cannot set up TLS")
}

/// Prepares a client that follows no redirects: a signature or a key set is good for the address it was asked from only.
pub fn client_builder(without_proxy: bool) -> reqwest::ClientBuilder {
    #[expect(clippy::disallowed_methods, reason = "the one place where clients are made")]
    let builder = reqwest::Client::builder()
        .redirect(reqwest::redirect::Policy::none())
        .connect_timeout(Duration::from_secs(3))
        .user_agent(concat!(env!("CARGO_PKG_NAME"), "/", env!("CARGO_PKG_VERSION")));
    if without_proxy { builder.no_proxy() } else { builder }
}

impl App {
    /// Returns the public listener's address.
    ///
    /// # Errors
    /// When the system does not tell.
    pub fn public_address(&self) -> std::io::Result<SocketAddr> {
        self.listeners.public_address()
    }

    /// Returns the admin listener's address.
    ///
    /// # Errors
    /// When the system does not tell.
    pub fn admin_address(&self) -> std::io::Result<SocketAddr> {
        self.listeners.admin_address()
    }

    /// Returns the address of the operators' own listener, if they have one.
    ///
    /// # Errors
    /// When the system does not tell.
    pub fn ops_address(&self) -> std::io::Result<Option<SocketAddr>> {
        self.listeners.ops.as_ref().map(TcpListener::local_addr).transpose()
    }

    /// Serves until told to stop, then finishes what was begun.
    ///
    /// # Errors
    /// When a listener or a background task fails, or stopping takes too long.
    pub async fn run(self, stop: Stop) -> anyhow::Result<()> {
        let (close_requests, close_admin) = (CancellationToken::new(), CancellationToken::new());
        let background = CancellationToken::new();
        let mut tasks = JoinSet::new();
        let mut requests = JoinSet::new();
        {
            let (authenticator, stop) = (Arc::clone(&self.authenticator), background.clone());
            tasks.spawn(async move { authenticator.keep_keys_fresh(stop).await });
            tasks.spawn(worker::run(Arc::clone(&self.jobs), self.worker, background.clone()));
            tasks.spawn(forget_idle_callers(self.limits, background.clone()));
        }
        let connections = self.connections;
        requests.spawn(http::serve(self.listeners.public, self.routers.public, connections, close_requests.clone()));
        if let (Some(listener), Some(router)) = (self.listeners.ops, self.routers.ops) {
            requests.spawn(http::serve(listener, router, connections, close_requests.clone()));
        }
        let mut admin = tokio::spawn(http::serve(self.listeners.admin, self.admin, connections, close_admin.clone()));
        self.lifecycle.send_replace(Lifecycle::Ready);
        tracing::info!("ready");
        tokio::select! {
            () = stop.politely.cancelled() => {}
            () = stop.at_once.cancelled() => bail!("stopped at once"),
            Some(ended) = requests.join_next() => bail!("a listener ended: {ended:?}"),
            ended = &mut admin => bail!("the admin listener ended: {ended:?}"),
            Some(ended) = tasks.join_next() => bail!("a background task ended: {ended:?}"),
        }
        tracing::info!("stopping");
        self.lifecycle.send_replace(Lifecycle::Stopping);
        let finish = async {
            tokio::time::sleep(self.shutdown.delay).await;
            close_requests.cancel();
            let drained = tokio::time::timeout(self.shutdown.drain, async {
                while requests.join_next().await.is_some() {}
                self.jobs.finish().await;
                // The worker finishes the attempts that it began.
                background.cancel();
                while tasks.join_next().await.is_some() {}
            });
            let drained = drained.await;
            background.cancel();
            close_admin.cancel();
            // A statement that is stuck must not keep a process that should be gone.
            let _ = tokio::time::timeout(CLOSE_TIMEOUT, self.store.close()).await;
            drained.map_err(|_| anyhow::anyhow!("requests were still running after `shutdown.drain`"))
        };
        tokio::select! {
            finished = finish => finished,
            () = stop.at_once.cancelled() => bail!("stopped at once by a second signal"),
        }
    }
}

/// Forgets callers whose rate limits are unused, so that memory follows the callers of the moment.
async fn forget_idle_callers(limits: Arc<Limits>, stop: CancellationToken) {
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(FORGET_INTERVAL) => limits.forget_idle(),
        }
    }
}

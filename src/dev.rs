//! The commands for development: the service with an ACS emulator and a mock identity provider, together or one by one.
//!
//! The service takes no shortcuts here: it verifies sign-in tokens and signs its calls as in production.

pub mod issuer;

use std::{net::SocketAddr, path::PathBuf};

use acs_emulator::{AccessKey, Emulator, cli::DEFAULT_ACCESS_KEY};
use anyhow::Context;
use clap::{Args, Subcommand};

use crate::{
    app::{self, Listeners},
    auth::operator,
    config::{self, Settings},
    domain::clock::Clock,
    encryption::KeyRing,
    shutdown::Stop,
    telemetry,
};
use issuer::MockIdentityProvider;

/// The default operator key of `dev`. It is public, so it must only be used on loopback.
pub const OPS_KEY: &str = "atv_dev_not-a-secret-and-for-loopback-only";

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run the service with an ACS emulator and a mock identity provider, all on this machine.
    Dev(Options),
    /// Run only the ACS emulator.
    Emulator(acs_emulator::cli::Options),
    /// Run only the mock identity provider. Anyone who can reach it can sign in as any user.
    DevIssuer(issuer::Options),
}

/// The options of `dev`.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// The address of the service.
    #[arg(long, default_value = "127.0.0.1:8080", value_name = "ADDRESS")]
    listen: SocketAddr,
    /// The address of the health checks and metrics.
    #[arg(long, default_value = "127.0.0.1:9090", value_name = "ADDRESS")]
    admin_listen: SocketAddr,
    /// The address of the emulator.
    #[arg(long, default_value = "127.0.0.1:8081", value_name = "ADDRESS")]
    emulator_listen: SocketAddr,
    /// The folder for the database and the identity provider's key.
    #[arg(long, default_value = ".dev", value_name = "DIR")]
    data: PathBuf,
    /// A Postgres or SQLite database instead of a SQLite file in the folder.
    #[arg(long, value_name = "URL")]
    database_url: Option<String>,
    /// The operator key.
    #[arg(long, default_value = OPS_KEY, value_name = "KEY")]
    ops_key: String,
    /// A browser origin that may call the service, such as `http://localhost:5173`; may be repeated.
    #[arg(long = "cors-origin", value_name = "ORIGIN")]
    cors_origins: Vec<String>,
    /// The log filter, such as `debug`.
    #[arg(long, default_value = "info", value_name = "FILTER")]
    log: String,
}

impl Command {
    pub(crate) async fn run(self) -> anyhow::Result<()> {
        match self {
            Self::Dev(options) => run(options).await,
            Self::Emulator(options) => run_emulator(options).await,
            Self::DevIssuer(options) => issuer::run(options).await,
        }
    }
}

async fn run(options: Options) -> anyhow::Result<()> {
    std::fs::create_dir_all(&options.data)
        .with_context(|| format!("cannot create the folder `{}`", options.data.display()))?;
    let stop = Stop::on_signals()?;
    let clock = Clock::default();
    let listeners = Listeners::bind(options.listen, options.admin_listen, None).await?;
    let emulator_listener = app::bind(options.emulator_listen).await?;
    let addresses = Addresses {
        service: listeners.public_address()?,
        admin: listeners.admin_address()?,
        emulator: emulator_listener.local_addr()?,
    };
    let mut settings = settings(&options, &addresses)?;
    // The emulator forgets its tokens when it ends, so tokens cached by an earlier run must not decrypt.
    settings.tokens.encryption_keys = KeyRing::random().context("no random numbers available")?;
    telemetry::init(&settings.log);
    let provider = MockIdentityProvider::open(&options.data, issuer::url(addresses.service), clock.clone())?;
    let app = app::build(settings, listeners, clock, provider.router()).await?;
    let access_key = AccessKey::parse(DEFAULT_ACCESS_KEY)?;
    let emulator = Emulator::new(acs_emulator::Settings::new(vec![access_key]), acs_emulator::Clock::default())?;
    let emulator = tokio::spawn(async move { axum::serve(emulator_listener, emulator.router()).await });
    print!("{}", addresses.greeting(&options));
    let ended = app.run(stop).await;
    // Fault rules may keep connections open for minutes.
    emulator.abort();
    ended
}

async fn run_emulator(options: acs_emulator::cli::Options) -> anyhow::Result<()> {
    telemetry::init(&telemetry::Settings { filter: options.log.clone(), ..telemetry::Settings::default() });
    let stop = Stop::on_signals()?;
    acs_emulator::cli::run(options, stop.politely.cancelled_owned()).await
}

struct Addresses {
    service: SocketAddr,
    admin: SocketAddr,
    emulator: SocketAddr,
}

/// Writes the settings as a file, so that they go through the usual checks.
fn settings(options: &Options, addresses: &Addresses) -> anyhow::Result<Settings> {
    let database = match &options.database_url {
        Some(url) => url.clone(),
        None => format!("sqlite:{}", options.data.join("vendor.db").display()),
    };
    let quote = |text: &str| serde_json::Value::from(text).to_string();
    let origins: Vec<_> = options.cors_origins.iter().map(|origin| quote(origin)).collect();
    let toml = format!(
        "[server]\nlisten = {listen}\ndocs = true\ncors_origins = [{origins}]\n\
         [admin]\nlisten = {admin}\n\
         [log]\nfilter = {log}\n\
         [shutdown]\ndelay = \"0s\"\n\
         [database]\nurl = {database}\n\
         [acs]\nconnection_string = {connection}\n\
         [ops.keys.dev]\nhash = {ops_key}\nroles = [\"operator\"]\n\
         scopes = [\"chat\", \"chat.join\", \"chat.join.limited\", \"voip\", \"voip.join\"]\nmax_lifetime = \"24h\"\n\
         [issuers.{key}]\nissuer = {issuer}\naudience = {audience}\n\
         [[issuers.{key}.policy]]\nscopes = [\"chat\", \"chat.join\", \"chat.join.limited\", \"voip\", \"voip.join\"]\n\
         max_lifetime = \"24h\"\n",
        listen = quote(&addresses.service.to_string()),
        origins = origins.join(", "),
        admin = quote(&addresses.admin.to_string()),
        log = quote(&options.log),
        database = quote(&database),
        connection = quote(&addresses.connection_string()),
        ops_key = quote(&operator::hash(&options.ops_key)),
        key = issuer::KEY,
        issuer = quote(&issuer::url(addresses.service)),
        audience = quote(issuer::AUDIENCE),
    );
    Ok(config::parse(&toml)?)
}

impl Addresses {
    fn connection_string(&self) -> String {
        format!("endpoint=http://{}/;accesskey={DEFAULT_ACCESS_KEY}", self.emulator)
    }

    fn greeting(&self, options: &Options) -> String {
        let Self { service, admin, emulator } = self;
        format!(
            "\n  service      http://{service}        (API documentation: http://{service}/docs)\n  \
             probes       http://{admin}/readyz\n  \
             emulator     http://{emulator}        (statistics: http://{emulator}/_emulator/stats)\n  \
             data         {data}\n\n  \
             Connection string of the emulator, for an SDK or another service:\n    {connection}\n\n  \
             Sign in as alice, then get a token:\n    \
             SIGN_IN=$(curl -s http://{service}/dev/login -H 'content-type: application/json' -d '{{\"user\":\"alice\"}}' | sed 's/.*\"access_token\":\"\\([^\"]*\\)\".*/\\1/')\n    \
             curl -s -X POST http://{service}/token -H \"authorization: Bearer $SIGN_IN\"\n\n  \
             Revoke alice's access, as an operator:\n    \
             curl -s -X POST http://{service}/users/dev:alice/revoke -H \"authorization: Bearer {ops_key}\"\n\n",
            data = options.data.display(),
            ops_key = options.ops_key,
            connection = self.connection_string(),
        )
    }
}

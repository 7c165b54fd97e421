//! `dev`: the emulator, an issuer with real keys, and the service, all on loopback and all for real.
//!
//! Nothing is skipped for convenience: the service checks the issuer's logins and signs its calls as anywhere else.

pub mod issuer;

use std::{net::SocketAddr, path::PathBuf};

use anyhow::Context;

use acs_emulator::{self as emulator, Emulator};

use crate::{
    app::{self, Listeners},
    auth::operator,
    config::{self, Settings},
    domain::clock::Clock,
    encryption::KeyRing,
    shutdown::Stop,
    telemetry,
};
use issuer::Issuer;

pub use acs_emulator::cli::DEFAULT_ACCESS_KEY as ACCESS_KEY;

/// The operator's key of `dev` where none is given: known to everybody, so good for loopback only.
pub const OPS_KEY: &str = "atv_dev_not-a-secret-and-for-loopback-only";

/// What `dev` is told on the command line.
#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    /// Where the service listens.
    #[arg(long, default_value = "127.0.0.1:8080", value_name = "ADDRESS")]
    pub listen: SocketAddr,
    /// Where the probes listen.
    #[arg(long, default_value = "127.0.0.1:9090", value_name = "ADDRESS")]
    pub admin_listen: SocketAddr,
    /// Where the emulator listens.
    #[arg(long, default_value = "127.0.0.1:8081", value_name = "ADDRESS")]
    pub emulator_listen: SocketAddr,
    /// The folder for the database and the issuer's key.
    #[arg(long, default_value = ".dev", value_name = "DIR")]
    pub data: PathBuf,
    /// A Postgres or SQLite database instead of a SQLite file in the folder.
    #[arg(long, value_name = "URL")]
    pub database_url: Option<String>,
    /// The operator's key.
    #[arg(long, default_value = OPS_KEY, value_name = "KEY")]
    pub ops_key: String,
    /// A browser origin that may call the service, such as `http://localhost:5173`; may be repeated.
    #[arg(long = "cors-origin", value_name = "ORIGIN")]
    pub cors_origins: Vec<String>,
    /// What is logged, such as `debug`.
    #[arg(long, default_value = "info", value_name = "FILTER")]
    pub log: String,
}

/// Runs everything until told to stop.
///
/// # Errors
/// When a port, the folder or the database cannot be had.
pub async fn run(options: Options) -> anyhow::Result<()> {
    std::fs::create_dir_all(&options.data)
        .with_context(|| format!("cannot make the folder `{}`", options.data.display()))?;
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
    // The emulator's tokens end with it, so what an earlier run stored must not open.
    settings.tokens.encryption_keys = KeyRing::random().context("the system gives no randomness")?;
    telemetry::init(&settings.log);
    let issuer = Issuer::open(&options.data, issuer_url(addresses.service), clock.clone())?;
    let app = app::build(settings, listeners, clock.clone(), issuer.router()).await?;
    let router = emulator(ACCESS_KEY)?.router();
    let emulator = tokio::spawn(async move { axum::serve(emulator_listener, router).await });
    print!("{}", addresses.greeting(&options));
    let ended = app.run(stop).await;
    // Faults may hold connections open for minutes; what the emulator still does matters to nobody now.
    emulator.abort();
    ended
}

/// Makes an emulator with one access key.
///
/// # Errors
/// When the key is none.
pub fn emulator(access_key: &str) -> anyhow::Result<Emulator> {
    let key = emulator::AccessKey::parse(access_key).context("the access key of the emulator cannot be used")?;
    Ok(Emulator::new(emulator::Settings::new(vec![key]), emulator::Clock::default())?)
}

/// The connection string of an emulator.
#[must_use]
pub fn connection_string(emulator: SocketAddr, access_key: &str) -> String {
    format!("endpoint=http://{emulator}/;accesskey={access_key}")
}

/// The `iss` of the logins of an issuer that is served at an address.
#[must_use]
pub fn issuer_url(address: SocketAddr) -> String {
    format!("http://{address}{}", issuer::BASE)
}

struct Addresses {
    service: SocketAddr,
    admin: SocketAddr,
    emulator: SocketAddr,
}

/// Writes the settings as anybody would write them, so that they go through the same checks.
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
        connection = quote(&connection_string(addresses.emulator, ACCESS_KEY)),
        ops_key = quote(&operator::hash(&options.ops_key)),
        key = issuer::KEY,
        issuer = quote(&issuer_url(addresses.service)),
        audience = quote(issuer::AUDIENCE),
    );
    Ok(config::parse(&toml)?)
}

impl Addresses {
    fn greeting(&self, options: &Options) -> String {
        let Self { service, admin, emulator } = self;
        format!(
            "\n  service      http://{service}        (its API for people: http://{service}/docs)\n  \
             probes       http://{admin}/readyz\n  \
             emulator     http://{emulator}        (what it saw: http://{emulator}/_emulator/stats)\n  \
             data         {data}\n\n  \
             The emulator's connection string, for an SDK or another service:\n    {connection}\n\n  \
             Sign in as alice, then get a token:\n    \
             LOGIN=$(curl -s http://{service}/dev/login -H 'content-type: application/json' -d '{{\"user\":\"alice\"}}' | sed 's/.*\"access_token\":\"\\([^\"]*\\)\".*/\\1/')\n    \
             curl -s -X POST http://{service}/token -H \"authorization: Bearer $LOGIN\"\n\n  \
             Take alice's access away, as an operator:\n    \
             curl -s -X POST http://{service}/users/dev:alice/revoke -H \"authorization: Bearer {ops_key}\"\n\n",
            data = options.data.display(),
            ops_key = options.ops_key,
            connection = connection_string(*emulator, ACCESS_KEY),
        )
    }
}

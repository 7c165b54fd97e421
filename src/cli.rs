//! The command line.

mod audit;
mod import;
mod operations;
mod ops_key;
mod quickstart;
mod remote;
mod revoke;
mod table;
mod users;

use std::{net::SocketAddr, path::PathBuf};

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::{
    app::{self, Listeners},
    client, config,
    dev::{self, issuer::Issuer},
    domain::clock::Clock,
    http,
    shutdown::Stop,
    telemetry,
};

/// Vends Azure Communication Services access tokens to an app's users.
#[derive(Debug, Parser)]
#[command(version, about, max_term_width = 100)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the service.
    Serve(Config),
    /// Run everything on this machine: the service, an emulator of ACS and an issuer of logins.
    Dev(dev::Options),
    /// Run only the emulator of ACS.
    Emulator(acs_emulator::cli::Options),
    /// Run only the issuer of logins for trying out: whoever reaches it can sign in as anybody.
    DevIssuer(IssuerOptions),
    /// Try an ACS resource: create, issue, revoke and delete, printing each step.
    ///
    /// Reads `COMMUNICATION_SERVICES_CONNECTION_STRING`. What it creates it deletes again.
    Quickstart,
    /// Bring the database's schema up to date.
    Migrate(Config),
    /// Check the settings as `serve` would, without starting anything.
    CheckConfig(Config),
    /// Print the description of the HTTP API.
    Openapi {
        /// The form.
        #[arg(long, value_enum, default_value_t = Form::Yaml)]
        format: Form,
    },
    /// Look after app users, over the HTTP API of a running service.
    Users(users::Options),
    /// Take the access of many users away at once, or everyone's, over the HTTP API.
    Revoke(revoke::Options),
    /// Look at revocations of many, and how far they have come, over the HTTP API.
    Revocations(revoke::ListOptions),
    /// Import which identity is whose, from a file, over the HTTP API.
    Import(import::Options),
    /// Export which identity is whose, over the HTTP API.
    Export(import::ExportOptions),
    /// Look at the work at ACS that was accepted, over the HTTP API.
    Operations(operations::Options),
    /// Read who did what, and when, over the HTTP API.
    Audit(audit::Options),
    /// Make operators' keys.
    #[command(subcommand)]
    OpsKey(ops_key::OpsKey),
    /// Ask a service with these settings on this machine whether it is ready; for a container's health check.
    Healthcheck(Config),
}

#[derive(Debug, Args)]
struct Config {
    /// The settings file, TOML; environment variables go before it.
    #[arg(long = "config", value_name = "FILE")]
    file: Option<PathBuf>,
}

#[derive(Debug, Args)]
struct IssuerOptions {
    /// Where to listen.
    #[arg(long, default_value = "127.0.0.1:8082", value_name = "ADDRESS")]
    listen: SocketAddr,
    /// The `iss` of its logins, under which the service reaches it; `http://ADDRESS/dev` where not given.
    #[arg(long, value_name = "URL")]
    issuer: Option<String>,
    /// The folder for its key; a new key at each start where not given.
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Form {
    Yaml,
    Json,
}

impl Cli {
    /// Does what the command line says.
    ///
    /// # Errors
    /// Whatever keeps it from being done.
    pub async fn run(self) -> anyhow::Result<()> {
        match self.command {
            Command::Serve(Config { file }) => serve(file).await,
            Command::Dev(options) => dev::run(options).await,
            Command::Emulator(options) => run_emulator(options).await,
            Command::DevIssuer(options) => run_issuer(options).await,
            Command::Quickstart => quickstart::run(&config::environment()).await,
            Command::Migrate(Config { file }) => migrate(file).await,
            Command::CheckConfig(Config { file }) => {
                config::load(file.as_deref())?;
                println!("the settings are good");
                Ok(())
            }
            Command::Openapi { format } => print_openapi(format),
            Command::Users(options) => users::run(options, &config::environment()).await,
            Command::Revoke(options) => revoke::run(options, &config::environment()).await,
            Command::Revocations(options) => revoke::list(options, &config::environment()).await,
            Command::Import(options) => import::run(options, &config::environment()).await,
            Command::Export(options) => import::export(options, &config::environment()).await,
            Command::Operations(options) => operations::run(options, &config::environment()).await,
            Command::Audit(options) => audit::run(options, &config::environment()).await,
            Command::OpsKey(command) => ops_key::run(&command),
            Command::Healthcheck(Config { file }) => {
                let admin = config::admin_address(file.as_deref())?;
                client::check_ready(&app::client_builder(true).build()?, admin).await
            }
        }
    }
}

async fn serve(file: Option<PathBuf>) -> anyhow::Result<()> {
    let settings = config::load(file.as_deref())?;
    telemetry::init(&settings.log);
    let stop = Stop::on_signals()?;
    let listeners = Listeners::bind(settings.listen, settings.admin_listen, settings.ops_listen).await?;
    tracing::info!(listen = %listeners.public_address()?, admin = %listeners.admin_address()?, "starting");
    app::build(settings, listeners, Clock::default(), axum::Router::new()).await?.run(stop).await
}

async fn run_emulator(options: acs_emulator::cli::Options) -> anyhow::Result<()> {
    telemetry::init(&telemetry::Settings { filter: options.log.clone(), ..telemetry::Settings::default() });
    let stop = Stop::on_signals()?;
    acs_emulator::cli::run(options, stop.politely.cancelled_owned()).await
}

async fn run_issuer(options: IssuerOptions) -> anyhow::Result<()> {
    let stop = Stop::on_signals()?;
    let listener = app::bind(options.listen).await?;
    let address = listener.local_addr()?;
    let url = options.issuer.unwrap_or_else(|| dev::issuer_url(address));
    let issuer = match &options.data {
        Some(folder) => Issuer::open(folder, url.clone(), Clock::default())?,
        None => Issuer::new(url.clone(), Clock::default())?,
    };
    println!("issuer of logins on http://{address}, iss {url}, aud {}", dev::issuer::AUDIENCE);
    http::serve(listener, issuer.router(), http::ServerSettings::default(), stop.politely).await;
    Ok(())
}

async fn migrate(file: Option<PathBuf>) -> anyhow::Result<()> {
    let settings = config::load(file.as_deref())?;
    telemetry::init(&settings.log);
    let store = app::open_store(&settings.database).await?;
    let pending = store.pending_migrations().await?;
    store.migrate().await?;
    match pending.as_slice() {
        [] => println!("the schema was up to date"),
        applied => println!("applied {} migration(s): {applied:?}", applied.len()),
    }
    store.close().await;
    Ok(())
}

fn print_openapi(format: Form) -> anyhow::Result<()> {
    match format {
        Form::Yaml => print!("{}", http::openapi().to_yaml()?),
        Form::Json => println!("{}", http::openapi().to_pretty_json()?),
    }
    Ok(())
}

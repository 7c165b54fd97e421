//! The command line.

mod audit;
mod confirm;
mod import;
mod operations;
mod ops_key;
mod quickstart;
mod remote;
mod revoke;
mod table;
mod users;

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

#[cfg(feature = "dev")]
use crate::dev;
use crate::{
    app::{self, Listeners},
    client, config,
    domain::clock::Clock,
    http,
    shutdown::Stop,
    telemetry,
};

/// A token-exchange service for Azure Communication Services.
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
    #[cfg(feature = "dev")]
    #[command(flatten)]
    Dev(dev::Command),
    /// Try an ACS resource: create, issue, revoke and delete, printing each step.
    ///
    /// Reads `COMMUNICATION_SERVICES_CONNECTION_STRING`. Deletes everything it creates.
    Quickstart,
    /// Bring the database schema up to date.
    Migrate(Config),
    /// Check the settings as `serve` would, without starting anything.
    CheckConfig(Config),
    /// Print the OpenAPI description of the HTTP API.
    Openapi {
        /// The format.
        #[arg(long, value_enum, default_value_t = Format::Yaml)]
        format: Format,
    },
    /// Manage app users, over the HTTP API.
    Users(users::Options),
    /// Revoke access for many users, or for everyone, over the HTTP API.
    Revoke(revoke::Options),
    /// Show bulk revocations and their progress, over the HTTP API.
    Revocations(revoke::ListOptions),
    /// Import the mapping of users to ACS identities from a file, over the HTTP API.
    Import(import::Options),
    /// Export the mapping of users to ACS identities, over the HTTP API.
    Export(import::ExportOptions),
    /// Show operations at ACS that were accepted, over the HTTP API.
    Operations(operations::Options),
    /// Show the audit log, over the HTTP API.
    Audit(audit::Options),
    /// Create operator keys.
    #[command(subcommand)]
    OpsKey(ops_key::OpsKey),
    /// Check whether the service on this machine is ready, for the health check of a container.
    Healthcheck(Config),
}

#[derive(Debug, Args)]
struct Config {
    /// The settings file (TOML); environment variables take precedence.
    #[arg(long = "config", value_name = "FILE")]
    file: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Format {
    Yaml,
    Json,
}

impl Cli {
    /// Runs the command.
    ///
    /// # Errors
    /// If the command fails.
    pub async fn run(self) -> anyhow::Result<()> {
        match self.command {
            Command::Serve(Config { file }) => serve(file).await,
            #[cfg(feature = "dev")]
            Command::Dev(command) => command.run().await,
            Command::Quickstart => quickstart::run(&config::environment()).await,
            Command::Migrate(Config { file }) => migrate(file).await,
            Command::CheckConfig(Config { file }) => {
                config::load(file.as_deref())?;
                println!("configuration OK");
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

fn print_openapi(format: Format) -> anyhow::Result<()> {
    match format {
        Format::Yaml => print!("{}", http::openapi().to_yaml()?),
        Format::Json => println!("{}", http::openapi().to_pretty_json()?),
    }
    Ok(())
}

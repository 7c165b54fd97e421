//! The binary `acs-emulator`.

use clap::Parser;
use tokio::signal::unix::{SignalKind, signal};

/// An emulator of Azure Communication Services Identity, for tests and development.
#[derive(Debug, Parser)]
#[command(version, about, max_term_width = 100)]
struct Cli {
    #[command(flatten)]
    options: acs_emulator::cli::Options,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let options = Cli::parse().options;
    let filter = tracing_subscriber::EnvFilter::try_new(&options.log)?;
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let stop = async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    };
    acs_emulator::cli::run(options, stop).await
}

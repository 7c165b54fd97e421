//! Benchmarks that compare, each within one run: the service with a ceiling, with a peer, and with itself.
//!
//! `scripts/bench` builds what is compared, brings a Postgres and what else is needed, and runs this.

mod figures;
mod issuer;
mod load;
mod processes;
mod report;
mod world;

use std::{path::PathBuf, time::Duration};

use clap::Parser;
use report::Report;
use world::World;

#[derive(Parser)]
struct Options {
    /// A Postgres where databases may be made: `postgres://…/postgres`.
    #[arg(long)]
    postgres: String,
    /// Where figures and charts go.
    #[arg(long, default_value = "docs/performance")]
    out: PathBuf,
    /// The document with a place for the table.
    #[arg(long, default_value = "docs/performance.md")]
    document: PathBuf,
    /// Only these figures, such as `P1,P4`.
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,
    /// How many rounds each comparison has.
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// How long each round of load takes, in seconds.
    #[arg(long, default_value_t = 5)]
    seconds: u64,
    /// Keep the folder with the logs of all processes.
    #[arg(long)]
    keep: bool,
}

/// How much of it.
#[derive(Clone, Copy)]
pub struct Effort {
    /// How many rounds each comparison has.
    pub rounds: usize,
    /// How long each round of load takes.
    pub time: Duration,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let options = Options::parse();
    let folder = tempfile::Builder::new().prefix("bench").disable_cleanup(options.keep).tempdir()?;
    if options.keep {
        println!("logs in {}", folder.path().display());
    }
    let world = World::new(folder.path(), &options.postgres).await?;
    let mut report = Report::open(&options.out)?;
    let effort = Effort { rounds: options.rounds, time: Duration::from_secs(options.seconds) };
    let wanted =
        |name: &str| options.only.is_empty() || options.only.iter().any(|only| only.eq_ignore_ascii_case(name));
    if wanted("P1") {
        report.add("P1", figures::warm::measure(&world, effort).await?)?;
    }
    if wanted("P2") {
        report.add("P2", figures::cold::measure(&world, effort).await?)?;
    }
    if wanted("P3") || wanted("P4") {
        let (minted, reused) = figures::herd::measure(&world).await?;
        report.add("P3", minted)?;
        report.add("P4", reused)?;
    }
    if wanted("P5") {
        report.add("P5", figures::size::measure(&world, effort).await?)?;
    }
    if wanted("P6") {
        report.add("P6", figures::memory::measure(&world, effort).await?)?;
    }
    if wanted("P7") {
        report.add("P7", figures::overload::measure(&world).await?)?;
    }
    if wanted("P8") {
        report.add("P8", figures::instructions::measure(&world).await?)?;
    }
    report.write_table(&options.document)
}

//! Benchmarks that compare within one run: the service with ceilings, with an Express server, and with another build.
//!
//! `scripts/bench` builds what is compared, starts a Postgres and runs this program.

mod acs;
mod environment;
mod figures;
mod issuer;
mod load;
mod processes;
mod proxy;
mod report;

use std::{path::PathBuf, time::Duration};

use clap::Parser;
use environment::Environment;
use report::Report;

#[derive(Parser)]
struct Options {
    /// A Postgres where databases may be created: `postgres://…/postgres`.
    #[arg(long)]
    postgres: String,
    /// The folder for figures and charts.
    #[arg(long, default_value = "docs/performance")]
    out: PathBuf,
    /// The document with the table and the charts.
    #[arg(long, default_value = "docs/performance.md")]
    document: PathBuf,
    /// Print the results, but write neither figures nor charts nor the table.
    #[arg(long)]
    dry_run: bool,
    /// Measure only these figures, such as `P1,P4,trips`.
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,
    /// Another build of the service, to be measured in the same run.
    #[arg(long, value_name = "BINARY")]
    compare: Option<PathBuf>,
    /// The number of rounds in each comparison.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u16).range(1..))]
    rounds: u16,
    /// The seconds of load in each round.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u16).range(1..))]
    seconds: u16,
    /// The number of new users in P3 and P4.
    #[arg(long, default_value_t = 20_000, value_parser = clap::value_parser!(u32).range(10..))]
    new_users: u32,
    /// The number of mappings in P5.
    #[arg(long, default_value_t = 10_000_000, value_parser = clap::value_parser!(u32).range(10_000..))]
    mappings: u32,
    /// The number of audit events in P5.
    #[arg(long, default_value_t = 10_000_000)]
    audit_rows: u32,
    /// Keep the folder with the logs of all processes.
    #[arg(long)]
    keep: bool,
}

/// How much is measured.
#[derive(Clone, Copy)]
pub(crate) struct Effort {
    pub(crate) rounds: usize,
    /// How long each round of load takes.
    pub(crate) time: Duration,
    pub(crate) new_users: u32,
    pub(crate) mappings: u32,
    pub(crate) audit_rows: u32,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let options = Options::parse();
    let folder = tempfile::Builder::new().prefix("bench").disable_cleanup(options.keep).tempdir()?;
    if options.keep {
        println!("logs in {}", folder.path().display());
    }
    let environment = Environment::new(folder.path(), &options.postgres, options.compare).await?;
    let mut report = Report::open(&options.out, options.dry_run)?;
    let effort = Effort {
        rounds: options.rounds.into(),
        time: Duration::from_secs(options.seconds.into()),
        new_users: options.new_users,
        mappings: options.mappings,
        audit_rows: options.audit_rows,
    };
    let wanted =
        |name: &str| options.only.is_empty() || options.only.iter().any(|only| only.eq_ignore_ascii_case(name));
    if wanted("P1") {
        report.add("P1", figures::warm::measure(&environment, effort).await?)?;
    }
    if wanted("P2") {
        report.add("P2", figures::cold::measure(&environment, effort).await?)?;
    }
    if wanted("P3") || wanted("P4") {
        let (first, again) = figures::new_users::measure(&environment, effort).await?;
        report.add("P3", first)?;
        report.add("P4", again)?;
    }
    if wanted("P5") {
        report.add("P5", figures::size::measure(&environment, effort).await?)?;
    }
    if wanted("P6") {
        report.add("P6", figures::memory::measure(&environment, effort).await?)?;
    }
    if wanted("P7") {
        report.add("P7", figures::overload::measure(&environment).await?)?;
    }
    if wanted("P8") {
        report.add("P8", figures::instructions::measure(&environment).await?)?;
    }
    if wanted("trips") {
        report.add("trips", figures::round_trips::measure(&environment).await?)?;
    }
    report.write_document(&options.document)
}

//! P8: instructions of a warm request, counted by callgrind as the difference between a long and a short run.

use std::process::Command;

use anyhow::Context;
use jsonwebtoken::Algorithm;
use serde_json::Value;

use super::{against_compared_build, ceiling_database};
use crate::{
    environment::{Environment, NO_QUOTA, Setup, subjects},
    load,
    processes::Process,
    report::{Figure, Finding, Series, ratio},
};

const USERS: usize = 100;
const SHORT: u16 = 200;
const LONG: u16 = 1_200;
const UNIT: &str = "thousand instructions";

pub async fn measure(environment: &Environment) -> anyhow::Result<Figure> {
    let emulator = environment.emulator("p8-emulator", &["--no-limits"]).await?;
    let tokens = environment.issuer.sign_in_tokens(Algorithm::RS256, &subjects(USERS))?;
    let (mut series, mut sample) = (Vec::new(), Value::Null);
    for build in environment.builds() {
        let database = environment.database(&format!("bench_p8_{}", build.name)).await?;
        let setup = Setup { database: &database, emulator: &emulator.url, caches: true, more: NO_QUOTA };
        let service = environment.service_of(build, "p8-warm-up", &setup).await?;
        sample = load::once_each(&environment.http, &service.url, &tokens).await?;
        service.process.terminate()?;
        let mut counts = Vec::new();
        for requests in [SHORT, LONG] {
            let service = environment.service_under(build, "p8-service", &setup, Some(callgrind(environment))).await?;
            send(environment, &service.url, &tokens, requests.into()).await?;
            counts.push(instructions(environment, service.process)?);
        }
        series.push(Series::new(format!("{}, Postgres", build.name), UNIT, vec![per_request(&counts)]));
    }
    let token = sample["token"].as_str().context("no token")?;
    let identity = sample["user"]["communicationUserId"].as_str().context("no identity")?;
    let database = ceiling_database(environment, "bench_p8_ceiling", USERS, identity, token).await?;
    let mut counts = Vec::new();
    for requests in [SHORT, LONG] {
        let ceiling = environment.warm_ceiling(&database, Some(callgrind(environment))).await?;
        send(environment, &ceiling.url, &tokens, requests.into()).await?;
        counts.push(instructions(environment, ceiling.process)?);
    }
    let ceiling = Series::new("ceiling", UNIT, vec![per_request(&counts)]);

    let mut findings = vec![
        Finding::info("thousand instructions", format!("{:.0}", series[0].median())),
        Finding::at_most("instructions ÷ ceiling's", ratio(&series[0], &ceiling), 1.25, "×"),
    ];
    findings.extend(against_compared_build("instructions", &series[0], series.get(1)));
    series.push(ceiling);
    Ok(Figure { title: "instructions for each warm `POST /token`, RS256".to_owned(), findings, series })
}

async fn send(environment: &Environment, url: &str, tokens: &[String], requests: usize) -> anyhow::Result<()> {
    let tokens: Vec<_> = tokens.iter().cycle().take(requests).cloned().collect();
    load::once_each(&environment.http, url, &tokens).await.map(drop)
}

/// Follows the program where a script starts it in its place: then the process stays the same.
fn callgrind(environment: &Environment) -> Command {
    let mut command = Command::new("valgrind");
    let file = environment.folder.join("callgrind.%p");
    command.args(["--tool=callgrind", "--trace-children=yes"]);
    command.arg(format!("--callgrind-out-file={}", file.display()));
    command
}

/// Stops a process and reads the sum at the end of callgrind's file.
fn instructions(environment: &Environment, process: Process) -> anyhow::Result<f64> {
    let file = environment.folder.join(format!("callgrind.{}", process.id()));
    process.terminate()?;
    let text = std::fs::read_to_string(&file).with_context(|| format!("no {}", file.display()))?;
    let line = text.lines().find_map(|line| line.strip_prefix("totals:").or_else(|| line.strip_prefix("summary:")));
    Ok(line.context("no sum in callgrind's file")?.trim().parse()?)
}

/// The thousands of instructions of one request, from the counts of a short and a long run.
fn per_request(counts: &[f64]) -> f64 {
    (counts[1] - counts[0]) / f64::from(LONG - SHORT) / 1000.0
}

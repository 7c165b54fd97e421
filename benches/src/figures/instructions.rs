//! P8: instructions for a warm request, counted by callgrind: the difference of a long run and a short one.

use std::{path::Path, process::Command};

use anyhow::Context;
use jsonwebtoken::Algorithm;

use super::ceiling_database;
use crate::{
    load,
    processes::program,
    report::{Figure, Finding, Series, ratio},
    world::{NO_QUOTA, Setup, World, subjects},
};

const USERS: usize = 100;
const SHORT: usize = 200;
const LONG: usize = 1_200;

pub async fn measure(world: &World) -> anyhow::Result<Figure> {
    let emulator = world.emulator("p8-emulator", &["--no-limits"]).await?;
    let database = world.database("bench_p8").await?;
    let setup = Setup { database: &database, emulator: &emulator.url, reuse: true, more: NO_QUOTA };
    let logins = world.issuer.logins(Algorithm::RS256, &subjects(USERS))?;
    let service = world.service("p8-warm-up", &setup).await?;
    let sample = load::once_each(&world.http, &service.url, &logins).await?;
    service.process.terminate()?;
    let token = sample["token"].as_str().context("no token")?;
    let ceiling_database = ceiling_database(world, USERS, token).await?;

    let mut counts = [Vec::new(), Vec::new()];
    for requests in [SHORT, LONG] {
        let file = world.folder.join(format!("service-{requests}.callgrind"));
        let service = world.service_under("p8-service", &setup, callgrind(&file, "acs-token-vendor")?).await?;
        ask(world, &service.url, &logins, requests).await?;
        service.process.terminate()?;
        counts[0].push(instructions(&file)?);

        let file = world.folder.join(format!("ceiling-{requests}.callgrind"));
        let mut command = callgrind(&file, "ceiling")?;
        let ceiling = world.ceiling_under("p8-ceiling", &ceiling_database, &mut command).await?;
        ask(world, &ceiling.url, &logins, requests).await?;
        ceiling.process.terminate()?;
        counts[1].push(instructions(&file)?);
    }
    let per_request =
        |counts: &[f64]| (counts[1] - counts[0]) / f64::from(u32::try_from(LONG - SHORT).unwrap_or(1)) / 1000.0;
    let unit = "thousand instructions";
    let series = vec![
        Series::new("ours, Postgres, RS256", unit, vec![per_request(&counts[0])]),
        Series::new("ceiling, RS256", unit, vec![per_request(&counts[1])]),
    ];
    let findings = vec![
        Finding::told("thousand instructions per request", format!("{:.0}", series[0].median())),
        Finding::at_most("of the ceiling's", ratio(&series[0], &series[1]), 1.3, "×"),
    ];
    Ok(Figure { title: "instructions per warm request".to_owned(), findings, series })
}

async fn ask(world: &World, url: &str, logins: &[String], requests: usize) -> anyhow::Result<()> {
    let logins: Vec<_> = logins.iter().cycle().take(requests).cloned().collect();
    load::once_each(&world.http, url, &logins).await.map(drop)
}

fn callgrind(file: &Path, name: &str) -> anyhow::Result<Command> {
    let mut command = Command::new("valgrind");
    command.arg("--tool=callgrind").arg(format!("--callgrind-out-file={}", file.display())).arg(program(name)?);
    Ok(command)
}

/// Reads the sum that callgrind writes at the end of its file.
fn instructions(file: &Path) -> anyhow::Result<f64> {
    let text = std::fs::read_to_string(file).with_context(|| format!("no {}", file.display()))?;
    let line = text.lines().find_map(|line| line.strip_prefix("totals:").or_else(|| line.strip_prefix("summary:")));
    Ok(line.context("callgrind counted nothing")?.trim().parse()?)
}

//! P3 and P4: all users come at once, first as new users, then with cached tokens.

use std::{collections::HashSet, time::Duration};

use jsonwebtoken::Algorithm;
use serde_json::Value;

use super::against_compared_build;
use crate::{
    Effort,
    environment::{Build, Environment, NO_QUOTA, Served, Service, Setup, subjects},
    load::{self, Surge},
    report::{Figure, Finding, Series},
};

/// ACS's period for its limits.
const PERIOD_S: f64 = 30.0;

pub async fn measure(environment: &Environment, effort: Effort) -> anyhow::Result<(Figure, Figure)> {
    let tokens = environment.issuer.sign_in_tokens(Algorithm::ES256, &subjects(usize::try_from(effort.new_users)?))?;
    let mut runs = Vec::new();
    for build in environment.builds() {
        runs.push(run(environment, build, &tokens).await?);
    }
    let (service, compared) = (&runs[0], runs.get(1));
    let users = f64::from(effort.new_users);
    let first = Figure {
        title: format!("{users} new users at once, three replicas, limits that allow half of them in 30 s"),
        findings: first_findings(service, compared, users),
        series: series(environment, &runs, |run| run.first.took),
    };
    let same = service.first.identities.iter().zip(&service.again.identities).filter(|(first, again)| first == again);
    let again = Figure {
        title: format!("the same {users} users again, tokens cached"),
        findings: vec![
            Finding::at_most("calls to ACS", service.calls_again, 0.0, ""),
            Finding::at_least("users served with the identity of before", count(same.count()), users, ""),
            Finding::info("time", seconds(service.again.took)),
            Finding::info("answers with `Retry-After`", service.again.retries.to_string()),
        ],
        series: series(environment, &runs, |run| run.again.took),
    };
    Ok((first, again))
}

fn first_findings(service: &Run, compared: Option<&Run>, users: f64) -> Vec<Finding> {
    let least = |run: &Run| PERIOD_S + run.without_limits.as_secs_f64();
    let relative = |run: &Run| run.first.took.as_secs_f64() / least(run);
    let distinct = count(service.first.identities.iter().collect::<HashSet<_>>().len());
    let mut findings = vec![
        Finding::at_least("users served", count(service.first.identities.len()), users, ""),
        Finding::at_most("time ÷ (30 s + time of half of the users without limits)", relative(service), 1.15, "×"),
        Finding::info("time", seconds(service.first.took)),
        Finding::info("time of half of the users without limits", seconds(service.without_limits)),
        Finding::at_most("429s of all calls to ACS", service.throttled / service.calls * 100.0, 0.1, "%"),
        Finding::at_least("different identities", distinct, users, ""),
        Finding::at_most("identities that no user has", service.identities - distinct, 0.0, ""),
        Finding::at_most("calls to ACS for each user", (service.calls - service.throttled) / users, 1.0, ""),
        Finding::info("answers with `Retry-After`", service.first.retries.to_string()),
        Finding::info("failed connections", service.first.failed.to_string()),
    ];
    if let Some(compared) = compared {
        findings.push(Finding::info(
            "compared build: time ÷ (30 s + time of half of the users without limits)",
            format!("{:.2} ×", relative(compared)),
        ));
        let time = |run: &Run| Series::new("", "s", vec![run.first.took.as_secs_f64()]);
        findings.extend(against_compared_build("time", &time(service), Some(&time(compared))));
    }
    findings
}

/// The results of one build.
struct Run {
    /// How long half of the users took where nothing limits the calls.
    without_limits: Duration,
    first: Surge,
    again: Surge,
    calls: f64,
    throttled: f64,
    identities: f64,
    calls_again: f64,
}

async fn run(environment: &Environment, build: &Build, tokens: &[String]) -> anyhow::Result<Run> {
    let half = tokens.len() / 2;
    let without_limits = {
        let emulator = environment.emulator("p3-emulator-without-limits", &["--no-limits"]).await?;
        let replicas = replicas(environment, build, "p3-without-limits", &emulator, NO_QUOTA).await?;
        load::all_at_once(&urls(&replicas), tokens[..half].to_vec()).await?.took
    };
    let limits = [("create", half), ("create_with_token", half), ("issue", half), ("revoke", half), ("delete", half)];
    let arguments = limits.map(|(call, calls)| format!("--limit={call}={calls}"));
    let emulator = environment.emulator("p3-emulator", &arguments.each_ref().map(String::as_str)).await?;
    let quota = limits.map(|(call, calls)| format!("{call} = {calls}\n")).concat();
    let replicas = replicas(environment, build, "p3", &emulator, &format!("[quota]\n{quota}")).await?;
    let first = load::all_at_once(&urls(&replicas), tokens.to_vec()).await?;
    let after_first = environment.stats(&emulator.url).await?;
    let again = load::all_at_once(&urls(&replicas), tokens.to_vec()).await?;
    let after_again = environment.stats(&emulator.url).await?;
    Ok(Run {
        without_limits,
        first,
        again,
        calls: calls(&after_first),
        throttled: number(&after_first["throttled"]),
        identities: number(&after_first["identities"]),
        calls_again: calls(&after_again) - calls(&after_first),
    })
}

async fn replicas(
    environment: &Environment,
    build: &Build,
    name: &str,
    emulator: &Served,
    more: &str,
) -> anyhow::Result<Vec<Service>> {
    let database = environment.database(&format!("bench_{name}")).await?;
    let setup = Setup { database: &database, emulator: &emulator.url, caches: true, more };
    let mut replicas = Vec::new();
    for number in 1..=3 {
        replicas.push(environment.service_of(build, &format!("{name}-{}-{number}", build.name), &setup).await?);
    }
    Ok(replicas)
}

fn urls(replicas: &[Service]) -> Vec<String> {
    replicas.iter().map(|replica| replica.url.clone()).collect()
}

fn series(environment: &Environment, runs: &[Run], time: fn(&Run) -> Duration) -> Vec<Series> {
    let named = environment.builds().iter().zip(runs);
    named
        .map(|(build, run)| {
            Series::new(format!("{}, all served", build.name), "seconds", vec![time(run).as_secs_f64()])
        })
        .collect()
}

fn calls(stats: &Value) -> f64 {
    number(&stats["calls"]["create"]) + number(&stats["calls"]["issue"])
}

fn number(value: &Value) -> f64 {
    value.as_f64().unwrap_or(f64::NAN)
}

fn count(number: usize) -> f64 {
    u32::try_from(number).map_or(f64::NAN, f64::from)
}

fn seconds(time: Duration) -> String {
    format!("{:.1} s", time.as_secs_f64())
}

//! Round trips to the database for a warm request, a mint for a known identity, and a first token.

use std::time::Duration;

use jsonwebtoken::Algorithm;

use crate::{
    environment::{Build, Environment, NO_QUOTA, Setup, subjects},
    load,
    proxy::Proxy,
    report::{Figure, Finding, Series},
};

/// So many that every connection of the service has prepared its statements.
const WARM_UP: usize = 100;
const REQUESTS: usize = 100;
/// Time for what a request leaves to be done after its answer.
const AFTERWARDS: Duration = Duration::from_millis(20);

pub async fn measure(environment: &Environment) -> anyhow::Result<Figure> {
    let emulator = environment.emulator("trips-emulator", &["--no-limits"]).await?;
    let (mut findings, mut series) = (Vec::new(), Vec::new());
    for build in environment.builds() {
        let [warm, mint, first] = of_build(environment, build, &emulator.url).await?;
        let is_service = findings.is_empty();
        let mut add = |what: &str, most: Option<f64>, counts: Vec<f64>| {
            let counts = Series::new(format!("{}, {what}", build.name), "round trips", counts);
            findings.push(match most {
                Some(most) if is_service => Finding::at_most(&counts.name, counts.median(), most, ""),
                _ => Finding::info(&counts.name, format!("{:.0}", counts.median())),
            });
            series.push(counts);
        };
        add("cached token", Some(1.0), warm);
        add("mint for a known identity", Some(3.0), mint);
        add("first token of a new user", Some(4.0), first);
    }
    Ok(Figure { title: format!("round trips to Postgres, median of {REQUESTS} requests"), findings, series })
}

/// Counts for a cached token, for a mint and for a first token.
async fn of_build(environment: &Environment, build: &Build, emulator: &str) -> anyhow::Result<[Vec<f64>; 3]> {
    let tokens = environment.issuer.sign_in_tokens(Algorithm::ES256, &subjects(WARM_UP + REQUESTS))?;
    let [first, warm] = twice(environment, build, emulator, true, &tokens).await?;
    let [_, mint] = twice(environment, build, emulator, false, &tokens).await?;
    Ok([warm, mint, first])
}

/// Counts for the first and the second token of each user. Without a cache the second is minted too.
async fn twice(
    environment: &Environment,
    build: &Build,
    emulator: &str,
    caches: bool,
    tokens: &[String],
) -> anyhow::Result<[Vec<f64>; 2]> {
    let database = environment.database("bench_trips").await?;
    let proxy = Proxy::start(&database).await?;
    let setup = Setup { database: &proxy.url, emulator, caches, more: NO_QUOTA };
    let service = environment.service_of(build, &format!("trips-{}", build.name), &setup).await?;
    let first = count(environment, &service.url, &proxy, tokens).await?;
    let second = count(environment, &service.url, &proxy, tokens).await?;
    Ok([first, second])
}

/// Sends one request after the other. Work in the background adds to some of them, but not to their median.
async fn count(environment: &Environment, url: &str, proxy: &Proxy, tokens: &[String]) -> anyhow::Result<Vec<f64>> {
    let mut counts = Vec::new();
    for token in tokens {
        let before = proxy.round_trips();
        load::once_each(&environment.http, url, std::slice::from_ref(token)).await?;
        tokio::time::sleep(AFTERWARDS).await;
        counts.push(f64::from(u32::try_from(proxy.round_trips() - before)?));
    }
    Ok(counts.split_off(WARM_UP))
}

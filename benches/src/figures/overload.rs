//! P7: ten times the load that a replica can serve, for half a minute.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::ensure;
use jsonwebtoken::Algorithm;
use reqwest::StatusCode;

use super::memory::megabytes;
use crate::{
    environment::{Environment, NO_QUOTA, OPS_KEY, Setup, subjects},
    load,
    report::{Figure, Finding, Series, percentile},
};

const USERS: usize = 5_000;
/// The concurrency limit: so low that ACS's delay bounds the rate, not the processor.
const MAX_IN_FLIGHT: usize = 4;
const DELAY_MS: u64 = 20;
const PEAK_TIME: Duration = Duration::from_secs(10);
const OVERLOAD_TIME: Duration = Duration::from_secs(30);

pub async fn measure(environment: &Environment) -> anyhow::Result<Figure> {
    let emulator = environment.emulator("p7-emulator", &["--no-limits"]).await?;
    let database = environment.database("bench_p7").await?;
    let more = format!("[server]\nmax_in_flight = {MAX_IN_FLIGHT}\n{NO_QUOTA}");
    let setup = Setup { database: &database, emulator: &emulator.url, caches: false, more: &more };
    let service = environment.service("p7", &setup).await?;
    let tokens = Arc::new(environment.issuer.sign_in_tokens(Algorithm::ES256, &subjects(USERS))?);
    for token in &tokens[..200] {
        load::once_each(&environment.http, &service.url, std::slice::from_ref(token)).await?;
    }
    environment.delay(&emulator.url, DELAY_MS).await?;

    let file = environment.write_tokens("p7-tokens", &tokens[..200])?;
    let peak = load::wrk(&service.url, &file, 0, MAX_IN_FLIGHT, PEAK_TIME).await?.per_second;

    let url: Arc<str> = format!("{}/token", service.url).into();
    let (good, refused, other) = (Counter::default(), Counter::default(), Counter::default());
    let stop = Arc::new(AtomicBool::new(false));
    let operator = tokio::spawn(revoke_repeatedly(environment.http.clone(), service.url.clone(), Arc::clone(&stop)));
    let begun = Instant::now();
    let interval = Duration::from_secs_f64(1.0 / (10.0 * peak));
    let mut ticks = tokio::time::interval(interval);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Burst);
    let (mut sent, mut greatest) = (0_usize, 0_u64);
    while begun.elapsed() < OVERLOAD_TIME {
        ticks.tick().await;
        let (http, url, token) = (environment.http.clone(), Arc::clone(&url), tokens[sent % 200].clone());
        let (good, refused, other) = (good.clone(), refused.clone(), other.clone());
        tokio::spawn(async move {
            match http.post(&*url).bearer_auth(token).send().await {
                Ok(answer) if answer.status() == StatusCode::OK => good.add(),
                Ok(answer) if answer.status() == StatusCode::SERVICE_UNAVAILABLE => refused.add(),
                _ => other.add(),
            }
        });
        sent += 1;
        if sent.is_multiple_of(500) {
            greatest = greatest.max(service.process.resident_bytes()?);
        }
    }
    let goodput = good.count() / begun.elapsed().as_secs_f64();
    let offered = f64::from(u32::try_from(sent)?) / begun.elapsed().as_secs_f64();
    // The overload is over: how long until a request is served?
    let calm = Instant::now();
    while environment.http.post(&*url).bearer_auth(&tokens[300]).send().await?.status() != StatusCode::OK {
        ensure!(calm.elapsed() < Duration::from_secs(30), "the service does not recover");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let recovery = calm.elapsed().as_secs_f64();
    stop.store(true, Ordering::Relaxed);
    let mut revocations = operator.await??;

    let findings = vec![
        Finding::info("offered ÷ peak", format!("{:.1} ×", offered / peak)),
        Finding::at_least("goodput ÷ peak", goodput / peak, 0.9, "×"),
        Finding::at_most("slowest revoke of an operator", percentile(&mut revocations, 1.0), 1.0, "s"),
        Finding::info("refused with 503, failed otherwise", format!("{:.0}, {:.0}", refused.count(), other.count())),
        Finding::info("resident, greatest", format!("{:.1} MB", megabytes(greatest))),
        Finding::at_most("served again after the overload", recovery, 1.0, "s"),
    ];
    let series = vec![
        Series::new("service, peak", "requests/s", vec![peak]),
        Series::new("service, goodput under overload", "requests/s", vec![goodput]),
        Series::new("offered under overload", "requests/s", vec![offered]),
    ];
    let seconds = OVERLOAD_TIME.as_secs();
    Ok(Figure {
        title: format!("ten times the load that {MAX_IN_FLIGHT} requests at once allow, for {seconds} s"),
        findings,
        series,
    })
}

/// Revokes users without tokens, so that only the way through the service is measured and not ACS's delay.
async fn revoke_repeatedly(http: reqwest::Client, url: String, stop: Arc<AtomicBool>) -> anyhow::Result<Vec<f64>> {
    let mut times = Vec::new();
    while !stop.load(Ordering::Relaxed) {
        let begun = Instant::now();
        let url = format!("{url}/users/bench:nobody-{}/revoke", times.len());
        let answer = http.post(url).bearer_auth(OPS_KEY).send().await?;
        ensure!(answer.status() == StatusCode::OK, "{} instead of a revocation", answer.status());
        times.push(begun.elapsed().as_secs_f64());
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    Ok(times)
}

#[derive(Clone, Default)]
struct Counter(Arc<AtomicUsize>);

impl Counter {
    fn add(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    fn count(&self) -> f64 {
        u32::try_from(self.0.load(Ordering::Relaxed)).map_or(f64::NAN, f64::from)
    }
}

//! P6: memory when idle and with many idle connections, and the time until a replica is ready.

use std::time::Duration;

use anyhow::ensure;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use super::against_compared_build;
use crate::{
    Effort,
    environment::{Build, Environment, Service, Setup},
    report::{Figure, Finding, Series, percentile},
};

const CONNECTIONS: usize = 10_000;
/// After it the allocator has returned what it does not need.
const SETTLING_TIME: Duration = Duration::from_secs(2);

pub async fn measure(environment: &Environment, effort: Effort) -> anyhow::Result<Figure> {
    let emulator = environment.emulator("p6-emulator", &[]).await?;
    let builds = environment.builds();
    let mut ready: Vec<_> = builds.iter().map(|build| Series::new(build.name, "s until ready", Vec::new())).collect();
    let mut idle: Vec<_> = builds.iter().map(|build| Series::new(build.name, "MB idle", Vec::new())).collect();
    for _ in 0..effort.rounds {
        for (index, build) in builds.iter().enumerate() {
            let service = start(environment, build, &emulator.url).await?;
            ready[index].rounds.push(service.ready_after.as_secs_f64());
            tokio::time::sleep(SETTLING_TIME).await;
            idle[index].rounds.push(megabytes(service.process.resident_bytes()?));
            service.process.terminate()?;
        }
    }
    let mut connected = Vec::new();
    for build in builds {
        let service = start(environment, build, &emulator.url).await?;
        let resident = with_idle_connections(&service).await?;
        connected.push(Series::new(build.name, "MB with idle connections", vec![resident]));
    }

    let greatest = |series: &Series| percentile(&mut series.rounds.clone(), 1.0);
    let mut findings = vec![
        Finding::at_most("resident when idle, greatest of all starts", greatest(&idle[0]), 25.0, "MB"),
        Finding::at_most(format!("resident with {CONNECTIONS} idle connections"), greatest(&connected[0]), 160.0, "MB"),
        Finding::at_most("until `/readyz` on SQLite, slowest of all starts", greatest(&ready[0]), 0.3, "s"),
    ];
    findings.extend(against_compared_build("resident when idle", &idle[0], idle.get(1)));
    let what = format!("resident with {CONNECTIONS} idle connections");
    findings.extend(against_compared_build(&what, &connected[0], connected.get(1)));
    findings.extend(against_compared_build("time until `/readyz`", &ready[0], ready.get(1)));
    Ok(Figure { title: "memory and start, SQLite".to_owned(), findings, series: [ready, idle, connected].concat() })
}

async fn start(environment: &Environment, build: &Build, emulator: &str) -> anyhow::Result<Service> {
    let database = environment.sqlite("p6");
    let setup = Setup { database: &database, emulator, caches: true, more: "" };
    environment.service_of(build, "p6", &setup).await
}

/// Opens connections that are used once, as a browser does, and then stay idle.
async fn with_idle_connections(service: &Service) -> anyhow::Result<f64> {
    let address = service.url.trim_start_matches("http://");
    let mut connections = Vec::with_capacity(CONNECTIONS);
    for _ in 0..CONNECTIONS {
        let mut connection = TcpStream::connect(address).await?;
        connection.write_all(b"GET /me HTTP/1.1\r\nhost: bench\r\nauthorization: Bearer none\r\n\r\n").await?;
        let mut answer = [0; 2048];
        let read = connection.read(&mut answer).await?;
        ensure!(answer[..read].starts_with(b"HTTP/1.1 401"), "an unexpected answer");
        connections.push(connection);
    }
    tokio::time::sleep(SETTLING_TIME).await;
    Ok(megabytes(service.process.resident_bytes()?))
}

pub fn megabytes(bytes: u64) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "rounded to megabytes")]
    let bytes = bytes as f64;
    bytes / 1e6
}

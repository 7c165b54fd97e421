//! P6: memory at rest and with many idle connections, and how soon a replica is ready.

use std::time::Duration;

use anyhow::ensure;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::{
    Effort,
    report::{Figure, Finding, Series, percentile},
    world::{Setup, World},
};

const CONNECTIONS: usize = 10_000;

pub async fn measure(world: &World, effort: Effort) -> anyhow::Result<Figure> {
    let emulator = world.emulator("p6-emulator", &[]).await?;
    let (mut ready_s, mut idle_mb) = (Vec::new(), Vec::new());
    for _ in 0..effort.rounds {
        let database = world.sqlite("p6");
        let setup = Setup { database: &database, emulator: &emulator.url, reuse: true, more: "" };
        let service = world.service("p6", &setup).await?;
        ready_s.push(service.ready_after.as_secs_f64());
        tokio::time::sleep(Duration::from_secs(2)).await;
        idle_mb.push(megabytes(service.process.resident_bytes()?));
        service.process.terminate()?;
    }
    let database = world.sqlite("p6");
    let setup = Setup { database: &database, emulator: &emulator.url, reuse: true, more: "" };
    let service = world.service("p6-connections", &setup).await?;
    let address = service.url.trim_start_matches("http://");
    let mut connections = Vec::with_capacity(CONNECTIONS);
    for _ in 0..CONNECTIONS {
        // Each has been used once, as a browser's connection has, and is kept.
        let mut connection = TcpStream::connect(address).await?;
        connection.write_all(b"GET /me HTTP/1.1\r\nhost: bench\r\nauthorization: Bearer none\r\n\r\n").await?;
        let mut answer = [0; 2048];
        let read = connection.read(&mut answer).await?;
        ensure!(answer[..read].starts_with(b"HTTP/1.1 401"), "not the answer that was expected");
        connections.push(connection);
    }
    tokio::time::sleep(Duration::from_secs(2)).await;
    let with_connections = megabytes(service.process.resident_bytes()?);
    drop(connections);

    let series = vec![
        Series::new("ours, ready after", "seconds", ready_s.clone()),
        Series::new("ours, idle", "MB resident", idle_mb.clone()),
        Series::new("ours, 10,000 idle connections", "MB resident", vec![with_connections]),
    ];
    let findings = vec![
        Finding::at_most("resident when idle, the greatest of all starts", percentile(&mut idle_mb, 1.0), 25.0, "MB"),
        Finding::at_most("resident with 10,000 idle keep-alive connections", with_connections, 80.0, "MB"),
        Finding::at_most("`/readyz` on SQLite, the slowest of all starts", percentile(&mut ready_s, 1.0), 0.3, "s"),
    ];
    Ok(Figure { title: "memory and start".to_owned(), findings, series })
}

pub fn megabytes(bytes: u64) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "told in megabytes")]
    let bytes = bytes as f64;
    bytes / 1e6
}

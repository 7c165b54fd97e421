//! Our own API as a client: what the container's health check asks.

use std::time::Duration;

use anyhow::{Context, ensure};

/// Asks a replica whether it is ready.
///
/// # Errors
/// When nobody answers within two seconds, or the answer is no.
pub async fn check_ready(http: &reqwest::Client, admin: std::net::SocketAddr) -> anyhow::Result<()> {
    let url = format!("http://{admin}/readyz");
    let answer = http
        .get(&url)
        .timeout(Duration::from_secs(2))
        .send()
        .await
        .context("no answer from the service")?;
    ensure!(
        answer.status().is_success(),
        "the service is not ready: {url} answered {}",
        answer.status()
    );
    Ok(())
}

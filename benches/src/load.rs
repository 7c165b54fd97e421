//! Load: wrk for throughput and latency at a number of connections, and clients of our own that behave like apps.

use std::{
    path::Path,
    process::Command,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, bail};
use futures_util::{StreamExt, TryStreamExt, stream};
use reqwest::StatusCode;
use serde::Deserialize;

/// What wrk saw.
#[derive(Clone, Copy, Debug)]
pub struct Seen {
    pub per_second: f64,
    pub p99_us: f64,
}

#[derive(Deserialize)]
struct Summary {
    requests: f64,
    duration_us: f64,
    p99_us: f64,
    not_ok: u64,
    failed: u64,
}

/// Asks for tokens as fast as so many connections can; an answer that is no token ends the benchmark.
pub async fn wrk(url: &str, logins: &Path, from: usize, connections: usize, time: Duration) -> anyhow::Result<Seen> {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/load/post.lua");
    let mut command = Command::new("wrk");
    command.args(["-t1", &format!("-c{connections}"), &format!("-d{}s", time.as_secs()), "-s", script, url, "--"]);
    command.arg(logins).arg(from.to_string());
    // A process of its own on a thread of its own, so that our servers in this process go on.
    let output = tokio::task::spawn_blocking(move || command.output()).await?.context("wrk is needed")?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let line = text.lines().find_map(|line| line.strip_prefix("RESULT "));
    let seen: Summary = serde_json::from_str(line.with_context(|| format!("wrk said nothing: {text}"))?)?;
    if seen.not_ok + seen.failed > 0 {
        bail!("{} answers were no tokens, {} failed", seen.not_ok, seen.failed);
    }
    Ok(Seen { per_second: seen.requests / seen.duration_us * 1e6, p99_us: seen.p99_us })
}

/// Asks once for each login, some at a time, and returns one of the answers.
pub async fn once_each(http: &reqwest::Client, url: &str, logins: &[String]) -> anyhow::Result<serde_json::Value> {
    let url = format!("{url}/token");
    let ask = |login: &String| {
        let request = http.post(&url).bearer_auth(login);
        async move {
            let answer = request.send().await?;
            let status = answer.status();
            let text = answer.text().await?;
            if status != StatusCode::OK {
                bail!("{status} instead of a token: {text}");
            }
            Ok(text)
        }
    };
    let answers: Vec<String> = stream::iter(logins.iter().map(ask)).buffer_unordered(16).try_collect().await?;
    Ok(serde_json::from_str(answers.last().context("no logins")?)?)
}

/// What became of a herd.
#[derive(Clone, Copy, Debug, Default)]
pub struct Herd {
    pub served: usize,
    pub took: Duration,
    /// How often somebody was told to come back later.
    pub sent_away: usize,
    /// How often a connection could not be had, or broke.
    pub failed: usize,
}

/// Everybody at once, each on a connection of their own, until each has a token; `Retry-After` is honoured.
pub async fn herd(urls: &[String], logins: Vec<String>) -> anyhow::Result<Herd> {
    #[expect(clippy::disallowed_methods, reason = "a client of the benchmarks, not of the service")]
    let http =
        reqwest::Client::builder().no_proxy().pool_max_idle_per_host(0).timeout(Duration::from_mins(1)).build()?;
    let begun = Instant::now();
    let urls: Arc<[String]> = urls.iter().map(|url| format!("{url}/token")).collect();
    let users: Vec<_> = logins
        .into_iter()
        .enumerate()
        .map(|(index, login)| {
            let (http, urls) = (http.clone(), Arc::clone(&urls));
            tokio::spawn(async move { until_served(&http, &urls[index % urls.len()], &login).await })
        })
        .collect();
    let mut herd = Herd::default();
    for user in users {
        let (sent_away, failed) = user.await??;
        herd.served += 1;
        herd.sent_away += sent_away;
        herd.failed += failed;
    }
    herd.took = begun.elapsed();
    Ok(herd)
}

async fn until_served(http: &reqwest::Client, url: &str, login: &str) -> anyhow::Result<(usize, usize)> {
    let (mut sent_away, mut failed) = (0, 0);
    loop {
        match http.post(url).bearer_auth(login).send().await {
            Ok(answer) if answer.status() == StatusCode::OK => {
                answer.bytes().await?;
                return Ok((sent_away, failed));
            }
            Ok(answer) => {
                let wait = answer.headers().get("retry-after").and_then(|wait| wait.to_str().ok()?.parse().ok());
                let Some(seconds) = wait else { bail!("{} without `Retry-After`", answer.status()) };
                sent_away += 1;
                tokio::time::sleep(Duration::from_secs(seconds)).await;
            }
            Err(_) if failed < 20 => {
                failed += 1;
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
            Err(error) => return Err(error.into()),
        }
    }
}

//! Load: wrk for throughput and latency, and clients that behave as apps do.

use std::{
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, bail};
use futures_util::{StreamExt, TryStreamExt, stream};
use reqwest::StatusCode;
use serde::Deserialize;
use serde_json::Value;
use tokio::sync::Semaphore;

use crate::{Effort, processes::open_file_limit, report::Series};

/// Files that the benchmark needs for other things than clients' connections.
const OTHER_FILES: usize = 500;
const CONNECTION_FAILURES: usize = 20;

/// One of the servers that are compared.
pub struct Target {
    pub name: String,
    pub url: String,
    /// A file with sign-in tokens.
    pub tokens: PathBuf,
}

/// The results of all rounds of one target.
pub struct Rounds {
    name: String,
    rounds: Vec<Seen>,
}

/// The result of one round.
#[derive(Clone, Copy)]
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

impl Target {
    pub fn new(name: impl Into<String>, url: &str, tokens: &Path) -> Self {
        Self { name: name.into(), url: url.to_owned(), tokens: tokens.to_owned() }
    }
}

impl Rounds {
    pub fn rate(&self) -> Series {
        self.series("requests/s", |seen| seen.per_second)
    }

    pub fn p99(&self) -> Series {
        self.series("p99 ms", |seen| seen.p99_us / 1000.0)
    }

    fn series(&self, unit: &str, value: fn(&Seen) -> f64) -> Series {
        Series::new(&self.name, unit, self.rounds.iter().map(value).collect())
    }
}

/// Loads the targets in turn, each round beginning with another one. An additional first round warms up.
pub async fn in_turn(targets: &[Target], connections: usize, effort: Effort) -> anyhow::Result<Vec<Rounds>> {
    let mut results: Vec<_> =
        targets.iter().map(|target| Rounds { name: target.name.clone(), rounds: Vec::new() }).collect();
    for round in 0..=effort.rounds {
        for step in 0..targets.len() {
            let index = (round + step) % targets.len();
            let Target { name, url, tokens } = &targets[index];
            let seen = wrk(url, tokens, round * 7919, connections, effort.time).await;
            let seen = seen.with_context(|| format!("load on {name}"))?;
            if round > 0 {
                results[index].rounds.push(seen);
            }
        }
    }
    Ok(results)
}

/// Requests tokens as fast as so many connections can. Any other answer than a token ends the benchmark.
pub async fn wrk(url: &str, tokens: &Path, from: usize, connections: usize, time: Duration) -> anyhow::Result<Seen> {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/load/post.lua");
    let mut command = Command::new("wrk");
    command.args(["-t1", &format!("-c{connections}"), &format!("-d{}s", time.as_secs()), "-s", script, url, "--"]);
    command.arg(tokens).arg(from.to_string());
    // Waited for on another thread, because servers run in this process.
    let output = tokio::task::spawn_blocking(move || command.output()).await?.context("wrk is needed")?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let line = text.lines().find_map(|line| line.strip_prefix("RESULT "));
    let summary: Summary = serde_json::from_str(line.with_context(|| format!("no result of wrk: {text}"))?)?;
    if summary.not_ok + summary.failed > 0 {
        bail!("{} answers without a token, {} failed connections", summary.not_ok, summary.failed);
    }
    Ok(Seen { per_second: summary.requests / summary.duration_us * 1e6, p99_us: summary.p99_us })
}

/// Sends one request for each sign-in token, some of them at once, and returns one of the answers.
pub async fn once_each(http: &reqwest::Client, url: &str, tokens: &[String]) -> anyhow::Result<Value> {
    let url = format!("{url}/token");
    let request = |token: &String| {
        let request = http.post(&url).bearer_auth(token);
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
    let answers: Vec<String> = stream::iter(tokens.iter().map(request)).buffer_unordered(16).try_collect().await?;
    Ok(serde_json::from_str(answers.last().context("no sign-in tokens")?)?)
}

/// The result of a surge of users.
#[derive(Default)]
pub struct Surge {
    /// The identity of each user who got a token, in the order of the users.
    pub identities: Vec<String>,
    pub took: Duration,
    /// The number of answers that asked to retry later.
    pub retries: usize,
    /// The number of connections that could not be opened or broke.
    pub failed: usize,
}

/// Sends the requests of all users at once, each on a connection of its own, and retries as `Retry-After` says until each
/// user has a token. If this process may not open so many connections, the rest wait for those that are answered.
pub async fn all_at_once(urls: &[String], tokens: Vec<String>) -> anyhow::Result<Surge> {
    #[expect(clippy::disallowed_methods, reason = "the benchmarks have a client of their own")]
    let http =
        reqwest::Client::builder().no_proxy().pool_max_idle_per_host(0).timeout(Duration::from_mins(1)).build()?;
    let connections = open_file_limit()?.saturating_sub(OTHER_FILES).clamp(1, Semaphore::MAX_PERMITS);
    let connections = Arc::new(Semaphore::new(connections));
    let begun = Instant::now();
    let users: Vec<_> = tokens
        .into_iter()
        .enumerate()
        .map(|(index, token)| {
            let url = format!("{}/token", urls[index % urls.len()]);
            let (http, connections) = (http.clone(), Arc::clone(&connections));
            tokio::spawn(async move { until_served(&http, &connections, &url, &token).await })
        })
        .collect();
    let mut surge = Surge::default();
    for user in users {
        let (identity, retries, failed) = user.await??;
        surge.identities.push(identity);
        surge.retries += retries;
        surge.failed += failed;
    }
    surge.took = begun.elapsed();
    Ok(surge)
}

async fn until_served(
    http: &reqwest::Client,
    connections: &Semaphore,
    url: &str,
    token: &str,
) -> anyhow::Result<(String, usize, usize)> {
    let (mut retries, mut failed) = (0, 0);
    loop {
        let connection = connections.acquire().await?;
        let answer = http.post(url).bearer_auth(token).send().await;
        let wait = match answer {
            Ok(answer) if answer.status() == StatusCode::OK => {
                let answer: Value = answer.json().await?;
                let identity = answer["user"]["communicationUserId"].as_str().context("no identity in the answer")?;
                return Ok((identity.to_owned(), retries, failed));
            }
            Ok(answer) => {
                let wait = answer.headers().get("retry-after").and_then(|wait| wait.to_str().ok()?.parse().ok());
                let Some(seconds) = wait else { bail!("{} without `Retry-After`", answer.status()) };
                retries += 1;
                Duration::from_secs(seconds)
            }
            Err(_) if failed < CONNECTION_FAILURES => {
                failed += 1;
                Duration::from_secs(1)
            }
            Err(error) => return Err(error.into()),
        };
        drop(connection);
        tokio::time::sleep(wait).await;
    }
}

//! The promises under faults: three replicas as processes on one Postgres are killed and cut off while many clients ask for
//! tokens and change access. What the clients saw is compared with the promises all the time and at the end.
//!
//! `scripts/torture` brings a Postgres that may be restarted. `TORTURE_OPERATIONS` and `TORTURE_SEED` say how much and
//! which; a failing run prints its seed and what happened to the user concerned.

#![expect(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a run that cannot go on has failed")]

mod chaos;
mod clients;
mod ending;
mod faults;
mod history;
#[path = "../it/support/proxy.rs"]
mod proxy;
mod random;
mod world;

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use acs_token_vendor::config;
use history::History;
use random::Random;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use world::World;

/// How much a run does.
#[derive(Clone, Copy)]
struct Extent {
    users: usize,
    clients: usize,
    operations: u64,
    /// How long a run may take before its end begins, whatever was done.
    longest: Duration,
}

/// Part of every test run.
const SHORT: Extent = Extent { users: 24, clients: 16, operations: 1500, longest: Duration::from_secs(90) };
/// By `scripts/torture`.
const LONG: Extent = Extent { users: 200, clients: 24, operations: 20_000, longest: Duration::from_mins(20) };

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn promises_hold_for_a_while() {
    run(SHORT).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "the long form: scripts/torture"]
async fn promises_hold_for_long() {
    run(LONG).await;
}

async fn run(extent: Extent) {
    let environment = config::environment();
    let number = |name: &str| environment.get(name).and_then(|text| text.parse::<u64>().ok());
    let postgres = environment.get("TORTURE_POSTGRES_URL").zip(environment.get("TORTURE_POSTGRES_RESTART"));
    let Some((url, restart)) = postgres else {
        let skip = environment.contains_key("TEST_SQLITE_ONLY");
        assert!(
            skip,
            "TORTURE_POSTGRES_URL is not set; ./scripts/torture starts a server, TEST_SQLITE_ONLY=1 does without"
        );
        return;
    };
    let operations = number("TORTURE_OPERATIONS").unwrap_or(extent.operations);
    let seed = number("TORTURE_SEED").unwrap_or_else(|| uuid::Uuid::new_v4().as_u64_pair().0);
    println!("seed {seed}, {operations} operations");
    let mut random = Random::new(seed);
    let world = Arc::new(World::start(url, restart).await);
    let history = Arc::new(History::new(extent.users, seed));
    let (done, stop) = (Arc::new(AtomicU64::new(0)), CancellationToken::new());

    let mut clients = JoinSet::new();
    let begun = Instant::now();
    for _ in 0..extent.clients {
        let client = clients::Client::new(Arc::clone(&world), Arc::clone(&history), random.fork());
        let (done, longest) = (Arc::clone(&done), extent.longest);
        clients.spawn(async move {
            let mut client = client.await;
            while begun.elapsed() < longest && done.fetch_add(1, Ordering::Relaxed) < operations {
                client.act().await;
            }
        });
    }
    let faults = tokio::spawn(chaos::run(Arc::clone(&world), random.fork(), stop.clone()));
    while let Some(ended) = clients.join_next().await {
        ended.expect("a promise was broken, or a client could not go on");
    }
    stop.cancel();
    let faults = faults.await.expect("the faults could not be made");
    let done = done.load(Ordering::Relaxed).min(operations);
    let acted = begun.elapsed();
    println!("{done} operations in {acted:.1?}: {}; {faults}", history.summary());
    let checked = ending::check(&world, &history).await;
    println!("{checked}; all in {:.1?}", begun.elapsed());
}

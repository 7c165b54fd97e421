//! The quota: all replicas together never make more calls than ACS allows, and `Retry-After` is true.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use acs_emulator::{self as emulator, Limited, Limits};
use acs_token_vendor::{
    domain::{
        clock::Clock,
        window::{Allowance, Window},
    },
    store::{Settings, Store},
};
use reqwest::{Method, StatusCode};
use serde_json::json;

use crate::support::{
    ACCESS_KEY, Answer, Database, TestAcs, TestApp, TestIssuer, database::on_each_database, eventually,
};

/// How long a call counts: the 30 s of ACS's window, a margin of one second and its cell.
const COUNTED: Duration = Duration::from_millis(31_250);

/// Starts a service with limits of its own, and an emulator that enforces `limits`.
async fn start(database: &Database, quota: &str, limits: &[(Limited, usize)]) -> TestApp {
    let clock = Clock::default();
    let mut enforced = Limits::default();
    for (limited, calls) in limits {
        enforced.set(*limited, *calls);
    }
    let access_keys = vec![emulator::AccessKey::parse(ACCESS_KEY).unwrap()];
    let settings = emulator::Settings { limits: Some(enforced), ..emulator::Settings::new(access_keys) };
    let acs = TestAcs::start_with(&clock, settings).await;
    let issuer = TestIssuer::start(&clock).await;
    TestApp::replica(database, quota, &clock, acs, issuer).await
}

async fn first_tokens(replicas: &[&TestApp], users: impl IntoIterator<Item = usize>) -> Vec<Answer> {
    let ask = |n: usize| async move {
        let replica = replicas[n % replicas.len()];
        replica.token(&replica.issuer.sign_in(&format!("user-{n}")), None).await
    };
    futures_util::future::join_all(users.into_iter().map(ask)).await
}

fn served(answers: &[Answer]) -> usize {
    answers.iter().filter(|answer| answer.status == StatusCode::OK).count()
}

fn retry_after(answer: &Answer) -> u64 {
    answer.assert_problem(503, "upstream_throttled");
    answer.header("retry-after").parse().unwrap()
}

async fn migrated(database: &Database) -> Store {
    let store = Store::connect(&Settings { url: database.url().into(), ..Settings::default() }).await.unwrap();
    store.migrate().await.unwrap();
    store
}

on_each_database! {
    /// The limit of the emulator is exactly the quota: one call too many by any replica would show as a 429.
    async fn replicas_together_use_the_limit_and_never_exceed_it(database) {
        let app = start(&database, "[quota]\ncreate_with_token = 10", &[(Limited::CreateWithToken, 10)]).await;
        let (second, third) = (app.another().await, app.another().await);
        let replicas = [&app, &second, &third];
        for window in 0..4 {
            let answers = first_tokens(&replicas, window * 30..(window + 1) * 30).await;
            assert_eq!(served(&answers), 10, "window {window}");
            for answer in answers.iter().filter(|answer| answer.status != StatusCode::OK) {
                let seconds = retry_after(answer);
                // Later ones may come after those who were refused before.
                let latest = if window == 0 { 33 } else { 65 };
                assert!((30..=latest).contains(&seconds), "window {window}: {seconds} s");
            }
            app.clock.advance(COUNTED);
        }
        let stats = app.acs.stats().await;
        assert_eq!((&stats["calls"]["create"], &stats["throttled"]), (&json!(40), &json!(0)));
    }

    /// Three replicas want calls all the time, for five minutes.
    async fn a_limit_that_is_always_wanted_is_used_to_95_percent(database) {
        let stores = [migrated(&database).await, migrated(&database).await, migrated(&database).await];
        let (clock, allowance) = (Clock::default(), Allowance { calls: 30, per: Duration::from_secs(30) });
        let mut made = Vec::new();
        for _ in 0..600 {
            clock.advance(Duration::from_millis(500));
            let reserve = stores.each_ref().map(|store| store.reserve_quota("acs", "issue", allowance, 2, &clock));
            for reserved in futures_util::future::join_all(reserve).await {
                let reserved = reserved.unwrap();
                made.push((reserved.at, reserved.granted));
            }
        }
        let total: u32 = made.iter().map(|(_, calls)| calls).sum();
        assert!(total >= 285, "{total} of 300");
        for (start, _) in &made {
            let window = *start..*start + Duration::from_secs(30);
            let seen: u32 = made.iter().filter(|(at, _)| window.contains(at)).map(|(_, calls)| calls).sum();
            assert!(seen <= 30, "{seen} from {start}");
        }
    }

    async fn requests_that_can_be_served_in_time_wait(database) {
        let app = start(&database, "[quota]\ncreate_with_token = 3\nper = \"1s\"", &[]).await;
        let answers = first_tokens(&[&app], 0..5).await;
        assert_eq!(served(&answers), 5);
        let refused = first_tokens(&[&app], 5..45).await;
        // Three calls count for 2.25 s, and requests wait for 5 s.
        assert!((6..=9).contains(&served(&refused)), "{} served", served(&refused));
        assert_eq!(app.acs.stats().await["calls"]["create"], 5 + served(&refused));
    }

    /// Each refused caller comes back exactly when it was told, and gets a token.
    async fn retry_after_is_true(database) {
        let app = start(&database, "[quota]\ncreate_with_token = 10", &[(Limited::CreateWithToken, 10)]).await;
        assert_eq!(served(&first_tokens(&[&app], 0..10).await), 10);
        let mut told: BTreeMap<_, Vec<_>> = BTreeMap::new();
        for (user, answer) in (10..35).zip(first_tokens(&[&app], 10..35).await) {
            told.entry(retry_after(&answer)).or_default().push(user);
        }
        assert!(told.len() >= 3, "{told:?}");
        let mut passed = 0;
        for (seconds, users) in told {
            app.clock.advance(Duration::from_secs(seconds - passed));
            passed = seconds;
            assert_eq!(served(&first_tokens(&[&app], users.clone()).await), users.len(), "{seconds} s: {users:?}");
        }
        assert_eq!(app.acs.stats().await["throttled"], 0);
    }

    /// More callers than the limit allows come back when their answers say: the rest is served in the second window,
    /// 11.25 s after the first. Some room is left for calls whose requests ended meanwhile.
    async fn a_crowd_is_served_as_soon_as_the_limit_allows(database) {
        let app = start(&database, "[quota]\ncreate_with_token = 150\nper = \"10s\"", &[]).await;
        let (second, third) = (app.another().await, app.another().await);
        let replicas = [&app, &second, &third];
        let begun = Instant::now();
        let insist = |user: usize| async move {
            loop {
                let answer = first_tokens(&[replicas[user % 3]], [user]).await.remove(0);
                if answer.status == StatusCode::OK {
                    return;
                }
                // On a busy machine the callers of the first moment may also wait too long for the database or for ACS.
                assert_eq!(answer.status, StatusCode::SERVICE_UNAVAILABLE, "{answer:?}");
                tokio::time::sleep(Duration::from_secs(answer.header("retry-after").parse().unwrap())).await;
            }
        };
        futures_util::future::join_all((0..240).map(insist)).await;
        let took = begun.elapsed();
        // The third window would begin after 22.5 s.
        assert!((11..22).contains(&took.as_secs()), "{took:?}");
    }

    /// Callers are not all told the same second, but one after the other, as fast as others were served before.
    async fn refused_callers_come_back_as_fast_as_they_can_be_served(database) {
        let app = start(&database, "[quota]\ncreate_with_token = 40\nat_once = 2", &[]).await;
        app.acs.fault(json!({"operation": "create", "kind": "delay", "delayMs": 100})).await;
        assert_eq!(served(&first_tokens(&[&app], 0..40).await), 40);
        let told: Vec<_> = first_tokens(&[&app], 40..80).await.iter().map(retry_after).collect();
        let (first, last) = (*told.iter().min().unwrap(), *told.iter().max().unwrap());
        assert!((27..=31).contains(&first), "{told:?}");
        assert!((first + 1..=34).contains(&last), "{told:?}");
    }

    async fn revocations_do_not_wait_for_tokens(database) {
        let app = start(&database, "[quota]\nissue = 1", &[]).await;
        let sign_in = app.issuer.sign_in("alice");
        app.token(&sign_in, None).await.token();
        app.token(&sign_in, None).await.token();
        app.token(&sign_in, None).await.assert_problem(503, "upstream_throttled");
        assert_eq!(app.revoke("alice").await.status, StatusCode::OK);
        assert_eq!(app.ops(Method::DELETE, "/users/test:alice", None).await.status, StatusCode::OK);
    }

    async fn accepted_operations_wait_for_quota_and_are_completed(database) {
        let app = start(&database, "[quota]\nrevoke = 1", &[(Limited::Revoke, 1)]).await;
        for subject in ["alice", "bob"] {
            app.token(&app.issuer.sign_in(subject), None).await.token();
        }
        app.clock.advance(Duration::from_secs(5));
        assert_eq!(app.revoke("alice").await.status, StatusCode::OK);
        let accepted = app.revoke("bob").await;
        assert_eq!(accepted.status, StatusCode::ACCEPTED);
        assert_eq!(accepted.json()["operation"]["lastError"], json!(null));
        app.clock.advance(Duration::from_secs(32));
        let pending = "SELECT COUNT(*) FROM operations WHERE completed_at IS NULL";
        eventually(async || (database.count(pending).await == 0).then_some(())).await;
        assert_eq!(app.acs.stats().await["throttled"], 0);
    }

    async fn a_429_to_one_replica_pauses_all(database) {
        let app = TestApp::start(&database).await;
        let other = app.another().await;
        let sign_ins = ["alice", "bob"].map(|subject| app.issuer.sign_in(subject));
        for sign_in in &sign_ins {
            app.token(sign_in, None).await.token();
        }
        app.acs.fault(json!({"operation": "issue", "kind": "status", "status": 429, "retryAfterSeconds": 60, "count": 1})).await;
        let refused = app.token(&sign_ins[0], None).await;
        refused.assert_problem(503, "upstream_throttled");
        assert_eq!(refused.header("retry-after"), "60");
        for replica in [&app, &other] {
            replica.token(&sign_ins[1], None).await.assert_problem(503, "upstream_throttled");
        }
        assert_eq!(app.acs.stats().await["calls"]["issue"], 1);
        app.clock.advance(Duration::from_mins(1));
        other.token(&sign_ins[1], None).await.token();
    }

    /// Postgres does in SQL what SQLite does with the window of this crate: both must follow it, for wrong clocks too.
    async fn the_database_reserves_as_the_window_does(database) {
        let store = migrated(&database).await;
        let seed = fastrand::u64(..);
        let mut random = fastrand::Rng::with_seed(seed);
        let all = Allowance { calls: 20, per: Duration::from_secs(10) };
        // Two clocks that agree nearly, and one that is wrong.
        let clocks = [Clock::default(), Clock::default(), Clock::default()];
        clocks[1].advance(Duration::from_millis(700));
        clocks[2].advance(Duration::from_hours(1));
        let mut window = Window::default();
        for step in 0..400 {
            let pause = Duration::from_millis(random.u64(..1500));
            for clock in &clocks {
                clock.advance(pause);
            }
            let clock = &clocks[if random.u8(..50) == 0 { 2 } else { random.usize(..2) }];
            if step > 0 && random.u8(..30) == 0 {
                let until = clock.now() + Duration::from_millis(random.u64(..600_000));
                store.pause_quota("acs", "issue", until.timestamp_millis()).await.unwrap();
                window.pause(until);
            }
            let (allowance, wanted) = (all.less(random.u32(..2) * 5), random.u32(1..6));
            let reserved = store.reserve_quota("acs", "issue", allowance, wanted, clock).await.unwrap();
            let mut expected = window.clone();
            let was_ahead = expected.advance(allowance, reserved.at);
            let granted = expected.reserve(wanted, allowance, reserved.at);
            if step > 0 {
                assert_eq!((reserved.granted, reserved.was_ahead), (granted, was_ahead), "seed {seed}, step {step}");
                assert_eq!(reserved.window, expected, "seed {seed}, step {step}");
            }
            if step == 0 || granted > 0 || was_ahead {
                window = reserved.window;
            }
        }
    }
}

/// ACS gives no `Retry-After` here: after each pause a single call finds out whether there is room again.
#[tokio::test]
async fn an_acs_that_allows_less_than_documented_is_obeyed() {
    let database = Database::sqlite();
    let app = start(&database, "[tokens]\ntimeout = \"3s\"", &[(Limited::CreateWithToken, 2)]).await;
    let answers = first_tokens(&[&app], 0..20).await;
    assert_eq!(served(&answers), 2);
    let calls = app.acs.stats().await["calls"]["create"].as_u64().unwrap();
    assert!(calls <= 22, "{calls} calls: 20 at first, and one after each of the pauses of 0.5 s and 1 s");
}

//! The budget: all replicas together never make more calls than ACS allows, and say truly when to come back.

use std::time::Duration;

use acs_emulator::{self as emulator, Limited, Limits};
use acs_token_vendor::domain::clock::Clock;
use reqwest::{Method, StatusCode};
use serde_json::json;

use crate::support::{
    ACCESS_KEY, Answer, Database, TestAcs, TestApp, TestIssuer, database::on_each_database, eventually,
};

/// A service with its own idea of the limits, before an emulator that enforces `limits`.
async fn start(database: &Database, budget: &str, limits: &[(Limited, usize)]) -> TestApp {
    let clock = Clock::default();
    let mut enforced = Limits::default();
    for (limited, calls) in limits {
        enforced.set(*limited, *calls);
    }
    let access_keys = vec![emulator::AccessKey::parse(ACCESS_KEY).unwrap()];
    let settings = emulator::Settings { limits: Some(enforced), ..emulator::Settings::new(access_keys) };
    let acs = TestAcs::start_with(&clock, settings).await;
    let issuer = TestIssuer::start(&clock).await;
    TestApp::replica(database, budget, &clock, acs, issuer).await
}

async fn first_tokens(replicas: &[&TestApp], users: std::ops::Range<usize>) -> Vec<Answer> {
    let ask = |n: usize| async move {
        let replica = replicas[n % replicas.len()];
        replica.token(&replica.issuer.login(&format!("user-{n}")), None).await
    };
    futures_util::future::join_all(users.map(ask)).await
}

fn served(answers: &[Answer]) -> usize {
    answers.iter().filter(|answer| answer.status == StatusCode::OK).count()
}

on_each_database! {
    /// The limit of the emulator is exactly the budget: one call too many by any replica would show as a 429.
    async fn replicas_together_stay_inside_the_limit(database) {
        let app = start(&database, "[quota]\ncreate_with_token = 10", &[(Limited::CreateWithToken, 10)]).await;
        let (second, third) = (app.another().await, app.another().await);
        let replicas = [&app, &second, &third];
        let answers = first_tokens(&replicas, 0..30).await;
        assert_eq!(served(&answers), 10, "not one less than allowed");
        for answer in answers.iter().filter(|answer| answer.status != StatusCode::OK) {
            answer.assert_problem(503, "upstream_throttled");
            let wait: u64 = answer.header("retry-after").parse().unwrap();
            assert!((25..=32).contains(&wait), "{answer:?}");
        }
        app.clock.advance(Duration::from_secs(32));
        assert_eq!(served(&first_tokens(&replicas, 30..50).await), 10, "room again when it was promised");
        let stats = app.acs.stats().await;
        assert_eq!((&stats["calls"]["create"], &stats["throttled"]), (&json!(20), &json!(0)));
    }

    /// Who can be served before their deadline waits in line instead of being sent away.
    async fn whoever_can_be_served_in_time_waits(database) {
        let app = start(&database, "[quota]\ncreate_with_token = 3\nper = \"1s\"", &[]).await;
        let answers = first_tokens(&[&app], 0..5).await;
        assert_eq!(served(&answers), 5);
        let refused = first_tokens(&[&app], 5..45).await;
        assert!(served(&refused) < 40, "the line is no longer than what can be served");
        assert_eq!(app.acs.stats().await["calls"]["create"], 5 + served(&refused));
    }

    async fn revocations_do_not_wait_behind_mints(database) {
        let app = start(&database, "[quota]\nissue = 1", &[]).await;
        let login = app.issuer.login("alice");
        app.token(&login, None).await.token();
        app.token(&login, None).await.token();
        app.token(&login, None).await.assert_problem(503, "upstream_throttled");
        assert_eq!(app.revoke("alice").await.status, StatusCode::OK);
        assert_eq!(app.ops(Method::DELETE, "/users/test:alice", None).await.status, StatusCode::OK);
    }

    /// Promise 4: what was accepted while the budget is spent is done when it is not.
    async fn accepted_work_waits_for_room_and_is_done(database) {
        let app = start(&database, "[quota]\nrevoke = 1", &[(Limited::Revoke, 1)]).await;
        for subject in ["alice", "bob"] {
            app.token(&app.issuer.login(subject), None).await.token();
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

    /// What ACS says to one replica binds all of them.
    async fn refusal_of_one_replica_rests_the_lane_of_all(database) {
        let app = TestApp::start(&database).await;
        let other = app.another().await;
        let logins = ["alice", "bob"].map(|subject| app.issuer.login(subject));
        for login in &logins {
            app.token(login, None).await.token();
        }
        app.acs.fault(json!({"operation": "issue", "kind": "status", "status": 429, "retryAfterSeconds": 60, "count": 1})).await;
        let refused = app.token(&logins[0], None).await;
        refused.assert_problem(503, "upstream_throttled");
        assert_eq!(refused.header("retry-after"), "60");
        for replica in [&app, &other] {
            replica.token(&logins[1], None).await.assert_problem(503, "upstream_throttled");
        }
        assert_eq!(app.acs.stats().await["calls"]["issue"], 1);
        app.clock.advance(Duration::from_mins(1));
        other.token(&logins[1], None).await.token();
    }
}

#[tokio::test]
async fn an_acs_that_allows_less_than_documented_is_obeyed() {
    let database = Database::sqlite();
    let app = start(&database, "[tokens]\ntimeout = \"2s\"", &[(Limited::CreateWithToken, 2)]).await;
    let answers = first_tokens(&[&app], 0..20).await;
    assert_eq!(served(&answers), 2);
    let calls = app.acs.stats().await["calls"]["create"].as_u64().unwrap();
    assert!(calls < 40, "{calls} calls: every refusal rests the lane");
}

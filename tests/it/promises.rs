//! The promises of issuing and creating, each with somebody who tries to break it.

use std::time::Duration;

use acs_token_vendor::{
    domain::{
        audit::{Action, Actor, Event, RequestContext},
        clock::Clock,
        user::{AcsId, UserRef},
    },
    store::{Bound, Mint, NewIdentity, Settings, Store},
};
use reqwest::StatusCode;
use serde_json::json;

use crate::support::{Database, TestApp, database::on_each_database, eventually};

const ORPHANS: &str = "SELECT COUNT(*) FROM audit_events WHERE action = 'possible_orphan'";
const DISCARDS: &str = "SELECT COUNT(*) FROM operations WHERE kind = 'discard' AND completed_at IS NULL";

on_each_database! {
    async fn fifty_first_requests_make_one_identity(database) {
        let app = TestApp::start(&database).await;
        let other = app.another().await;
        let login = app.issuer.login("alice");
        let requests = (0..50).map(|n| if n % 2 == 0 { app.token(&login, None) } else { other.token(&login, None) });
        let answers = futures_util::future::join_all(requests).await;
        let identity = answers[0].identity();
        assert!(answers.iter().all(|answer| answer.identity() == identity));
        let stats = app.acs.stats().await;
        assert_eq!(stats["identities"], 1);
        assert_eq!(stats["calls"]["create"], 1);
    }

    /// Promise 2: a token that was being minted while access was revoked never leaves the house.
    async fn token_minted_across_a_fence_is_thrown_away(database) {
        let app = TestApp::start(&database).await;
        let login = app.issuer.login("alice");
        app.token(&login, None).await.token();
        app.acs.fault(json!({"operation": "issue", "kind": "delay", "delayMs": 700, "count": 1})).await;
        let (answer, ()) = tokio::join!(app.token(&login, None), async {
            app.acs.wait_for_calls("issue", 1).await;
            assert_eq!(database.execute("UPDATE users SET generation = generation + 1").await, 1);
        });
        answer.token();
        assert_eq!(app.acs.stats().await["calls"]["issue"], 2, "the first token was thrown away");
        let issued_event = "SELECT COUNT(*) FROM audit_events WHERE action = 'token_minted' AND generation = 1";
        assert_eq!(database.count(issued_event).await, 1);
    }

    async fn user_blocked_while_minting_gets_nothing(database) {
        let app = TestApp::start(&database).await;
        let login = app.issuer.login("alice");
        app.token(&login, None).await.token();
        app.acs.fault(json!({"operation": "issue", "kind": "delay", "delayMs": 700, "count": 1})).await;
        let (answer, _) = tokio::join!(app.token(&login, None), async {
            app.acs.wait_for_calls("issue", 1).await;
            database.execute("UPDATE users SET blocked_at = '2026-01-01T00:00:00Z'").await
        });
        answer.assert_problem(403, "user_blocked");
    }

    /// Promise 2 for the first token: the identity stays, its first token does not leave.
    async fn first_token_across_a_fence_is_thrown_away(database) {
        let app = TestApp::start(&database).await;
        let login = app.issuer.login("alice");
        app.acs.fault(json!({"operation": "create", "kind": "delay", "delayMs": 700, "count": 1})).await;
        let (answer, _) = tokio::join!(app.token(&login, None), async {
            app.acs.wait_for_calls("create", 1).await;
            database.execute("UPDATE users SET generation = generation + 1").await
        });
        answer.token();
        let stats = app.acs.stats().await;
        assert_eq!((&stats["calls"]["create"], &stats["calls"]["issue"]), (&json!(1), &json!(1)));
        assert_eq!(stats["identities"], 1);
    }

    /// Promise 1: who is deleted while being created does not come back through the bind.
    async fn identity_that_lost_its_claim_is_discarded(database) {
        let app = TestApp::start(&database).await;
        let login = app.issuer.login("alice");
        app.acs.fault(json!({"operation": "create", "kind": "delay", "delayMs": 700, "count": 1})).await;
        let (answer, _) = tokio::join!(app.token(&login, None), async {
            app.acs.wait_for_calls("create", 1).await;
            let delete = "UPDATE users SET state = 'unbound', claim_id = NULL, claimed_until = NULL, generation = generation + 1";
            database.execute(delete).await
        });
        let bound = app.me(&login).await.identity();
        assert_eq!(answer.identity(), bound);
        let discarded = "SELECT COUNT(*) FROM operations WHERE kind = 'discard' AND completed_at IS NOT NULL
                         AND acs_id NOT IN (SELECT acs_id FROM users)";
        eventually(async || (database.count(discarded).await == 1).then_some(())).await;
        assert_eq!(app.acs.stats().await["identities"], 1, "the lost one is gone at ACS");
        assert_eq!(app.acs.introspect(&answer.token()).await["active"], true);
    }

    async fn claim_of_a_dead_creator_is_taken_over_and_counted(database) {
        let app = TestApp::start(&database).await;
        let login = app.issuer.login("alice");
        app.token(&login, None).await.token();
        let died = "UPDATE users SET state = 'creating', acs_id = NULL, claimed_until = '2020-01-01T00:00:00+00:00',
                    claim_id = (SELECT id FROM audit_events LIMIT 1)";
        database.execute(died).await;
        app.token(&login, None).await.token();
        assert_eq!(database.count(ORPHANS).await, 1);
    }

    async fn login_older_than_a_revocation_stays_out(database) {
        let app = TestApp::start(&database).await;
        let old = app.issuer.login("alice");
        app.token(&old, None).await.token();
        app.clock.advance(Duration::from_secs(10));
        database.execute_at("UPDATE users SET sign_ins_valid_from = $1", app.clock.now()).await;
        let refused = app.token(&old, None).await;
        refused.assert_problem(401, "reauthentication_required");
        assert!(refused.header("www-authenticate").contains("insufficient_user_authentication"), "{refused:?}");
        assert!(refused.header("www-authenticate").contains("max_age="));
        // Made in the very second of the revocation: JWTs know no fractions, so it gets in.
        app.token(&app.issuer.login("alice"), None).await.token();
    }

    async fn issuing_waits_for_a_hold(database) {
        let app = TestApp::start(&database).await;
        let login = app.issuer.login("alice");
        app.token(&login, None).await.token();
        database.execute_at("UPDATE users SET held_until = $1", app.clock.now() + Duration::from_mins(1)).await;
        let (answer, ()) = tokio::join!(app.token(&login, None), async {
            tokio::time::sleep(Duration::from_millis(100)).await;
            assert_eq!(app.acs.stats().await["calls"]["issue"], 0);
            app.clock.advance(Duration::from_secs(61));
        });
        answer.token();
    }

    async fn deleted_user_is_told(database) {
        let app = TestApp::start(&database).await;
        let login = app.issuer.login("alice");
        app.token(&login, None).await.token();
        database.execute("UPDATE users SET state = 'deleting'").await;
        app.token(&login, None).await.assert_problem(409, "user_deleting");
    }

    /// A slow mint with an older time must not shorten the wait of the next revocation.
    async fn time_of_the_last_mint_never_moves_back(database) {
        let settings = Settings { url: database.url().into(), ..Settings::default() };
        let store = Store::connect(&settings).await.unwrap();
        store.migrate().await.unwrap();
        let now = Clock::default().now();
        let (earlier, later) = (now + Duration::from_secs(1), now + Duration::from_secs(9));
        let user = UserRef::parse("test:alice").unwrap();
        let UserRef::AppUser(app_user) = &user else { panic!("not an id") };
        let claim = store.claim_new(app_user, store.read_user(&user, now).await.unwrap().global, now, later).await.unwrap().unwrap();
        let acs_id = AcsId::parse("8:acs:00000000-0000-0000-0000-000000000001_1").unwrap();
        let event = Event::new(Action::TokenMinted, Actor::Worker, claim.user.clone(), RequestContext::default());
        let new = NewIdentity {
            acs_id: &acs_id,
            resource: "default",
            expires_at: None,
            cached: None,
            bound: event.clone(),
            minted: None,
        };
        assert_eq!(store.bind(&claim, new, now).await.unwrap(), Bound::AndCurrent);
        let read = store.find_user(&user, now).await.unwrap().unwrap();
        let record = async |acs_id: &AcsId, time| {
            let (user, generation, event) = (&read.id, read.generation, event.clone());
            let mint = Mint { user, acs_id, generation, expires_at: later, event, cached: None };
            store.record_mint(mint, time).await.unwrap()
        };
        for time in [later, earlier] {
            assert!(record(&acs_id, time).await);
        }
        assert_eq!(store.find_user(&user, now).await.unwrap().unwrap().last_minted_at, Some(later));
        let other = AcsId::parse("8:acs:00000000-0000-0000-0000-000000000001_2").unwrap();
        assert!(!record(&other, later).await, "another identity");
    }

    /// Who read before a fence must not claim after it: the generation would hide the fence.
    async fn claim_is_good_for_what_was_read_only(database) {
        let settings = Settings { url: database.url().into(), ..Settings::default() };
        let store = Store::connect(&settings).await.unwrap();
        store.migrate().await.unwrap();
        let now = Clock::default().now();
        let user = UserRef::parse("test:alice").unwrap();
        let UserRef::AppUser(app_user) = &user else { panic!("not an id") };
        let claim = store.claim_new(app_user, store.read_user(&user, now).await.unwrap().global, now, now).await.unwrap().unwrap();
        store.release_claim(&claim, None, now).await.unwrap();
        let read = store.find_user(&user, now).await.unwrap().unwrap();
        let orphan = Event::new(Action::PossibleOrphan, Actor::Worker, claim.user.clone(), RequestContext::default());
        database.execute("UPDATE users SET generation = generation + 1").await;
        assert!(store.claim_again(&read, now, now, orphan.clone()).await.unwrap().is_none());
        let read = store.find_user(&user, now).await.unwrap().unwrap();
        assert!(store.claim_again(&read, now, now, orphan.clone()).await.unwrap().is_some());
    }

    /// An identity that ACS created is bound although nobody waits for it any more.
    async fn caller_who_hangs_up_loses_nothing(database) {
        let app = TestApp::start(&database).await;
        let login = app.issuer.login("alice");
        app.acs.fault(json!({"operation": "create", "kind": "delay", "delayMs": 300, "count": 1})).await;
        tokio::select! {
            _ = app.token(&login, None) => panic!("answered too early"),
            () = app.acs.wait_for_calls("create", 1) => {}
        }
        eventually(async || (app.me(&login).await.status == StatusCode::OK).then_some(())).await;
        assert_eq!(database.count(ORPHANS).await + database.count(DISCARDS).await, 0);
    }

    async fn stopping_finishes_what_was_begun(database) {
        let app = TestApp::start(&database).await;
        let login = app.issuer.login("alice");
        app.acs.fault(json!({"operation": "create", "kind": "delay", "delayMs": 500, "count": 1})).await;
        let request = app.http.post(format!("{}/token", app.url)).bearer_auth(&login).send();
        let acs = app.acs.clone();
        let (answer, stopped) = tokio::join!(request, async move {
            acs.wait_for_calls("create", 1).await;
            app.stop().await
        });
        assert_eq!(answer.unwrap().status(), StatusCode::OK);
        stopped.unwrap();
    }
}

#[tokio::test]
async fn answer_lost_after_creation_is_counted_and_the_next_request_goes_on() {
    let database = Database::sqlite();
    let app = TestApp::start(&database).await;
    let login = app.issuer.login("alice");
    app.acs.fault(json!({"operation": "create", "kind": "drop_after", "count": 1})).await;
    app.token(&login, None).await.assert_problem(503, "upstream_unavailable");
    assert_eq!(app.acs.stats().await["calls"]["create"], 1, "a create that may have worked is not repeated");
    assert_eq!(database.count(ORPHANS).await, 1);
    app.token(&login, None).await.token();
    assert_eq!(app.acs.stats().await["identities"], 2);
    assert_eq!(database.count(ORPHANS).await, 1, "the claim was given back, not taken over");
}

#[tokio::test]
async fn without_a_database_there_is_no_token() {
    let Some(database) = Database::postgres().await else {
        return;
    };
    let app = TestApp::start_with(&database, "").await;
    let login = app.issuer.login("alice");
    app.token(&login, None).await.token();
    database.execute("ALTER TABLE users RENAME TO users_away").await;
    app.token(&login, None).await.assert_problem(500, "internal_error");
    database.execute("ALTER TABLE users_away RENAME TO users").await;
    app.token(&login, None).await.token();
}

//! Random sequences of everything that can happen to a user, checked against a small model of the promises.
//!
//! The clock runs some ten times as fast as real time, so that holds and leases end within a test, also too early.
//! `PROPTEST_CASES` says how many sequences are run on each database; a failure shrinks to a short one and is printed.

use std::{any::Any, panic::AssertUnwindSafe, time::Duration};

use acs_token_vendor::config;
use chrono::{DateTime, Utc};
use futures_util::FutureExt;
use proptest::{
    prelude::*,
    test_runner::{Config, TestError, TestRunner},
};
use reqwest::{Method, StatusCode};
use serde_json::json;
use tokio::runtime::Runtime;

use crate::{
    reuse::REUSE,
    support::{Answer, Database, TestApp, eventually},
};

const DEFAULT_CASES: u32 = 10;
const LONGEST: usize = 14;

#[derive(Clone, Copy, Debug)]
enum Change {
    Revoke { reject_older: bool },
    RevokeAll { reject_older: bool },
    Block,
    Delete,
}

#[derive(Clone, Debug)]
enum Step {
    /// The user signs in again.
    SignIn,
    /// A token is asked for with the newest sign-in, or with an older one.
    Token { older: usize },
    /// Access is changed.
    Change(Change),
    /// The same, while a token is being asked for.
    TokenDuring { older: usize, change: Change },
    /// The block is lifted.
    Unblock,
    /// The next calls to ACS fail.
    Fault { operation: &'static str, kind: &'static str, count: u32 },
    /// The process dies, and another one starts.
    Crash,
    /// Time passes.
    Wait { seconds: u64 },
}

fn changes() -> impl Strategy<Value = Change> {
    prop_oneof![
        3 => any::<bool>().prop_map(|reject_older| Change::Revoke { reject_older }),
        2 => any::<bool>().prop_map(|reject_older| Change::RevokeAll { reject_older }),
        1 => Just(Change::Block),
        1 => Just(Change::Delete),
    ]
}

fn steps() -> impl Strategy<Value = Step> {
    let operation = prop_oneof![Just("create"), Just("issue"), Just("revoke"), Just("delete"), Just("*")];
    let kind = prop_oneof![Just("status"), Just("drop_before"), Just("drop_after"), Just("late"), Just("delay")];
    prop_oneof![
        2 => Just(Step::SignIn),
        5 => (0..3_usize).prop_map(|older| Step::Token { older }),
        3 => changes().prop_map(Step::Change),
        3 => (0..2_usize, changes()).prop_map(|(older, change)| Step::TokenDuring { older, change }),
        2 => Just(Step::Unblock),
        3 => (operation, kind, 1..3_u32).prop_map(|(operation, kind, count)| Step::Fault { operation, kind, count }),
        1 => Just(Step::Crash),
        1 => (1..20_u64).prop_map(|seconds| Step::Wait { seconds }),
    ]
}

/// What must be true whatever happens.
#[derive(Default)]
struct Model {
    /// The second of each sign-in.
    sign_ins: Vec<(String, i64)>,
    blocked: bool,
    was_deleted: bool,
    /// Sign-ins from before this second are refused.
    valid_from: i64,
    /// Tokens with the number of changes that were answered before they were asked for.
    tokens: Vec<(String, usize)>,
    changes: usize,
    /// The identity of the tokens since the last deletion.
    identity: Option<String>,
}

struct World {
    app: TestApp,
    model: Model,
}

impl World {
    async fn start(database: &Database) -> Self {
        let app = TestApp::start_with(database, REUSE).await;
        let clock = app.clock.clone();
        tokio::spawn(async move {
            loop {
                tokio::time::sleep(Duration::from_millis(10)).await;
                clock.advance(Duration::from_millis(100));
            }
        });
        let mut world = Self { app, model: Model::default() };
        world.sign_in();
        world
    }

    fn sign_in(&mut self) {
        let second = self.app.clock.now().timestamp();
        let sign_in = self.app.issuer.sign_in_with("alice", json!({"iat": second, "exp": second + 86_400}));
        self.model.sign_ins.push((sign_in, second));
    }

    async fn take(&mut self, step: &Step) {
        match step {
            Step::SignIn => self.sign_in(),
            Step::Token { older } => {
                let (sign_in, second) = self.signed_in(*older);
                let changes = self.model.changes;
                let answer = self.app.token(&sign_in, None).await;
                self.judge_token(&answer, second, changes);
                self.judge_reuse(&answer).await;
            }
            Step::Change(change) => {
                let before = self.app.clock.now().timestamp();
                let answer = self.change(*change).await;
                self.judge_change(*change, &answer, before).await;
            }
            Step::TokenDuring { older, change } => {
                let (sign_in, second) = self.signed_in(*older);
                let before = self.app.clock.now().timestamp();
                let was_blocked = self.model.blocked;
                let changes = self.model.changes;
                let (token, answer) = tokio::join!(self.app.token(&sign_in, None), self.change(*change));
                // The token may have come before the change or after it; what it must not do is survive it.
                // The token may have been issued before the change or after it. It must not outlive it.
                if token.status == StatusCode::OK {
                    assert!(!was_blocked && second >= self.model.valid_from, "issued: {token:?}");
                    // The sign-in is older than the change: only one that leaves older sign-ins valid lets it in afterwards.
                    let may_be_later = matches!(
                        change,
                        Change::Revoke { reject_older: false } | Change::RevokeAll { reject_older: false }
                    );
                    self.remember(&token, if may_be_later { changes + 1 } else { changes });
                }
                self.judge_change(*change, &answer, before).await;
            }
            Step::Unblock => {
                let answer = self.app.ops(Method::POST, "/users/test:alice/unblock", None).await;
                assert!([StatusCode::OK, StatusCode::NOT_FOUND].contains(&answer.status), "{answer:?}");
                self.model.blocked = false;
            }
            Step::Fault { operation, kind, count } => {
                let rule = json!({"operation": operation, "kind": kind, "count": count, "status": 503, "delayMs": 150});
                let rule = match *kind {
                    "status" => json!({"operation": operation, "kind": kind, "count": count, "status": 503}),
                    "late" | "delay" => rule_without_status(rule),
                    _ => json!({"operation": operation, "kind": kind, "count": count}),
                };
                self.app.acs.fault(rule).await;
            }
            Step::Crash => {
                let next = self.app.another().await;
                std::mem::replace(&mut self.app, next).kill();
            }
            Step::Wait { seconds } => self.app.clock.advance(Duration::from_secs(*seconds)),
        }
    }

    fn signed_in(&self, older: usize) -> (String, i64) {
        let last = self.model.sign_ins.len() - 1;
        self.model.sign_ins[last.saturating_sub(older)].clone()
    }

    async fn change(&self, change: Change) -> Answer {
        let user = "/users/test:alice";
        match change {
            Change::Revoke { reject_older } => {
                let body = json!({"rejectOlderSignIns": reject_older});
                self.app.ops(Method::POST, &format!("{user}/revoke"), Some(body)).await
            }
            Change::RevokeAll { reject_older } => {
                let body = json!({"all": true, "rejectOlderSignIns": reject_older});
                self.app.ops(Method::POST, "/revocations", Some(body)).await
            }
            Change::Block => self.app.ops(Method::POST, &format!("{user}/block"), None).await,
            Change::Delete => self.app.ops(Method::DELETE, user, None).await,
        }
    }

    fn judge_token(&mut self, answer: &Answer, second: i64, changes: usize) {
        match answer.status.as_u16() {
            200 => {
                assert!(!self.model.blocked, "a blocked user got a token");
                assert!(second >= self.model.valid_from, "promise 5: an old sign-in got a token");
                self.remember(answer, changes);
            }
            401 => assert!(second < self.model.valid_from, "a good sign-in was refused: {answer:?}"),
            403 => assert!(self.model.blocked, "refused as blocked: {answer:?}"),
            409 => assert!(self.model.was_deleted, "refused as being deleted: {answer:?}"),
            503 => {}
            _ => panic!("unexpected: {answer:?}"),
        }
    }

    /// A token that is returned again must be alive.
    async fn judge_reuse(&self, answer: &Answer) {
        if answer.status != StatusCode::OK {
            return;
        }
        let token = answer.token();
        if self.model.tokens.iter().filter(|(known, _)| *known == token).count() > 1 {
            assert_eq!(self.app.acs.introspect(&token).await["active"], true, "promise 3: a dead token was reused");
        }
    }

    fn remember(&mut self, answer: &Answer, changes: usize) {
        let identity = answer.identity();
        let known = self.model.identity.get_or_insert_with(|| identity.clone());
        assert_eq!(*known, identity, "promise 1: tokens of two identities");
        self.model.tokens.push((answer.token(), changes));
    }

    async fn judge_change(&mut self, change: Change, answer: &Answer, before: i64) {
        assert!([StatusCode::OK, StatusCode::ACCEPTED].contains(&answer.status), "{answer:?}");
        self.model.changes += 1;
        match change {
            Change::Revoke { reject_older: false } | Change::RevokeAll { reject_older: false } => {}
            // The change stores the next whole second, of a time that is not before the request.
            Change::Revoke { .. } | Change::RevokeAll { .. } | Change::Block => {
                self.model.valid_from = self.model.valid_from.max(before + 1);
            }
            Change::Delete => {
                self.model.valid_from = self.model.valid_from.max(before + 1);
                self.model.identity = None;
                self.model.was_deleted = true;
            }
        }
        self.model.blocked |= matches!(change, Change::Block);
        if answer.json()["operation"]["state"] == "completed" {
            self.assert_old_tokens_are_dead().await;
        }
        // The service's moment may be later than `before`: from here on sign-ins are judged by it.
        let body = answer.json();
        let moment =
            |text: &serde_json::Value| text.as_str().map(|text| text.parse::<DateTime<Utc>>().unwrap().timestamp());
        let valid_from = match change {
            Change::RevokeAll { reject_older: true } => moment(&body["createdAt"]).map(|second| second + 1),
            _ => moment(&body["user"]["signInsValidFrom"]),
        };
        self.model.valid_from = self.model.valid_from.max(valid_from.unwrap_or_default());
    }

    async fn assert_old_tokens_are_dead(&self) {
        for (token, changes) in &self.model.tokens {
            if *changes < self.model.changes {
                let seen = self.app.acs.introspect(token).await;
                assert_eq!(seen["active"], false, "promise 2: a token outlived a change");
            }
        }
    }

    /// All accepted work is completed without help, and a user with a new sign-in gets a token.
    async fn finish(&mut self, database: &Database) {
        self.app.acs.fault(json!({"operation": "exchange", "kind": "delay", "delayMs": 1})).await;
        let pending = "SELECT (SELECT COUNT(*) FROM operations WHERE completed_at IS NULL)
                            + (SELECT COUNT(*) FROM revocations WHERE completed_at IS NULL)";
        eventually(async || (database.count(pending).await == 0).then_some(())).await;
        self.assert_old_tokens_are_dead().await;
        self.take(&Step::Unblock).await;
        // Late calls may end a token, but not for long.
        tokio::time::sleep(Duration::from_millis(200)).await;
        self.app.clock.advance(Duration::from_secs(3));
        self.sign_in();
        let (sign_in, _) = self.signed_in(0);
        let served = eventually(async || {
            let answer = self.app.token(&sign_in, None).await;
            (answer.status == StatusCode::OK).then_some(answer)
        })
        .await;
        assert_eq!(self.app.acs.introspect(&served.token()).await["active"], true, "a fresh token is alive");
        eventually(async || (database.count(pending).await == 0).then_some(())).await;
        let orphans = database.count("SELECT COUNT(*) FROM audit_events WHERE action = 'possible_orphan'").await;
        let identities = self.app.acs.stats().await["identities"].as_i64().unwrap();
        assert!(identities <= 1 + orphans, "promise 1: {identities} identities, {orphans} possible orphans");
    }
}

fn rule_without_status(mut rule: serde_json::Value) -> serde_json::Value {
    rule.as_object_mut().unwrap().remove("status");
    rule
}

fn cases() -> u32 {
    let environment = config::environment();
    environment.get("PROPTEST_CASES").and_then(|text| text.parse().ok()).unwrap_or(DEFAULT_CASES)
}

fn run(make: impl Fn() -> Option<Database>) {
    let runtime = Runtime::new().unwrap();
    let settings = Config { cases: cases(), max_shrink_iters: 60, failure_persistence: None, ..Config::default() };
    let mut runner = TestRunner::new(settings);
    let outcome = runner.run(&prop::collection::vec(steps(), 1..LONGEST), |sequence| {
        let Some(database) = make() else { return Ok(()) };
        let run = async {
            let mut world = World::start(&database).await;
            for step in &sequence {
                world.take(step).await;
            }
            world.finish(&database).await;
        };
        let outcome = runtime.block_on(AssertUnwindSafe(run).catch_unwind());
        outcome.map_err(|panic| TestCaseError::fail(panic_text(panic.as_ref())))
    });
    if let Err(TestError::Fail(reason, sequence)) = outcome {
        panic!("{reason}\nafter {sequence:#?}");
    }
}

fn panic_text(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().cloned();
    text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned())).unwrap_or_default()
}

#[test]
fn promises_hold_over_random_sequences_on_sqlite() {
    run(|| Some(Database::sqlite()));
}

#[test]
fn promises_hold_over_random_sequences_on_postgres() {
    let runtime = Runtime::new().unwrap();
    run(|| std::thread::scope(|scope| scope.spawn(|| runtime.block_on(Database::postgres())).join().unwrap()));
}

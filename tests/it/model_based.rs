//! Random sequences of everything that can happen to a user, held against a small model of the promises.
//!
//! The clock runs some ten times as fast as the world, so that holds and leases end within a test, also too early.
//! `PROPTEST_CASES` says how many sequences are run on each database; a failure shrinks to a short one and is printed.

use std::{any::Any, panic::AssertUnwindSafe, time::Duration};

use acs_token_vendor::config;
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
enum Fence {
    Revoke { spare_logins: bool },
    RevokeEveryone { spare_logins: bool },
    Block,
    Delete,
}

#[derive(Clone, Debug)]
enum Step {
    /// The user signs in anew.
    SignIn,
    /// A token is asked for with the newest login, or with an older one.
    Token { older: usize },
    /// Access is taken away.
    Fence(Fence),
    /// The same, while a token is being asked for.
    TokenDuringFence { older: usize, fence: Fence },
    /// The block is lifted.
    Unblock,
    /// The next calls to ACS go wrong.
    Fault { operation: &'static str, kind: &'static str, count: u32 },
    /// The process dies, and another one starts.
    Crash,
    /// Time passes.
    Wait { seconds: u64 },
}

fn fences() -> impl Strategy<Value = Fence> {
    prop_oneof![
        3 => any::<bool>().prop_map(|spare_logins| Fence::Revoke { spare_logins }),
        2 => any::<bool>().prop_map(|spare_logins| Fence::RevokeEveryone { spare_logins }),
        1 => Just(Fence::Block),
        1 => Just(Fence::Delete),
    ]
}

fn steps() -> impl Strategy<Value = Step> {
    let operation = prop_oneof![Just("create"), Just("issue"), Just("revoke"), Just("delete"), Just("*")];
    let kind = prop_oneof![Just("status"), Just("drop_before"), Just("drop_after"), Just("late"), Just("delay")];
    prop_oneof![
        2 => Just(Step::SignIn),
        5 => (0..3_usize).prop_map(|older| Step::Token { older }),
        3 => fences().prop_map(Step::Fence),
        3 => (0..2_usize, fences()).prop_map(|(older, fence)| Step::TokenDuringFence { older, fence }),
        2 => Just(Step::Unblock),
        3 => (operation, kind, 1..3_u32).prop_map(|(operation, kind, count)| Step::Fault { operation, kind, count }),
        1 => Just(Step::Crash),
        1 => (1..20_u64).prop_map(|seconds| Step::Wait { seconds }),
    ]
}

/// What must be true whatever the service does.
#[derive(Default)]
struct Model {
    /// The second of each sign-in.
    logins: Vec<(String, i64)>,
    blocked: bool,
    /// Logins from before this second stay out.
    valid_from: i64,
    /// Tokens handed out, with the number of fences answered before they were asked for.
    tokens: Vec<(String, usize)>,
    fences: usize,
    /// The identity that tokens were handed out for since the last deletion.
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
        let login = self.app.issuer.login_with("alice", json!({"iat": second, "exp": second + 86_400}));
        self.model.logins.push((login, second));
    }

    async fn take(&mut self, step: &Step) {
        match step {
            Step::SignIn => self.sign_in(),
            Step::Token { older } => {
                let (login, second) = self.login(*older);
                let fences = self.model.fences;
                let answer = self.app.token(&login, None).await;
                self.judge_token(&answer, second, fences);
                self.judge_reuse(&answer).await;
            }
            Step::Fence(fence) => {
                let before = self.app.clock.now().timestamp();
                let answer = self.fence(*fence).await;
                self.judge_fence(*fence, &answer, before).await;
            }
            Step::TokenDuringFence { older, fence } => {
                let (login, second) = self.login(*older);
                let before = self.app.clock.now().timestamp();
                let was_blocked = self.model.blocked;
                let fences = self.model.fences;
                let (token, answer) = tokio::join!(self.app.token(&login, None), self.fence(*fence));
                // The token may have come before the fence or after it; what it must not do is survive it.
                let is_served = token.status == StatusCode::OK;
                let of_another = || self.model.identity.as_ref().is_some_and(|known| *known != token.identity());
                if is_served && matches!(fence, Fence::Delete) && of_another() {
                    // It came after the deletion, from a new identity.
                    assert!(second >= before, "promise 5: an old login brought a deleted user back: {token:?}");
                    self.judge_fence(*fence, &answer, before).await;
                    self.remember(&token, fences + 1);
                    return;
                }
                if is_served {
                    assert!(!was_blocked && second >= self.model.valid_from, "handed out: {token:?}");
                    let came_after = second >= before && !matches!(fence, Fence::Block);
                    let spared = matches!(
                        fence,
                        Fence::Revoke { spare_logins: true } | Fence::RevokeEveryone { spare_logins: true }
                    );
                    self.remember(&token, if came_after || spared { fences + 1 } else { fences });
                }
                self.judge_fence(*fence, &answer, before).await;
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

    fn login(&self, older: usize) -> (String, i64) {
        let last = self.model.logins.len() - 1;
        self.model.logins[last.saturating_sub(older)].clone()
    }

    async fn fence(&self, fence: Fence) -> Answer {
        let user = "/users/test:alice";
        match fence {
            Fence::Revoke { spare_logins } => {
                let body = json!({"rejectOlderSignIns": !spare_logins});
                self.app.ops(Method::POST, &format!("{user}/revoke"), Some(body)).await
            }
            Fence::RevokeEveryone { spare_logins } => {
                let body = json!({"all": true, "rejectOlderSignIns": !spare_logins});
                self.app.ops(Method::POST, "/revocations", Some(body)).await
            }
            Fence::Block => self.app.ops(Method::POST, &format!("{user}/block"), None).await,
            Fence::Delete => self.app.ops(Method::DELETE, user, None).await,
        }
    }

    fn judge_token(&mut self, answer: &Answer, login: i64, fences: usize) {
        match answer.status.as_u16() {
            200 => {
                assert!(!self.model.blocked, "a blocked user got a token");
                assert!(login >= self.model.valid_from, "promise 5: an old login got a token");
                self.remember(answer, fences);
            }
            401 => assert!(login < self.model.valid_from, "a good login was refused: {answer:?}"),
            403 => assert!(self.model.blocked, "refused as blocked: {answer:?}"),
            409 => assert!(self.model.fences > 0, "refused as being deleted: {answer:?}"),
            503 => {}
            _ => panic!("unexpected: {answer:?}"),
        }
    }

    /// A token that was handed out before and is handed out again must be alive.
    async fn judge_reuse(&self, answer: &Answer) {
        if answer.status != StatusCode::OK {
            return;
        }
        let token = answer.token();
        if self.model.tokens.iter().filter(|(known, _)| *known == token).count() > 1 {
            assert_eq!(self.app.acs.introspect(&token).await["active"], true, "promise 3: a dead token was reused");
        }
    }

    fn remember(&mut self, answer: &Answer, fences: usize) {
        let identity = answer.identity();
        let known = self.model.identity.get_or_insert_with(|| identity.clone());
        assert_eq!(*known, identity, "promise 1: tokens of two identities");
        self.model.tokens.push((answer.token(), fences));
    }

    async fn judge_fence(&mut self, fence: Fence, answer: &Answer, before: i64) {
        assert!([StatusCode::OK, StatusCode::ACCEPTED].contains(&answer.status), "{answer:?}");
        self.model.fences += 1;
        match fence {
            Fence::Revoke { spare_logins: true } | Fence::RevokeEveryone { spare_logins: true } => {}
            // The service's second is at least the one before the request.
            Fence::Revoke { .. } | Fence::RevokeEveryone { .. } | Fence::Block => {
                self.model.valid_from = self.model.valid_from.max(before);
            }
            Fence::Delete => {
                self.model.valid_from = self.model.valid_from.max(before);
                self.model.identity = None;
            }
        }
        self.model.blocked |= matches!(fence, Fence::Block);
        if answer.json()["operation"]["state"] == "completed" {
            self.assert_old_tokens_are_dead().await;
        }
        // What was valid at `before` may have been cut off a moment later: only newer logins are judged from here on.
        let of_everyone = matches!(fence, Fence::RevokeEveryone { spare_logins: false });
        let body = answer.json();
        let from = if of_everyone { &body["createdAt"] } else { &body["user"]["signInsValidFrom"] };
        if let Some(from) = from.as_str() {
            let from: chrono::DateTime<chrono::Utc> = from.parse().unwrap();
            self.model.valid_from = self.model.valid_from.max(from.timestamp());
        }
    }

    async fn assert_old_tokens_are_dead(&self) {
        for (token, fences) in &self.model.tokens {
            if *fences < self.model.fences {
                let seen = self.app.acs.introspect(token).await;
                assert_eq!(seen["active"], false, "promise 2: a token outlived a fence");
            }
        }
    }

    /// Everything settles by itself, and a user with a new login is served.
    async fn settle(&mut self, database: &Database) {
        self.app.acs.fault(json!({"operation": "exchange", "kind": "delay", "delayMs": 1})).await;
        let pending = "SELECT (SELECT COUNT(*) FROM operations WHERE completed_at IS NULL)
                            + (SELECT COUNT(*) FROM revocations WHERE completed_at IS NULL)";
        eventually(async || (database.count(pending).await == 0).then_some(())).await;
        self.assert_old_tokens_are_dead().await;
        self.take(&Step::Unblock).await;
        // Late calls may cost a token, but not for long.
        tokio::time::sleep(Duration::from_millis(200)).await;
        self.app.clock.advance(Duration::from_secs(3));
        self.sign_in();
        let (login, _) = self.login(0);
        let served = eventually(async || {
            let answer = self.app.token(&login, None).await;
            (answer.status == StatusCode::OK).then_some(answer)
        })
        .await;
        assert_eq!(self.app.acs.introspect(&served.token()).await["active"], true, "a fresh token is alive");
        eventually(async || (database.count(pending).await == 0).then_some(())).await;
        let orphans = database.count("SELECT COUNT(*) FROM audit_events WHERE action = 'possible_orphan'").await;
        let identities = self.app.acs.stats().await["identities"].as_i64().unwrap();
        assert!(identities <= 1 + orphans, "promise 1: {identities} identities, {orphans} counted as lost");
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
            world.settle(&database).await;
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

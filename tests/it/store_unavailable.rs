//! Without the database there is no token: callers get a 503 in time, and everything works again once it is back.

use std::time::{Duration, Instant};

use futures_util::future::{join_all, join3};
use serde_json::json;
use sqlx::{Connection, PgConnection};

use crate::support::{
    Answer, Database, TestApp,
    proxy::{Mode, Proxy},
};

const SETTINGS: &str = "
[database]
max_connections = 6
acquire_timeout = \"1s\"
[tokens]
timeout = \"2s\"
encryption_keys = \"QUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUE=\"
";
/// `tokens.timeout`, `database.acquire_timeout` and three seconds more.
const ANSWERED_WITHIN: Duration = Duration::from_secs(6);
const RECOVERED_WITHIN: Duration = Duration::from_secs(20);
/// How many requests of each kind are made at once: together more than there are connections.
const AT_ONCE: usize = 5;

/// A service whose database can fail, and a user with a cached token.
struct Setup {
    app: TestApp,
    proxy: Proxy,
    /// The database without the proxy.
    database: Database,
    warm: String,
}

impl Setup {
    async fn start() -> Option<Self> {
        let database = Database::postgres().await?;
        let (behind_proxy, proxy) = database.behind_proxy().await;
        let app = TestApp::start_with(&behind_proxy, SETTINGS).await;
        let warm = app.issuer.sign_in("warm");
        assert_eq!(app.token(&warm, None).await.token(), app.token(&warm, None).await.token());
        app.token(&app.issuer.sign_in("known"), None).await.token();
        Some(Self { app, proxy, database, warm })
    }

    /// Asks for a cached token, for the first token of a new user, and for a revocation.
    async fn ask(&self) -> [(&'static str, Answer, Duration); 3] {
        let begun = Instant::now();
        let new = self.app.issuer.sign_in(&uuid::Uuid::new_v4().to_string());
        let (cached, first, revocation) = join3(
            async { (self.app.token(&self.warm, None).await, begun.elapsed()) },
            async { (self.app.token(&new, None).await, begun.elapsed()) },
            async { (self.app.revoke("known").await, begun.elapsed()) },
        )
        .await;
        [("cached", cached.0, cached.1), ("first", first.0, first.1), ("revocation", revocation.0, revocation.1)]
    }

    /// Asks while the database is away, several times at once and then again: what was not answered in time with a 503
    /// that says when to come back.
    async fn wrong_answers(&self) -> Vec<String> {
        let mut wrong = Vec::new();
        for round in ["at first", "later"] {
            for (kind, answer, time) in join_all((0..AT_ONCE).map(|_| self.ask())).await.into_iter().flatten() {
                let code = answer.json()["code"].clone();
                if code != "store_unavailable" || time > ANSWERED_WITHIN {
                    wrong.push(format!("{round}, {kind}: {} {code} after {time:?}", answer.status));
                } else {
                    answer.assert_problem(503, "store_unavailable");
                }
            }
        }
        wrong
    }

    /// Asserts that every kind of request succeeds again soon.
    async fn assert_recovered(&self) {
        let ended = Instant::now();
        loop {
            let answers = self.ask().await;
            if answers.iter().all(|(_, answer, _)| answer.status.is_success()) {
                return;
            }
            let failed = answers.iter().filter(|(_, answer, _)| !answer.status.is_success());
            let failed: Vec<_> = failed.map(|(kind, answer, time)| (kind, &answer.text, time)).collect();
            assert!(failed.iter().all(|(_, text, _)| text.contains("\"status\":503")), "{failed:#?}");
            assert!(ended.elapsed() < RECOVERED_WITHIN, "not recovered: {failed:#?}");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn database_that_is_gone_means_503() {
    let Some(setup) = Setup::start().await else { return };
    setup.proxy.set(Mode::Refuse);
    setup.proxy.cut();
    let wrong = setup.wrong_answers().await;
    setup.proxy.set(Mode::Forward);
    setup.assert_recovered().await;
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn database_that_is_silent_means_503() {
    let Some(setup) = Setup::start().await else { return };
    setup.proxy.set(Mode::Silent);
    let wrong = setup.wrong_answers().await;
    setup.proxy.set(Mode::Forward);
    setup.assert_recovered().await;
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// A partition that never heals: what was open stays silent, and new connections work.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn silent_connections_are_replaced() {
    let Some(setup) = Setup::start().await else { return };
    setup.proxy.mute();
    setup.assert_recovered().await;
}

/// Statements wait for a lock, and every connection is in use.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn exhausted_pool_means_503() {
    let Some(setup) = Setup::start().await else { return };
    let mut other = PgConnection::connect(&setup.database.url()).await.unwrap();
    let mut lock = other.begin().await.unwrap();
    sqlx::query("LOCK TABLE users IN ACCESS EXCLUSIVE MODE").execute(&mut *lock).await.unwrap();
    let wrong = setup.wrong_answers().await;
    lock.rollback().await.unwrap();
    setup.assert_recovered().await;
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// The write is the permission: a token that ACS made is not returned without it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn token_that_cannot_be_recorded_is_not_returned() {
    let Some(setup) = Setup::start().await else { return };
    let Setup { app, proxy, .. } = &setup;
    let (known, new) = (app.issuer.sign_in("known"), app.issuer.sign_in("new"));
    let delay = |operation| json!({"operation": operation, "kind": "delay", "delayMs": 1000});
    app.acs.faults(&[delay("issue"), delay("create")]).await;
    let body = Some(json!({"scopes": ["chat"]}));
    let (minted, created, ()) = tokio::join!(app.token(&known, body.clone()), app.token(&new, body), async {
        app.acs.wait_for_calls("issue", 1).await;
        app.acs.wait_for_calls("create", 3).await;
        proxy.set(Mode::Refuse);
        proxy.cut();
    });
    minted.assert_problem(503, "store_unavailable");
    created.assert_problem(503, "store_unavailable");
    proxy.set(Mode::Forward);
    setup.assert_recovered().await;
}

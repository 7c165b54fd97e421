//! The application as tests start it: everything is real, and tests control the clock and the issuer's keys.

pub mod database;
pub mod issuer;
pub mod ops;
pub mod process;
pub mod proxy;

use std::time::Duration;

use acs_emulator::{self as emulator, Emulator};
use acs_token_vendor::{
    app::{self, Listeners},
    config,
    domain::clock::Clock,
    shutdown::Stop,
};
use axum::Router;
use reqwest::{Response, StatusCode, header::HeaderMap};
use serde_json::{Value, json};
use tokio::{net::TcpListener, task::JoinHandle};

pub use database::Database;
pub use issuer::TestIssuer;

pub const ACCESS_KEY: &str = "dGVzdC1hY2Nlc3Mta2V5LW9mLXRoZS1lbXVsYXRvcg==";
/// The resource's other key.
pub const SECOND_KEY: &str = "c2Vjb25kLWFjY2Vzcy1rZXktb2YtdGhlLWVtdWxhdG9y";

/// A running service with its surroundings.
pub struct TestApp {
    pub url: String,
    pub admin_url: String,
    pub ops_url: Option<String>,
    pub http: reqwest::Client,
    pub acs: TestAcs,
    pub issuer: TestIssuer,
    pub clock: Clock,
    pub database: Database,
    more: String,
    stop: Stop,
    running: JoinHandle<anyhow::Result<()>>,
}

/// An emulator and what a test asks of it.
#[derive(Clone)]
pub struct TestAcs {
    pub url: String,
    /// The key that services started from now on sign with, and their second key.
    pub keys: (&'static str, Option<&'static str>),
    http: reqwest::Client,
}

/// An answer, read to its end.
#[derive(Debug)]
pub struct Answer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub text: String,
}

impl TestApp {
    /// Starts a service on a database, with an emulator and an issuer of its own.
    pub async fn start(database: &Database) -> Self {
        Self::start_with(database, "").await
    }

    /// Starts a service with more settings: TOML that goes before the rest.
    pub async fn start_with(database: &Database, more: &str) -> Self {
        let clock = Clock::default();
        let acs = TestAcs::start(&clock).await;
        let issuer = TestIssuer::start(&clock).await;
        Self::replica(database, more, &clock, acs, issuer).await
    }

    /// Starts another replica of this service: same database, same surroundings.
    pub async fn another(&self) -> Self {
        self.another_with(&self.more).await
    }

    /// Starts another replica with other settings.
    pub async fn another_with(&self, more: &str) -> Self {
        Self::replica(&self.database, more, &self.clock, self.acs.clone(), self.issuer.clone()).await
    }

    /// Starts a service whose ACS is somewhere else.
    pub async fn start_with_endpoint(database: &Database, endpoint: &str) -> Self {
        let clock = Clock::default();
        let acs = TestAcs { url: endpoint.to_owned(), keys: (ACCESS_KEY, None), http: client() };
        let issuer = TestIssuer::start(&clock).await;
        Self::replica(database, "", &clock, acs, issuer).await
    }

    /// Starts a service with surroundings that are there already.
    pub async fn replica(database: &Database, more: &str, clock: &Clock, acs: TestAcs, issuer: TestIssuer) -> Self {
        // Settings for the database join those that are written here.
        let url = format!("[database]\nurl = {}\n", json!(database.url()));
        let (settings, url) = match more.split_once("[database]\n") {
            Some((before, after)) => (format!("{before}{url}{after}"), String::new()),
            None => (more.to_owned(), url),
        };
        let toml = format!(
            "{settings}\n{keys}{url}[acs]\nconnection_string = \"endpoint={acs};accesskey={key}\"\n\
             {second}[shutdown]\ndelay = \"0s\"\n[issuers.test]\nissuer = \"{issuer}\"\naudience = \"vendor\"\n{policy}",
            acs = acs.url,
            key = acs.keys.0,
            second = acs.keys.1.map_or_else(String::new, |key| format!("second_access_key = \"{key}\"\n")),
            issuer = issuer.url,
            keys = ops::settings(),
            policy = issuer::POLICY,
        );
        let settings = config::parse(&toml).unwrap();
        let anywhere = "127.0.0.1:0".parse().unwrap();
        let listeners = Listeners::bind(anywhere, anywhere, settings.ops_listen).await.unwrap();
        let app = app::build(settings, listeners, clock.clone(), Router::new()).await.unwrap();
        let (url, admin_url) = (app.public_address().unwrap(), app.admin_address().unwrap());
        let ops_url = app.ops_address().unwrap();
        let stop = Stop::default();
        Self {
            url: format!("http://{url}"),
            admin_url: format!("http://{admin_url}"),
            ops_url: ops_url.map(|address| format!("http://{address}")),
            http: client(),
            acs,
            issuer,
            clock: clock.clone(),
            database: database.clone(),
            more: more.to_owned(),
            running: tokio::spawn(app.run(stop.clone())),
            stop,
        }
    }

    /// Asks for a token with a sign-in token and a body.
    pub async fn token(&self, sign_in: &str, body: Option<Value>) -> Answer {
        let mut request = self.http.post(format!("{}/token", self.url)).bearer_auth(sign_in);
        if let Some(body) = body {
            request = request.json(&body);
        }
        Answer::of(request.send().await.unwrap()).await
    }

    /// Signs a user in at a later second than now: after every change of access that was answered.
    pub fn later_sign_in(&self, user: &str) -> String {
        self.clock.advance(Duration::from_secs(1));
        self.issuer.sign_in(user)
    }

    /// Reads one of the service's counters; what was never counted is zero.
    pub async fn metric(&self, name: &str) -> u64 {
        let text = self.http.get(format!("{}/metrics", self.admin_url)).send().await.unwrap().text().await.unwrap();
        let value = |line: &str| line.strip_prefix(name)?.strip_prefix(' ')?.parse().ok();
        text.lines().find_map(value).unwrap_or_default()
    }

    /// Asks for the caller's mapping.
    pub async fn me(&self, sign_in: &str) -> Answer {
        Answer::of(self.http.get(format!("{}/me", self.url)).bearer_auth(sign_in).send().await.unwrap()).await
    }

    /// Ends without finishing anything, as if the process had been killed.
    pub fn kill(self) {
        self.running.abort();
    }

    /// Stops gracefully and waits for the end.
    pub async fn stop(self) -> anyhow::Result<()> {
        self.stop.politely.cancel();
        self.running.await.unwrap()
    }
}

impl TestAcs {
    pub async fn start(clock: &Clock) -> Self {
        let access_keys = [ACCESS_KEY, SECOND_KEY].map(|key| emulator::AccessKey::parse(key).unwrap()).into();
        Self::start_with(clock, emulator::Settings { strict_identities: true, ..emulator::Settings::new(access_keys) })
            .await
    }

    /// Starts an emulator that is set up in another way.
    pub async fn start_with(clock: &Clock, settings: emulator::Settings) -> Self {
        let router = Emulator::new(settings, emulator_clock(clock)).unwrap().router();
        Self { url: serve(router).await, keys: (ACCESS_KEY, None), http: client() }
    }

    /// Makes calls fail from now on.
    pub async fn fault(&self, rule: Value) {
        self.faults(&[rule]).await;
    }

    /// Makes calls fail in several ways from now on.
    pub async fn faults(&self, rules: &[Value]) {
        let url = format!("{}/_emulator/faults", self.url);
        let answer = self.http.put(url).json(&json!({ "rules": rules })).send().await.unwrap();
        assert_eq!(answer.status(), StatusCode::OK);
    }

    /// Returns what the emulator counted.
    pub async fn stats(&self) -> Value {
        self.http.get(format!("{}/_emulator/stats", self.url)).send().await.unwrap().json().await.unwrap()
    }

    /// Waits until the emulator has received so many calls of an operation.
    pub async fn wait_for_calls(&self, operation: &str, count: u64) {
        eventually(async || (self.stats().await["calls"][operation] == count).then_some(())).await;
    }

    /// Asks the emulator about a token.
    pub async fn introspect(&self, token: &str) -> Value {
        let url = format!("{}/_emulator/introspect", self.url);
        self.http.post(url).json(&json!({"token": token})).send().await.unwrap().json().await.unwrap()
    }
}

impl Answer {
    pub async fn of(response: Response) -> Self {
        let (status, headers) = (response.status(), response.headers().clone());
        Self { status, headers, text: response.text().await.unwrap() }
    }

    pub fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|_| panic!("no JSON: {self:?}"))
    }

    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }

    /// The token of a successful answer.
    pub fn token(&self) -> String {
        assert_eq!(self.status, StatusCode::OK, "{}", self.text);
        self.json()["token"].as_str().unwrap().to_owned()
    }

    /// The identity of a successful answer.
    pub fn identity(&self) -> String {
        assert_eq!(self.status, StatusCode::OK, "{}", self.text);
        self.json()["user"]["communicationUserId"].as_str().unwrap().to_owned()
    }

    /// Asserts a problem: its status, its code, and the form that every problem has.
    pub fn assert_problem(&self, status: u16, code: &str) {
        assert_eq!(self.status.as_u16(), status, "{}", self.text);
        assert_eq!(self.header("content-type"), "application/problem+json");
        let body = self.json();
        assert_eq!(body["code"], code, "{}", self.text);
        assert_eq!(body["status"], status);
        assert_eq!(body["type"], format!("urn:acs-token-vendor:problem:{code}"));
        assert_eq!(body["requestId"], self.header("x-request-id"));
        assert_eq!([429, 503].contains(&status), self.headers.contains_key("retry-after"), "{self:?}");
        assert_eq!(status == 401, self.headers.contains_key("www-authenticate"), "{self:?}");
    }
}

/// A clock for the emulator that moves with the service's.
pub fn emulator_clock(clock: &Clock) -> emulator::Clock {
    let clock = clock.clone();
    emulator::Clock::new(move || clock.now())
}

/// A client for loopback addresses.
pub fn client() -> reqwest::Client {
    app::client_builder(true).timeout(Duration::from_secs(30)).build().unwrap()
}

/// Serves a router on a free port and returns its address.
pub async fn serve(router: Router) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move { axum::serve(listener, router).await });
    url
}

/// Asks again and again until there is an answer; fails after twenty seconds.
pub async fn eventually<T>(mut ask: impl AsyncFnMut() -> Option<T>) -> T {
    for _ in 0..2000 {
        if let Some(answer) = ask().await {
            return answer;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("it did not happen in time");
}

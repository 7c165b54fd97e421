//! A running emulator and its client. Requests are signed here, independently of the emulator's code.

use std::{
    io::{Read as _, Write as _},
    net::TcpStream,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use acs_emulator::{AccessKey, Emulator, Settings};
use base64::{Engine as _, prelude::BASE64_STANDARD};
use chrono::{DateTime, TimeDelta, Utc};
use hmac::{Hmac, KeyInit as _, Mac as _};
use reqwest::{Client, Request, header::HeaderMap};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

pub(super) const PRIMARY: &str = "cHJpbWFyeSBrZXkgb2YgdGhlIGVtdWxhdG9yJ3MgdGVzdHM=";
pub(super) const SECONDARY: &str = "c2Vjb25kYXJ5IGtleSBvZiB0aGUgZW11bGF0b3IncyB0ZXN0cw==";
pub(super) const CREATE: &str = "/identities?api-version=2023-10-01";
pub(super) const FOREIGN: &str = "8:acs:00000000-0000-0000-0000-000000000000_00000000-0000-0000-0000-000000000000";
pub(super) const RECORDED: &str = include_str!("../../../../tests/data/observed_exchanges.json");

/// The system's clock, moved forward by tests.
#[derive(Clone, Default)]
pub(super) struct TestClock {
    offset_seconds: Arc<AtomicU64>,
}

impl TestClock {
    pub(super) fn now(&self) -> DateTime<Utc> {
        let offset = i64::try_from(self.offset_seconds.load(Ordering::Relaxed)).unwrap();
        acs_emulator::Clock::default().now() + TimeDelta::seconds(offset)
    }

    pub(super) fn advance(&self, by: Duration) {
        self.offset_seconds.fetch_add(by.as_secs(), Ordering::Relaxed);
    }
}

pub(super) struct Rig {
    pub(super) host: String,
    pub(super) clock: TestClock,
    pub(super) client: Client,
}

pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) headers: HeaderMap,
    pub(super) body: Value,
}

impl Rig {
    pub(super) async fn start() -> Self {
        Self::start_with(false).await
    }

    pub(super) async fn start_with(strict_identities: bool) -> Self {
        let access_keys = [PRIMARY, SECONDARY].map(|key| AccessKey::parse(key).unwrap());
        let settings = Settings { strict_identities, ..Settings::new(access_keys.to_vec()) };
        let clock = TestClock::default();
        let moving = clock.clone();
        let router = Emulator::new(settings, acs_emulator::Clock::new(move || moving.now())).unwrap().router();
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let host = listener.local_addr().unwrap().to_string();
        tokio::spawn(async move { axum::serve(listener, router).await });
        #[expect(clippy::disallowed_methods, reason = "a test makes its own client")]
        let client = Client::builder().no_proxy().build().unwrap();
        Self { host, clock, client }
    }

    /// Makes a request signed with the primary key; the control endpoints ignore signatures.
    pub(super) fn request(&self, method: &str, target: &str, body: &str) -> Request {
        let url = format!("http://{}{target}", self.host);
        let request = self.client.request(method.parse().unwrap(), url);
        let mut request = request.body(body.to_owned()).build().unwrap();
        let signature = sign(PRIMARY, method, target, &self.host, &date(self.clock.now()), body);
        set(&mut request, &signature);
        request
    }

    pub(super) async fn execute(&self, request: Request) -> Answer {
        let response = self.client.execute(request).await.unwrap();
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        let bytes = response.bytes().await.unwrap();
        let body = (!bytes.is_empty()).then(|| serde_json::from_slice(&bytes).unwrap());
        Answer { status, headers, body: body.unwrap_or_default() }
    }

    pub(super) async fn call(&self, method: &str, target: &str, body: &str) -> Answer {
        self.execute(self.request(method, target, body)).await
    }

    pub(super) async fn control(&self, path: &str) -> Value {
        self.call("GET", &format!("/_emulator/{path}"), "").await.body
    }

    pub(super) async fn create(&self) -> String {
        let answer = self.call("POST", CREATE, "").await;
        answer.body["identity"]["id"].as_str().unwrap().to_owned()
    }

    pub(super) async fn issue(&self, id: &str) -> Answer {
        let target = format!("/identities/{id}/:issueAccessToken?api-version=2023-10-01");
        self.call("POST", &target, r#"{"scopes":["chat"]}"#).await
    }

    pub(super) async fn token(&self, id: &str) -> String {
        self.issue(id).await.body["token"].as_str().unwrap().to_owned()
    }

    pub(super) async fn revoke(&self, id: &str) -> Answer {
        let target = format!("/identities/{id}/:revokeAccessTokens?api-version=2023-10-01");
        self.call("POST", &target, "").await
    }

    pub(super) async fn delete(&self, id: &str) -> Answer {
        let target = format!("/identities/{id}?api-version=2023-10-01");
        self.call("DELETE", &target, "").await
    }

    pub(super) async fn introspect(&self, token: &str) -> Value {
        let body = json!({ "token": token }).to_string();
        self.call("POST", "/_emulator/introspect", &body).await.body
    }

    /// Waits until the counters meet a condition.
    pub(super) async fn until(&self, condition: impl Fn(&Value) -> bool) {
        let met = async {
            while !condition(&self.control("stats").await) {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(30), met).await.unwrap();
    }

    /// Returns why a token is not valid, or null.
    pub(super) async fn reason(&self, token: &str) -> Value {
        let judged = self.introspect(token).await;
        assert_eq!(judged["active"], judged["reason"].is_null());
        judged["reason"].clone()
    }

    pub(super) async fn fault(&self, rule: Value) {
        let rules = json!({ "rules": [rule] });
        let answer = self.call("PUT", "/_emulator/faults", &rules.to_string()).await;
        assert_eq!((answer.status, answer.body), (200, rules));
    }

    /// Sends a signed create by hand and returns every byte that came back.
    pub(super) fn raw_create(&self) -> Vec<u8> {
        let mut request = format!("POST {CREATE} HTTP/1.1\r\nhost: {}\r\n", self.host);
        for (name, value) in sign(PRIMARY, "POST", CREATE, &self.host, &date(self.clock.now()), "") {
            request = request + name + ": " + &value + "\r\n";
        }
        request += "content-length: 0\r\n\r\n";
        let mut stream = TcpStream::connect(&self.host).unwrap();
        stream.write_all(request.as_bytes()).unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).unwrap();
        answer
    }
}

pub(super) fn sign(
    key: &str,
    method: &str,
    target: &str,
    host: &str,
    date: &str,
    body: &str,
) -> [(&'static str, String); 3] {
    let hash = BASE64_STANDARD.encode(Sha256::digest(body));
    let mut mac = Hmac::<Sha256>::new_from_slice(&BASE64_STANDARD.decode(key).unwrap()).unwrap();
    mac.update(format!("{method}\n{target}\n{date};{host};{hash}").as_bytes());
    let signature = BASE64_STANDARD.encode(mac.finalize().into_bytes());
    let names = "x-ms-date;host;x-ms-content-sha256";
    let authorization = format!("HMAC-SHA256 SignedHeaders={names}&Signature={signature}");
    let date = ("x-ms-date", date.to_owned());
    [date, ("x-ms-content-sha256", hash), ("authorization", authorization)]
}

pub(super) fn set(request: &mut Request, headers: &[(&'static str, String)]) {
    for (name, value) in headers {
        request.headers_mut().insert(*name, value.parse().unwrap());
    }
}

pub(super) fn date(time: DateTime<Utc>) -> String {
    time.format("%a, %d %b %Y %H:%M:%S GMT").to_string()
}

pub(super) fn error(code: &str, message: &str) -> Value {
    json!({ "error": { "code": code, "message": message } })
}

/// Blanks what recordings sanitise, so that the rest can be compared.
pub(super) fn sanitised(body: &Value) -> Value {
    let Value::Object(members) = body else {
        return body.clone();
    };
    let blank = |(name, value): (&String, &Value)| {
        let varies = value.is_string() && ["id", "token", "expiresOn"].contains(&name.as_str());
        (name.clone(), if varies { json!("varies") } else { sanitised(value) })
    };
    Value::Object(members.iter().map(blank).collect())
}

//! A client: asks any replica for tokens with new and old sign-ins, and changes access.

use std::{sync::Arc, time::Instant};

use reqwest::{Method, Response, StatusCode};
use serde_json::{Value, json};

use crate::{
    history::{Expected, History, Issued, Kind},
    random::Random,
    world::{OPS_KEY, REPLICAS, World},
};

/// How many sign-ins of each user a client remembers, so that old ones are tried too.
const SIGN_INS: usize = 4;
/// Users beyond those of the clients, who are only imported.
const NEWCOMERS: usize = 1_000_000;

pub struct Client {
    world: Arc<World>,
    history: Arc<History>,
    random: Random,
    /// The sign-in tokens of each user with their seconds, newest last.
    sign_ins: Vec<Vec<(String, i64)>>,
}

impl Client {
    pub async fn new(world: Arc<World>, history: Arc<History>, random: Random) -> Self {
        let sign_ins = vec![Vec::new(); history.users()];
        let mut client = Self { world, history, random, sign_ins };
        for user in 0..client.history.users() {
            client.sign_in(user).await;
        }
        client
    }

    /// Does one thing, and judges the result.
    pub async fn act(&mut self) {
        tokio::time::sleep(self.random.between(5, 120)).await;
        let user = self.random.below(self.history.users());
        match self.random.below(1000) {
            0..=99 => self.sign_in(user).await,
            100..=849 => self.token(user).await,
            850..=884 => self.change(user, Kind::Revoke).await,
            885..=904 => self.change(user, Kind::RevokeKeepingSignIns).await,
            905..=910 => self.change(user, Kind::Block).await,
            911..=954 => self.change(user, Kind::Unblock).await,
            955..=969 => self.change(user, Kind::Delete).await,
            970..=975 => self.revoke_list().await,
            976 => self.revoke_all().await,
            977..=989 => self.import().await,
            _ => self.look(user).await,
        }
    }

    async fn sign_in(&mut self, user: usize) {
        let sign_in = self.world.sign_in(&name(user)).await;
        let claims = sign_in.split('.').nth(1).unwrap();
        let claims = base64::Engine::decode(&base64::prelude::BASE64_URL_SAFE_NO_PAD, claims).unwrap();
        let second = serde_json::from_slice::<Value>(&claims).unwrap()["iat"].as_i64().unwrap();
        let sign_ins = &mut self.sign_ins[user];
        sign_ins.push((sign_in, second));
        if sign_ins.len() > SIGN_INS {
            sign_ins.remove(0);
        }
    }

    async fn token(&mut self, user: usize) {
        let age = if self.random.percent(25) { self.random.below(SIGN_INS) } else { 0 };
        if age == 0 && self.random.percent(60) {
            self.sign_in(user).await;
        }
        let sign_ins = &self.sign_ins[user];
        let (sign_in, sign_in_second) = sign_ins[sign_ins.len().saturating_sub(1 + age)].clone();
        let began = Instant::now();
        let url = self.replica("/token");
        let request = self.world.http.post(url).bearer_auth(sign_in);
        let Ok(answer) = request.send().await else {
            return self.history.count("tokens unanswered");
        };
        let status = answer.status();
        if status != StatusCode::OK {
            let body: Value = answer.json().await.unwrap_or_default();
            let code = body["code"].as_str().unwrap_or("cut off").to_owned();
            assert!(
                [401, 403, 409, 503].contains(&status.as_u16()) || code == "cut off",
                "an unexpected answer: {status} {body}"
            );
            if code == "reauthentication_required" && self.random.percent(90) {
                self.sign_in(user).await;
            }
            return self.history.count(format!("tokens refused ({code})"));
        }
        let Ok(body) = answer.json::<Value>().await else {
            return self.history.count("tokens cut off");
        };
        let issued = Issued {
            token: body["token"].as_str().unwrap().to_owned(),
            identity: body["user"]["communicationUserId"].as_str().unwrap().to_owned(),
            sign_in_second,
            began,
            answered: Instant::now(),
        };
        let expected = self.history.token(user, issued.clone());
        self.history.count(match expected {
            Expected::Anything => "new tokens",
            Expected::Alive => "tokens issued again",
            Expected::Dead => "tokens that came too late",
        });
        if expected == Expected::Anything {
            return;
        }
        match (expected, self.world.is_alive(&issued.token).await) {
            (Expected::Alive, false) => self.history.found_dead(user, &issued),
            (Expected::Dead, true) => self.history.found_alive(user, &issued),
            _ => {}
        }
    }

    async fn change(&mut self, user: usize, kind: Kind) {
        let path = format!("/users/main:{}", name(user));
        let (method, path, body) = match kind {
            Kind::Revoke => (Method::POST, path + "/revoke", json!({})),
            Kind::RevokeKeepingSignIns => (Method::POST, path + "/revoke", json!({"rejectOlderSignIns": false})),
            Kind::Block => (Method::POST, path + "/block", json!({})),
            Kind::Unblock => (Method::POST, path + "/unblock", json!({})),
            _ => (Method::DELETE, path, json!({})),
        };
        self.make_change(&[user], kind, method, &path, body).await;
    }

    async fn revoke_list(&mut self) {
        let users: Vec<_> = (0..=self.random.below(10)).map(|_| self.random.below(self.history.users())).collect();
        let names: Vec<_> = users.iter().map(|user| format!("main:{}", name(*user))).collect();
        let mut distinct = users;
        distinct.sort_unstable();
        distinct.dedup();
        self.make_change(&distinct, Kind::RevokeList, Method::POST, "/revocations", json!({"users": names})).await;
    }

    async fn revoke_all(&mut self) {
        let users: Vec<_> = (0..self.history.users()).collect();
        self.make_change(&users, Kind::RevokeAll, Method::POST, "/revocations", json!({"all": true})).await;
    }

    async fn make_change(&mut self, users: &[usize], kind: Kind, method: Method, path: &str, body: Value) {
        let id = self.history.change_begins(users, kind);
        let answer = self.ask(method, path, body).await;
        let status = answer.as_ref().ok().map(Response::status);
        let accepted = match (status.map(|status| status.as_u16()), &answer) {
            (Some(200 | 202), _) => Some(true),
            // There is no such user to unblock.
            (Some(404), _) => Some(false),
            // No replica received it.
            (None, Err(error)) if error.is_connect() => Some(false),
            (Some(503) | None, _) => None,
            (Some(other), _) => panic!("{kind:?} was answered {other}"),
        };
        // A revocation of many is accepted before ACS confirms any of it.
        let confirmed = status == Some(StatusCode::OK);
        self.history.change_ends(users, id, accepted, confirmed);
        let outcome = match accepted {
            Some(true) => "accepted",
            Some(false) => "refused",
            None => "unanswered",
        };
        self.history.count(format!("{kind:?} {outcome}"));
    }

    /// Imports an identity for a user who is not known yet.
    async fn import(&mut self) {
        let Some(known) = self.history.issued().first().map(|issued| issued.identity.clone()) else { return };
        let (resource, _) = known.split_once('_').unwrap();
        let number = NEWCOMERS + self.random.below(NEWCOMERS);
        let identity = format!("{resource}_{number:08x}-0000-0000-0000-{number:012x}");
        let line = json!({"issuer": "main", "subject": name(number), "communicationUserId": identity}).to_string();
        let url = self.replica("/users/import");
        let request = self.world.http.post(url).bearer_auth(OPS_KEY);
        let request = request.header("content-type", "application/x-ndjson").body(line);
        let answer = match request.send().await {
            Ok(answer) => answer.text().await.unwrap_or_default(),
            Err(_) => String::new(),
        };
        let result: Value = serde_json::from_str(&answer).unwrap_or_default();
        self.history.count(format!("imports {}", result["result"].as_str().unwrap_or("unanswered")));
    }

    /// Reads a user, which must never fail unexpectedly.
    async fn look(&mut self, user: usize) {
        let path = format!("/users/main:{}", name(user));
        if let Ok(answer) = self.ask(Method::GET, &path, Value::Null).await {
            let status = answer.status().as_u16();
            assert!([200, 404, 503].contains(&status), "a look at a user was answered {status}");
        }
        self.history.count("looks");
    }

    async fn ask(&mut self, method: Method, path: &str, body: Value) -> reqwest::Result<Response> {
        let url = self.replica(path);
        let request = self.world.http.request(method, url).bearer_auth(OPS_KEY);
        let request = if body.is_null() { request } else { request.json(&body) };
        request.send().await
    }

    /// An address at any of the replicas.
    fn replica(&mut self, path: &str) -> String {
        format!("{}{path}", self.world.replicas[self.random.below(REPLICAS)].url)
    }
}

/// The subject of a user.
pub fn name(user: usize) -> String {
    format!("user-{user}")
}

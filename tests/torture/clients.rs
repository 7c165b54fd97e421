//! A client: asks for tokens with new and old logins, and takes access away, of any replica.

use std::{sync::Arc, time::Instant};

use reqwest::{Method, Response, StatusCode};
use serde_json::{Value, json};

use crate::{
    history::{Expected, Handed, History, Kind},
    random::Random,
    world::{OPS_KEY, REPLICAS, World},
};

/// How many logins of each user a client keeps, so that old ones are tried too.
const LOGINS: usize = 4;
/// Users beyond those of the clients, who only ever come in by an import.
const NEWCOMERS: usize = 1_000_000;

pub struct Client {
    world: Arc<World>,
    history: Arc<History>,
    random: Random,
    /// The logins of each user with the second they were made in, newest last.
    logins: Vec<Vec<(String, i64)>>,
}

impl Client {
    pub async fn new(world: Arc<World>, history: Arc<History>, random: Random) -> Self {
        let logins = vec![Vec::new(); history.users()];
        let mut client = Self { world, history, random, logins };
        for user in 0..client.history.users() {
            client.sign_in(user).await;
        }
        client
    }

    /// Does one thing, and judges what came of it.
    pub async fn act(&mut self) {
        tokio::time::sleep(self.random.between(5, 120)).await;
        let user = self.random.below(self.history.users());
        match self.random.below(1000) {
            0..=99 => self.sign_in(user).await,
            100..=849 => self.token(user).await,
            850..=884 => self.change(user, Kind::Revoke).await,
            885..=904 => self.change(user, Kind::RevokeKeepingLogins).await,
            905..=910 => self.change(user, Kind::Block).await,
            911..=954 => self.change(user, Kind::Unblock).await,
            955..=969 => self.change(user, Kind::Delete).await,
            970..=975 => self.revoke_list().await,
            976 => self.revoke_everyone().await,
            977..=989 => self.import().await,
            _ => self.look(user).await,
        }
    }

    async fn sign_in(&mut self, user: usize) {
        let login = self.world.sign_in(&name(user)).await;
        let claims = login.split('.').nth(1).unwrap();
        let claims = base64::Engine::decode(&base64::prelude::BASE64_URL_SAFE_NO_PAD, claims).unwrap();
        let second = serde_json::from_slice::<Value>(&claims).unwrap()["iat"].as_i64().unwrap();
        let logins = &mut self.logins[user];
        logins.push((login, second));
        if logins.len() > LOGINS {
            logins.remove(0);
        }
    }

    async fn token(&mut self, user: usize) {
        let age = if self.random.percent(25) { self.random.below(LOGINS) } else { 0 };
        if age == 0 && self.random.percent(60) {
            self.sign_in(user).await;
        }
        let logins = &self.logins[user];
        let (login, login_second) = logins[logins.len().saturating_sub(1 + age)].clone();
        let began = Instant::now();
        let url = self.replica("/token");
        let request = self.world.http.post(url).bearer_auth(login);
        let Ok(answer) = request.send().await else {
            return self.history.count("tokens unanswered");
        };
        let status = answer.status();
        if status != StatusCode::OK {
            let body: Value = answer.json().await.unwrap_or_default();
            let code = body["code"].as_str().unwrap_or("cut off").to_owned();
            assert!(
                [401, 403, 409, 503].contains(&status.as_u16()) || code == "cut off",
                "an answer that nobody understands: {status} {body}"
            );
            if code == "reauthentication_required" && self.random.percent(90) {
                self.sign_in(user).await;
            }
            return self.history.count(format!("tokens refused ({code})"));
        }
        let Ok(body) = answer.json::<Value>().await else {
            return self.history.count("tokens cut off");
        };
        let handed = Handed {
            token: body["token"].as_str().unwrap().to_owned(),
            identity: body["user"]["communicationUserId"].as_str().unwrap().to_owned(),
            login_second,
            began,
            answered: Instant::now(),
        };
        let expected = self.history.token(user, handed.clone());
        self.history.count(match expected {
            Expected::Anything => "new tokens",
            Expected::Alive => "tokens handed out again",
            Expected::Dead => "tokens that came too late",
        });
        if expected == Expected::Anything {
            return;
        }
        match (expected, self.world.is_alive(&handed.token).await) {
            (Expected::Alive, false) => self.history.found_dead(user, &handed),
            (Expected::Dead, true) => self.history.found_alive(user, &handed),
            _ => {}
        }
    }

    async fn change(&mut self, user: usize, kind: Kind) {
        let path = format!("/users/main:{}", name(user));
        let (method, path, body) = match kind {
            Kind::Revoke => (Method::POST, path + "/revoke", json!({})),
            Kind::RevokeKeepingLogins => (Method::POST, path + "/revoke", json!({"rejectOlderSignIns": false})),
            Kind::Block => (Method::POST, path + "/block", json!({})),
            Kind::Unblock => (Method::POST, path + "/unblock", json!({})),
            _ => (Method::DELETE, path, json!({})),
        };
        self.fence(&[user], kind, method, &path, body).await;
    }

    async fn revoke_list(&mut self) {
        let users: Vec<_> = (0..=self.random.below(10)).map(|_| self.random.below(self.history.users())).collect();
        let names: Vec<_> = users.iter().map(|user| format!("main:{}", name(*user))).collect();
        let mut distinct = users;
        distinct.sort_unstable();
        distinct.dedup();
        self.fence(&distinct, Kind::RevokeList, Method::POST, "/revocations", json!({"users": names})).await;
    }

    async fn revoke_everyone(&mut self) {
        let users: Vec<_> = (0..self.history.users()).collect();
        self.fence(&users, Kind::RevokeEveryone, Method::POST, "/revocations", json!({"all": true})).await;
    }

    async fn fence(&mut self, users: &[usize], kind: Kind, method: Method, path: &str, body: Value) {
        let id = self.history.fence_begins(users, kind);
        let answer = self.ask(method, path, body).await;
        let status = answer.as_ref().ok().map(Response::status);
        let accepted = match (status.map(|status| status.as_u16()), &answer) {
            (Some(200 | 202), _) => Some(true),
            // There is nobody to unblock.
            (Some(404), _) => Some(false),
            // Nobody was there to take it.
            (None, Err(error)) if error.is_connect() => Some(false),
            (Some(503) | None, _) => None,
            (Some(other), _) => panic!("{kind:?} was answered {other}"),
        };
        // Of many nothing is confirmed when they are accepted.
        let confirmed = status == Some(StatusCode::OK);
        self.history.fence_ends(users, id, accepted, confirmed);
        let outcome = match accepted {
            Some(true) => "accepted",
            Some(false) => "refused",
            None => "unanswered",
        };
        self.history.count(format!("{kind:?} {outcome}"));
    }

    /// Imports an identity for somebody who has not been seen yet.
    async fn import(&mut self) {
        let Some(known) = self.history.handed().first().map(|handed| handed.identity.clone()) else { return };
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

    /// Looks at a user, which must never fail in an odd way.
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

//! Sign-in tokens of app users: JWTs of a configured identity provider (RFC 8725, and RFC 9068 as far as providers follow it).

use std::{collections::HashMap, time::Duration};

use chrono::{DateTime, Utc};
use jsonwebtoken::Algorithm;
use serde_json::{Map, Value};
use tokio_util::sync::CancellationToken;

use super::{
    Error, IssuerSettings, Settings, SignInTime,
    claims::{self, Expected},
    discovery::Source,
    jose,
    key_cache::KeyCache,
    policy::{Grant, Policy},
    verify::Unverified,
};
use crate::domain::{
    clock::Clock,
    user::{AppUser, IssuerKey, Subject},
};

/// A verified sign-in token.
#[derive(Clone, Debug)]
pub struct SignIn {
    pub app_user: AppUser,
    /// When the user signed in, in whole seconds.
    pub time: DateTime<Utc>,
    /// What its claims entitle to; `None` if no grant matches.
    pub grant: Option<Grant>,
    /// The claim `jti`.
    pub token_id: Option<String>,
    /// The claim `sid`.
    pub session_id: Option<String>,
}

/// Verifies sign-in tokens of the configured identity providers.
pub struct Authenticator {
    issuers: HashMap<String, Issuer>,
    leeway: Duration,
    key_refresh: Duration,
    clock: Clock,
}

struct Issuer {
    key: IssuerKey,
    audiences: Vec<String>,
    algorithms: Vec<Algorithm>,
    subject_claim: String,
    sign_in_time: SignInTime,
    policy: Policy,
    keys: KeyCache,
}

/// Types of sign-in tokens; a logout token or a security event must not be accepted as one.
const TOKEN_TYPES: &[&str] = &["JWT", "at+jwt"];

impl Authenticator {
    #[must_use]
    pub fn new(
        settings: &Settings,
        issuers: Vec<(IssuerKey, IssuerSettings)>,
        http: &reqwest::Client,
        clock: &Clock,
    ) -> Self {
        let build = |(key, issuer): (IssuerKey, IssuerSettings)| {
            let source = match issuer.jwks_url {
                Some(url) => Source::KeySet { url },
                None => Source::Discovery { issuer: issuer.issuer.clone() },
            };
            let built = Issuer {
                key,
                audiences: issuer.audience.0,
                algorithms: issuer.algorithms.0,
                subject_claim: issuer.subject_claim,
                sign_in_time: issuer.sign_in_time,
                policy: issuer.policy,
                keys: KeyCache::new(source, http.clone(), clock.clone(), settings.max_key_age),
            };
            (issuer.issuer, built)
        };
        Self {
            issuers: issuers.into_iter().map(build).collect(),
            leeway: settings.leeway,
            key_refresh: settings.key_refresh,
            clock: clock.clone(),
        }
    }

    /// Verifies a sign-in token: signature, issuer, audience, times and the user claim.
    pub async fn authenticate(&self, token: &str) -> Result<SignIn, Error> {
        let unverified = Unverified::parse(token)?;
        let name = unverified.claimed_issuer().ok_or(jose::Error::Claim("iss"))?;
        let (name, issuer) = self.issuers.get_key_value(name).ok_or(Error::UnknownIssuer)?;
        unverified.require_type(TOKEN_TYPES)?;
        let claims = unverified.verify(&issuer.keys, &issuer.algorithms).await?;
        let expected = Expected { issuer: name, audiences: &issuer.audiences, leeway: self.leeway };
        let now = self.clock.now();
        claims::check(&claims, expected, now)?;
        let time = issuer.sign_in_time.read(&claims)?;
        if time > now + self.leeway {
            return Err(jose::Error::Claim("auth_time").into());
        }
        Ok(SignIn {
            app_user: AppUser { issuer: issuer.key.clone(), subject: issuer.subject(&claims)? },
            time,
            grant: issuer.policy.grant_for(&claims).cloned(),
            token_id: text(&claims, "jti"),
            session_id: text(&claims, "sid"),
        })
    }

    /// Returns the issuers, by key, and whether keys to verify their tokens are available.
    pub fn readiness(&self) -> impl Iterator<Item = (&str, bool)> {
        self.issuers.values().map(|issuer| (issuer.key.as_str(), issuer.keys.is_ready()))
    }

    /// Refreshes the keys of all issuers until `stop` is cancelled.
    pub async fn keep_keys_fresh(&self, stop: CancellationToken) {
        let loops = self.issuers.values().map(|issuer| issuer.keys.keep_fresh(self.key_refresh, stop.clone()));
        futures_util::future::join_all(loops).await;
    }
}

impl Issuer {
    fn subject(&self, claims: &Map<String, Value>) -> Result<Subject, jose::Error> {
        let text = claims.get(&self.subject_claim).and_then(Value::as_str);
        text.and_then(|text| Subject::parse(text).ok()).ok_or(jose::Error::Claim("of the user"))
    }
}

impl SignInTime {
    fn read(self, claims: &Map<String, Value>) -> Result<DateTime<Utc>, jose::Error> {
        let auth_time = || claims::time(claims, "auth_time").map(|time| time.filter(|time| claims::is_set(*time)));
        let iat = || claims::time(claims, "iat");
        match self {
            Self::AuthTime => auth_time()?.ok_or(jose::Error::Claim("auth_time")),
            Self::Iat => iat()?.ok_or(jose::Error::Claim("iat")),
            Self::First => auth_time()?.or(iat()?).ok_or(jose::Error::Claim("iat")),
        }
    }
}

/// Reads an informative claim. One that is too long, or has a NUL, which Postgres cannot store, is ignored.
fn text(claims: &Map<String, Value>, name: &str) -> Option<String> {
    let is_storable = |text: &&str| text.len() <= 256 && !text.contains('\0');
    claims.get(name).and_then(Value::as_str).filter(is_storable).map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn an_auth_time_that_is_not_set_is_missing() {
        let read = |setting: SignInTime, claims: Value| {
            let claims: Map<String, Value> = serde_json::from_value(claims).unwrap();
            setting.read(&claims).map(|time| time.timestamp())
        };
        for unset in [json!(0), json!(-1), json!(0.9), json!(null)] {
            assert_eq!(read(SignInTime::First, json!({"auth_time": unset, "iat": 7})), Ok(7));
            let refused = Err(jose::Error::Claim("auth_time"));
            assert_eq!(read(SignInTime::AuthTime, json!({"auth_time": unset, "iat": 7})), refused);
        }
        assert_eq!(read(SignInTime::First, json!({"auth_time": 5, "iat": 7})), Ok(5));
        assert_eq!(read(SignInTime::Iat, json!({"auth_time": 5, "iat": 7})), Ok(7));
        assert_eq!(read(SignInTime::First, json!({"auth_time": "5", "iat": 7})), Err(jose::Error::Claim("auth_time")));
    }
}

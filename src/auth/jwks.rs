//! Key sets of issuers (RFC 7517): parsed key by key, cached, refreshed in the background and on an unknown `kid`.
//!
//! Reading never waits for a refresh that it does not need. The cool-down counts attempts, not successes: an issuer that is
//! unavailable gets one request per cool-down, however many unknown keys are presented.

use std::{sync::Arc, time::Duration};

use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use chrono::{DateTime, Utc};
use jsonwebtoken::{
    Algorithm, DecodingKey,
    jwk::{AlgorithmParameters, EllipticCurve, Jwk, KeyOperations, PublicKeyUse},
};
use parking_lot::RwLock;
use serde::Deserialize;
use serde_json::Value;
use tokio_util::sync::CancellationToken;

use super::{
    discovery::{self, Source},
    jose::Error,
};
use crate::domain::clock::Clock;

/// The minimum time between attempts because of unknown keys.
const COOL_DOWN: Duration = Duration::from_secs(30);
/// The same while there are no keys at all, so that a service that starts before its issuer recovers soon.
const FIRST_COOL_DOWN: Duration = Duration::from_secs(1);
/// The minimum of RFC 7518 section 3.3.
const MIN_RSA_BYTES: usize = 2048 / 8;

/// The usable public keys of an issuer.
#[derive(Default)]
pub struct KeySet(Vec<Key>);

struct Key {
    id: Option<String>,
    algorithms: &'static [Algorithm],
    only: Option<Algorithm>,
    material: DecodingKey,
}

impl KeySet {
    /// Reads a key set. Keys that cannot be used for verification are left out.
    #[must_use]
    pub fn parse(json: &[u8]) -> Option<Self> {
        #[derive(Deserialize)]
        struct Raw {
            keys: Vec<Value>,
        }
        let raw: Raw = serde_json::from_slice(json).ok()?;
        Some(Self(raw.keys.into_iter().filter_map(Key::read).collect()))
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Returns the keys that fit the algorithm and, if given, have the id.
    pub fn candidates<'a>(
        &'a self,
        id: Option<&'a str>,
        algorithm: Algorithm,
    ) -> impl Iterator<Item = &'a DecodingKey> {
        self.0
            .iter()
            .filter(move |key| id.is_none_or(|id| key.id.as_deref() == Some(id)))
            .filter(move |key| key.algorithms.contains(&algorithm) && key.only.is_none_or(|only| only == algorithm))
            .map(|key| &key.material)
    }
}

impl Key {
    fn read(value: Value) -> Option<Self> {
        let jwk: Jwk = serde_json::from_value(value).ok()?;
        let for_signatures = jwk.common.public_key_use.as_ref().is_none_or(|u| *u == PublicKeyUse::Signature)
            && jwk.common.key_operations.as_ref().is_none_or(|ops| ops.contains(&KeyOperations::Verify));
        let algorithms: &[Algorithm] = match &jwk.algorithm {
            AlgorithmParameters::RSA(rsa) => {
                let modulus = BASE64_URL_SAFE_NO_PAD.decode(&rsa.n).ok()?;
                if modulus.iter().skip_while(|byte| **byte == 0).count() < MIN_RSA_BYTES {
                    return None;
                }
                use Algorithm::{PS256, PS384, PS512, RS256, RS384, RS512};
                &[RS256, RS384, RS512, PS256, PS384, PS512]
            }
            AlgorithmParameters::EllipticCurve(ec) => match ec.curve {
                EllipticCurve::P256 => &[Algorithm::ES256],
                EllipticCurve::P384 => &[Algorithm::ES384],
                _ => return None,
            },
            AlgorithmParameters::OctetKeyPair(okp) if okp.curve == EllipticCurve::Ed25519 => &[Algorithm::EdDSA],
            // A shared secret in a public key set would let anyone sign.
            _ => return None,
        };
        let only = match jwk.common.key_algorithm {
            Some(named) => Some(named.to_string().parse().ok()?),
            None => None,
        };
        let material = DecodingKey::from_jwk(&jwk).ok()?;
        for_signatures.then_some(Self { id: jwk.common.key_id, algorithms, only, material })
    }
}

/// The current keys of one issuer.
pub struct KeyCache {
    source: Source,
    http: reqwest::Client,
    clock: Clock,
    max_age: Duration,
    state: RwLock<State>,
    refreshing: tokio::sync::Mutex<()>,
}

#[derive(Clone, Default)]
struct State {
    keys: Arc<KeySet>,
    fetched_at: Option<DateTime<Utc>>,
    attempted_at: Option<DateTime<Utc>>,
}

impl KeyCache {
    /// Creates an empty cache whose keys are used up to `max_age` after they were fetched.
    #[must_use]
    pub fn new(source: Source, http: reqwest::Client, clock: Clock, max_age: Duration) -> Self {
        Self { source, http, clock, max_age, state: RwLock::default(), refreshing: tokio::sync::Mutex::default() }
    }

    /// Returns a key set with a candidate for this id and algorithm, and fetches the keys again if there is none.
    ///
    /// # Errors
    /// [`Error::UnknownKey`] if the issuer has no such key, [`Error::KeysUnavailable`] if it is unavailable.
    pub async fn keys_for(&self, id: Option<&str>, algorithm: Algorithm) -> Result<Arc<KeySet>, Error> {
        let has_it = |keys: &Arc<KeySet>| keys.candidates(id, algorithm).next().is_some();
        let before = self.state();
        if let Some(keys) = self.good(&before).filter(has_it) {
            return Ok(keys);
        }
        self.refresh_unless_cooling(before.attempted_at).await;
        let after = self.state();
        match self.good(&after) {
            Some(keys) if has_it(&keys) => Ok(keys),
            Some(_) => Err(Error::UnknownKey),
            None => Err(Error::KeysUnavailable { retry_after: self.cool_down(&after) }),
        }
    }

    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.good(&self.state()).is_some()
    }

    /// Refreshes the keys every `interval`, and sooner after a failure, until `stop` is cancelled.
    pub async fn keep_fresh(&self, interval: Duration, stop: CancellationToken) {
        let mut failures: u32 = 0;
        loop {
            failures = if self.refresh().await { 0 } else { failures.saturating_add(1) };
            let pause = match failures {
                0 => interval,
                _ => COOL_DOWN.min(FIRST_COOL_DOWN * 2_u32.saturating_pow(failures - 1)),
            };
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(pause) => {}
            }
        }
    }

    /// Refreshes once for all callers that wait here, and not again before the cool-down is over.
    async fn refresh_unless_cooling(&self, seen_attempt: Option<DateTime<Utc>>) {
        let _one_at_a_time = self.refreshing.lock().await;
        let state = self.state();
        let somebody_just_did = state.attempted_at != seen_attempt;
        let cooling = state.attempted_at.is_some_and(|at| self.clock.now() < at + self.cool_down(&state));
        if !somebody_just_did && !cooling {
            self.fetch().await;
        }
    }

    async fn refresh(&self) -> bool {
        let _one_at_a_time = self.refreshing.lock().await;
        self.fetch().await
    }

    async fn fetch(&self) -> bool {
        let now = self.clock.now();
        self.write(|state| state.attempted_at = Some(now));
        match discovery::fetch(&self.http, &self.source).await {
            Ok(keys) => {
                let keys = Arc::new(keys);
                self.write(|state| {
                    state.keys = keys;
                    state.fetched_at = Some(now);
                });
                true
            }
            Err(error) => {
                // No request waits for this refresh, so its failure is logged here.
                tracing::warn!(error = &error as &dyn std::error::Error, "cannot fetch the keys of an issuer");
                false
            }
        }
    }

    fn good(&self, state: &State) -> Option<Arc<KeySet>> {
        let fresh = state.fetched_at.is_some_and(|at| self.clock.now() <= at + self.max_age);
        fresh.then(|| Arc::clone(&state.keys))
    }

    fn cool_down(&self, state: &State) -> Duration {
        if self.good(state).is_some() { COOL_DOWN } else { FIRST_COOL_DOWN }
    }

    fn state(&self) -> State {
        self.state.read().clone()
    }

    fn write(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.state.write());
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    const EC: &str = "gI0GAILBdu7T53akrFmMyGcsF3n5dO7MmwNBHKW5SV0";
    const EC_Y: &str = "SLW_xSffzlPWrHEVI30DHM_4egVwt3NQqeUD7nMFpps";

    fn usable(key: &Value) -> usize {
        KeySet::parse(json!({"keys": [key]}).to_string().as_bytes()).unwrap().0.len()
    }

    #[test]
    fn unusable_keys_do_not_spoil_the_set() {
        let good = json!({"kty": "EC", "crv": "P-256", "kid": "a", "use": "sig", "alg": "ES256", "x": EC, "y": EC_Y});
        let set = json!({"keys": [{"kty": "new"}, 7, good]});
        let set = KeySet::parse(set.to_string().as_bytes()).unwrap();
        assert_eq!(set.candidates(Some("a"), Algorithm::ES256).count(), 1);
        assert_eq!(set.candidates(None, Algorithm::ES256).count(), 1);
        assert_eq!(set.candidates(Some("b"), Algorithm::ES256).count(), 0);
        assert_eq!(set.candidates(Some("a"), Algorithm::RS256).count(), 0);
    }

    #[test]
    fn keys_for_other_uses_short_keys_and_secrets_are_not_usable() {
        let long = BASE64_URL_SAFE_NO_PAD.encode([0xff; 256]);
        let short = BASE64_URL_SAFE_NO_PAD.encode([0xff; 128]);
        assert_eq!(usable(&json!({"kty": "RSA", "n": long, "e": "AQAB"})), 1);
        assert_eq!(usable(&json!({"kty": "RSA", "n": short, "e": "AQAB"})), 0);
        assert_eq!(usable(&json!({"kty": "RSA", "n": long, "e": "AQAB", "use": "enc"})), 0);
        assert_eq!(usable(&json!({"kty": "RSA", "n": long, "e": "AQAB", "key_ops": ["encrypt"]})), 0);
        assert_eq!(usable(&json!({"kty": "oct", "k": "c2VjcmV0"})), 0);
    }

    #[test]
    fn an_algorithm_named_by_the_key_is_the_only_one() {
        let long = BASE64_URL_SAFE_NO_PAD.encode([0xff; 256]);
        let set = json!({"keys": [{"kty": "RSA", "n": long, "e": "AQAB", "alg": "PS256"}]});
        let set = KeySet::parse(set.to_string().as_bytes()).unwrap();
        assert_eq!(set.candidates(None, Algorithm::PS256).count(), 1);
        assert_eq!(set.candidates(None, Algorithm::RS256).count(), 0);
    }

    proptest! {
        #[test]
        fn key_sets_never_panic(
            bytes in any::<Vec<u8>>(),
            kty in "(RSA|EC|OKP|oct|x)",
            curve in "(P-256|P-384|P-521|Ed25519|x)",
            algorithm in "(RS256|ES256|EdDSA|HS256|x)",
            [n, x, y] in ["[A-Za-z0-9_=-]{0,90}", "[A-Za-z0-9_-]{42,44}", "[A-Za-z0-9_-]{42,44}"],
        ) {
            let _ = KeySet::parse(&bytes);
            let key = json!({"kty": kty, "crv": curve, "alg": algorithm, "n": n, "e": "AQAB", "x": x, "y": y, "k": n});
            let set = KeySet::parse(json!({"keys": [key]}).to_string().as_bytes()).unwrap();
            prop_assert!(set.is_empty() || (kty != "oct" && kty != "RSA"), "a secret or a short key is usable");
        }
    }
}

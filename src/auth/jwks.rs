//! Key sets of issuers (RFC 7517), parsed key by key.

use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use jsonwebtoken::{
    Algorithm, DecodingKey,
    jwk::{AlgorithmParameters, EllipticCurve, Jwk, KeyOperations, PublicKeyUse},
};
use serde::Deserialize;
use serde_json::Value;

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

//! Verifies sign-in tokens against a key set that is read once.

use std::path::Path;

use anyhow::Context;
use axum::http::{HeaderMap, header::AUTHORIZATION};
use jsonwebtoken::{Algorithm, DecodingKey, Validation, jwk::JwkSet};
use serde::Deserialize;

pub(crate) struct Verifier {
    keys: Vec<(String, DecodingKey, Validation)>,
}

#[derive(Deserialize)]
struct Claims {
    sub: String,
}

impl Verifier {
    pub(crate) fn load(jwks: &Path, issuer: &str, audience: &str) -> anyhow::Result<Self> {
        let keys: JwkSet = serde_json::from_slice(&std::fs::read(jwks)?)?;
        let keys = keys.keys.iter().map(|jwk| {
            let algorithm: Algorithm = jwk.common.key_algorithm.context("a key without `alg`")?.to_string().parse()?;
            let mut validation = Validation::new(algorithm);
            validation.set_audience(&[audience]);
            validation.set_issuer(&[issuer]);
            let id = jwk.common.key_id.clone().context("a key without `kid`")?;
            Ok((id, DecodingKey::from_jwk(jwk)?, validation))
        });
        Ok(Self { keys: keys.collect::<anyhow::Result<Vec<_>>>()? })
    }

    /// Returns the subject if the token is valid.
    pub(crate) fn subject(&self, headers: &HeaderMap) -> Option<String> {
        let token = headers.get(AUTHORIZATION)?.to_str().ok()?.strip_prefix("Bearer ")?;
        let id = jsonwebtoken::decode_header(token).ok()?.kid?;
        let (_, key, validation) = self.keys.iter().find(|(known, ..)| *known == id)?;
        Some(jsonwebtoken::decode::<Claims>(token, key, validation).ok()?.claims.sub)
    }
}

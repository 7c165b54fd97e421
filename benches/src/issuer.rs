//! A mock identity provider with one RSA key of 2048 bits and one key on P-256. It signs any number of sign-in tokens.

use std::path::{Path, PathBuf};

use anyhow::Context;
use aws_lc_rs::{
    encoding::{AsDer, Pkcs8V1Der},
    rand::SystemRandom,
    rsa::{KeyPair, KeySize},
    signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair},
};
use axum::{Json, Router, routing::get};
use jsonwebtoken::{
    Algorithm, EncodingKey, Header,
    jwk::{Jwk, JwkSet, KeyAlgorithm, PublicKeyUse},
};
use serde_json::json;

pub const AUDIENCE: &str = "vendor";
/// The length of the PKCS #8 header in front of the PKCS #1 form of an RSA key of 2048 bits.
const PKCS8_HEAD_BYTES: usize = 26;
/// Longer than all benchmarks take.
const LIFETIME_S: u64 = 6 * 3600;

pub struct Issuer {
    pub url: String,
    pub jwks_file: PathBuf,
    keys: Vec<(Algorithm, EncodingKey, String)>,
}

impl Issuer {
    /// Makes keys and serves the public ones.
    pub async fn start(folder: &Path) -> anyhow::Result<Self> {
        let rsa = KeyPair::generate(KeySize::Rsa2048)?;
        let rsa: Pkcs8V1Der<'_> = rsa.as_der()?;
        let ec = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &SystemRandom::new())?;
        let (mut keys, mut public) = (Vec::new(), Vec::new());
        for (algorithm, name, key) in [
            (Algorithm::RS256, KeyAlgorithm::RS256, EncodingKey::from_rsa_der(&rsa.as_ref()[PKCS8_HEAD_BYTES..])),
            (Algorithm::ES256, KeyAlgorithm::ES256, EncodingKey::from_ec_der(ec.as_ref())),
        ] {
            let id = format!("{algorithm:?}");
            let mut jwk = Jwk::from_encoding_key(&key, algorithm)?;
            jwk.common.key_id = Some(id.clone());
            jwk.common.key_algorithm = Some(name);
            jwk.common.public_key_use = Some(PublicKeyUse::Signature);
            public.push(jwk);
            keys.push((algorithm, key, id));
        }
        let set = JwkSet { keys: public };
        let jwks_file = folder.join("jwks.json");
        std::fs::write(&jwks_file, serde_json::to_vec(&set)?)?;
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
        let url = format!("http://{}", listener.local_addr()?);
        let router = Router::new().route("/jwks", get(async move || Json(set.clone())));
        tokio::spawn(async move { axum::serve(listener, router).await });
        Ok(Self { url, jwks_file, keys })
    }

    pub fn jwks_url(&self) -> String {
        format!("{}/jwks", self.url)
    }

    /// Signs the sign-in token of a user who has just signed in.
    pub fn sign_in_token(&self, algorithm: Algorithm, subject: &str) -> anyhow::Result<String> {
        let (_, key, id) = self.keys.iter().find(|(known, ..)| *known == algorithm).context("no such key")?;
        let now = now_s();
        let claims = json!({
            "iss": self.url, "aud": AUDIENCE, "sub": subject, "iat": now, "exp": now + LIFETIME_S,
            "jti": format!("{subject}-{now}"), "email": format!("{subject}@example.com"), "name": "Benchmark User",
        });
        let header = Header { kid: Some(id.clone()), ..Header::new(algorithm) };
        Ok(jsonwebtoken::encode(&header, &claims, key)?)
    }

    /// Signs one token for each subject, on all processors.
    pub fn sign_in_tokens(&self, algorithm: Algorithm, subjects: &[String]) -> anyhow::Result<Vec<String>> {
        let threads = std::thread::available_parallelism().map_or(2, usize::from);
        let part = subjects.len().div_ceil(threads).max(1);
        let parts = std::thread::scope(|scope| {
            let sign = |part: &[String]| part.iter().map(|subject| self.sign_in_token(algorithm, subject)).collect();
            let workers: Vec<_> = subjects.chunks(part).map(|part| scope.spawn(move || sign(part))).collect();
            let join = |worker: std::thread::ScopedJoinHandle<'_, anyhow::Result<Vec<String>>>| {
                worker.join().unwrap_or_else(|_| Err(anyhow::anyhow!("a signing thread panicked")))
            };
            workers.into_iter().map(join).collect::<anyhow::Result<Vec<_>>>()
        })?;
        Ok(parts.concat())
    }
}

fn now_s() -> u64 {
    #[expect(clippy::disallowed_methods, reason = "the benchmarks run on the system's clock")]
    let now = std::time::SystemTime::now();
    now.duration_since(std::time::UNIX_EPOCH).map_or(0, |time| time.as_secs())
}

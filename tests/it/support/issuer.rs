//! An identity provider for tests: real keys, real discovery, and a signature for any claims.

use std::sync::{
    Arc, Mutex,
    atomic::{AtomicBool, AtomicUsize, Ordering},
};

use acs_token_vendor::domain::clock::Clock;
use aws_lc_rs::{
    rand::SystemRandom,
    signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair},
};
use axum::{Json, Router, http::StatusCode, routing::get};
use jsonwebtoken::{Algorithm, EncodingKey, Header, jwk::Jwk};
use serde_json::{Value, json};

use super::serve;

/// What sign-ins of this issuer are granted: guests little, members more, and others nothing.
pub const POLICY: &str = r#"
[[issuers.test.policy]]
when = { role = "guest" }
scopes = ["chat.join.limited"]
[[issuers.test.policy]]
when = { role = ["member"] }
scopes = ["chat", "voip"]
max_lifetime = "2h"
"#;

/// The identity provider.
#[derive(Clone)]
pub struct TestIssuer {
    pub url: String,
    pub keys: Arc<Mutex<Vec<TestKey>>>,
    pub is_down: Arc<AtomicBool>,
    /// How often somebody asked for the keys: each time begins with discovery.
    pub fetches: Arc<AtomicUsize>,
    clock: Clock,
}

/// A signing key with its id.
#[derive(Clone)]
pub struct TestKey {
    pub id: String,
    encoding: EncodingKey,
    pub public: Jwk,
}

impl TestKey {
    pub fn new(id: &str) -> Self {
        let document = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &SystemRandom::new()).unwrap();
        let encoding = EncodingKey::from_ec_der(document.as_ref());
        let mut public = Jwk::from_encoding_key(&encoding, Algorithm::ES256).unwrap();
        public.common.key_id = Some(id.to_owned());
        Self { id: id.to_owned(), encoding, public }
    }

    pub fn sign(&self, header: &Header, claims: &Value) -> String {
        jsonwebtoken::encode(header, claims, &self.encoding).unwrap()
    }

    pub fn header(&self) -> Header {
        Header { kid: Some(self.id.clone()), ..Header::new(Algorithm::ES256) }
    }
}

impl TestIssuer {
    pub async fn start(clock: &Clock) -> Self {
        let keys = Arc::new(Mutex::new(vec![TestKey::new("first")]));
        let (is_down, fetches) = (Arc::<AtomicBool>::default(), Arc::<AtomicUsize>::default());
        let url = Arc::new(Mutex::new(String::new()));
        let discovery = {
            let (url, is_down, fetches) = (Arc::clone(&url), Arc::clone(&is_down), Arc::clone(&fetches));
            move || async move {
                fetches.fetch_add(1, Ordering::SeqCst);
                let url = url.lock().unwrap().clone();
                let document = json!({"issuer": url, "jwks_uri": format!("{url}/jwks")});
                up(&is_down).map(|()| Json(document))
            }
        };
        let jwks = {
            let (keys, is_down) = (Arc::clone(&keys), Arc::clone(&is_down));
            move || async move {
                let keys: Vec<_> = keys.lock().unwrap().iter().map(|key| key.public.clone()).collect();
                up(&is_down).map(|()| Json(json!({"keys": keys})))
            }
        };
        let router = Router::new().route("/.well-known/openid-configuration", get(discovery)).route("/jwks", get(jwks));
        let served = serve(router).await;
        url.lock().unwrap().clone_from(&served);
        Self { url: served, keys, is_down, fetches, clock: clock.clone() }
    }

    /// The claims of a valid sign-in token.
    pub fn claims(&self, user: &str) -> Value {
        let now = self.clock.now().timestamp();
        json!({
            "iss": self.url, "aud": "vendor", "sub": user, "role": "member",
            "iat": now, "exp": now + 3600, "jti": uuid::Uuid::new_v4(),
        })
    }

    /// Signs a valid sign-in token.
    pub fn sign_in(&self, user: &str) -> String {
        self.sign_in_with(user, json!({}))
    }

    /// Signs a sign-in token with other claims; `null` removes a claim.
    pub fn sign_in_with(&self, user: &str, change: Value) -> String {
        let (Value::Object(mut claims), Value::Object(change)) = (self.claims(user), change) else {
            panic!("claims are an object");
        };
        claims.extend(change);
        claims.retain(|_, value| !value.is_null());
        let key = self.keys.lock().unwrap()[0].clone();
        key.sign(&key.header(), &Value::Object(claims))
    }
}

fn up(is_down: &AtomicBool) -> Result<(), StatusCode> {
    if is_down.load(Ordering::SeqCst) { Err(StatusCode::SERVICE_UNAVAILABLE) } else { Ok(()) }
}

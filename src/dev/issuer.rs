//! A mock identity provider: real keys and a real discovery document, but no passwords.
//!
//! Anyone who can reach it can sign in as any user, so it must only be reachable on loopback or inside a compose network.

use std::{
    io::Write,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
};

use anyhow::Context;
use aws_lc_rs::{
    rand::SystemRandom,
    signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair},
};
use axum::{
    Json, Router,
    extract::State,
    http::StatusCode,
    response::{IntoResponse, Response},
    routing::{get, post},
};
use jsonwebtoken::{
    Algorithm, EncodingKey, Header,
    jwk::{Jwk, JwkSet, PublicKeyUse, ThumbprintHash},
};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use uuid::Uuid;

use crate::{app, domain::clock::Clock, http, shutdown::Stop};

/// Its key in the settings; users are named `dev:alice`.
pub(super) const KEY: &str = "dev";
/// The `aud` of its tokens.
pub const AUDIENCE: &str = "acs-token-vendor-dev";
const BASE: &str = "/dev";

const KEY_FILE: &str = "dev-issuer-key.p8";
const DEFAULT_LIFETIME_SECONDS: i64 = 3600;

/// The options of `dev-issuer`.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// The address to listen on.
    #[arg(long, default_value = "127.0.0.1:8082", value_name = "ADDRESS")]
    listen: SocketAddr,
    /// The `iss` of its tokens: the URL at which the service reaches it; `http://ADDRESS/dev` by default.
    #[arg(long, value_name = "URL")]
    issuer: Option<String>,
    /// The folder for its key; without it, each start makes a new key.
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
}

/// Runs the mock identity provider alone.
pub(super) async fn run(options: Options) -> anyhow::Result<()> {
    let stop = Stop::on_signals()?;
    let listener = app::bind(options.listen).await?;
    let address = listener.local_addr()?;
    let issuer = options.issuer.unwrap_or_else(|| url(address));
    let provider = match &options.data {
        Some(folder) => MockIdentityProvider::open(folder, issuer.clone(), Clock::default())?,
        None => MockIdentityProvider::with_key(&generate()?, issuer.clone(), Clock::default())?,
    };
    println!("mock identity provider on http://{address}, iss {issuer}, aud {AUDIENCE}");
    http::serve(listener, provider.router(), http::ServerSettings::default(), stop.politely).await;
    Ok(())
}

/// Returns the `iss` of a provider that is served at an address.
pub(super) fn url(address: SocketAddr) -> String {
    format!("http://{address}{BASE}")
}

#[derive(Clone)]
pub(super) struct MockIdentityProvider(Arc<Inner>);

struct Inner {
    url: String,
    key: EncodingKey,
    jwk: Jwk,
    clock: Clock,
}

/// Whom to sign in, and the claims of the token.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct LoginRequest {
    user: String,
    #[serde(default)]
    claims: Map<String, Value>,
    expires_in_seconds: Option<i64>,
    #[serde(default)]
    issued_seconds_ago: i64,
}

/// A sign-in token, in the shape of RFC 6749 section 5.1.
#[derive(Serialize)]
struct LoginResponse {
    access_token: String,
    token_type: &'static str,
    expires_in: i64,
}

impl MockIdentityProvider {
    /// Stores its key in a folder, so that sign-in tokens stay valid after a restart.
    pub(super) fn open(folder: &Path, url: String, clock: Clock) -> anyhow::Result<Self> {
        let path = folder.join(KEY_FILE);
        let context = || format!("cannot use the key of the mock identity provider, `{}`", path.display());
        let pkcs8 = match std::fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                let bytes = generate()?;
                write_private(&path, &bytes).with_context(context)?;
                bytes
            }
            Err(error) => return Err(error).with_context(context),
        };
        Self::with_key(&pkcs8, url, clock).with_context(context)
    }

    fn with_key(pkcs8: &[u8], url: String, clock: Clock) -> anyhow::Result<Self> {
        EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, pkcs8)
            .map_err(|error| anyhow::anyhow!("not a PKCS #8 key on the curve P-256 ({error})"))?;
        let key = EncodingKey::from_ec_der(pkcs8);
        let mut jwk = Jwk::from_encoding_key(&key, Algorithm::ES256)?;
        jwk.common.key_id = Some(jwk.thumbprint(ThumbprintHash::SHA256)?);
        jwk.common.public_key_use = Some(PublicKeyUse::Signature);
        Ok(Self(Arc::new(Inner { url, key, jwk, clock })))
    }

    pub(super) fn router(&self) -> Router {
        let routes = Router::new()
            .route("/login", post(login))
            .route("/.well-known/openid-configuration", get(discovery))
            .route("/jwks", get(keys))
            .with_state(self.clone());
        Router::new().nest(BASE, routes)
    }

    fn sign(&self, request: LoginRequest) -> anyhow::Result<LoginResponse> {
        let now = self.0.clock.now().timestamp();
        let issued_at = now.saturating_sub(request.issued_seconds_ago);
        let expires_in = request.expires_in_seconds.unwrap_or(DEFAULT_LIFETIME_SECONDS);
        let mut claims = json!({
            "iss": self.0.url,
            "aud": AUDIENCE,
            "sub": request.user,
            "iat": issued_at,
            "auth_time": issued_at,
            "exp": now.saturating_add(expires_in),
            "jti": Uuid::new_v4(),
        });
        if let Value::Object(claims) = &mut claims {
            claims.extend(request.claims);
        }
        let header = Header { kid: self.0.jwk.common.key_id.clone(), ..Header::new(Algorithm::ES256) };
        let access_token = jsonwebtoken::encode(&header, &claims, &self.0.key)?;
        Ok(LoginResponse { access_token, token_type: "Bearer", expires_in })
    }
}

async fn login(
    State(provider): State<MockIdentityProvider>,
    body: Result<Json<LoginRequest>, axum::extract::rejection::JsonRejection>,
) -> Response {
    let error = |status: StatusCode, text: String| {
        (status, Json(json!({"error": "invalid_request", "error_description": text})))
    };
    match body {
        Ok(Json(request)) => match provider.sign(request) {
            Ok(response) => Json(response).into_response(),
            Err(refused) => error(StatusCode::BAD_REQUEST, refused.to_string()).into_response(),
        },
        Err(rejection) => error(rejection.status(), rejection.body_text()).into_response(),
    }
}

async fn discovery(State(provider): State<MockIdentityProvider>) -> Json<Value> {
    let url = &provider.0.url;
    Json(json!({
        "issuer": url,
        "jwks_uri": format!("{url}/jwks"),
        "id_token_signing_alg_values_supported": ["ES256"],
        "subject_types_supported": ["public"],
    }))
}

async fn keys(State(provider): State<MockIdentityProvider>) -> Json<JwkSet> {
    Json(JwkSet { keys: vec![provider.0.jwk.clone()] })
}

fn generate() -> anyhow::Result<Vec<u8>> {
    let document = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &SystemRandom::new())
        .map_err(|_| anyhow::anyhow!("no random numbers available"))?;
    Ok(document.as_ref().to_vec())
}

/// Writes a file that only its owner can read.
fn write_private(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    use std::os::unix::fs::OpenOptionsExt;
    let mut file = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(bytes)
}

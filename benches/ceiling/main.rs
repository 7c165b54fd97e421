//! The ceiling: the least that any program must do for a token that is there already, with the same crates.
//!
//! One verification of a login and one read by primary key, and nothing else: no log, no limits, no revocation, no sealing.

use std::{net::SocketAddr, path::PathBuf, sync::Arc};

use anyhow::Context;
use axum::{
    Json, Router,
    extract::State,
    http::{HeaderMap, StatusCode, header::AUTHORIZATION},
    routing::post,
};
use clap::Parser;
use jsonwebtoken::{Algorithm, DecodingKey, Validation, jwk::JwkSet};
use serde::Deserialize;
use serde_json::{Value, json};
use sqlx::{PgPool, postgres::PgPoolOptions};

#[derive(Parser)]
struct Options {
    #[arg(long)]
    listen: SocketAddr,
    #[arg(long)]
    database_url: String,
    /// The issuer's key set.
    #[arg(long)]
    jwks: PathBuf,
    #[arg(long)]
    issuer: String,
    #[arg(long)]
    audience: String,
}

struct Ceiling {
    pool: PgPool,
    keys: Vec<(String, DecodingKey, Validation)>,
}

#[derive(Deserialize)]
struct Claims {
    sub: String,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let options = Options::parse();
    let keys: JwkSet = serde_json::from_slice(&std::fs::read(&options.jwks)?)?;
    let keys = keys.keys.iter().map(|jwk| {
        let algorithm: Algorithm = jwk.common.key_algorithm.context("a key without `alg`")?.to_string().parse()?;
        let mut validation = Validation::new(algorithm);
        validation.set_audience(&[&options.audience]);
        validation.set_issuer(&[&options.issuer]);
        let id = jwk.common.key_id.clone().context("a key without `kid`")?;
        Ok((id, DecodingKey::from_jwk(jwk)?, validation))
    });
    let keys = keys.collect::<anyhow::Result<Vec<_>>>()?;
    // A connection is not asked whether it lives before each use: that would be a second round trip.
    let pool =
        PgPoolOptions::new().max_connections(10).test_before_acquire(false).connect(&options.database_url).await?;
    let router = Router::new().route("/token", post(token)).with_state(Arc::new(Ceiling { pool, keys }));
    let listener = tokio::net::TcpListener::bind(options.listen).await?;
    println!("ready");
    Ok(axum::serve(listener, router).await?)
}

async fn token(State(ceiling): State<Arc<Ceiling>>, headers: HeaderMap) -> Result<Json<Value>, StatusCode> {
    let subject = ceiling.subject(&headers).ok_or(StatusCode::UNAUTHORIZED)?;
    let row: Option<(String, i64)> =
        sqlx::query_as("SELECT token, expires_at_ms FROM ceiling_tokens WHERE subject = $1")
            .bind(subject)
            .fetch_optional(&ceiling.pool)
            .await
            .map_err(|_| StatusCode::SERVICE_UNAVAILABLE)?;
    let (token, expires_on) = row.ok_or(StatusCode::NOT_FOUND)?;
    Ok(Json(json!({"token": token, "expiresOnTimestamp": expires_on})))
}

impl Ceiling {
    fn subject(&self, headers: &HeaderMap) -> Option<String> {
        let login = headers.get(AUTHORIZATION)?.to_str().ok()?.strip_prefix("Bearer ")?;
        let id = jsonwebtoken::decode_header(login).ok()?.kid?;
        let (_, key, validation) = self.keys.iter().find(|(key, ..)| *key == id)?;
        Some(jsonwebtoken::decode::<Claims>(login, key, validation).ok()?.claims.sub)
    }
}

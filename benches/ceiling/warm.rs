//! The warm ceiling: verify, read one row, answer.

use std::sync::Arc;

use axum::{
    Json, Router,
    extract::State,
    http::{HeaderMap, StatusCode},
    routing::post,
};
use serde::Serialize;

use crate::{Options, pipeline::Pipeline, verifier::Verifier};

struct Warm {
    verifier: Verifier,
    tokens: Pipeline,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Answer {
    token: String,
    expires_on_timestamp: i64,
}

pub(crate) async fn router(options: &Options) -> anyhow::Result<Router> {
    let sql = "SELECT token, expires_at_ms FROM ceiling_users WHERE subject = $1";
    let warm = Warm {
        verifier: Verifier::load(&options.jwks, &options.issuer, &options.audience)?,
        tokens: Pipeline::open(&options.database_url, options.readers, sql).await?,
    };
    Ok(Router::new().route("/token", post(token)).with_state(Arc::new(warm)))
}

async fn token(State(warm): State<Arc<Warm>>, headers: HeaderMap) -> Result<Json<Answer>, StatusCode> {
    let subject = warm.verifier.subject(&headers).ok_or(StatusCode::UNAUTHORIZED)?;
    let row = warm.tokens.read(&[&subject]).await.map_err(|_| StatusCode::SERVICE_UNAVAILABLE)?;
    let row = row.ok_or(StatusCode::NOT_FOUND)?;
    Ok(Json(Answer { token: row.get(0), expires_on_timestamp: row.get(1) }))
}

//! The cold ceiling: verify, read the user's row, count the call, make the signed call, insert one row durably, answer.

use std::{sync::Arc, time::Duration};

use axum::{
    Json, Router,
    extract::State,
    http::{HeaderMap, StatusCode},
    routing::post,
};
use tokio::sync::{mpsc, oneshot};

use crate::{
    Options,
    acs::{Acs, IssuedToken},
    pipeline::Pipeline,
    verifier::Verifier,
};

/// The most requests that share one update of the counter.
const MOST_AT_ONCE: usize = 1024;

struct Cold {
    verifier: Verifier,
    users: Pipeline,
    counter: Counter,
    acs: Acs,
    issued: Pipeline,
}

pub(crate) async fn router(options: &Options, emulator: &str, access_key: &str) -> anyhow::Result<Router> {
    let url = &options.database_url;
    #[expect(clippy::disallowed_methods, reason = "the ceiling has a client of its own")]
    let http = reqwest::Client::builder().no_proxy().timeout(Duration::from_secs(4)).build()?;
    let count = Pipeline::open(url, 1, "UPDATE ceiling_counter SET n = n + $1 WHERE id = 1").await?;
    let insert = "INSERT INTO ceiling_issued (subject, acs_id, expires_on) VALUES ($1, $2, $3)";
    let cold = Cold {
        verifier: Verifier::load(&options.jwks, &options.issuer, &options.audience)?,
        users: Pipeline::open(url, options.readers, "SELECT acs_id FROM ceiling_users WHERE subject = $1").await?,
        counter: Counter::start(count),
        acs: Acs::new(http, emulator, access_key)?,
        issued: Pipeline::open(url, options.writers, insert).await?,
    };
    Ok(Router::new().route("/token", post(token)).with_state(Arc::new(cold)))
}

async fn token(State(cold): State<Arc<Cold>>, headers: HeaderMap) -> Result<Json<IssuedToken>, StatusCode> {
    let unavailable = |_| StatusCode::SERVICE_UNAVAILABLE;
    let subject = cold.verifier.subject(&headers).ok_or(StatusCode::UNAUTHORIZED)?;
    let row = cold.users.read(&[&subject]).await.map_err(unavailable)?;
    let identity: String = row.ok_or(StatusCode::NOT_FOUND)?.get(0);
    cold.counter.add_one().await.ok_or(StatusCode::SERVICE_UNAVAILABLE)?;
    let token = cold.acs.issue(&identity).await.map_err(|_| StatusCode::BAD_GATEWAY)?;
    let written = cold.issued.write(&[&subject, &identity, &token.expires_on]).await.map_err(unavailable)?;
    if written == 1 { Ok(Json(token)) } else { Err(StatusCode::SERVICE_UNAVAILABLE) }
}

/// Counts calls in the database. All requests that wait at a moment share one statement.
struct Counter(mpsc::Sender<oneshot::Sender<()>>);

impl Counter {
    fn start(counter: Pipeline) -> Self {
        let (sender, receiver) = mpsc::channel(MOST_AT_ONCE);
        tokio::spawn(count(counter, receiver));
        Self(sender)
    }

    /// Returns nothing if the call could not be counted.
    async fn add_one(&self) -> Option<()> {
        let (counted, wait) = oneshot::channel();
        self.0.send(counted).await.ok()?;
        wait.await.ok()
    }
}

async fn count(counter: Pipeline, mut receiver: mpsc::Receiver<oneshot::Sender<()>>) {
    let mut waiting = Vec::new();
    while receiver.recv_many(&mut waiting, MOST_AT_ONCE).await > 0 {
        let calls = i64::try_from(waiting.len()).unwrap_or(i64::MAX);
        let is_counted = matches!(counter.write(&[&calls]).await, Ok(1));
        for counted in waiting.drain(..).filter(|_| is_counted) {
            // A request that was cancelled no longer waits.
            let _ = counted.send(());
        }
    }
}

//! Batched reads of users on Postgres: requests that arrive while a read is running share the next one.
//!
//! A batch is sent after every request in it has arrived, so each sees a read at least as fresh as one of its own.
//! The reads have connections of their own, so that nothing else makes them wait.
//! docs/performance.md has the figures with and without batching.

use std::{
    fmt::Write,
    sync::{Arc, LazyLock},
};

use chrono::{DateTime, Utc};
use sqlx::{AssertSqlSafe, FromRow, Postgres, Row as _};
use tokio::{
    sync::{Mutex, mpsc, oneshot},
    time::timeout,
};

use super::{
    connection::{Leased, Pool, STATEMENT_TIMEOUT, close},
    error::Error,
    user_row::{READ_LATERAL, READ_LATERAL_FROM, UserRead},
};
use crate::domain::user::AppUser;

/// How many connections the reads have; with more, each batch would only be smaller.
pub(super) const CONNECTIONS: u32 = 2;
/// The sizes of batches. A statement has one size, so that Postgres keeps one plan for it; unused places stay empty.
const SIZES: [usize; 7] = [1, 2, 4, 8, 16, 32, 64];

static STATEMENTS: LazyLock<[String; SIZES.len()]> = LazyLock::new(|| SIZES.map(statement));

/// One index lookup for each place: the limit keeps the planner from joining whole tables.
fn statement(size: usize) -> String {
    let mut sql = format!("{READ_LATERAL} FROM (VALUES ");
    for place in 0..size {
        let comma = if place > 0 { ", " } else { "" };
        // Writing to a string does not fail.
        let _ = write!(sql, "{comma}({place}, ${}::TEXT, ${}::TEXT)", 2 * place + 2, 2 * place + 3);
    }
    sql.push_str(READ_LATERAL_FROM);
    sql
}

struct Request {
    user: AppUser,
    now: DateTime<Utc>,
    answer: oneshot::Sender<Result<UserRead, Error>>,
}

type Requests = Arc<Mutex<mpsc::Receiver<Request>>>;

/// Reads users in batches until it is dropped or its pool is closed.
#[derive(Clone)]
pub struct BatchReader {
    requests: mpsc::Sender<Request>,
    pool: Pool<Postgres>,
}

impl BatchReader {
    pub(super) fn start(pool: Pool<Postgres>) -> Self {
        let (sender, receiver) = mpsc::channel(SIZES[SIZES.len() - 1]);
        let receiver = Arc::new(Mutex::new(receiver));
        for _ in 0..CONNECTIONS {
            tokio::spawn(work(pool.clone(), Arc::clone(&receiver)));
        }
        Self { requests: sender, pool }
    }

    pub(super) async fn read(&self, user: AppUser, now: DateTime<Utc>) -> Result<UserRead, Error> {
        let (answer, answered) = oneshot::channel();
        let closed = || Error::from(sqlx::Error::PoolClosed);
        // The deadline is the request's: the reads before it may use theirs up.
        let read = async {
            self.requests.send(Request { user, now, answer }).await.map_err(|_| closed())?;
            answered.await.map_err(|_| closed())?
        };
        timeout(STATEMENT_TIMEOUT, read).await.unwrap_or_else(|_| Err(sqlx::Error::PoolTimedOut.into()))
    }

    pub(super) async fn close(&self) {
        close(&self.pool).await;
    }
}

async fn work(pool: Pool<Postgres>, requests: Requests) {
    let mut batch = Vec::new();
    while next_batch(&requests, &mut batch).await > 0 {
        match read(&pool, &batch).await {
            Ok(rows) => {
                for (request, row) in batch.drain(..).zip(rows) {
                    // The request may have been given up.
                    let _ = request.answer.send(row);
                }
            }
            Err(error) => {
                let error = Error::from(error);
                for request in batch.drain(..) {
                    let _ = request.answer.send(Err(error.clone()));
                }
            }
        }
    }
}

async fn next_batch(requests: &Mutex<mpsc::Receiver<Request>>, batch: &mut Vec<Request>) -> usize {
    requests.lock().await.recv_many(batch, SIZES[SIZES.len() - 1]).await
}

async fn read(pool: &Pool<Postgres>, batch: &[Request]) -> Result<Vec<Result<UserRead, Error>>, sqlx::Error> {
    let index = SIZES.iter().position(|size| *size >= batch.len()).unwrap_or(SIZES.len() - 1);
    let earliest = batch.iter().map(|request| request.now).min();
    let mut query = sqlx::query(AssertSqlSafe(STATEMENTS[index].as_str())).bind(earliest);
    for place in 0..SIZES[index] {
        let user = batch.get(place).map(|request| &request.user);
        query = query.bind(user.map(|user| user.issuer.as_str())).bind(user.map(|user| user.subject.as_str()));
    }
    let mut rows: Vec<Option<Result<UserRead, Error>>> = batch.iter().map(|_| None).collect();
    for row in Leased::acquire(pool).await?.run(async |db| query.fetch_all(db).await).await? {
        let place = usize::try_from(row.try_get::<i32, _>("place")?).unwrap_or(usize::MAX);
        if let Some(slot) = rows.get_mut(place) {
            *slot = Some(UserRead::from_row(&row).map_err(Error::from));
        }
    }
    let missing = || Err(Error::from(sqlx::Error::RowNotFound));
    Ok(rows.into_iter().map(|row| row.unwrap_or_else(missing)).collect())
}

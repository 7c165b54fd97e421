//! Repeated requests of operators: the service's side of `Idempotency-Key`.

use chrono::{DateTime, Utc};

use crate::service::{Error, Service};
use crate::store::{Idempotency, IdempotentRequest};

impl Service {
    /// Begins a request, unless its key is known.
    ///
    /// # Errors
    /// [`Error::Store`] when the database is away.
    pub async fn begin_idempotent(
        &self,
        request: &IdempotentRequest,
        expires_at: DateTime<Utc>,
        abandoned_before: DateTime<Utc>,
    ) -> Result<Idempotency, Error> {
        Ok(self.store.begin_idempotent(request, expires_at, abandoned_before).await?)
    }

    /// Keeps the answer to a request.
    ///
    /// # Errors
    /// [`Error::Store`] when the database is away.
    pub async fn answer_idempotent(&self, request: &IdempotentRequest, status: i64, answer: &str) -> Result<(), Error> {
        Ok(self.store.answer_idempotent(request, status, answer).await?)
    }

    /// Forgets a request that failed, so that it can be tried again.
    ///
    /// # Errors
    /// [`Error::Store`] when the database is away.
    pub async fn forget_idempotent(&self, request: &IdempotentRequest) -> Result<(), Error> {
        Ok(self.store.forget_idempotent(request).await?)
    }
}

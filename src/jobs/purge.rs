//! Forgetting what has served its time.

use std::time::Duration;

use crate::service::{Error, Service};

impl Service {
    /// Forgets mappings without identity after their time, tokens that are over, expired idempotency keys, and old audit events.
    ///
    /// # Errors
    /// [`Error::Store`] when the database is away.
    pub async fn purge(&self, audit_retention: Option<Duration>) -> Result<(), Error> {
        let now = self.clock.now();
        let mut forgotten = 0;
        loop {
            let batch = self.store.forget_users(now - self.users.tombstone_ttl, now).await?;
            forgotten += batch;
            if batch == 0 {
                break;
            }
        }
        while self.store.delete_expired_tokens(now).await? > 0 {}
        self.store.purge_idempotency_keys(now).await?;
        let mut events = 0;
        while let Some(retention) = audit_retention {
            let batch = self.store.purge_audit(now - retention).await?;
            events += batch;
            if batch == 0 {
                break;
            }
        }
        if forgotten > 0 || events > 0 {
            tracing::info!(users = forgotten, audit_events = events, "forgot what has served its time");
        }
        Ok(())
    }
}

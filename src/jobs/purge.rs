//! Deleting what has expired.

use super::Jobs;
use crate::error::Error;

impl Jobs {
    /// Deletes rows without an identity after their time, expired tokens and idempotency keys, and old audit events.
    pub(super) async fn purge(&self) -> Result<(), Error> {
        let (store, now) = (&self.parts.store, self.parts.clock.now());
        let mut users = 0;
        loop {
            let batch = store.purge_users(now - self.parts.tombstone_ttl, now).await?;
            users += batch;
            if batch == 0 {
                break;
            }
        }
        while store.delete_expired_tokens(now).await? > 0 {}
        store.purge_idempotency_keys(now).await?;
        let mut events = 0;
        while let Some(retention) = self.parts.audit_retention {
            let batch = store.purge_audit(now - retention).await?;
            events += batch;
            if batch == 0 {
                break;
            }
        }
        if users > 0 || events > 0 {
            tracing::info!(users, audit_events = events, "deleted what has expired");
        }
        Ok(())
    }
}

//! Importing: an operator says which identity is a user's.

use super::{Error, Order, Service, fence};
use crate::{
    domain::{
        audit::Action,
        user::{AcsId, User, UserRef},
    },
    store::Imported,
};

/// What an import found.
#[derive(Clone, Debug)]
pub struct ImportOutcome {
    /// The user.
    pub user: User,
    /// Whether the identity is the user's only now.
    pub is_new: bool,
}

impl Service {
    /// Binds an identity to a user who has none.
    ///
    /// # Errors
    /// [`Error::Conflict`] when user or identity are otherwise mapped, [`Error::Invalid`] for an identity of another resource.
    pub async fn import(&self, user: &UserRef, acs_id: &AcsId, order: &Order) -> Result<ImportOutcome, Error> {
        let resource = self.upstream.resource();
        let guid = self.store.resource_guid(resource).await?;
        if guid.is_some_and(|guid| guid != acs_id.resource_guid()) {
            return Err(Error::Invalid("`communicationUserId`: belongs to another ACS resource"));
        }
        self.check_issuer(user).await?;
        let now = self.clock.now();
        let mut tx = self.store.begin().await?;
        let locked = tx.lock_or_insert(user, now).await?.ok_or(Error::NotFound)?;
        let is_new = match tx.import_identity(&locked, acs_id, resource, now).await? {
            Imported::Now => true,
            Imported::Before => false,
            Imported::UserHasAnother => {
                return Err(Error::Conflict("the user has another identity, or is getting one"));
            }
            Imported::IdentityTaken => return Err(Error::Conflict("the identity is another user's")),
            Imported::IdentityCondemned => {
                return Err(Error::Conflict("the identity is queued for deletion, or was deleted"));
            }
        };
        if is_new {
            let mut event = fence::event(Action::IdentityImported, &locked, None, order);
            event.acs_id = Some(acs_id.clone());
            tx.append_audit(&event, now).await?;
        }
        tx.commit().await?;
        let user = self.store.find_user(&UserRef::Id(locked.id), now).await?.ok_or(Error::NotFound)?;
        Ok(ImportOutcome { user, is_new })
    }
}

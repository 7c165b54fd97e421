//! Creating the identities that users lack, without issuing tokens.

use std::sync::Arc;

use chrono::{DateTime, Utc};

use crate::{
    domain::user::{AcsId, State, User},
    service::{Error, Requester, Service},
    tokens::issue::Authorised,
};

/// A user who surely has an identity.
#[derive(Clone, Debug)]
pub struct Ensured {
    /// The user.
    pub user: User,
    /// The identity.
    pub acs_id: AcsId,
}

impl Service {
    /// Makes sure that a user has an identity, creating it where missing; mints nothing.
    ///
    /// # Errors
    /// [`Error::UserDeleting`], [`Error::InProgress`], [`Error::Upstream`] or [`Error::Store`].
    pub async fn ensure(self: &Arc<Self>, requester: &Requester) -> Result<Ensured, Error> {
        let deadline = self.deadline();
        loop {
            // For an identity that is there neither a hold nor a block matters: nothing is handed out.
            if let Some(user) = self.store.find_user(&requester.user, self.clock.now()).await? {
                match (&user.acs_id, user.state) {
                    (Some(_), State::Deleting) => return Err(Error::UserDeleting),
                    (Some(acs_id), _) => {
                        return Ok(Ensured { acs_id: acs_id.clone(), user });
                    }
                    (None, _) => {}
                }
            }
            match self.authorise(requester, deadline).await? {
                Authorised::Identity { user, acs_id, .. } => return Ok(Ensured { user: *user, acs_id }),
                Authorised::Create(ground) => drop(self.create_bare(requester, ground, deadline).await?),
            }
            if tokio::time::Instant::now() >= deadline {
                return Err(Error::InProgress);
            }
        }
    }

    /// Returns the present time, for what is reckoned from it in answers.
    #[must_use]
    pub fn now(&self) -> DateTime<Utc> {
        self.clock.now()
    }
}

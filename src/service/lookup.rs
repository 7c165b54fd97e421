//! Looking at mappings without changing them.

use super::{Error, Service};
use crate::{
    auth::Login,
    domain::user::{AcsId, UserId},
};

/// What a user may know of their own mapping.
#[derive(Clone, Debug)]
pub struct Me {
    /// Our id of the user.
    pub id: UserId,
    /// The identity.
    pub acs_id: AcsId,
}

impl Service {
    /// Returns the mapping of a login's user.
    ///
    /// # Errors
    /// [`Error::NotFound`] when there is no identity yet or any more, [`Error::Store`] when the database is away.
    pub async fn me(&self, login: &Login) -> Result<Me, Error> {
        let user = self
            .store
            .find_user(&login.app_user, self.clock.now())
            .await?
            .ok_or(Error::NotFound)?;
        Ok(Me {
            id: user.id,
            acs_id: user.acs_id.ok_or(Error::NotFound)?,
        })
    }
}

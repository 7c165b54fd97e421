//! Making sure that users have identities, without issuing tokens.

use std::sync::Arc;

use super::{Tokens, issue::Authorised, request::Requester};
use crate::{
    domain::user::{State, User},
    error::Error,
};

impl Tokens {
    /// Makes sure that a user has an identity, creating it where there is none.
    pub(crate) async fn ensure(self: &Arc<Self>, requester: &Requester) -> Result<User, Error> {
        let deadline = self.deadline();
        loop {
            // For an identity that is there neither a hold nor a block matters: no token is issued.
            if let Some(user) = self.parts.store.find_user(&requester.user, self.parts.clock.now()).await? {
                if user.state == State::Deleting {
                    return Err(Error::UserDeleting);
                }
                if user.acs_id.is_some() {
                    return Ok(user);
                }
            }
            match self.authorise(requester, deadline).await? {
                Authorised::Token(user, _) => return Ok(*user),
                Authorised::Create(from) => self.create_bare(requester, from, deadline).await?,
            }
            if tokio::time::Instant::now() >= deadline {
                return Err(Error::InProgress);
            }
        }
    }
}

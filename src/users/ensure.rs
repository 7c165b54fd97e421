//! Looking at users, operations and the audit trail, and making sure that users have identities.

use std::sync::Arc;

use chrono::{DateTime, Utc};
use uuid::Uuid;

use crate::{
    domain::{
        operation::Operation,
        user::{AcsId, State, User, UserRef},
    },
    service::{Error, Requester, Service},
    store::{AuditFilter, AuditRow, HeldToken, UserFilter},
    tokens::issue::Authorised,
};

/// What a user can be looked up by.
#[derive(Clone, Debug)]
pub enum Lookup {
    /// By our words.
    User(UserRef),
    /// By the identity.
    Identity(AcsId),
}

/// A user who surely has an identity.
#[derive(Clone, Debug)]
pub struct Ensured {
    /// The user.
    pub user: User,
    /// The identity.
    pub acs_id: AcsId,
}

impl Service {
    /// Returns a user.
    ///
    /// # Errors
    /// [`Error::NotFound`] when there is none, [`Error::Store`] when the database is away.
    pub async fn user(&self, user: &UserRef) -> Result<User, Error> {
        self.store.find_user(user, self.clock.now()).await?.ok_or(Error::NotFound)
    }

    /// Returns the mapping of the caller, who must have an identity.
    ///
    /// # Errors
    /// As [`Service::user`].
    pub async fn me(&self, user: &UserRef) -> Result<Ensured, Error> {
        let user = self.user(user).await?;
        let acs_id = user.acs_id.clone().ok_or(Error::NotFound)?;
        Ok(Ensured { user, acs_id })
    }

    /// Finds a user.
    ///
    /// # Errors
    /// [`Error::Store`] when the database is away.
    pub async fn find(&self, lookup: &Lookup) -> Result<Option<User>, Error> {
        let now = self.clock.now();
        Ok(match lookup {
            Lookup::User(user) => self.store.find_user(user, now).await?,
            Lookup::Identity(acs_id) => self.store.find_user_by_acs_id(acs_id, now).await?,
        })
    }

    /// Lists users in the order of their ids.
    ///
    /// # Errors
    /// [`Error::Store`] when the database is away.
    pub async fn list_users(&self, filter: &UserFilter, limit: i64) -> Result<Vec<User>, Error> {
        Ok(self.store.list_users(filter, limit, self.clock.now()).await?)
    }

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

    /// Returns an operation.
    ///
    /// # Errors
    /// [`Error::NotFound`] when there is none, [`Error::Store`] when the database is away.
    pub async fn operation(&self, id: Uuid) -> Result<Operation, Error> {
        self.store.find_operation(id).await?.ok_or(Error::NotFound)
    }

    /// Lists operations in the order of acceptance: the unfinished, the finished, or all.
    ///
    /// # Errors
    /// [`Error::Store`] when the database is away.
    pub async fn list_operations(
        &self,
        pending: Option<bool>,
        after: Uuid,
        limit: i64,
    ) -> Result<Vec<Operation>, Error> {
        Ok(self.store.list_operations(pending, after, limit).await?)
    }

    /// Lists audit events, newest first.
    ///
    /// # Errors
    /// [`Error::Store`] when the database is away.
    pub async fn list_audit(&self, filter: &AuditFilter, limit: i64) -> Result<Vec<AuditRow>, Error> {
        Ok(self.store.list_audit(filter, limit).await?)
    }

    /// Lists the tokens that a user held at a moment, now where none is given.
    ///
    /// # Errors
    /// [`Error::NotFound`] when there is no such user, [`Error::Store`] when the database is away.
    pub async fn tokens_at(&self, user: &UserRef, moment: Option<DateTime<Utc>>) -> Result<Vec<HeldToken>, Error> {
        let user = self.user(user).await?;
        Ok(self.store.tokens_at(&user.id, moment.unwrap_or_else(|| self.clock.now())).await?)
    }

    /// Returns the present time, for what is reckoned from it in answers.
    #[must_use]
    pub fn now(&self) -> DateTime<Utc> {
        self.clock.now()
    }
}

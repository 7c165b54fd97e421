//! Imports: operators map users to existing ACS identities.

use super::Users;
use crate::{
    domain::{
        audit::{Action, Actor, Event},
        user::{AcsId, AppUser, User, UserRef},
    },
    error::Error,
    jobs::{ChangeContext, event},
    store::Imported,
};

/// A user after an import.
#[derive(Clone, Debug)]
pub(crate) struct ImportOutcome {
    pub(crate) user: User,
    /// Whether the identity was not the user's before.
    pub(crate) is_new: bool,
}

/// What became of a list of imports.
#[derive(Debug, Default)]
pub(crate) struct ImportedMany {
    /// For each, whether the identity is the user's only now; it ends with the first that met a database that is away.
    pub(crate) results: Vec<Result<bool, Error>>,
}

impl Users {
    /// Binds identities to users, as many as possible in one transaction; each for itself where something stands in the way.
    pub(crate) async fn import_many(&self, lines: &[(AppUser, AcsId)], context: &ChangeContext) -> ImportedMany {
        let mut results = match self.import_at_once(lines, context).await {
            Ok(done) => done.into_iter().map(|is_new| is_new.map(Ok)).collect::<Vec<_>>(),
            Err(error) => return ImportedMany { results: vec![Err(error)] },
        };
        for ((user, acs_id), result) in lines.iter().zip(&mut results) {
            if result.is_none() {
                let one = self.import(&UserRef::AppUser(user.clone()), acs_id, context).await;
                *result = Some(one.map(|outcome| outcome.is_new));
            }
            if matches!(result, Some(Err(Error::Store(_)))) {
                break;
            }
        }
        ImportedMany { results: results.into_iter().map_while(|result| result).collect() }
    }

    /// Imports what nothing stands in the way of; `None` for the others.
    async fn import_at_once(
        &self,
        lines: &[(AppUser, AcsId)],
        context: &ChangeContext,
    ) -> Result<Vec<Option<bool>>, Error> {
        let resource = self.parts.upstream.resource();
        let guid = self.parts.store.resource_guid(resource).await?;
        let is_plain = |(user, acs_id): &(AppUser, AcsId)| {
            self.parts.issuers.contains(&user.issuer) && guid.as_ref().is_none_or(|guid| guid == acs_id.resource_guid())
        };
        let now = self.parts.clock.now();
        let mut tx = self.parts.store.begin().await?;
        let before = tx.are_imported(lines).await?;
        let new: Vec<_> = (0..lines.len()).filter(|&index| !before[index] && is_plain(&lines[index])).collect();
        let actor = context.actor.clone().unwrap_or(Actor::Worker);
        let plain: Vec<_> = new.iter().map(|&index| lines[index].clone()).collect();
        let imported = tx.import_identities(&plain, resource, &actor, &context.request_context, now).await?;
        tx.commit().await?;
        let mut results: Vec<_> = before.into_iter().map(|before| before.then_some(false)).collect();
        for (index, imported) in new.into_iter().zip(imported) {
            results[index] = imported.then_some(true);
        }
        Ok(results)
    }

    /// Binds an identity to a user who has none.
    pub(crate) async fn import(
        &self,
        user: &UserRef,
        acs_id: &AcsId,
        context: &ChangeContext,
    ) -> Result<ImportOutcome, Error> {
        let resource = self.parts.upstream.resource();
        let guid = self.parts.store.resource_guid(resource).await?;
        if guid.is_some_and(|guid| guid != acs_id.resource_guid()) {
            return Err(Error::Invalid("`communicationUserId`: belongs to another ACS resource"));
        }
        self.check_issuer(user).await?;
        let now = self.parts.clock.now();
        let mut tx = self.parts.store.begin().await?;
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
            let event = event(Action::IdentityImported, &locked, None, context);
            tx.append_audit([Event { acs_id: Some(acs_id.clone()), ..event }], now).await?;
        }
        tx.commit().await?;
        let user = self.parts.store.find_user(&UserRef::Id(locked.id), now).await?.ok_or(Error::NotFound)?;
        Ok(ImportOutcome { user, is_new })
    }
}

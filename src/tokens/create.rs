//! The first identity: claim, create at ACS, bind.
//!
//! Of any number of requests that find no identity one gets the claim, and the others wait for it.
//! An identity that is lost on the way is queued for deletion where its id is known, and audited where it is not.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use tokio::time::Instant;

use super::{
    Tokens,
    issue::{CreateFrom, event},
    mint::{issued, minted, record},
    request::{Granted, Issued, Requester},
};
use crate::{
    acs::retry as upstream,
    domain::{
        audit::{Action, Event},
        user::{AcsId, UserRef},
    },
    error::Error,
    store::{Bound, Claim, NewIdentity},
};

/// How much longer than the creation may take its claim is good, so that a creator that is alive does not lose it.
const CLAIM_MARGIN: Duration = Duration::from_secs(5);

impl Tokens {
    /// Creates the identity with its first token; `None` when another request was faster or the user changed meanwhile.
    pub(super) async fn create(
        self: &Arc<Self>,
        requester: &Requester,
        from: CreateFrom,
        granted: &Granted,
        deadline: Instant,
    ) -> Result<Option<Issued>, Error> {
        self.create_detached(requester, from, Some(granted.clone()), deadline).await
    }

    /// Creates the identity without a token, unless another request is faster.
    pub(super) async fn create_bare(
        self: &Arc<Self>,
        requester: &Requester,
        from: CreateFrom,
        deadline: Instant,
    ) -> Result<(), Error> {
        self.create_detached(requester, from, None, deadline).await.map(drop)
    }

    /// The work goes on although the caller may hang up: an identity that ACS created must be bound.
    async fn create_detached(
        self: &Arc<Self>,
        requester: &Requester,
        from: CreateFrom,
        granted: Option<Granted>,
        deadline: Instant,
    ) -> Result<Option<Issued>, Error> {
        let (tokens, requester) = (Arc::clone(self), requester.clone());
        let work = async move { tokens.claim_create_bind(&requester, &from, granted.as_ref(), deadline).await };
        self.parts.jobs.spawn(work).await.map_err(|_| Error::Interrupted)?
    }

    async fn claim_create_bind(
        &self,
        requester: &Requester,
        from: &CreateFrom,
        granted: Option<&Granted>,
        deadline: Instant,
    ) -> Result<Option<Issued>, Error> {
        let store = &self.parts.store;
        let Some(claim) = self.claim(requester, from).await? else { return Ok(None) };
        let created = match granted {
            Some(Granted { scopes, lifetime }) => {
                let created = self.parts.upstream.create(scopes, *lifetime, deadline).await;
                created.map(|(acs_id, token)| (acs_id, Some(token)))
            }
            None => self.parts.upstream.create_bare(deadline).await.map(|acs_id| (acs_id, None)),
        };
        let (acs_id, token) = match created {
            Ok(created) => created,
            Err(error) => {
                self.release(&claim, &error, requester).await;
                return Err(error.into());
            }
        };
        self.remember_resource(&acs_id).await;
        let minted_token = token.zip(granted).map(|(token, granted)| {
            let record = record(&token, claim.generation, &granted.scopes);
            let cached = self.encrypt((&claim.user, &acs_id, claim.generation), None, &token, &record);
            (issued(token, record.clone(), granted, claim.user.clone(), acs_id.clone()), record, cached)
        });
        let new = NewIdentity {
            acs_id: &acs_id,
            resource: self.parts.upstream.resource(),
            expires_at: minted_token.as_ref().map(|(issued, ..)| issued.expires_on),
            cached: minted_token.as_ref().and_then(|(.., cached)| cached.as_ref()),
            bound: Event { acs_id: Some(acs_id.clone()), ..event(Action::IdentityBound, requester, &claim.user) },
            minted: minted_token.as_ref().map(|(_, record, _)| minted(requester, &claim.user, &acs_id, record.clone())),
        };
        // A failure here must not release the claim, because the commit may have happened. Where it did not, the request that
        // takes the claim over counts the identity as a possible orphan.
        let bound = store.bind(&claim, new, self.parts.clock.now()).await?;
        if bound == Bound::Lost {
            self.parts.jobs.wake();
        }
        Ok(minted_token.map(|(issued, ..)| issued).filter(|_| bound == Bound::AndCurrent))
    }

    async fn claim(&self, requester: &Requester, from: &CreateFrom) -> Result<Option<Claim>, Error> {
        let now = self.parts.clock.now();
        let until = now + self.parts.settings.timeout + CLAIM_MARGIN;
        match (from, &requester.user) {
            (CreateFrom::Row(user), _) => {
                let orphan = event(Action::PossibleOrphan, requester, &user.id);
                Ok(self.parts.store.claim_again(user, now, until, orphan).await?)
            }
            (CreateFrom::NoRow(global), UserRef::AppUser(app_user)) => {
                Ok(self.parts.store.claim_new(app_user, *global, now, until).await?)
            }
            (CreateFrom::NoRow(_), UserRef::Id(_)) => Err(Error::NotFound),
        }
    }

    /// Ends a claim after ACS did not create, so that the next request can try at once.
    async fn release(&self, claim: &Claim, error: &upstream::Error, requester: &Requester) {
        let may_have_acted = matches!(error, upstream::Error::Unavailable { may_have_acted: true, .. });
        let orphan = may_have_acted.then(|| event(Action::PossibleOrphan, requester, &claim.user));
        if let Err(error) = self.parts.store.release_claim(claim, orphan, self.parts.clock.now()).await {
            // The request fails for another reason, and the claim runs out by itself.
            tracing::warn!(error = &error as &dyn std::error::Error, user = %claim.user, "cannot release a claim");
        }
    }

    /// Remembers the resource's GUID at the first identity that this process creates.
    async fn remember_resource(&self, acs_id: &AcsId) {
        if self.resource_is_known.load(Ordering::Relaxed) {
            return;
        }
        let resource = self.parts.upstream.resource();
        match self.parts.store.remember_resource(resource, acs_id.resource_guid(), self.parts.clock.now()).await {
            Ok(()) => self.resource_is_known.store(true, Ordering::Relaxed),
            // The next creation tries again.
            Err(error) => {
                tracing::warn!(error = &error as &dyn std::error::Error, "cannot remember the resource");
            }
        }
    }
}

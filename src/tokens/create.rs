//! The first identity: claim, create at ACS, bind.
//!
//! Of any number of requests that find no identity, one gets the claim; the others wait for it.
//! Whatever is lost on the way is queued for deletion where its id is known, and audited where it is not.

use std::{sync::Arc, time::Duration};

use tokio::time::Instant;
use tracing::Instrument;

use super::{
    cache::Owner,
    issue::{Ground, Issued, Requester, Terms, event},
    mint::{issued, minted, trace},
};
use crate::{
    acs::retry as upstream,
    domain::{
        audit::{Action, Event},
        token::IssuedToken,
        user::{AcsId, UserRef},
    },
    service::{Error, Service},
    store::{Bound, Claim},
};

/// How much longer than the creation may take its claim is good, so that a live creator does not lose it.
const CLAIM_MARGIN: Duration = Duration::from_secs(5);

impl Service {
    /// Creates the identity and its first token; `None` when somebody else was faster or fenced the user meanwhile.
    pub(crate) async fn create(
        self: &Arc<Self>,
        requester: &Requester,
        ground: Ground,
        terms: &Terms,
        deadline: Instant,
    ) -> Result<Option<Issued>, Error> {
        let made = self.create_detached(requester, ground, Some(terms.clone()), deadline).await?;
        Ok(made.and_then(|(claim, acs_id, token)| {
            let token = token?;
            let trace = trace(&token, claim.generation, &terms.scopes);
            Some(issued(token, trace, terms, claim.user, acs_id))
        }))
    }

    /// Creates the identity without a token; `None` when somebody else was faster.
    pub(crate) async fn create_bare(
        self: &Arc<Self>,
        requester: &Requester,
        ground: Ground,
        deadline: Instant,
    ) -> Result<Option<AcsId>, Error> {
        Ok(self.create_detached(requester, ground, None, deadline).await?.map(|(_, acs_id, _)| acs_id))
    }

    /// The work goes on although the caller may hang up: an identity that ACS created must be bound.
    async fn create_detached(
        self: &Arc<Self>,
        requester: &Requester,
        ground: Ground,
        terms: Option<Terms>,
        deadline: Instant,
    ) -> Result<Option<(Claim, AcsId, Option<IssuedToken>)>, Error> {
        let (service, requester) = (Arc::clone(self), requester.clone());
        let work = async move { service.claim_create_bind(&requester, &ground, terms.as_ref(), deadline).await };
        self.detached.spawn(work.in_current_span()).await.map_err(|_| Error::Interrupted)?
    }

    async fn claim_create_bind(
        &self,
        requester: &Requester,
        ground: &Ground,
        terms: Option<&Terms>,
        deadline: Instant,
    ) -> Result<Option<(Claim, AcsId, Option<IssuedToken>)>, Error> {
        let now = self.clock.now();
        let until = now + self.settings.timeout + CLAIM_MARGIN;
        let claim = match (ground, &requester.user) {
            (Ground::Row(user), _) => {
                let orphan = event(Action::PossibleOrphan, requester, &user.id);
                self.store.claim_again(user, now, until, &orphan).await?
            }
            (Ground::NoRow(everyone), UserRef::AppUser(app_user)) => {
                self.store.claim_new(app_user, *everyone, now, until).await?
            }
            (Ground::NoRow(_), UserRef::Id(_)) => return Err(Error::NotFound),
        };
        let Some(claim) = claim else { return Ok(None) };
        let created = match terms {
            Some(terms) => {
                let created = self.upstream.create(&terms.scopes, terms.lifetime, deadline).await;
                created.map(|(acs_id, token)| (acs_id, Some(token)))
            }
            None => self.upstream.create_bare(deadline).await.map(|acs_id| (acs_id, None)),
        };
        let (acs_id, token) = match created {
            Ok(created) => created,
            Err(error) => {
                self.give_back(&claim, &error, requester).await;
                return Err(error.into());
            }
        };
        let (about, kept) = match (&token, terms) {
            (Some(token), Some(terms)) => {
                let trace = trace(token, claim.generation, &terms.scopes);
                let owner = Owner { user: &claim.user, acs_id: &acs_id, generation: claim.generation };
                let kept = self.keep(owner, None, token, &trace);
                (minted(requester, &claim.user, &acs_id, trace), kept)
            }
            _ => (Event { acs_id: Some(acs_id.clone()), ..event(Action::IdentityBound, requester, &claim.user) }, None),
        };
        // A failure here must not give the claim back: the commit may have happened.
        // Where it did not, the one who takes the claim over counts the identity as a possible orphan.
        let (resource, now) = (self.upstream.resource(), self.clock.now());
        let bound = self.store.bind(&claim, resource, &acs_id, &about, kept.as_ref(), now).await?;
        if bound == Bound::Lost {
            self.wake.notify_one();
        }
        Ok((bound == Bound::AndCurrent).then_some((claim, acs_id, token)))
    }

    /// Ends a claim after ACS did not create, so that the next request can try at once.
    async fn give_back(&self, claim: &Claim, error: &upstream::Error, requester: &Requester) {
        let may_have_acted = matches!(error, upstream::Error::Unavailable { may_have_acted: true, .. });
        let orphan = may_have_acted.then(|| event(Action::PossibleOrphan, requester, &claim.user));
        if let Err(error) = self.store.release_claim(claim, orphan.as_ref(), self.clock.now()).await {
            // The request fails for another reason; the claim runs out by itself.
            tracing::warn!(error = &error as &dyn std::error::Error, user = %claim.user, "a claim could not be given back");
        }
    }
}

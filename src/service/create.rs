//! The first token: claim, create at ACS, bind.
//!
//! Of any number of requests that find no identity, one gets the claim; the others wait for it.
//! Whatever is lost on the way is queued for deletion where its id is known, and audited where it is not.

use std::{sync::Arc, time::Duration};

use tokio::time::Instant;
use tracing::Instrument;

use super::{
    Error, Service,
    issue::{Issued, Terms, minted},
    upstream,
};
use crate::{
    auth::Login,
    domain::{
        audit::{Action, Actor, Event},
        user::{AppUser, User, UserId},
    },
    store::{Bound, Claim},
};

/// How much longer than the creation may take its claim is good, so that a live creator does not lose it.
const CLAIM_MARGIN: Duration = Duration::from_secs(5);

impl Service {
    /// Creates the identity and its first token; `None` when somebody else was faster or fenced the user meanwhile.
    ///
    /// The work goes on although the caller may hang up: an identity that ACS created must be bound.
    pub(super) async fn create(
        self: &Arc<Self>,
        login: &Login,
        read: Option<User>,
        terms: &Terms,
        deadline: Instant,
    ) -> Result<Option<Issued>, Error> {
        let (service, app_user, terms) = (Arc::clone(self), login.app_user.clone(), terms.clone());
        let work = async move {
            service
                .claim_create_bind(&app_user, read.as_ref(), &terms, deadline)
                .await
        };
        self.detached
            .spawn(work.in_current_span())
            .await
            .map_err(|_| Error::Interrupted)?
    }

    async fn claim_create_bind(
        &self,
        app_user: &AppUser,
        read: Option<&User>,
        terms: &Terms,
        deadline: Instant,
    ) -> Result<Option<Issued>, Error> {
        let now = self.clock.now();
        let until = now + self.settings.patience + CLAIM_MARGIN;
        let claim = match read {
            None => self.store.claim_new(app_user, now, until).await?,
            Some(user) => {
                self.store
                    .claim_again(user, now, until, &possible_orphan(&user.id, terms))
                    .await?
            }
        };
        let Some(claim) = claim else { return Ok(None) };
        match self.upstream.create(&terms.scopes, terms.lifetime, deadline).await {
            Ok((acs_id, token)) => {
                let event = minted(&claim.user, &acs_id, &token, claim.generation, terms);
                let resource = self.upstream.resource();
                // A failure here must not give the claim back: the commit may have happened.
                // Where it did not, the one who takes the claim over counts the identity as a possible orphan.
                let bound = self
                    .store
                    .bind(&claim, resource, &event, &acs_id, self.clock.now())
                    .await?;
                let issued = Issued {
                    token,
                    scopes: terms.scopes.clone(),
                    user: claim.user,
                    acs_id,
                };
                Ok((bound == Bound::AndCurrent).then_some(issued))
            }
            Err(error) => {
                self.give_back(&claim, &error, terms).await;
                Err(error.into())
            }
        }
    }

    /// Ends a claim after ACS did not create, so that the next request can try at once.
    async fn give_back(&self, claim: &Claim, error: &upstream::Error, terms: &Terms) {
        let may_have_acted = matches!(
            error,
            upstream::Error::Unavailable {
                may_have_acted: true,
                ..
            }
        );
        let orphan = may_have_acted.then(|| possible_orphan(&claim.user, terms));
        if let Err(error) = self.store.release_claim(claim, orphan.as_ref(), self.clock.now()).await {
            // The request fails for another reason; the claim runs out by itself.
            tracing::warn!(error = &error as &dyn std::error::Error, user = %claim.user, "a claim could not be given back");
        }
    }
}

fn possible_orphan(user: &UserId, terms: &Terms) -> Event {
    Event {
        action: Action::PossibleOrphan,
        actor: Actor::User(user.clone()),
        user: user.clone(),
        acs_id: None,
        token: None,
        request_id: terms.request_id.clone(),
        detail: None,
    }
}

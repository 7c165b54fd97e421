//! Minting for an identity that is there: one flight for all who want the same, and the write that decides.

use std::sync::Arc;

use tokio::time::Instant;

use super::{
    cache::Owner,
    issue::{Issued, Requester, Terms, TokenSource, event},
    single_flight::InFlightKey,
};
use crate::acs::retry as upstream;
use crate::domain::{
    audit::{Action, Event, TokenRecord},
    scope::Scopes,
    token::IssuedToken,
    user::{AcsId, User, UserId, UserRef},
};
use crate::service::{Error, Service};

impl Service {
    /// Gets a token from ACS, or from a mint that is under way; `None` when the mapping changed meanwhile.
    pub(crate) async fn mint(
        self: &Arc<Self>,
        requester: &Requester,
        user: User,
        acs_id: AcsId,
        kept: Option<Vec<u8>>,
        terms: &Terms,
        deadline: Instant,
    ) -> Result<Option<Issued>, Error> {
        let key = InFlightKey {
            user: user.id.clone(),
            acs_id: acs_id.clone(),
            generation: user.generation,
            scopes: terms.scopes.clone(),
            lifetime: terms.lifetime,
        };
        let begin = || {
            let (service, requester, terms) = (Arc::clone(self), requester.clone(), terms.clone());
            async move { service.mint_and_record(&requester, &user, acs_id, kept, &terms, deadline).await }
        };
        let (flight, joined) = self.in_flight.join(key, &self.detached, begin);
        // A flight ends by the deadline of whoever began it, which is before that of whoever joined.
        let landed = flight.await?;
        Ok(landed
            .map(|issued| Issued { how: if joined { TokenSource::Shared } else { TokenSource::Minted }, ..issued }))
    }

    async fn mint_and_record(
        &self,
        requester: &Requester,
        user: &User,
        acs_id: AcsId,
        kept: Option<Vec<u8>>,
        terms: &Terms,
        deadline: Instant,
    ) -> Result<Option<Issued>, Error> {
        let may_keep = user.no_reuse_before.is_none_or(|time| self.clock.now() >= time);
        let token = match self.upstream.issue(&acs_id, &terms.scopes, terms.lifetime, deadline).await {
            // What was deleted meanwhile is gone at ACS before it is gone here: no fault of anybody's.
            Err(upstream::Error::Rejected(_)) if self.has_changed(user).await? => return Ok(None),
            issued => issued?,
        };
        let trace = trace(&token, user.generation, &terms.scopes);
        let event = minted(requester, &user.id, &acs_id, trace.clone());
        let owner = Owner { user: &user.id, acs_id: &acs_id, generation: user.generation };
        let kept = if may_keep { self.keep(owner, kept, &token, &trace) } else { None };
        let now = self.clock.now();
        let still_right = self.recorder.record_mint(user, &acs_id, trace.clone(), event, kept, now).await?;
        Ok(still_right.then(|| issued(token, trace, terms, user.id.clone(), acs_id)))
    }

    /// Tells whether a mapping is another one by now than it was read.
    async fn has_changed(&self, read: &User) -> Result<bool, Error> {
        let now = self.store.find_user(&UserRef::Id(read.id.clone()), self.clock.now()).await?;
        Ok(now.is_none_or(|now| now.generation != read.generation || now.acs_id != read.acs_id))
    }
}

/// A token that was just minted, as it may be handed out.
pub(crate) fn issued(token: IssuedToken, trace: TokenRecord, terms: &Terms, user: UserId, acs_id: AcsId) -> Issued {
    Issued {
        token: token.token,
        fingerprint: trace.fingerprint,
        expires_on: token.expires_on,
        scopes: terms.scopes.clone(),
        generation: trace.generation,
        user,
        acs_id,
        how: TokenSource::Minted,
    }
}

/// What the trail keeps of a token.
pub(crate) fn trace(token: &IssuedToken, generation: i64, scopes: &Scopes) -> TokenRecord {
    TokenRecord {
        fingerprint: token.token.fingerprint(),
        scopes: scopes.to_string(),
        expires_at: token.expires_on,
        generation,
    }
}

/// The event of a mint.
pub(crate) fn minted(requester: &Requester, user: &UserId, acs_id: &AcsId, token: TokenRecord) -> Event {
    Event { acs_id: Some(acs_id.clone()), token: Some(token), ..event(Action::TokenMinted, requester, user) }
}

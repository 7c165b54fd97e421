//! Minting for an identity that is there: equal requests share one call, and a write decides whether its token is returned.

use std::sync::Arc;

use tokio::time::Instant;

use super::{
    Tokens,
    issue::event,
    request::{Granted, Issued, Key, Requester, TokenSource},
};
use crate::{
    acs::retry as upstream,
    domain::{
        audit::{Action, Event, TokenRecord},
        scope::Scopes,
        token::IssuedToken,
        user::{AcsId, User, UserId, UserRef},
    },
    error::Error,
    store::Mint,
};

impl Tokens {
    /// Gets a token from ACS, or from an equal request that is running; `None` when the user changed meanwhile.
    pub(super) async fn mint(
        self: &Arc<Self>,
        requester: &Requester,
        user: User,
        acs_id: AcsId,
        granted: &Granted,
        deadline: Instant,
    ) -> Result<Option<Issued>, Error> {
        let key = Key {
            user: user.id.clone(),
            acs_id: acs_id.clone(),
            generation: user.generation,
            scopes: granted.scopes.clone(),
            lifetime: granted.lifetime,
        };
        let begin = || {
            let (tokens, requester, granted) = (Arc::clone(self), requester.clone(), granted.clone());
            async move { tokens.mint_and_record(&requester, &user, acs_id, &granted, deadline).await }
        };
        let (result, joined) = self.in_flight.join(key, self.parts.jobs.tasks(), begin);
        // The call ends by the deadline of the request that began it, which is before those of the requests that joined.
        let issued = result.await?;
        Ok(issued.map(|issued| Issued { source: if joined { TokenSource::Shared } else { issued.source }, ..issued }))
    }

    async fn mint_and_record(
        &self,
        requester: &Requester,
        user: &User,
        acs_id: AcsId,
        granted: &Granted,
        deadline: Instant,
    ) -> Result<Option<Issued>, Error> {
        let may_cache = user.no_reuse_before.is_none_or(|time| self.parts.clock.now() >= time);
        let token = match self.parts.upstream.issue(&acs_id, &granted.scopes, granted.lifetime, deadline).await {
            // An identity that is deleted meanwhile is gone at ACS before it is gone here.
            Err(upstream::Error::Rejected(_)) if self.has_changed(user).await? => return Ok(None),
            issued => issued?,
        };
        let record = record(&token, user.generation, &granted.scopes);
        let cached = if may_cache {
            self.encrypt((&user.id, &acs_id, user.generation), Some(user), &token, &record)
        } else {
            None
        };
        let mint = Mint {
            user: &user.id,
            acs_id: &acs_id,
            generation: user.generation,
            expires_at: record.expires_at,
            event: minted(requester, &user.id, &acs_id, record.clone()),
            cached,
        };
        let recorded = self.parts.store.record_mint(mint, self.parts.clock.now()).await?;
        Ok(recorded.then(|| issued(token, record, granted, user.id.clone(), acs_id)))
    }

    /// Tells whether a user's generation or identity is no longer what was read.
    async fn has_changed(&self, read: &User) -> Result<bool, Error> {
        let now = self.parts.store.find_user(&UserRef::Id(read.id.clone()), self.parts.clock.now()).await?;
        Ok(now.is_none_or(|now| now.generation != read.generation || now.acs_id != read.acs_id))
    }
}

/// A token that was just minted, as it is returned.
pub(super) fn issued(
    token: IssuedToken,
    record: TokenRecord,
    granted: &Granted,
    user: UserId,
    acs_id: AcsId,
) -> Issued {
    Issued {
        token: token.token,
        fingerprint: record.fingerprint,
        expires_on: token.expires_on,
        scopes: granted.scopes.clone(),
        generation: record.generation,
        user,
        acs_id,
        source: TokenSource::Minted,
    }
}

/// What the audit trail keeps of a token.
pub(super) fn record(token: &IssuedToken, generation: i64, scopes: &Scopes) -> TokenRecord {
    TokenRecord {
        fingerprint: token.token.fingerprint(),
        scopes: scopes.to_string(),
        expires_at: token.expires_on,
        generation,
    }
}

/// The event of a mint.
pub(super) fn minted(requester: &Requester, user: &UserId, acs_id: &AcsId, token: TokenRecord) -> Event {
    Event { acs_id: Some(acs_id.clone()), token: Some(token), ..event(Action::TokenMinted, requester, user) }
}

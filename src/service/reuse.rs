//! Reuse: a token that was stored when it was minted is handed out again while enough of its life is left.
//!
//! Storing needs a sealing key. A stored token is only ever read together with its user's row, in one statement, so what
//! ends it (a fence, another generation, another identity) ends its reuse in the same instant.

use std::{sync::Arc, time::Duration};

use chrono::{DateTime, Utc};

use super::{
    Error, Service,
    issue::{Asker, How, Issued, Terms, event},
};
use crate::{
    domain::{
        audit::{Action, Event, TokenTrace},
        token::{AccessToken, IssuedToken},
        user::{AcsId, User, UserId, UserRef},
    },
    seal::About,
    store::{SealedToken, StoredToken},
};

/// What a token must have left to be better than an error: clients of ACS give up on less.
const LEAST_LEFT: Duration = Duration::from_mins(2);
/// Lifetimes are whole minutes, so a token may seem to live up to one longer than was asked, by a clock that is behind.
const CLOCK_SLACK: Duration = Duration::from_mins(1);

impl Service {
    /// Reads a mapping, with the stored token for the terms where tokens are stored: the one statement that authorises.
    pub(super) async fn read(
        &self,
        user: &UserRef,
        terms: Option<&Terms>,
        now: DateTime<Utc>,
    ) -> Result<Option<(User, Option<StoredToken>)>, Error> {
        match terms {
            Some(terms) if !self.settings.sealing_keys.is_empty() => {
                Ok(self.store.find_user_and_token(user, &terms.scopes.to_string(), now).await?)
            }
            _ => Ok(self.store.find_user(user, now).await?.map(|user| (user, None))),
        }
    }

    /// Opens a stored token, if it fits: enough of its life is left, no more than was asked, and its key is still ours.
    pub(super) fn open(
        &self,
        user: &User,
        acs_id: &AcsId,
        stored: StoredToken,
        terms: &Terms,
        margin: Duration,
    ) -> Option<Issued> {
        let left = (stored.expires_at - self.clock.now()).to_std().ok()?;
        let fits = left > margin && left < terms.lifetime.duration() + CLOCK_SLACK;
        if !fits || !self.upstream.has_credential(&stored.made_with) {
            return None;
        }
        let scopes = terms.scopes.to_string();
        let about = about(&user.id, &scopes, user.generation, stored.expires_at);
        let Ok(token) = self.settings.sealing_keys.open(stored.sealed, &about) else {
            self.metrics.token_unopened();
            tracing::info!(user = %user.id, "no sealing key opens the stored token: another is minted");
            return None;
        };
        Some(Issued {
            token: AccessToken::from(token),
            fingerprint: stored.fingerprint,
            expires_on: stored.expires_at,
            scopes: terms.scopes.clone(),
            generation: user.generation,
            user: user.id.clone(),
            acs_id: acs_id.clone(),
            how: How::Reused,
        })
    }

    /// Finds a stored token that is nearly over, for when no new one can be had; by a read of its own, which authorises anew.
    pub(super) async fn stale(self: &Arc<Self>, asker: &Asker, terms: &Terms) -> Result<Option<Issued>, Error> {
        let now = self.clock.now();
        let Some((user, Some(stored))) = self.read(&asker.user, Some(terms), now).await? else { return Ok(None) };
        self.refuse(&user, asker, now)?;
        let Some(acs_id) = user.acs_id.clone().filter(|_| !user.held) else { return Ok(None) };
        let issued = self.open(&user, &acs_id, stored, terms, LEAST_LEFT);
        Ok(issued.map(|issued| Issued { how: How::Stale, ..issued }))
    }

    /// Leaves the audit row of a token that an operator got without a mint of its own; a user who gets their own token
    /// again changes nothing.
    pub(super) async fn audit_reuse(&self, asker: &Asker, issued: &Issued) -> Result<(), Error> {
        if asker.actor.is_none() || issued.how == How::Minted {
            return Ok(());
        }
        let token = TokenTrace {
            fingerprint: issued.fingerprint.clone(),
            scopes: issued.scopes.to_string(),
            expires_at: issued.expires_on,
            generation: issued.generation,
        };
        let about = event(Action::TokenReused, asker, &issued.user);
        let event = Event { acs_id: Some(issued.acs_id.clone()), token: Some(token), ..about };
        Ok(self.store.append_audit(&event, self.clock.now()).await?)
    }

    /// Seals a token for being stored; `None` where tokens are not stored.
    pub(super) fn seal(&self, user: &UserId, token: &IssuedToken, trace: &TokenTrace) -> Option<SealedToken> {
        let about = about(user, &trace.scopes, trace.generation, token.expires_on);
        let sealed = self.settings.sealing_keys.seal(token.token.expose(), &about)?;
        Some(SealedToken { sealed, made_with: token.made_with.as_str().to_owned() })
    }
}

fn about<'a>(user: &'a UserId, scopes: &'a str, generation: i64, expires_at: DateTime<Utc>) -> About<'a> {
    About { user: user.as_str(), scopes, generation, expires_at_ms: expires_at.timestamp_millis() }
}

//! Reuse: a token that was kept when it was minted is handed out again while enough of its life is left.
//!
//! Keeping needs a encryption key. Cached tokens stand in their user's row and are only ever read together with it, in one
//! statement, so what ends them (a fence, another generation, another identity) ends their reuse in the same instant.
//! One is kept for each set of scopes.

use std::{sync::Arc, time::Duration};

use chrono::{DateTime, Utc};
use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Serialize};

use super::issue::{Issued, Requester, Terms, TokenSource, event};
use crate::{
    domain::{
        audit::{Action, Event, TokenRecord},
        token::{AccessToken, IssuedToken},
        user::{AcsId, UserId, UserRef},
    },
    encryption::{Aad, DecryptError},
    service::{Error, Service},
    store::{CachedTokens, Reusable},
};

/// What a token must have left to be better than an error: clients of ACS give up on less.
const LEAST_LEFT: Duration = Duration::from_mins(2);
/// Lifetimes are whole minutes, so a token may seem to live up to one longer than was asked, by a clock that is behind.
const CLOCK_SLACK: Duration = Duration::from_mins(1);
/// For how many sets of scopes a user's tokens are kept.
const MOST_KEPT: usize = 8;

/// Whose tokens are kept, as the row was read.
#[derive(Clone, Copy)]
pub(crate) struct Owner<'a> {
    pub(crate) user: &'a UserId,
    pub(crate) acs_id: &'a AcsId,
    pub(crate) generation: i64,
}

/// One token, as it is written before it is sealed.
#[derive(Serialize, Deserialize)]
struct Kept<'a> {
    scopes: &'a str,
    token: &'a str,
    fingerprint: &'a str,
    made_with: &'a str,
    expires_at_ms: i64,
}

impl Service {
    /// Tells whether tokens are kept.
    pub(crate) fn caches_tokens(&self) -> bool {
        !self.settings.encryption_keys.is_empty()
    }

    /// Hands a cached token out where nothing stands in the way, by a single read.
    pub(crate) async fn reuse(&self, requester: &Requester, terms: &Terms) -> Result<Option<Issued>, Error> {
        let (Some(reader), UserRef::AppUser(user)) = (&self.reader, &requester.user) else { return Ok(None) };
        let now = self.clock.now();
        let Some(found) = reader.find_reusable(user.clone(), now).await? else { return Ok(None) };
        let Reusable { user, acs_id, generation, sign_ins_valid_from, kept } = found;
        if let Some(login) = requester.sign_in_time {
            self.refuse_old_sign_in(sign_ins_valid_from, login, now)?;
        }
        let owner = Owner { user: &user, acs_id: &acs_id, generation };
        Ok(self.pick(owner, &kept, terms, self.settings.reuse_margin))
    }

    /// Picks the cached token that fits: enough of its life is left, no more than was asked, and its key is still ours.
    pub(crate) fn pick(&self, owner: Owner<'_>, sealed: &[u8], terms: &Terms, margin: Duration) -> Option<Issued> {
        let opened = self.open(owner, sealed).ok()?;
        let scopes = terms.scopes.to_string();
        let kept = read(&opened).into_iter().find(|kept| kept.scopes == scopes)?;
        let expires_on = DateTime::from_timestamp_millis(kept.expires_at_ms)?;
        let left = (expires_on - self.clock.now()).to_std().ok()?;
        let fits = left > margin && left < terms.lifetime.duration() + CLOCK_SLACK;
        (fits && self.upstream.has_credential(kept.made_with)).then(|| Issued {
            token: AccessToken::new(kept.token.to_owned()),
            fingerprint: kept.fingerprint.to_owned(),
            expires_on,
            scopes: terms.scopes.clone(),
            generation: owner.generation,
            user: owner.user.clone(),
            acs_id: owner.acs_id.clone(),
            how: TokenSource::Reused,
        })
    }

    /// Finds a cached token that is nearly over, for when no new one can be had; by a read of its own, which authorises anew.
    pub(crate) async fn stale(self: &Arc<Self>, requester: &Requester, terms: &Terms) -> Result<Option<Issued>, Error> {
        let now = self.clock.now();
        let Some((user, Some(kept))) = self.read(&requester.user, now).await? else { return Ok(None) };
        self.refuse(&user, requester, now)?;
        let Some(acs_id) = user.acs_id.as_ref().filter(|_| !user.held && !user.is_stale) else { return Ok(None) };
        let owner = Owner { user: &user.id, acs_id, generation: user.generation };
        let issued = self.pick(owner, &kept, terms, LEAST_LEFT);
        Ok(issued.map(|issued| Issued { how: TokenSource::Stale, ..issued }))
    }

    /// Seals a token together with those that were kept before; `None` where tokens are not kept.
    pub(crate) fn keep(
        &self,
        owner: Owner<'_>,
        before: Option<Vec<u8>>,
        token: &IssuedToken,
        trace: &TokenRecord,
    ) -> Option<CachedTokens> {
        if !self.caches_tokens() {
            return None;
        }
        let opened = before.and_then(|sealed| {
            let opened = self.open(owner, &sealed);
            if opened.is_err() {
                self.metrics.cached_tokens_undecryptable();
                tracing::info!(user = %owner.user, "no encryption key opens the cached tokens: the new one takes their place");
            }
            opened.ok()
        });
        let now_ms = self.clock.now().timestamp_millis();
        let is_good = |kept: &Kept<'_>| kept.scopes != trace.scopes && kept.expires_at_ms > now_ms;
        let others = opened.iter().flat_map(read).filter(is_good);
        let new = Kept {
            scopes: &trace.scopes,
            token: token.token.expose(),
            fingerprint: &trace.fingerprint,
            made_with: token.made_with.as_str(),
            expires_at_ms: token.expires_on.timestamp_millis(),
        };
        let kept: Vec<_> = std::iter::once(new).chain(others).take(MOST_KEPT).collect();
        let last_ms = kept.iter().map(|kept| kept.expires_at_ms).max()?;
        let text = SecretString::from(serde_json::to_string(&kept).ok()?);
        let sealed = self.settings.encryption_keys.encrypt(text.expose_secret(), &aad(owner))?;
        Some(CachedTokens { sealed, until: DateTime::<Utc>::from_timestamp_millis(last_ms)? })
    }

    /// Leaves the audit row of a token that an operator got without a mint of its own; a user who gets their own token
    /// again changes nothing.
    pub(crate) async fn audit_reuse(&self, requester: &Requester, issued: &Issued) -> Result<(), Error> {
        if requester.actor.is_none() || issued.how == TokenSource::Minted {
            return Ok(());
        }
        let token = TokenRecord {
            fingerprint: issued.fingerprint.clone(),
            scopes: issued.scopes.to_string(),
            expires_at: issued.expires_on,
            generation: issued.generation,
        };
        let about = event(Action::TokenReused, requester, &issued.user);
        let event = Event { acs_id: Some(issued.acs_id.clone()), token: Some(token), ..about };
        Ok(self.store.append_audit(&event, self.clock.now()).await?)
    }

    fn open(&self, owner: Owner<'_>, sealed: &[u8]) -> Result<SecretString, DecryptError> {
        self.settings.encryption_keys.decrypt(sealed, &aad(owner))
    }
}

/// Reads what was sealed; what cannot be read is as good as nothing.
fn read(opened: &SecretString) -> Vec<Kept<'_>> {
    serde_json::from_str(opened.expose_secret()).unwrap_or_default()
}

fn aad(owner: Owner<'_>) -> Aad<'_> {
    Aad { user: owner.user.as_str(), identity: owner.acs_id.as_str(), generation: owner.generation }
}

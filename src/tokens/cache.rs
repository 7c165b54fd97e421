//! The token cache: a token is cached when it is minted, and issued again while enough of its lifetime is left.
//!
//! Cached tokens stand encrypted in their user's row and are only read together with it. What ends them (an access change,
//! another generation, another identity) ends their reuse in the same instant. There is one for each set of scopes.

use std::time::Duration;

use chrono::{DateTime, Utc};
use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Serialize};

use super::{
    Tokens,
    issue::event,
    request::{Granted, Issued, Requester, TokenSource},
};
use crate::{
    domain::{
        audit::{Action, Event, TokenRecord},
        token::{AccessToken, IssuedToken},
        user::{AcsId, User, UserId},
    },
    encryption::Aad,
    error::Error,
    store::{CachedTokens, UserRead},
};

/// What a token must have left to be better than an error: clients of ACS give up on less.
const LEAST_LEFT: Duration = Duration::from_mins(2);
/// Lifetimes are whole minutes, so by a clock that is behind a token may seem to live up to one longer than was asked for.
const CLOCK_TOLERANCE: Duration = Duration::from_mins(1);
/// For how many sets of scopes a user's tokens are cached.
const MAX_ENTRIES: usize = 8;

/// One cached token, before it is encrypted.
#[derive(Serialize, Deserialize)]
struct Entry<'a> {
    scopes: &'a str,
    token: &'a str,
    fingerprint: &'a str,
    made_with: &'a str,
    expires_at_ms: i64,
}

impl Tokens {
    /// Finds the cached token that fits: enough of its lifetime is left, no more than was asked for, and the credential that
    /// it was made with is still configured.
    pub(super) fn cached(&self, user: &User, acs_id: &AcsId, granted: &Granted, margin: Duration) -> Option<Issued> {
        let decrypted = self.decrypt(user, acs_id)?;
        let scopes = granted.scopes.to_string();
        let entry = entries(&decrypted).into_iter().find(|entry| entry.scopes == scopes)?;
        let expires_on = DateTime::from_timestamp_millis(entry.expires_at_ms)?;
        let left = (expires_on - self.parts.clock.now()).to_std().ok()?;
        let fits = left > margin && left < granted.lifetime.duration() + CLOCK_TOLERANCE;
        (fits && self.parts.upstream.has_credential(entry.made_with)).then(|| Issued {
            token: AccessToken::new(entry.token.to_owned()),
            fingerprint: entry.fingerprint.to_owned(),
            expires_on,
            scopes: granted.scopes.clone(),
            generation: user.generation,
            user: user.id.clone(),
            acs_id: acs_id.clone(),
            source: TokenSource::Cached,
        })
    }

    /// Finds a cached token that expires soon, for when ACS cannot be asked. A read of its own authorises it.
    pub(super) async fn stale(&self, requester: &Requester, granted: &Granted) -> Result<Option<Issued>, Error> {
        let now = self.parts.clock.now();
        let UserRead { user: Some(user), .. } = self.parts.store.read_user(&requester.user, now).await? else {
            return Ok(None);
        };
        self.refuse(&user, requester, now)?;
        let Some(acs_id) = user.acs_id.as_ref().filter(|_| !user.held && !user.is_stale) else { return Ok(None) };
        let issued = self.cached(&user, acs_id, granted, LEAST_LEFT);
        Ok(issued.map(|issued| Issued { source: TokenSource::Stale, ..issued }))
    }

    /// Encrypts a token together with those that `before` has cached; `None` where tokens are not cached.
    pub(super) fn encrypt(
        &self,
        (user, acs_id, generation): (&UserId, &AcsId, i64),
        before: Option<&User>,
        token: &IssuedToken,
        record: &TokenRecord,
    ) -> Option<CachedTokens> {
        let keys = &self.parts.settings.encryption_keys;
        if keys.is_empty() {
            return None;
        }
        let decrypted = before.and_then(|before| self.decrypt(before, acs_id));
        if decrypted.is_none() && before.is_some_and(|before| before.cached_tokens.is_some()) {
            self.parts.metrics.cached_tokens_undecryptable();
            tracing::info!(user = %user, "no encryption key decrypts the cached tokens, which are replaced");
        }
        let now_ms = self.parts.clock.now().timestamp_millis();
        let is_good = |entry: &Entry<'_>| entry.scopes != record.scopes && entry.expires_at_ms > now_ms;
        let others = decrypted.iter().flat_map(entries).filter(is_good);
        let new = Entry {
            scopes: &record.scopes,
            token: token.token.expose(),
            fingerprint: &record.fingerprint,
            made_with: token.made_with.as_str(),
            expires_at_ms: token.expires_on.timestamp_millis(),
        };
        let all: Vec<_> = std::iter::once(new).chain(others).take(MAX_ENTRIES).collect();
        let last_ms = all.iter().map(|entry| entry.expires_at_ms).max()?;
        let text = SecretString::from(serde_json::to_string(&all).ok()?);
        let ciphertext = keys.encrypt(text.expose_secret(), &associated_data(user, acs_id, generation))?;
        Some(CachedTokens { ciphertext, expire_at: DateTime::<Utc>::from_timestamp_millis(last_ms)? })
    }

    /// Writes the audit event of a token that an operator got without a mint of its own.
    pub(super) async fn audit_reuse(&self, requester: &Requester, issued: &Issued) -> Result<(), Error> {
        if requester.actor.is_none() || issued.source == TokenSource::Minted {
            return Ok(());
        }
        let token = TokenRecord {
            fingerprint: issued.fingerprint.clone(),
            scopes: issued.scopes.to_string(),
            expires_at: issued.expires_on,
            generation: issued.generation,
        };
        let event = Event {
            acs_id: Some(issued.acs_id.clone()),
            token: Some(token),
            ..event(Action::TokenReused, requester, &issued.user)
        };
        Ok(self.parts.store.append_audit(event, self.parts.clock.now()).await?)
    }

    fn decrypt(&self, user: &User, acs_id: &AcsId) -> Option<SecretString> {
        let associated_data = associated_data(&user.id, acs_id, user.generation);
        self.parts.settings.encryption_keys.decrypt(user.cached_tokens.as_deref()?, &associated_data).ok()
    }
}

/// Reads what was decrypted; entries of another version are ignored.
fn entries(decrypted: &SecretString) -> Vec<Entry<'_>> {
    serde_json::from_str(decrypted.expose_secret()).unwrap_or_default()
}

fn associated_data<'a>(user: &'a UserId, acs_id: &'a AcsId, generation: i64) -> Aad<'a> {
    Aad { user: user.as_str(), identity: acs_id.as_str(), generation }
}

//! Which identities exist, and which of their tokens are valid.
//!
//! A token is valid if its identity exists, it has not expired, and no revocation came after it.
//! Tokens have whole seconds, and how ACS treats a token from the second of a revocation is unknown.
//! A choice, the strict one: such a token is revoked even if it was issued after the revocation.

use std::collections::{HashMap, hash_map::Entry};

use parking_lot::Mutex;

/// The identities of the resource that this process has seen.
pub(super) struct Identities {
    /// Whether unseen ids of this resource are unknown; otherwise they count as created by an earlier run.
    strict: bool,
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    seen: HashMap<String, Identity>,
    existing: usize,
    last_serial: u64,
}

/// One identity. Deleted ones stay, so that their ids are not adopted again.
#[derive(Default)]
struct Identity {
    deleted: bool,
    issued: u64,
    revoked_through: Option<i64>,
    /// The tokens that are not revoked, by ascending serial; some may have expired.
    unrevoked: Vec<Unrevoked>,
}

struct Unrevoked {
    serial: u64,
    expires: i64,
}

/// The identity is deleted, or is unknown to a strict emulator.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct NotFound;

/// What is known about an identity; all zero for one that was never seen.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Report {
    pub(super) exists: bool,
    pub(super) issued: u64,
    pub(super) active: usize,
}

/// Whether a token is valid, and if not, why.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum TokenState {
    Active,
    Expired,
    Revoked,
    IdentityDeleted,
}

impl Identities {
    pub(super) fn new(strict: bool) -> Self {
        Self { strict, inner: Mutex::default() }
    }

    /// Records a new identity.
    pub(super) fn create(&self, id: &str) {
        let mut inner = self.inner.lock();
        inner.seen.insert(id.to_owned(), Identity::default());
        inner.existing += 1;
    }

    /// Records a token issued in second `now` and returns its unique number.
    pub(super) fn issue(&self, id: &str, now: i64, expires: i64) -> Result<u64, NotFound> {
        let mut inner = self.inner.lock();
        inner.last_serial += 1;
        let serial = inner.last_serial;
        let identity = inner.find(id, self.strict)?;
        identity.issued += 1;
        if identity.revoked_through.is_none_or(|second| now > second) {
            identity.forget_expired(now);
            identity.unrevoked.push(Unrevoked { serial, expires });
        }
        Ok(serial)
    }

    /// Revokes every token issued so far, and every token of second `now`.
    pub(super) fn revoke(&self, id: &str, now: i64) -> Result<(), NotFound> {
        let mut inner = self.inner.lock();
        let identity = inner.find(id, self.strict)?;
        identity.unrevoked = Vec::new();
        identity.revoked_through = identity.revoked_through.max(Some(now));
        Ok(())
    }

    /// Deletes an identity and its tokens; deleting it again is not an error.
    pub(super) fn delete(&self, id: &str) -> Result<(), NotFound> {
        let mut inner = self.inner.lock();
        if inner.seen.get(id).is_some_and(|identity| identity.deleted) {
            return Ok(());
        }
        let identity = inner.find(id, self.strict)?;
        identity.deleted = true;
        identity.unrevoked = Vec::new();
        inner.existing -= 1;
        Ok(())
    }

    /// Counts the identities that exist.
    pub(super) fn existing(&self) -> usize {
        self.inner.lock().existing
    }

    pub(super) fn report(&self, id: &str, now: i64) -> Report {
        self.inner.lock().seen.get(id).map_or_else(Report::default, |identity| Report {
            exists: !identity.deleted,
            issued: identity.issued,
            active: identity.unrevoked.iter().filter(|token| token.expires > now).count(),
        })
    }

    /// Returns the state of a token that this process issued.
    pub(super) fn token_state(&self, id: &str, serial: u64, expires: i64, now: i64) -> TokenState {
        let inner = self.inner.lock();
        match inner.seen.get(id).filter(|identity| !identity.deleted) {
            None => TokenState::IdentityDeleted,
            Some(_) if expires <= now => TokenState::Expired,
            Some(identity) => match identity.unrevoked.binary_search_by_key(&serial, |token| token.serial) {
                Ok(_) => TokenState::Active,
                Err(_) => TokenState::Revoked,
            },
        }
    }
}

impl Inner {
    /// Finds an identity that is not deleted, adopting an unseen one unless `strict`.
    fn find(&mut self, id: &str, strict: bool) -> Result<&mut Identity, NotFound> {
        let identity = match self.seen.entry(id.to_owned()) {
            Entry::Occupied(entry) => entry.into_mut(),
            Entry::Vacant(_) if strict => return Err(NotFound),
            Entry::Vacant(entry) => {
                self.existing += 1;
                entry.insert(Identity::default())
            }
        };
        if identity.deleted { Err(NotFound) } else { Ok(identity) }
    }
}

impl Identity {
    /// Drops expired tokens when the list is full, then doubles its capacity, so that the cost per token is constant.
    fn forget_expired(&mut self, now: i64) {
        if self.unrevoked.len() == self.unrevoked.capacity() {
            self.unrevoked.retain(|token| token.expires > now);
            self.unrevoked.reserve(self.unrevoked.len().max(4));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn token_from_the_second_of_a_revocation_is_revoked() {
        let identities = Identities::new(true);
        identities.create("a");
        let before = identities.issue("a", 10, 100).unwrap();
        identities.revoke("a", 10).unwrap();
        let same_second = identities.issue("a", 10, 100).unwrap();
        let next_second = identities.issue("a", 11, 100).unwrap();
        let states = [before, same_second, next_second].map(|serial| identities.token_state("a", serial, 100, 12));
        assert_eq!(states, [TokenState::Revoked, TokenState::Revoked, TokenState::Active]);
        assert_eq!(identities.report("a", 12), Report { exists: true, issued: 3, active: 1 });
        assert_eq!(identities.report("a", 100).active, 0);
    }

    #[test]
    fn revocation_outweighs_a_clock_that_went_back() {
        let identities = Identities::new(true);
        identities.create("a");
        let ahead = identities.issue("a", 50, 100).unwrap();
        identities.revoke("a", 10).unwrap();
        assert_eq!(identities.token_state("a", ahead, 100, 51), TokenState::Revoked);
    }

    #[test]
    fn expired_tokens_are_forgotten_in_the_end() {
        let identities = Identities::new(false);
        for second in 0..1000 {
            identities.issue("a", second, second + 10).unwrap();
        }
        let inner = identities.inner.lock();
        assert!(inner.seen["a"].unrevoked.len() < 64);
        assert_eq!(inner.seen["a"].issued, 1000);
    }

    #[test]
    fn unseen_identity_is_adopted_unless_strict() {
        let strict = Identities::new(true);
        assert_eq!(strict.issue("a", 1, 2), Err(NotFound));
        assert_eq!(strict.revoke("a", 1), Err(NotFound));
        assert_eq!(strict.delete("a"), Err(NotFound));
        let lenient = Identities::new(false);
        lenient.revoke("a", 1).unwrap();
        assert_eq!(lenient.existing(), 1);
        lenient.delete("b").unwrap();
        lenient.delete("b").unwrap();
        assert_eq!(lenient.existing(), 1);
        assert_eq!(lenient.issue("b", 1, 2), Err(NotFound));
    }
}

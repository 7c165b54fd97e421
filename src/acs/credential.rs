//! The access keys of the resource. Azure gives two, so that one can be replaced while the other is in use.

use std::{
    fmt,
    str::FromStr,
    sync::atomic::{AtomicUsize, Ordering},
};

use base64::{Engine, prelude::BASE64_STANDARD};
use hmac::{Hmac, KeyInit, Mac};
use secrecy::{ExposeSecret, SecretSlice};
use sha2::Sha256;

use crate::domain::token::CredentialId;

/// An access key: the bytes behind its base64 text.
#[derive(Clone)]
pub struct AccessKey(SecretSlice<u8>);

/// Why a text is not an access key; never shows the text.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum AccessKeyError {
    /// The text is empty.
    #[error("the key is empty")]
    Empty,
    /// It is not base64.
    #[error("the key is not base64")]
    NotBase64,
}

impl AccessKey {
    /// Returns the base64 of the HMAC-SHA256 of a text under this key.
    pub(super) fn authenticate(&self, text: &str) -> String {
        #[expect(clippy::expect_used, reason = "HMAC takes keys of any length (RFC 2104)")]
        let mut mac = Hmac::<Sha256>::new_from_slice(self.0.expose_secret()).expect("any key length");
        mac.update(text.as_bytes());
        BASE64_STANDARD.encode(mac.finalize().into_bytes())
    }

    /// Returns a name of the key: 96 bits of an HMAC with it, which reveal nothing of it.
    fn id(&self) -> CredentialId {
        CredentialId::new(&self.authenticate("name of this key")[..16])
    }
}

/// The keys of the resource, one of which is in use: the one that ACS last accepted.
#[derive(Debug)]
pub(super) struct AccessKeys {
    keys: Vec<(AccessKey, CredentialId)>,
    in_use: AtomicUsize,
}

impl AccessKeys {
    pub(super) fn new(first: AccessKey, second: Option<AccessKey>) -> Self {
        let named = |key: AccessKey| {
            let id = key.id();
            (key, id)
        };
        Self { keys: std::iter::once(first).chain(second).map(named).collect(), in_use: AtomicUsize::new(0) }
    }

    /// Returns the position of the key in use.
    pub(super) fn in_use(&self) -> usize {
        self.in_use.load(Ordering::Relaxed)
    }

    /// Returns the position of the other key, if there is one.
    pub(super) fn other_than(&self, position: usize) -> Option<usize> {
        (self.keys.len() > 1).then(|| 1 - position)
    }

    pub(super) fn get(&self, position: usize) -> &(AccessKey, CredentialId) {
        &self.keys[position]
    }

    pub(super) fn remember(&self, position: usize) {
        self.in_use.store(position, Ordering::Relaxed);
    }

    /// Returns whether a credential is one of these.
    pub(super) fn contain(&self, credential: &str) -> bool {
        self.keys.iter().any(|(_, id)| id.as_str() == credential)
    }
}

impl FromStr for AccessKey {
    type Err = AccessKeyError;

    fn from_str(text: &str) -> Result<Self, AccessKeyError> {
        if text.is_empty() {
            return Err(AccessKeyError::Empty);
        }
        let bytes = BASE64_STANDARD.decode(text).map_err(|_| AccessKeyError::NotBase64)?;
        Ok(Self(bytes.into()))
    }
}

impl fmt::Debug for AccessKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[redacted]")
    }
}

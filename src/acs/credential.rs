//! What proves to ACS that we may ask: the access key of the resource.

use std::{fmt, str::FromStr};

use base64::{Engine, prelude::BASE64_STANDARD};
use hmac::{Hmac, KeyInit, Mac};
use secrecy::{ExposeSecret, SecretSlice};
use sha2::Sha256;

/// An access key: the bytes behind its base64 text.
#[derive(Clone)]
pub struct AccessKey(SecretSlice<u8>);

/// Why a text is no access key; never shows the text.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum AccessKeyError {
    /// There is nothing.
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

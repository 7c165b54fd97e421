//! The access keys of an emulated resource, and why an emulator cannot be created.

use std::fmt;

use base64::{Engine as _, prelude::BASE64_STANDARD};

/// A shared secret of the resource, with which callers sign their requests.
#[derive(Clone)]
pub struct AccessKey(Vec<u8>);

impl AccessKey {
    /// Reads a key in the base64 form of connection strings.
    ///
    /// # Errors
    /// If the text is empty or not standard base64 with padding.
    pub fn parse(text: &str) -> Result<Self, Error> {
        match BASE64_STANDARD.decode(text) {
            Ok(bytes) if !bytes.is_empty() => Ok(Self(bytes)),
            _ => Err(Error::AccessKey),
        }
    }

    /// Returns the key in the form of connection strings.
    #[must_use]
    pub fn as_base64(&self) -> String {
        BASE64_STANDARD.encode(&self.0)
    }

    pub(crate) fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for AccessKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[redacted]")
    }
}

/// Why an emulator could not be created.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    #[error("the access key is empty or not valid base64")]
    AccessKey,
    #[error("a resource has one or two access keys, not {0}")]
    KeyCount(usize),
    #[error("the token signing key could not be generated")]
    SigningKey,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn access_key_is_read_written_and_not_shown() {
        let key = AccessKey::parse("a2V5").unwrap();
        assert_eq!((format!("{key:?}"), key.as_base64()), ("[redacted]".to_owned(), "a2V5".to_owned()));
        assert!(["", "not base64!", "a2V5="].iter().all(|text| AccessKey::parse(text).is_err()));
    }
}

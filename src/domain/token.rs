//! ACS access tokens: opaque secrets with an expiry that ACS tells, never one parsed out of them.

use std::{
    fmt::{self, Write},
    sync::Arc,
    time::Duration,
};

use chrono::{DateTime, Utc};
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use sha2::{Digest, Sha256};

/// The secret text of an ACS access token.
#[derive(Clone, Deserialize)]
#[serde(transparent)]
pub struct AccessToken(SecretString);

impl AccessToken {
    /// Takes the text of a token.
    #[must_use]
    pub fn new(text: String) -> Self {
        Self(text.into())
    }

    /// Gives the text away: only the answer to the user's own request may use it.
    #[must_use]
    pub fn expose(&self) -> &str {
        self.0.expose_secret()
    }

    /// Returns the SHA-256 of the token in lower-case hexadecimal: enough to recognise it, useless to use it.
    #[must_use]
    pub fn fingerprint(&self) -> String {
        let mut text = String::with_capacity(64);
        for byte in Sha256::digest(self.expose()) {
            let _ = write!(text, "{byte:02x}");
        }
        text
    }
}

impl From<SecretString> for AccessToken {
    fn from(text: SecretString) -> Self {
        Self(text)
    }
}

impl fmt::Debug for AccessToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[redacted]")
    }
}

/// What tells one credential of ours at ACS from another, and nothing about it: tokens die with the key that made them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CredentialId(Arc<str>);

impl CredentialId {
    /// Takes a text that is unique to a credential.
    #[must_use]
    pub fn new(text: &str) -> Self {
        Self(text.into())
    }

    /// Returns the text that is stored.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// A token as ACS issued it.
#[derive(Clone, Debug)]
pub struct IssuedToken {
    /// The secret.
    pub token: AccessToken,
    /// When it ends, in whole milliseconds.
    pub expires_on: DateTime<Utc>,
    /// Which credential of ours it was made with.
    pub made_with: CredentialId,
}

/// How long a token shall live: whole minutes from 60 to 1440, as ACS allows since api-version 2022-10-01.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Lifetime(u16);

/// Why a lifetime is not one that ACS takes.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("a token's lifetime is 60 to 1440 whole minutes")]
pub struct LifetimeError;

impl Lifetime {
    /// One hour, the shortest that ACS issues and the default here.
    pub const HOUR: Self = Self(60);

    /// Takes a number of minutes.
    ///
    /// # Errors
    /// [`LifetimeError`] outside 60 to 1440.
    pub fn from_minutes(minutes: u64) -> Result<Self, LifetimeError> {
        u16::try_from(minutes).ok().filter(|m| (60..=1440).contains(m)).map(Self).ok_or(LifetimeError)
    }

    /// Returns how long that is.
    #[must_use]
    pub fn duration(self) -> Duration {
        Duration::from_mins(self.0.into())
    }

    /// Returns the number of minutes.
    #[must_use]
    pub fn minutes(self) -> u16 {
        self.0
    }
}

impl TryFrom<Duration> for Lifetime {
    type Error = LifetimeError;

    fn try_from(duration: Duration) -> Result<Self, Self::Error> {
        if duration.subsec_nanos() == 0 && duration.as_secs().is_multiple_of(60) {
            Self::from_minutes(duration.as_secs() / 60)
        } else {
            Err(LifetimeError)
        }
    }
}

impl<'de> Deserialize<'de> for Lifetime {
    /// Reads a duration such as `60min` or `24h`.
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let duration: Duration = humantime_serde::deserialize(deserializer)?;
        Self::try_from(duration).map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_of_a_token_shows_nothing() {
        let token = AccessToken::new("eyJ-secret".into());
        assert_eq!(format!("{token:?}"), "[redacted]");
        assert_eq!(token.fingerprint().len(), 64);
    }

    #[test]
    fn lifetimes_are_those_of_acs() {
        assert_eq!(Lifetime::from_minutes(60).unwrap().minutes(), 60);
        assert_eq!(Lifetime::from_minutes(1440).unwrap().minutes(), 1440);
        for minutes in [0, 59, 1441, u64::MAX] {
            assert_eq!(Lifetime::from_minutes(minutes), Err(LifetimeError));
        }
        assert_eq!(Lifetime::try_from(Duration::from_secs(3601)), Err(LifetimeError));
    }
}

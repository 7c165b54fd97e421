//! ACS access tokens: opaque secrets. Their expiry is the one that ACS returns, never parsed from the token.

use std::{fmt, sync::Arc, time::Duration};

use chrono::{DateTime, Utc};
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use sha2::{Digest, Sha256};

/// The secret text of an ACS access token.
#[derive(Clone, Deserialize)]
#[serde(transparent)]
pub struct AccessToken(SecretString);

impl AccessToken {
    #[must_use]
    pub fn new(text: String) -> Self {
        Self(text.into())
    }

    /// Returns the secret, for nothing but the response to the request for it.
    #[must_use]
    pub fn expose(&self) -> &str {
        self.0.expose_secret()
    }

    /// Returns the SHA-256 of the token in lower-case hexadecimal, by which it can be recognised but not used.
    #[must_use]
    pub fn fingerprint(&self) -> String {
        hex::encode(Sha256::digest(self.expose()))
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

/// Identifies a credential for ACS without revealing it. A token is valid only as long as the key that it was minted with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CredentialId(Arc<str>);

impl CredentialId {
    #[must_use]
    pub fn new(text: &str) -> Self {
        Self(text.into())
    }

    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// A token as ACS returned it.
#[derive(Clone, Debug)]
pub struct IssuedToken {
    pub token: AccessToken,
    /// In whole milliseconds.
    pub expires_on: DateTime<Utc>,
    /// The credential that it was minted with.
    pub made_with: CredentialId,
}

/// The lifetime of a token: whole minutes from 60 to 1440, as ACS allows since api-version 2022-10-01.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Lifetime(u16);

/// A lifetime that ACS does not accept.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("the lifetime of a token must be 60 to 1440 whole minutes")]
pub struct LifetimeError;

impl Lifetime {
    /// One hour, the shortest that ACS issues and the default here.
    pub const HOUR: Self = Self(60);

    pub fn from_minutes(minutes: u64) -> Result<Self, LifetimeError> {
        u16::try_from(minutes).ok().filter(|m| (60..=1440).contains(m)).map(Self).ok_or(LifetimeError)
    }

    #[must_use]
    pub fn duration(self) -> Duration {
        Duration::from_mins(self.0.into())
    }

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
    use proptest::prelude::*;

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

    proptest! {
        #[test]
        fn lifetimes_round_trip(minutes in any::<u64>(), seconds in 0_u64..100_000, nanos in 0_u32..2) {
            for minutes in [minutes, minutes % 2000] {
                if let Ok(lifetime) = Lifetime::from_minutes(minutes) {
                    prop_assert_eq!(u64::from(lifetime.minutes()), minutes);
                    prop_assert_eq!(Lifetime::try_from(lifetime.duration()), Ok(lifetime));
                }
            }
            let duration = Duration::new(seconds, nanos);
            let expected = (nanos == 0 && seconds % 60 == 0 && (3600..=86_400).contains(&seconds)).then_some(duration);
            prop_assert_eq!(Lifetime::try_from(duration).ok().map(Lifetime::duration), expected);
        }
    }
}

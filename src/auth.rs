//! Authentication: sign-in tokens of app users, verified with the keys of identity providers, and keys of operators.

pub mod claims;
pub mod discovery;
pub mod jose;
pub mod jwks;
pub mod key_cache;
pub mod operator;
pub mod policy;
pub mod subject_token;
pub mod verify;

use std::{collections::BTreeMap, time::Duration};

use jsonwebtoken::Algorithm;
use serde::Deserialize;
use url::Url;

use crate::domain::string_list::StringList;
pub use operator::{Operator, Operators, Role};
use policy::Policy;
pub use subject_token::{Authenticator, SignIn};

/// How sign-in tokens of all issuers are checked.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// How far an issuer's clock may differ from ours.
    #[serde(with = "humantime_serde")]
    pub leeway: Duration,
    /// How often keys are fetched again.
    #[serde(with = "humantime_serde")]
    pub key_refresh: Duration,
    /// How long the last good keys are used while the issuer cannot be reached.
    #[serde(with = "humantime_serde")]
    pub max_key_age: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            leeway: Duration::from_secs(30),
            key_refresh: Duration::from_mins(5),
            max_key_age: Duration::from_hours(24),
        }
    }
}

/// One identity provider, under its issuer key.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct IssuerSettings {
    /// The `iss` of its tokens, byte for byte.
    pub issuer: String,
    /// Accepted values of `aud`; a token must name one of them.
    pub audience: StringList,
    /// The address of its keys; `OpenID` Connect discovery finds it if not set.
    #[serde(default, deserialize_with = "some_url")]
    pub jwks_url: Option<Url>,
    /// The accepted signature algorithms.
    #[serde(default)]
    pub algorithms: Algorithms,
    /// The claim that identifies the user.
    #[serde(default = "default_subject_claim")]
    pub subject_claim: String,
    /// The claim that tells when the user signed in.
    #[serde(default)]
    pub sign_in_time: SignInTime,
    /// Whether its keys may be fetched by plain http from another machine: only for tests.
    #[serde(default)]
    pub allow_http: bool,
    /// What its users may ask for; without a grant no user gets a token.
    #[serde(default)]
    pub policy: Policy,
}

/// The identity providers by issuer key.
pub type Issuers = BTreeMap<String, IssuerSettings>;

/// Algorithms with a public key: a list, or a string with commas.
#[derive(Clone, Debug)]
pub struct Algorithms(pub Vec<Algorithm>);

impl Default for Algorithms {
    fn default() -> Self {
        Self(vec![Algorithm::RS256, Algorithm::ES256, Algorithm::EdDSA])
    }
}

impl<'de> Deserialize<'de> for Algorithms {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let parse = |name: &String| match name.parse() {
            Ok(Algorithm::HS256 | Algorithm::HS384 | Algorithm::HS512) | Err(_) => Err(serde::de::Error::custom(
                "each algorithm must be one of RS256, RS384, RS512, PS256, PS384, PS512, ES256, ES384, EdDSA",
            )),
            Ok(algorithm) => Ok(algorithm),
        };
        StringList::deserialize(deserializer)?.0.iter().map(parse).collect::<Result<_, D::Error>>().map(Self)
    }
}

/// Which claim tells when the user signed in; revocation compares against it.
#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SignInTime {
    /// When the user last proved who they are (`OpenID` Connect Core section 2).
    AuthTime,
    /// When the token was issued, which can be a silent refresh.
    Iat,
    /// `auth_time` if the token has it, otherwise `iat`.
    #[default]
    First,
}

fn some_url<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Option<Url>, D::Error> {
    let text = String::deserialize(deserializer)?;
    text.parse().map(Some).map_err(|_| serde::de::Error::custom("is not a valid URL"))
}

fn default_subject_claim() -> String {
    "sub".to_owned()
}

/// Why a caller is not authenticated.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is no `Authorization: Bearer …` header.
    #[error("no bearer token was presented")]
    Missing,
    /// The token is not valid; the cause is for the log only.
    #[error("the sign-in token was refused")]
    Invalid(#[source] jose::Error),
    /// The token names an issuer that is not configured.
    #[error("the sign-in token is from an unknown issuer")]
    UnknownIssuer,
    /// The key is not one of the configured keys.
    #[error("the operator key is unknown")]
    UnknownKey,
    /// The issuer's keys are not available at the moment; the token may be valid.
    #[error("the keys to verify the sign-in token are not available")]
    KeysUnavailable {
        /// When the next attempt will be made.
        retry_after: Duration,
    },
}

impl From<jose::Error> for Error {
    fn from(error: jose::Error) -> Self {
        match error {
            jose::Error::KeysUnavailable { retry_after } => Self::KeysUnavailable { retry_after },
            other => Self::Invalid(other),
        }
    }
}

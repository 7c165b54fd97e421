//! Who is asking: logins of app users, checked against configured identity providers, and keys of operators.

pub mod claims;
pub mod discovery;
pub mod jose;
pub mod jwks;
pub mod operator;
pub mod policy;
pub mod subject_token;
pub mod verify;

use std::{collections::BTreeMap, time::Duration};

use jsonwebtoken::Algorithm;
use serde::Deserialize;
use url::Url;

pub use operator::{Operator, Operators, Role};
use policy::{Policy, StringList};
pub use subject_token::{Authenticator, Login};

/// How logins are checked, whoever issued them.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// How far an issuer's clock may differ from ours.
    #[serde(with = "humantime_serde")]
    pub leeway: Duration,
    /// How often keys are fetched anew.
    #[serde(with = "humantime_serde")]
    pub key_refresh: Duration,
    /// How long the last good keys serve while the issuer cannot be asked.
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
    /// The `iss` of its logins, byte for byte.
    pub issuer: String,
    /// The `aud` of which a login must name one.
    pub audience: StringList,
    /// Where its keys are; by discovery where not set.
    pub jwks_url: Option<Url>,
    /// The algorithms that its logins may be signed with.
    #[serde(default)]
    pub algorithms: Algorithms,
    /// The claim that names the user.
    #[serde(default = "default_subject_claim")]
    pub subject_claim: String,
    /// The claim that tells when the user signed in.
    #[serde(default)]
    pub sign_in_time: SignInTime,
    /// Whether its keys may be fetched by plain http from another machine: only for trying out.
    #[serde(default)]
    pub allow_http: bool,
    /// Who may have what; without a grant nobody gets a token.
    #[serde(default)]
    pub policy: Policy,
}

/// The identity providers by issuer key.
pub type Issuers = BTreeMap<String, IssuerSettings>;

/// Algorithms with a public key; a list, or a text with commas.
#[derive(Clone, Debug)]
pub struct Algorithms(pub Vec<Algorithm>);

impl Default for Algorithms {
    fn default() -> Self {
        Self(vec![Algorithm::RS256, Algorithm::ES256, Algorithm::EdDSA])
    }
}

impl<'de> Deserialize<'de> for Algorithms {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let refused = |name: &str| {
            serde::de::Error::custom(format!(
                "`{name}` is not one of RS256, RS384, RS512, PS256, PS384, PS512, ES256, ES384, EdDSA"
            ))
        };
        let words = StringList::deserialize(deserializer)?;
        let parse = |name: &String| match name.parse() {
            Ok(Algorithm::HS256 | Algorithm::HS384 | Algorithm::HS512) | Err(_) => Err(refused(name)),
            Ok(algorithm) => Ok(algorithm),
        };
        words.0.iter().map(parse).collect::<Result<_, D::Error>>().map(Self)
    }
}

/// Which claim tells when the user signed in; revocation compares against it.
#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SignInTime {
    /// When the user last proved who they are (`OpenID` Connect Core section 2).
    AuthTime,
    /// When the login was issued, also by a silent refresh.
    Iat,
    /// `auth_time` where the login has it, else `iat`.
    #[default]
    First,
}

fn default_subject_claim() -> String {
    "sub".to_owned()
}

/// Why somebody is not let in.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is no `Authorization: Bearer …`.
    #[error("no bearer login was presented")]
    Missing,
    /// The login is not acceptable; the cause is for the log only.
    #[error("the login was refused")]
    Invalid(#[source] jose::Error),
    /// The login names an issuer that is not configured.
    #[error("the login is of an unknown issuer")]
    UnknownIssuer,
    /// No key of an operator is this one.
    #[error("the key is not an operator's")]
    UnknownKey,
    /// The issuer's keys cannot be had at present: not the login's fault.
    #[error("the keys to check the login are not available")]
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

//! Why a signed JWT is refused.
//!
//! What a token says about the place of its key (`jku`, `x5u`, `jwk`) is ignored (RFC 8725 section 3.10).

use std::time::Duration;

/// Why a token is not accepted. The text is for the log, never for the caller.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum Error {
    /// It does not have three base64url parts with JSON.
    #[error("the token is not a signed JWT: {0}")]
    Malformed(&'static str),
    /// Its algorithm is not on the allow-list.
    #[error("the algorithm is not allowed")]
    Algorithm,
    /// It has critical extensions, none of which are supported.
    #[error("the token has critical extensions")]
    Critical,
    /// It is another type of token.
    #[error("the token has another type")]
    Type,
    /// No key of the issuer has the id and fits the algorithm.
    #[error("the issuer has no such key")]
    UnknownKey,
    /// No key of the issuer made the signature.
    #[error("the signature is wrong")]
    Signature,
    /// A claim is missing or not as expected.
    #[error("the claim `{0}` is missing or not as expected")]
    Claim(&'static str),
    /// The issuer's keys cannot be fetched; the token may be valid.
    #[error("the issuer's keys are not available")]
    KeysUnavailable {
        /// When the next attempt will be made.
        retry_after: Duration,
    },
}

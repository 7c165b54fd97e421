//! Signed JSON: key sets, discovery of them, and verification of signatures and standard claims.
//!
//! Nothing that a token says about where its key is (`jku`, `x5u`, `jwk`) is ever followed (RFC 8725 section 3.10).

use std::time::Duration;

/// Why a token is not accepted; the text is for the log, never for the caller.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum Error {
    /// It is not three base64url parts of JSON.
    #[error("the token is not a signed JWT: {0}")]
    Malformed(&'static str),
    /// Its algorithm is not on the allow-list.
    #[error("the algorithm is not allowed")]
    Algorithm,
    /// It has critical extensions, and none is understood here.
    #[error("the token has critical extensions")]
    Critical,
    /// It is a token of another kind.
    #[error("the token is of another type")]
    Type,
    /// No key of the issuer fits.
    #[error("the issuer has no such key")]
    UnknownKey,
    /// The signature is not the issuer's.
    #[error("the signature is wrong")]
    Signature,
    /// A claim is missing or not as expected.
    #[error("the claim `{0}` is missing or not as expected")]
    Claim(&'static str),
    /// The issuer's keys could not be fetched: not the token's fault.
    #[error("the issuer's keys are not available")]
    KeysUnavailable {
        /// When the next attempt will be made.
        retry_after: Duration,
    },
}

//! How calls to ACS fail.

use std::time::Duration;

/// Why a call failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Too many calls: wait, for as long as ACS says if it says.
    #[error("ACS throttled the call")]
    Throttled {
        /// What `Retry-After` said.
        retry_after: Option<Duration>,
    },
    /// There was no connection: the call certainly had no effect.
    #[error("ACS could not be reached")]
    Unreachable(#[source] reqwest::Error),
    /// ACS failed or its answer was lost: the call may have had its effect.
    #[error("ACS is not available")]
    Unavailable {
        /// What `Retry-After` said.
        retry_after: Option<Duration>,
        /// What went wrong, if there was no answer.
        source: Option<reqwest::Error>,
    },
    /// ACS does not accept the access key or its rights.
    #[error("ACS refused our credential (`{code}`)")]
    Unauthorized {
        /// ACS's error code.
        code: String,
    },
    /// The identity belongs to another resource.
    #[error("the identity does not belong to this resource")]
    NotOwned,
    /// The identity does not exist.
    #[error("the identity does not exist")]
    NotFound,
    /// ACS does not accept the request: a bug of this service.
    #[error("ACS refused the call with {status} (`{code}`)")]
    Refused {
        /// The HTTP status.
        status: u16,
        /// ACS's error code.
        code: String,
    },
    /// The answer does not have the documented form.
    #[error("the response of ACS to `{operation}` is not valid")]
    Malformed {
        /// The call.
        operation: &'static str,
    },
}

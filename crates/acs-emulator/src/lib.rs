//! An emulator of Azure Communication Services Identity for tests and development.
//!
//! It checks every request strictly and can tell whether a token is still valid. It shares no code with any ACS client, so that a mistake on one side shows up on the other.
//! Its router must be served at the root of its address: signatures cover the request target as it was sent.
//! Only access keys are accepted; Entra bearer tokens are denied, and the Teams exchange is not offered.
//!
//! Sources: the public REST specification, the recordings of the official SDKs' tests, and the behaviour of the SDKs.
//! Where they leave a question open, the comment at that place begins with "A choice".

use std::{fmt, sync::Arc};

use axum::{
    Router,
    routing::{get, post},
};

use self::{
    faults::Faults, identity::Resource, limits::Gate, shared::Shared, state::Identities, stats::Counters, token::Mint,
};

mod access_key;
mod call;
pub mod cli;
mod clock;
mod control;
mod data_plane;
mod faults;
mod grant;
mod identity;
mod limits;
mod operations;
mod refusal;
mod shared;
mod signature;
mod state;
mod stats;
mod token;

pub use access_key::{AccessKey, Error};
pub use clock::Clock;
pub use limits::{Limited, Limits};

/// The settings of an emulated resource.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The resource's one or two access keys; the first also decides the resource's id.
    pub access_keys: Vec<AccessKey>,
    /// Whether an identity of this resource that this process did not create is refused; otherwise it is adopted.
    pub strict_identities: bool,
    /// The rate limits; unlimited if not set.
    pub limits: Option<Limits>,
    /// Whether tokens get a cheap signature that cannot be verified, for load tests: RSA would take most of the time.
    pub cheap_signatures: bool,
}

impl Settings {
    /// A resource with these keys, the documented limits and real signatures.
    #[must_use]
    pub fn new(access_keys: Vec<AccessKey>) -> Self {
        let limits = Some(Limits::default());
        Self { access_keys, strict_identities: false, limits, cheap_signatures: false }
    }
}

/// One emulated resource; clones share it.
#[derive(Clone)]
pub struct Emulator {
    shared: Arc<Shared>,
}

impl Emulator {
    /// Creates a resource without identities and generates its token signing key.
    ///
    /// # Errors
    /// If the number of keys is not one or two, or if the signing key cannot be generated.
    pub fn new(settings: Settings, clock: Clock) -> Result<Self, Error> {
        let Settings { access_keys, strict_identities, limits, cheap_signatures } = settings;
        if access_keys.len() > 2 {
            return Err(Error::KeyCount(access_keys.len()));
        }
        let resource = Resource::of(access_keys.first().ok_or(Error::KeyCount(0))?);
        let mint = Mint::new(&resource, cheap_signatures)?;
        let shared = Shared {
            clock,
            access_keys,
            resource,
            mint,
            identities: Identities::new(strict_identities),
            gate: Gate::new(limits),
            faults: Faults::default(),
            counters: Counters::default(),
        };
        Ok(Self { shared: Arc::new(shared) })
    }

    /// Returns the data plane and the control endpoints under `/_emulator` as one router.
    pub fn router(&self) -> Router {
        Router::new()
            .route("/_emulator/stats", get(control::stats))
            .route("/_emulator/identities/{id}", get(control::identity))
            .route("/_emulator/introspect", post(control::introspect))
            .route("/_emulator/jwks", get(control::jwks))
            .route(
                "/_emulator/faults",
                get(control::list_faults).put(control::replace_faults).delete(control::clear_faults),
            )
            .method_not_allowed_fallback(control::method_not_allowed)
            .fallback(data_plane::serve)
            .with_state(Arc::clone(&self.shared))
    }
}

impl fmt::Debug for Emulator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Emulator").field("resource", &self.shared.resource).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resource_has_one_key_or_two() {
        let with = |count: usize| {
            let access_keys = vec![AccessKey::parse("a2V5").unwrap(); count];
            Emulator::new(Settings::new(access_keys), Clock::default())
        };
        assert!(matches!(with(0), Err(Error::KeyCount(0))));
        assert!(matches!(with(3), Err(Error::KeyCount(3))));
        assert!(with(1).is_ok());
    }
}

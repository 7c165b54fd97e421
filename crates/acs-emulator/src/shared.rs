//! The state of an emulated resource.

use super::{
    access_key::AccessKey, clock::Clock, faults::Faults, identity::Resource, limits::Gate, state::Identities,
    stats::Counters, token::Mint,
};

/// What the handlers of an emulator share.
pub(crate) struct Shared {
    pub(crate) clock: Clock,
    pub(crate) access_keys: Vec<AccessKey>,
    pub(crate) resource: Resource,
    pub(crate) mint: Mint,
    pub(crate) identities: Identities,
    pub(crate) gate: Gate,
    pub(crate) faults: Faults,
    pub(crate) counters: Counters,
}

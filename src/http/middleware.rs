//! The layers around the routes.

pub(super) mod access_log;
pub(super) mod gate;
pub(super) mod idempotency;

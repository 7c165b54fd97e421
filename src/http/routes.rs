//! The routes, a group a file.

pub(super) mod access;
pub(super) mod admin;
pub(super) mod audit;
pub(super) mod docs;
pub(super) mod import;
pub(super) mod me;
pub(super) mod operations;
pub(super) mod revocations;
pub(super) mod token;
pub(super) mod users;

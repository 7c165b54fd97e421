//! What is done to users: access changes, bulk revocations, imports, and making sure that they have an identity.

pub mod access;
pub mod bulk;
pub mod ensure;
pub mod import;

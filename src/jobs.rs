//! Work in the background: operations at ACS, and deleting what has expired.

mod idempotency;
pub mod purge;
pub mod run;
pub mod worker;

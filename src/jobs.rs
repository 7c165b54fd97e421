//! Work in the background: operations at ACS, and deleting what has expired.

pub mod purge;
pub mod run;
pub mod worker;

//! The JSON of the API, shared by the server, the client and `openapi.yaml`: one file for each group of routes.

mod access;
mod admin;
mod audit;
mod import;
mod me;
mod operations;
mod problem;
mod revocations;
mod token;
mod users;

pub use access::*;
pub use admin::*;
pub use audit::*;
pub use import::*;
pub use me::*;
pub use operations::*;
pub use problem::*;
pub use revocations::*;
pub use token::*;
pub use users::*;

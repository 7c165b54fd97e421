//! Settings: defaults, then a TOML file, then the environment. All errors are reported at once, each with its key.
//!
//! No other module reads the environment. Only names that begin with `VENDOR__` are read, so that variables which a cluster
//! injects are ignored, and `DATABASE_URL` and `COMMUNICATION_SERVICES_CONNECTION_STRING` under their well-known names.
//! Each name can also end in `_FILE` and hold the path of a file with the value, for mounted secrets.

mod check;
mod settings;
mod source;

use std::{collections::HashMap, net::SocketAddr, path::Path};

use settings::Raw;
pub use settings::{Error, Errors, Settings, Variables};

/// The variables of this process.
#[must_use]
pub fn environment() -> Variables {
    #[expect(clippy::disallowed_methods, reason = "the one place that reads the environment")]
    let variables = std::env::vars_os();
    variables.filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?))).collect()
}

/// Reads the settings of this process.
pub fn load(file: Option<&Path>) -> Result<Settings, Errors> {
    load_from(file, environment())
}

/// Reads settings from a file and the variables of an environment.
pub fn load_from(file: Option<&Path>, environment: Variables) -> Result<Settings, Errors> {
    let mut errors = Errors::default();
    let raw = Raw::read(file, environment, &mut errors);
    raw.check(errors)
}

/// Reads settings from TOML alone.
pub fn parse(toml: &str) -> Result<Settings, Errors> {
    load_from(None, HashMap::from([(source::WHOLE_FILE.to_owned(), toml.to_owned())]))
}

/// Returns the address of the admin listener of a service with these settings, even if other settings are wrong.
pub fn admin_address(file: Option<&Path>) -> Result<SocketAddr, Errors> {
    let mut errors = Errors::default();
    let raw = Raw::read(file, environment(), &mut errors);
    let mut address = check::address("admin.listen", &raw.admin.listen, &mut errors).ok_or(errors)?;
    if address.ip().is_unspecified() {
        address.set_ip(std::net::Ipv4Addr::LOCALHOST.into());
    }
    Ok(address)
}

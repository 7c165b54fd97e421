//! Settings: defaults, then a TOML file, then the environment. All errors are reported at once, each with its key.
//!
//! No other module reads the environment. Only names that begin with `VENDOR__` are read, so that variables which a cluster
//! injects are ignored, and `DATABASE_URL` and `COMMUNICATION_SERVICES_CONNECTION_STRING` under their well-known names.
//! Each name can also end in `_FILE` and hold the path of a file with the value, for mounted secrets.

mod check;
mod source;

use std::{
    collections::{BTreeMap, HashMap},
    fmt,
    net::SocketAddr,
    path::Path,
};

use serde::Deserialize;

use crate::{
    acs::{self, connection_string::ConnectionString},
    auth::{self, IssuerSettings, Issuers, Operators, operator::KeySettings},
    domain::user::IssuerKey,
    http,
    jobs::worker,
    limit, shutdown, store, telemetry, tokens, users,
};

/// Settings that passed every check.
#[derive(Clone, Debug)]
pub struct Settings {
    pub listen: SocketAddr,
    pub admin_listen: SocketAddr,
    pub server: http::Settings,
    pub log: telemetry::Settings,
    pub database: store::Settings,
    pub acs: acs::Settings,
    /// The address and the keys of the ACS resource.
    pub connection: ConnectionString,
    pub quota: acs::quota::Settings,
    pub limits: limit::Settings,
    pub tokens: tokens::Settings,
    pub users: users::Settings,
    pub audit: store::AuditSettings,
    pub worker: worker::Settings,
    /// The address of the operators' own listener, if there is one.
    pub ops_listen: Option<SocketAddr>,
    pub ops_max_in_flight: usize,
    pub operators: Operators,
    pub auth: auth::Settings,
    pub issuers: Vec<(IssuerKey, IssuerSettings)>,
    pub shutdown: shutdown::Settings,
}

/// Environment variables by name.
pub type Variables = HashMap<String, String>;

/// The admin listener: probes.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct AdminSettings {
    listen: String,
}

impl Default for AdminSettings {
    fn default() -> Self {
        Self { listen: "127.0.0.1:9090".to_owned() }
    }
}

/// Operators: their keys, and optionally their own listener.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct OpsSettings {
    listen: Option<String>,
    max_in_flight: usize,
    keys: BTreeMap<String, KeySettings>,
}

impl Default for OpsSettings {
    fn default() -> Self {
        Self { listen: None, max_in_flight: 64, keys: BTreeMap::new() }
    }
}

/// An error in the settings. Messages never hold a value that could be a secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Error {
    pub key: String,
    pub message: String,
}

/// All errors in the settings.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Errors(pub Vec<Error>);

impl fmt::Display for Errors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "configuration has {} error{}:", self.0.len(), if self.0.len() == 1 { "" } else { "s" })?;
        self.0.iter().try_for_each(|error| write!(f, "\n  {}: {}", error.key, error.message))
    }
}

impl std::error::Error for Errors {}

impl Errors {
    fn add(&mut self, key: impl Into<String>, message: impl Into<String>) {
        self.0.push(Error { key: key.into(), message: message.into() });
    }
}

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

/// Settings as they were read, before they are checked.
#[derive(Default)]
struct Raw {
    server: http::Settings,
    admin: AdminSettings,
    log: telemetry::Settings,
    database: store::Settings,
    acs: acs::Settings,
    quota: acs::quota::Settings,
    limits: limit::Settings,
    tokens: tokens::Settings,
    users: users::Settings,
    audit: store::AuditSettings,
    worker: worker::Settings,
    ops: OpsSettings,
    auth: auth::Settings,
    issuers: Issuers,
    shutdown: shutdown::Settings,
}

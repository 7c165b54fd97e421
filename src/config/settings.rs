//! The settings of the process, before and after they are checked, and the errors in them.

use std::{
    collections::{BTreeMap, HashMap},
    fmt,
    net::SocketAddr,
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
pub(super) struct AdminSettings {
    pub(super) listen: String,
}

impl Default for AdminSettings {
    fn default() -> Self {
        Self { listen: "127.0.0.1:9090".to_owned() }
    }
}

/// Operators: their keys, and optionally their own listener.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct OpsSettings {
    pub(super) listen: Option<String>,
    pub(super) max_in_flight: usize,
    pub(super) keys: BTreeMap<String, KeySettings>,
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
    pub(super) fn add(&mut self, key: impl Into<String>, message: impl Into<String>) {
        self.0.push(Error { key: key.into(), message: message.into() });
    }
}

/// Settings as they were read, before they are checked.
#[derive(Default)]
pub(super) struct Raw {
    pub(super) server: http::Settings,
    pub(super) admin: AdminSettings,
    pub(super) log: telemetry::Settings,
    pub(super) database: store::Settings,
    pub(super) acs: acs::Settings,
    pub(super) quota: acs::quota::Settings,
    pub(super) limits: limit::Settings,
    pub(super) tokens: tokens::Settings,
    pub(super) users: users::Settings,
    pub(super) audit: store::AuditSettings,
    pub(super) worker: worker::Settings,
    pub(super) ops: OpsSettings,
    pub(super) auth: auth::Settings,
    pub(super) issuers: Issuers,
    pub(super) shutdown: shutdown::Settings,
}

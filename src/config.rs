//! Settings: defaults, then a TOML file, then the environment; every fault is reported, each with its key.
//!
//! The only room that reads the environment. Only names that begin with `VENDOR__` are read, so that variables which a
//! cluster injects do no harm, and `DATABASE_URL` and `COMMUNICATION_SERVICES_CONNECTION_STRING` under their well-known names.
//! Every name also works with `_FILE` behind it and a path as its value, for mounted secrets.

mod check;

use std::{
    collections::{BTreeMap, HashMap},
    fmt,
    net::SocketAddr,
    path::Path,
};

use config::{Config, ConfigError, Environment, File, FileFormat, Value};
use serde::{Deserialize, de::DeserializeOwned};

use crate::{
    acs::{self, connection_string::ConnectionString},
    auth::{self, IssuerSettings, Issuers, Operators, operator::KeySettings},
    domain::user::IssuerKey,
    http,
    jobs::worker,
    limit, shutdown, store, telemetry, tokens, users,
};

const PREFIX: &str = "VENDOR__";
const WHOLE_FILE: &str = "VENDOR__CONFIG";
const WELL_KNOWN: [(&str, &str); 2] = [
    ("DATABASE_URL", "VENDOR__DATABASE__URL"),
    ("COMMUNICATION_SERVICES_CONNECTION_STRING", "VENDOR__ACS__CONNECTION_STRING"),
];
const SECTIONS: [&str; 15] = [
    "server", "admin", "log", "database", "acs", "quota", "limits", "tokens", "users", "audit", "worker", "ops",
    "auth", "issuers", "shutdown",
];

/// Settings that were found good.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The public listener's address.
    pub listen: SocketAddr,
    /// The admin listener's address.
    pub admin_listen: SocketAddr,
    /// The public listener.
    pub server: http::Settings,
    /// The log.
    pub log: telemetry::Settings,
    /// The database.
    pub database: store::Settings,
    /// The ACS resource.
    pub acs: acs::Settings,
    /// Its address and key.
    pub connection: ConnectionString,
    /// How many calls ACS allows.
    pub quota: acs::quota::Settings,
    /// What callers may do how often.
    pub limits: limit::Settings,
    /// Tokens and waiting.
    pub tokens: tokens::Settings,
    /// Users.
    pub users: users::Settings,
    /// The audit trail.
    pub audit: store::AuditSettings,
    /// Doing of accepted work.
    pub worker: worker::Settings,
    /// The operators' listener, where they have one of their own.
    pub ops_listen: Option<SocketAddr>,
    /// How many requests of operators are answered at once.
    pub ops_max_in_flight: usize,
    /// The operators' keys.
    pub operators: Operators,
    /// Checking of logins.
    pub auth: auth::Settings,
    /// The identity providers.
    pub issuers: Vec<(IssuerKey, IssuerSettings)>,
    /// Stopping.
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

/// Operators: their keys, and a listener of their own where wanted.
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

/// One thing that is wrong with the settings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// Where.
    pub key: String,
    /// What.
    pub message: String,
}

/// Everything that is wrong with the settings.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Faults(pub Vec<Fault>);

impl fmt::Display for Faults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the settings have {} fault{}:", self.0.len(), if self.0.len() == 1 { "" } else { "s" })?;
        self.0.iter().try_for_each(|fault| write!(f, "\n  {}: {}", fault.key, fault.message))
    }
}

impl std::error::Error for Faults {}

impl Faults {
    fn add(&mut self, key: impl Into<String>, message: impl Into<String>) {
        self.0.push(Fault { key: key.into(), message: message.into() });
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
///
/// # Errors
/// Every fault that was found.
pub fn load(file: Option<&Path>) -> Result<Settings, Faults> {
    load_from(file, environment())
}

/// Reads settings from a file and the variables of an environment.
///
/// # Errors
/// Every fault that was found.
pub fn load_from(file: Option<&Path>, environment: Variables) -> Result<Settings, Faults> {
    let mut faults = Faults::default();
    let raw = Raw::read(file, environment, &mut faults);
    raw.check(faults)
}

/// Reads settings from TOML alone.
///
/// # Errors
/// Every fault that was found.
pub fn parse(toml: &str) -> Result<Settings, Faults> {
    load_from(None, HashMap::from([(WHOLE_FILE.to_owned(), toml.to_owned())]))
}

/// Reads where the admin listener of a service with these settings can be reached, whatever else is wrong with them.
///
/// # Errors
/// When the address itself is wrong.
pub fn admin_address(file: Option<&Path>) -> Result<SocketAddr, Faults> {
    let mut faults = Faults::default();
    let raw = Raw::read(file, environment(), &mut faults);
    let mut address = check::address("admin.listen", &raw.admin.listen, &mut faults).ok_or(faults)?;
    if address.ip().is_unspecified() {
        address.set_ip(std::net::Ipv4Addr::LOCALHOST.into());
    }
    Ok(address)
}

/// Settings as they were read, before they are held against each other.
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

impl Raw {
    fn read(file: Option<&Path>, environment: Variables, faults: &mut Faults) -> Self {
        let mut variables = resolve(environment, faults);
        let mut builder = Config::builder();
        if let Some(path) = file {
            builder = builder.add_source(File::from(path).format(FileFormat::Toml));
        }
        if let Some(text) = variables.remove(WHOLE_FILE) {
            builder = builder.add_source(File::from_str(&text, FileFormat::Toml));
        }
        let source = Environment::with_prefix("VENDOR").prefix_separator("__").separator("__").source(Some(variables));
        let tree = builder.add_source(source).build().and_then(Config::try_deserialize::<BTreeMap<String, Value>>);
        let mut tree = match tree {
            Ok(tree) => tree,
            Err(error) => {
                let place = file.map_or_else(|| WHOLE_FILE.to_owned(), |path| path.display().to_string());
                faults.add(place, without_values(&error));
                return Self::default();
            }
        };
        for name in tree.keys().filter(|name| !SECTIONS.contains(&name.as_str())) {
            faults.add(name, format!("unknown section, expected one of {}", SECTIONS.join(", ")));
        }
        let issuers: BTreeMap<String, Value> = section(&mut tree, "issuers", faults);
        Self {
            server: section(&mut tree, "server", faults),
            admin: section(&mut tree, "admin", faults),
            log: section(&mut tree, "log", faults),
            database: section(&mut tree, "database", faults),
            acs: section(&mut tree, "acs", faults),
            quota: section(&mut tree, "quota", faults),
            limits: section(&mut tree, "limits", faults),
            tokens: section(&mut tree, "tokens", faults),
            users: section(&mut tree, "users", faults),
            audit: section(&mut tree, "audit", faults),
            worker: section(&mut tree, "worker", faults),
            ops: section(&mut tree, "ops", faults),
            auth: section(&mut tree, "auth", faults),
            issuers: issuers.into_iter().filter_map(|(key, value)| read_issuer(key, value, faults)).collect(),
            shutdown: section(&mut tree, "shutdown", faults),
        }
    }
}

fn section<T: DeserializeOwned + Default>(tree: &mut BTreeMap<String, Value>, name: &str, faults: &mut Faults) -> T {
    let Some(value) = tree.remove(name) else {
        return T::default();
    };
    value.try_deserialize().unwrap_or_else(|error| {
        faults.add(name, without_values(&error));
        T::default()
    })
}

fn read_issuer(key: String, value: Value, faults: &mut Faults) -> Option<(String, IssuerSettings)> {
    match value.try_deserialize() {
        Ok(issuer) => Some((key, issuer)),
        Err(error) => {
            faults.add(format!("issuers.{key}"), without_values(&error));
            None
        }
    }
}

/// Keeps our own variables, gives the well-known ones their place, and reads the files that `…_FILE` names.
fn resolve(environment: Variables, faults: &mut Faults) -> Variables {
    let mut ours = HashMap::new();
    let mut files = Vec::new();
    for (name, value) in environment {
        let (plain, is_file) = match name.strip_suffix("_FILE") {
            Some(plain) => (plain, true),
            None => (name.as_str(), false),
        };
        let well_known = WELL_KNOWN.iter().find(|(known, _)| *known == plain);
        let target = well_known.map_or(plain, |(_, target)| *target);
        if !target.starts_with(PREFIX) {
            continue;
        }
        if is_file {
            files.push((target.to_owned(), name.clone(), value));
        } else if well_known.is_none() {
            ours.insert(target.to_owned(), value);
        } else {
            // A name of our own says it more precisely than a well-known one.
            ours.entry(target.to_owned()).or_insert(value);
        }
    }
    for (target, name, path) in files {
        match std::fs::read_to_string(&path) {
            Ok(text) => {
                ours.entry(target).or_insert_with(|| text.trim_end_matches(['\r', '\n']).to_owned());
            }
            Err(error) => faults.add(name, format!("cannot read `{path}`: {error}")),
        }
    }
    ours
}

/// Writes an error without the values that it quotes, which may be secrets: of a syntax error only the place, of others
/// everything but what stands in double quotes.
fn without_values(error: &ConfigError) -> String {
    let text = error.to_string();
    let first_line = text.lines().next().unwrap_or_default();
    match (first_line.find('"'), first_line.rfind('"')) {
        (Some(start), Some(end)) if start < end => format!("{}\"…\"{}", &first_line[..start], &first_line[end + 1..]),
        _ => first_line.to_owned(),
    }
}

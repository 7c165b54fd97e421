//! Where settings come from, and what is wrong with their form.
//!
//! Values can be secrets, so the messages are written here from the kind of an error, never from another crate's text.

use std::{collections::BTreeMap, path::Path};

use figment::{
    Figment,
    error::{Actual, Kind},
    providers::Serialized,
    value::{Dict, Value},
};
use serde::de::DeserializeOwned;

use super::settings::{Errors, Raw, Variables};

pub(super) const WHOLE_FILE: &str = "VENDOR__CONFIG";
const PREFIX: &str = "VENDOR__";
const WELL_KNOWN: [(&str, &str); 2] = [
    ("DATABASE_URL", "VENDOR__DATABASE__URL"),
    ("COMMUNICATION_SERVICES_CONNECTION_STRING", "VENDOR__ACS__CONNECTION_STRING"),
];

impl Raw {
    pub(super) fn read(file: Option<&Path>, environment: Variables, errors: &mut Errors) -> Self {
        let mut sections = Sections { tree: merge(file, environment, errors), errors };
        let raw = Self {
            server: sections.take("server"),
            admin: sections.take("admin"),
            log: sections.take("log"),
            database: sections.take("database"),
            acs: sections.take("acs"),
            quota: sections.take("quota"),
            limits: sections.take("limits"),
            tokens: sections.take("tokens"),
            users: sections.take("users"),
            audit: sections.take("audit"),
            worker: sections.take("worker"),
            ops: sections.take("ops"),
            auth: sections.take("auth"),
            issuers: sections.take_each("issuers"),
            shutdown: sections.take("shutdown"),
        };
        for name in sections.tree.keys() {
            errors.add(name, "unknown section");
        }
        raw
    }
}

/// The sections that were not read yet.
struct Sections<'a> {
    tree: Dict,
    errors: &'a mut Errors,
}

impl Sections<'_> {
    fn take<T: DeserializeOwned + Default>(&mut self, name: &str) -> T {
        self.tree.remove(name).and_then(|value| extract(value, name, self.errors)).unwrap_or_default()
    }

    /// Reads the members of a section one by one, so that each reports its own error.
    fn take_each<T: DeserializeOwned, C: FromIterator<(String, T)>>(&mut self, name: &str) -> C {
        let members: Dict = self.take(name);
        let read = |(key, value)| Some((extract(value, &format!("{name}.{key}"), self.errors)?, key));
        members.into_iter().filter_map(read).map(|(value, key)| (key, value)).collect()
    }
}

/// Reads a value; numbers and truth values may be strings, as they are in environment variables.
fn extract<T: DeserializeOwned>(value: Value, at: &str, errors: &mut Errors) -> Option<T> {
    match Figment::from(Serialized::defaults(value)).extract_lossy() {
        Ok(read) => Some(read),
        Err(found) => {
            for error in found {
                let missing = match &error.kind {
                    Kind::MissingField(name) => Some(name.as_ref()),
                    _ => None,
                };
                let path = error.path.iter().map(String::as_str).chain(missing);
                let key = path.fold(at.to_owned(), |key, part| format!("{key}.{part}"));
                errors.add(key, describe(&error.kind));
            }
            None
        }
    }
}

/// Says what is wrong with a value without showing it. [`Kind::Message`] comes from `Deserialize` implementations of this
/// crate, which do not quote values.
fn describe(kind: &Kind) -> String {
    match kind {
        Kind::Message(message) => message.clone(),
        Kind::InvalidType(found, expected) => format!("expected {}, found {}", plain(expected), name(found)),
        Kind::InvalidValue(_, expected) | Kind::InvalidLength(_, expected) => {
            format!("not a valid value, expected {}", plain(expected))
        }
        Kind::UnknownVariant(_, expected) => format!("expected one of {}", expected.join(", ")),
        Kind::UnknownField(_, expected) => format!("unknown setting, expected one of {}", expected.join(", ")),
        Kind::MissingField(_) => "is missing".to_owned(),
        Kind::DuplicateField(_) => "is set twice".to_owned(),
        Kind::ISizeOutOfRange(_) | Kind::USizeOutOfRange(_) => "is out of range".to_owned(),
        Kind::Unsupported(_) | Kind::UnsupportedKey(..) => "has an unsupported type".to_owned(),
    }
}

/// Replaces names of Rust types.
fn plain(expected: &str) -> &str {
    match expected {
        "u16" | "u32" | "u64" | "usize" | "i64" => "an integer",
        "a nonzero u32" => "an integer greater than zero",
        "a sequence" => "a list",
        "map" | "a map" => "a table",
        rust_type if rust_type.starts_with("struct ") => "a table",
        other => other,
    }
}

fn name(found: &Actual) -> &'static str {
    match found {
        Actual::Bool(_) => "a boolean",
        Actual::Unsigned(_) | Actual::Signed(_) => "an integer",
        Actual::Float(_) => "a number with a fraction",
        Actual::Str(_) | Actual::Char(_) | Actual::Bytes(_) => "a string",
        Actual::Seq => "a list",
        Actual::Map => "a table",
        _ => "something else",
    }
}

/// Merges the sources; later ones take precedence.
fn merge(file: Option<&Path>, environment: Variables, errors: &mut Errors) -> Dict {
    let mut variables = resolve(environment, errors);
    let mut figment = Figment::new();
    if let Some(path) = file {
        let name = path.display().to_string();
        match std::fs::read_to_string(path) {
            Ok(text) => figment = figment.merge(Serialized::defaults(parse(&text, &name, errors))),
            Err(error) => errors.add(name, format!("cannot be read: {error}")),
        }
    }
    if let Some(text) = variables.remove(WHOLE_FILE) {
        figment = figment.merge(Serialized::defaults(parse(&text, WHOLE_FILE, errors)));
    }
    for (name, value) in variables {
        let parts = name[PREFIX.len()..].rsplit("__");
        let nested = parts.fold(Value::from(value), |value, part| Dict::from([(part.to_lowercase(), value)]).into());
        figment = figment.merge(Serialized::defaults(nested));
    }
    figment.extract().unwrap_or_else(|found| {
        errors.add(found.path.join("."), describe(&found.kind));
        Dict::new()
    })
}

/// Parses TOML. An error names the line but does not show it.
fn parse(text: &str, name: &str, errors: &mut Errors) -> toml::Table {
    toml::from_str(text).unwrap_or_else(|error: toml::de::Error| {
        let before = error.span().and_then(|span| text.get(..span.start)).unwrap_or_default();
        errors.add(name, format!("line {}: {}", before.matches('\n').count() + 1, error.message()));
        toml::Table::new()
    })
}

/// Keeps the variables of this service, replaces well-known names, and reads the files that `…_FILE` names.
fn resolve(environment: Variables, errors: &mut Errors) -> BTreeMap<String, String> {
    let mut ours = BTreeMap::new();
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
            // A name that begins with the prefix takes precedence over a well-known one.
            ours.entry(target.to_owned()).or_insert(value);
        }
    }
    for (target, name, path) in files {
        match std::fs::read_to_string(&path) {
            Ok(text) => {
                ours.entry(target).or_insert_with(|| text.trim_end_matches(['\r', '\n']).to_owned());
            }
            Err(error) => errors.add(name, format!("cannot read `{path}`: {error}")),
        }
    }
    ours
}

//! The log: structured lines on standard error, so that standard output stays free for answers.

use std::str::FromStr;

use serde::Deserialize;
use tracing_subscriber::{EnvFilter, fmt, layer::SubscriberExt, util::SubscriberInitExt};

/// How much is logged, and in what form.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// `text` for people or `json` for machines.
    pub format: Format,
    /// Directives such as `info` or `warn,acs_token_vendor=debug`.
    pub filter: String,
}

impl Default for Settings {
    fn default() -> Self {
        Self { format: Format::Text, filter: "info".to_owned() }
    }
}

/// The form of a log line.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Format {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

impl Settings {
    /// Checks the filter.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn check(&self) -> Result<(), String> {
        EnvFilter::from_str(&self.filter).map(drop).map_err(|error| error.to_string())
    }
}

/// Starts the log of this process; a second call changes nothing.
pub fn init(settings: &Settings) {
    let filter = EnvFilter::from_str(&settings.filter).unwrap_or_else(|_| EnvFilter::new("info"));
    let layer = fmt::layer().with_writer(std::io::stderr);
    let registry = tracing_subscriber::registry().with(filter);
    // It fails only when a log was started before, which then serves.
    let _ = match settings.format {
        Format::Text => registry.with(layer.with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr()))).try_init(),
        Format::Json => registry.with(layer.json().flatten_event(true)).try_init(),
    };
}

//! The log: structured lines on standard error, because standard output is for results.

use std::str::FromStr;

use serde::Deserialize;
use tracing_subscriber::{EnvFilter, fmt, layer::SubscriberExt, util::SubscriberInitExt};

/// What is logged, and in which format.
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

/// The format of log lines.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Format {
    Text,
    /// One JSON object per line.
    Json,
}

impl Settings {
    pub fn check_filter(&self) -> Result<(), &'static str> {
        let message = "is not a valid filter (expected, for example, `warn,acs_token_vendor=debug`)";
        EnvFilter::from_str(&self.filter).map(drop).map_err(|_| message)
    }
}

/// Starts the log of this process. A second call has no effect.
pub fn init(settings: &Settings) {
    let filter = EnvFilter::from_str(&settings.filter).unwrap_or_else(|_| EnvFilter::new("info"));
    let layer = fmt::layer().with_writer(std::io::stderr);
    let registry = tracing_subscriber::registry().with(filter);
    // It fails only if a log was started before, which then stays in use.
    let _ = match settings.format {
        Format::Text => registry.with(layer.with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr()))).try_init(),
        Format::Json => registry.with(layer.json().flatten_event(true)).try_init(),
    };
}

//! The command line of the emulator: the binary `acs-emulator`, and the same options wherever else it is started.

use std::net::SocketAddr;

use anyhow::Context;
use clap::Args;
use tokio::net::TcpListener;

use super::{AccessKey, Clock, Emulator, Limited, Limits, Settings};

/// The access key where none is given: published, so worth nothing outside of an emulator.
pub const DEFAULT_ACCESS_KEY: &str = "bm90LWEtc2VjcmV0LWtleS1vZi10aGUtZW11bGF0b3I=";

/// How to run the emulator.
#[derive(Debug, Args)]
#[expect(clippy::struct_excessive_bools, reason = "each is a switch of its own")]
pub struct Options {
    /// The address to listen on.
    #[arg(long, default_value = "127.0.0.1:8081", value_name = "ADDRESS")]
    listen: SocketAddr,
    /// The access key of the emulated resource; may be repeated, because a resource has two.
    #[arg(long = "access-key", default_value = DEFAULT_ACCESS_KEY, value_name = "BASE64")]
    access_keys: Vec<String>,
    /// Refuse identities that this process did not create, instead of accepting those of its resource.
    #[arg(long)]
    strict_identities: bool,
    /// The number of calls of a kind allowed in 30 seconds, instead of the documented one; may be repeated.
    ///
    /// Kinds are `create`, `create_with_token`, `issue`, `revoke` and `delete`.
    #[arg(long = "limit", value_name = "KIND=CALLS", value_parser = limit)]
    limits: Vec<(Limited, usize)>,
    /// Allow any number of calls.
    #[arg(long, conflicts_with = "limits")]
    no_limits: bool,
    /// Send `Retry-After` with a 429.
    #[arg(long)]
    retry_after: bool,
    /// Give tokens a signature that costs nothing and cannot be verified, for load tests.
    #[arg(long)]
    cheap_signatures: bool,
    /// The log filter, such as `debug`.
    #[arg(long, default_value = "info", value_name = "FILTER")]
    pub log: String,
}

fn limit(text: &str) -> Result<(Limited, usize), String> {
    let (kind, calls) = text.split_once('=').ok_or("must be KIND=CALLS")?;
    Ok((kind.parse()?, calls.parse().map_err(|_| format!("`{calls}` is not a number of calls"))?))
}

impl Options {
    fn settings(&self) -> anyhow::Result<Settings> {
        let access_keys = self.access_keys.iter().map(|key| AccessKey::parse(key)).collect::<Result<_, _>>();
        let mut limits = Limits::default();
        limits.tells_retry_after = self.retry_after;
        for (limited, calls) in &self.limits {
            limits.set(*limited, *calls);
        }
        Ok(Settings {
            access_keys: access_keys.context("`--access-key` cannot be used")?,
            strict_identities: self.strict_identities,
            limits: (!self.no_limits).then_some(limits),
            cheap_signatures: self.cheap_signatures,
        })
    }
}

/// Runs an emulator until `stop` is done; requests that are still running are then cut off.
///
/// # Errors
/// When the options contradict each other or the address cannot be listened on.
pub async fn run(options: Options, stop: impl Future<Output = ()>) -> anyhow::Result<()> {
    let emulator = Emulator::new(options.settings()?, Clock::default())?;
    let listener =
        TcpListener::bind(options.listen).await.with_context(|| format!("cannot listen on {}", options.listen))?;
    println!("emulator of ACS on http://{}", listener.local_addr()?);
    tokio::select! {
        served = axum::serve(listener, emulator.router()) => Ok(served?),
        () = stop => Ok(()),
    }
}

//! The command line of the emulator, for the binary `acs-emulator` and for programs that include it.

use std::net::SocketAddr;

use anyhow::Context;
use clap::Args;
use tokio::net::TcpListener;

use crate::{AccessKey, Clock, Emulator, Limited, Limits, Settings};

/// The default access key. It is public, so it must not be used outside of an emulator.
pub const DEFAULT_ACCESS_KEY: &str = "bm90LWEtc2VjcmV0LWtleS1vZi10aGUtZW11bGF0b3I=";

/// The options of the emulator.
#[derive(Debug, Args)]
#[expect(clippy::struct_excessive_bools, reason = "each is an independent switch")]
pub struct Options {
    /// The address to listen on.
    #[arg(long, default_value = "127.0.0.1:8081", value_name = "ADDRESS")]
    listen: SocketAddr,
    /// An access key of the emulated resource; may be given twice, because a resource has two.
    #[arg(long = "access-key", default_value = DEFAULT_ACCESS_KEY, value_name = "BASE64")]
    access_keys: Vec<String>,
    /// Refuse identities of this resource that this process did not create.
    #[arg(long)]
    strict_identities: bool,
    /// Allow this number of calls of a kind in 30 seconds, instead of the documented limit; may be repeated.
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
    /// Sign tokens with a cheap signature that cannot be verified, for load tests.
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
            access_keys: access_keys.context("invalid `--access-key`")?,
            strict_identities: self.strict_identities,
            limits: (!self.no_limits).then_some(limits),
            cheap_signatures: self.cheap_signatures,
        })
    }
}

/// Runs an emulator until `stop` completes; running requests are then cut off.
///
/// # Errors
/// If an option is invalid or the address cannot be listened on.
pub async fn run(options: Options, stop: impl Future<Output = ()>) -> anyhow::Result<()> {
    let emulator = Emulator::new(options.settings()?, Clock::default())?;
    let listener =
        TcpListener::bind(options.listen).await.with_context(|| format!("cannot listen on {}", options.listen))?;
    println!("ACS emulator on http://{}", listener.local_addr()?);
    tokio::select! {
        served = axum::serve(listener, emulator.router()) => Ok(served?),
        () = stop => Ok(()),
    }
}

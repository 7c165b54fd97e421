//! The ceilings: the least that any program must do for a token, with the crates that the service uses.
//!
//! * Warm: verify the sign-in token, read one row by primary key, answer.
//! * Cold, with `--emulator`: verify, read the user's row, count the call, make the signed call, insert one row durably,
//!   answer.
//!
//! Reads go over a few pipelined connections. There are no logs, limits, policies, revocations, encryption or metrics.

#[path = "../src/acs.rs"]
mod acs;
mod cold;
mod pipeline;
mod verifier;
mod warm;

use std::{net::SocketAddr, path::PathBuf};

use axum::serve::ListenerExt;
use clap::Parser;
use tokio::net::TcpListener;

/// The service's allocator, so that the allocator makes no difference.
#[cfg(target_os = "linux")]
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

#[derive(Parser)]
struct Options {
    #[arg(long)]
    listen: SocketAddr,
    #[arg(long)]
    database_url: String,
    /// The identity provider's key set, a file.
    #[arg(long)]
    jwks: PathBuf,
    #[arg(long)]
    issuer: String,
    #[arg(long)]
    audience: String,
    /// The number of pipelined connections for reads.
    #[arg(long, default_value_t = 2)]
    readers: usize,
    /// The number of connections for durable writes, which run side by side; with `--emulator`.
    #[arg(long, default_value_t = 16)]
    writers: usize,
    /// Issue a token at this emulator for each request.
    #[arg(long, requires = "access_key")]
    emulator: Option<String>,
    #[arg(long)]
    access_key: Option<String>,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let options = Options::parse();
    let router = match (&options.emulator, &options.access_key) {
        (Some(emulator), Some(access_key)) => cold::router(&options, emulator, access_key).await?,
        _ => warm::router(&options).await?,
    };
    let listener = TcpListener::bind(options.listen).await?.tap_io(|stream| {
        // Without it answers may be held back; they are complete either way.
        let _ = stream.set_nodelay(true);
    });
    Ok(axum::serve(listener, router).await?)
}

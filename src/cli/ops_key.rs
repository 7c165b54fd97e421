//! `ops-key`: keys for operators and backends.

use anyhow::ensure;
use clap::Subcommand;
use secrecy::ExposeSecret;

use crate::auth::operator;

#[derive(Debug, Subcommand)]
pub(super) enum OpsKey {
    /// Create a key and print it, with the lines for the settings, which only contain its hash.
    New {
        /// The name of the key in the audit log.
        #[arg(value_name = "NAME")]
        name: String,
        /// A role of the key: viewer, revoker, minter or operator; may be repeated.
        #[arg(long = "role", default_value = "viewer", value_name = "ROLE", value_parser = ["viewer", "revoker", "minter", "operator"])]
        roles: Vec<String>,
    },
}

pub(super) fn run(command: &OpsKey) -> anyhow::Result<()> {
    let OpsKey::New { name, roles } = command;
    let allowed = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit() || c == b'-';
    ensure!(
        (1..=64).contains(&name.len()) && name.bytes().all(allowed),
        "the name must have 1 to 64 characters, only a-z, 0-9 and -"
    );
    let (key, hash) = operator::generate(name)?;
    println!("The key, which is not shown again:\n\n    {}\n\nFor the settings:\n", key.expose_secret());
    println!("[ops.keys.{name}]\nhash = \"{hash}\"\nroles = {roles:?}");
    if roles.iter().any(|role| role == "minter") {
        println!("scopes = [\"chat\", \"voip\"]\nmax_lifetime = \"1h\"");
    }
    Ok(())
}

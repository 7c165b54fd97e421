//! `ops-key`: keys for operators and backends.

use anyhow::ensure;
use clap::Subcommand;
use secrecy::ExposeSecret;

use crate::auth::operator;

#[derive(Debug, Subcommand)]
pub(super) enum OpsKey {
    /// Make a key: prints it once, and the lines for the settings, which have only its hash.
    New {
        /// What the key is called in the audit trail.
        #[arg(value_name = "NAME")]
        name: String,
        /// What its holder may do: viewer, revoker, minter or operator; may be repeated.
        #[arg(long = "role", default_value = "viewer", value_name = "ROLE", value_parser = ["viewer", "revoker", "minter", "operator"])]
        roles: Vec<String>,
    },
}

pub(super) fn run(command: &OpsKey) -> anyhow::Result<()> {
    let OpsKey::New { name, roles } = command;
    let allowed = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit() || c == b'-';
    ensure!(
        (1..=64).contains(&name.len()) && name.bytes().all(allowed),
        "a key's name is 1 to 64 of the characters a-z, 0-9 and -"
    );
    let (key, hash) = operator::generate(name)?;
    println!("The key, shown only now:\n\n    {}\n\nFor the settings:\n", key.expose_secret());
    println!("[ops.keys.{name}]\nhash = \"{hash}\"\nroles = {roles:?}");
    if roles.iter().any(|role| role == "minter") {
        println!("scopes = [\"chat\", \"voip\"]\nmax_lifetime = \"1h\"");
    }
    Ok(())
}

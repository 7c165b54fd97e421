//! What every figure needs around it: a Postgres, an issuer, an emulator of ACS, and the programs that are compared.

use std::{
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use acs_token_vendor::auth::operator;
use anyhow::Context;
use serde_json::{Value, json};
use sqlx::{AssertSqlSafe, Connection, PgConnection};

use crate::{
    issuer::{AUDIENCE, Issuer},
    processes::{Process, free_port, program},
};

/// The emulator's access key: good for nothing else.
pub const ACCESS_KEY: &str = "YmVuY2htYXJrLWFjY2Vzcy1rZXktb2YtdGhlLWVtdWxhdG9y";
pub const OPS_KEY: &str = "atv_operator_of-the-benchmarks";
const ENCRYPTION_KEY: &str = "QUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUE=";

/// The surroundings of a run.
pub struct World {
    pub folder: PathBuf,
    pub http: reqwest::Client,
    pub issuer: Issuer,
    /// A Postgres on which databases may be made.
    postgres: String,
}

/// A running program and where it is.
pub struct Served {
    pub process: Process,
    pub url: String,
}

/// A running service.
pub struct Service {
    pub process: Process,
    pub url: String,
    pub ready_after: Duration,
}

/// How a service is set up.
#[derive(Clone)]
pub struct Setup<'a> {
    pub database: &'a str,
    pub emulator: &'a str,
    /// Whether tokens are stored and reused.
    pub reuse: bool,
    /// More settings, TOML with whole tables.
    pub more: &'a str,
}

/// Limits of ACS that nothing in a benchmark reaches.
pub const NO_QUOTA: &str = "[quota]\ncreate = 100000000\ncreate_with_token = 100000000\nissue = 100000000\nrevoke = 100000000\ndelete = 100000000\n";

impl World {
    pub async fn new(folder: &Path, postgres: &str) -> anyhow::Result<Self> {
        #[expect(clippy::disallowed_methods, reason = "a client of the benchmarks, not of the service")]
        let http = reqwest::Client::builder().no_proxy().timeout(Duration::from_mins(2)).build()?;
        let issuer = Issuer::start(folder).await?;
        Ok(Self { folder: folder.to_owned(), http, issuer, postgres: postgres.to_owned() })
    }

    /// Makes an empty database and returns its URL.
    pub async fn database(&self, name: &str) -> anyhow::Result<String> {
        let mut server =
            PgConnection::connect(&self.postgres).await.context("the Postgres of the benchmarks is away")?;
        sqlx::query(AssertSqlSafe(format!("DROP DATABASE IF EXISTS {name}"))).execute(&mut server).await?;
        sqlx::query(AssertSqlSafe(format!("CREATE DATABASE {name}"))).execute(&mut server).await?;
        let (base, _) = self.postgres.rsplit_once('/').context("no database in the URL of Postgres")?;
        Ok(format!("{base}/{name}"))
    }

    /// Names a SQLite database that is not there yet.
    pub fn sqlite(&self, name: &str) -> String {
        let path = self.folder.join(format!("{name}.db"));
        let _ = std::fs::remove_file(&path);
        format!("sqlite:{}", path.display())
    }

    /// Starts an emulator whose tokens cost next to nothing.
    pub async fn emulator(&self, name: &str, more: &[&str]) -> anyhow::Result<Served> {
        let port = free_port()?;
        let url = format!("http://127.0.0.1:{port}");
        let mut command = Command::new(program("acs-token-vendor")?);
        command.args([
            "emulator",
            "--listen",
            &format!("127.0.0.1:{port}"),
            "--access-key",
            ACCESS_KEY,
            "--log",
            "warn",
        ]);
        command.args(["--cheap-signatures"]).args(more);
        let mut process = Process::start(name, &self.folder, &mut command)?;
        process.wait_for(&self.http, &format!("{url}/_emulator/stats")).await?;
        Ok(Served { process, url })
    }

    /// Starts a service with its log as in production, to a file.
    pub async fn service(&self, name: &str, setup: &Setup<'_>) -> anyhow::Result<Service> {
        self.service_under(name, setup, Command::new(program("acs-token-vendor")?)).await
    }

    /// Starts a service by another command than its own, such as a profiler.
    pub async fn service_under(&self, name: &str, setup: &Setup<'_>, mut command: Command) -> anyhow::Result<Service> {
        let (port, admin_port) = (free_port()?, free_port()?);
        let sealing =
            if setup.reuse { format!("[tokens]\nencryption_keys = \"{ENCRYPTION_KEY}\"\n") } else { String::new() };
        let settings = format!(
            "{more}\n{sealing}[database]\nurl = {database}\n[acs]\nconnection_string = \"endpoint={emulator};accesskey={ACCESS_KEY}\"\n\
             [ops.keys.operator]\nhash = \"{hash}\"\nroles = [\"operator\"]\nscopes = [\"chat\", \"voip\"]\n\
             [shutdown]\ndelay = \"0s\"\n\
             [issuers.bench]\nissuer = \"{issuer}\"\njwks_url = \"{jwks}\"\naudience = \"{AUDIENCE}\"\n\
             [[issuers.bench.policy]]\nscopes = [\"chat\", \"voip\"]\n",
            more = setup.more,
            database = json!(setup.database),
            emulator = setup.emulator,
            hash = operator::hash(OPS_KEY),
            issuer = self.issuer.url,
            jwks = self.issuer.jwks_url(),
        );
        command
            .arg("serve")
            .env("VENDOR__CONFIG", settings)
            .env("VENDOR__SERVER__LISTEN", format!("127.0.0.1:{port}"))
            .env("VENDOR__ADMIN__LISTEN", format!("127.0.0.1:{admin_port}"));
        let mut process = Process::start(name, &self.folder, &mut command)?;
        let ready_after = process.wait_for(&self.http, &format!("http://127.0.0.1:{admin_port}/readyz")).await?;
        let url = format!("http://127.0.0.1:{port}");
        Ok(Service { process, url, ready_after })
    }

    /// Starts the ceiling on a database that has its table.
    pub async fn ceiling(&self, name: &str, database: &str) -> anyhow::Result<Served> {
        let mut command = Command::new(program("ceiling")?);
        self.ceiling_under(name, database, &mut command).await
    }

    pub async fn ceiling_under(&self, name: &str, database: &str, command: &mut Command) -> anyhow::Result<Served> {
        let address = format!("127.0.0.1:{}", free_port()?);
        command.args(["--listen", &address, "--database-url", database, "--issuer", &self.issuer.url]);
        command.args(["--audience", AUDIENCE]).arg("--jwks").arg(&self.issuer.jwks_file);
        let mut process = Process::start(name, &self.folder, command)?;
        let url = format!("http://{address}");
        process.wait_for(&self.http, &url).await?;
        Ok(Served { process, url })
    }

    /// Starts the Express server whose packages `scripts/bench` installed.
    pub async fn peer(&self, database: &str, emulator: &str) -> anyhow::Result<Served> {
        let port = free_port()?.to_string();
        let server = concat!(env!("CARGO_MANIFEST_DIR"), "/peers/express/server.mjs");
        let mut command = Command::new("node");
        command.arg(server).env("NODE_ENV", "production").env("PORT", &port).env("DATABASE_URL", database);
        command.env("ACS_ENDPOINT", emulator).env("ACS_ACCESS_KEY", ACCESS_KEY);
        command.env("ISSUER", &self.issuer.url).env("AUDIENCE", AUDIENCE).env("JWKS_URL", self.issuer.jwks_url());
        let mut process = Process::start("peer", &self.folder, &mut command)?;
        let url = format!("http://127.0.0.1:{port}");
        process.wait_for(&self.http, &url).await?;
        Ok(Served { process, url })
    }

    /// Writes a list of logins for the load generator.
    pub fn write_logins(&self, name: &str, logins: &[String]) -> anyhow::Result<PathBuf> {
        let path = self.folder.join(name);
        std::fs::write(&path, logins.join("\n") + "\n")?;
        Ok(path)
    }

    /// Reads what an emulator counted.
    pub async fn stats(&self, emulator: &str) -> anyhow::Result<Value> {
        Ok(self.http.get(format!("{emulator}/_emulator/stats")).send().await?.json().await?)
    }

    /// Makes every call of an emulator take longer.
    pub async fn delay(&self, emulator: &str, ms: u64) -> anyhow::Result<()> {
        let rules = json!({"rules": [{"operation": "*", "kind": "delay", "delayMs": ms}]});
        let answer = self.http.put(format!("{emulator}/_emulator/faults")).json(&rules).send().await?;
        answer.error_for_status()?;
        Ok(())
    }
}

/// Names of so many users.
pub fn subjects(count: usize) -> Vec<String> {
    (0..count).map(|n| format!("user-{n}")).collect()
}

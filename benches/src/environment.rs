//! What every figure needs: a Postgres, an identity provider, an emulator of ACS, and the programs that are compared.

use std::{
    fmt::Write,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::Context;
use aws_lc_rs::digest;
use serde_json::{Value, json};
use sqlx::{AssertSqlSafe, Connection, PgConnection};

use crate::{
    issuer::{AUDIENCE, Issuer},
    processes::{Process, free_port, program},
};

/// The emulator's access key. It is worth nothing elsewhere.
pub const ACCESS_KEY: &str = "YmVuY2htYXJrLWFjY2Vzcy1rZXktb2YtdGhlLWVtdWxhdG9y";
pub const OPS_KEY: &str = "atv_operator_of-the-benchmarks";
const ENCRYPTION_KEY: &str = "QUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUE=";

pub struct Environment {
    pub folder: PathBuf,
    pub http: reqwest::Client,
    pub issuer: Issuer,
    /// A Postgres where databases may be created.
    postgres: String,
    /// Builds of the service: this one, and the one that it is compared with.
    builds: Vec<Build>,
}

/// A build of the service.
#[derive(Clone)]
pub struct Build {
    /// The name in series: this build is `service`.
    pub name: &'static str,
    program: PathBuf,
}

/// A running program and its address.
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

/// The settings of a service.
#[derive(Clone)]
pub struct Setup<'a> {
    pub database: &'a str,
    pub emulator: &'a str,
    /// Whether tokens are cached.
    pub caches: bool,
    /// More settings: whole TOML tables.
    pub more: &'a str,
}

/// A quota that no benchmark reaches.
pub const NO_QUOTA: &str = "[quota]\ncreate = 100000000\ncreate_with_token = 100000000\nissue = 100000000\nrevoke = 100000000\ndelete = 100000000\n";

impl Environment {
    pub async fn new(folder: &Path, postgres: &str, compare: Option<PathBuf>) -> anyhow::Result<Self> {
        #[expect(clippy::disallowed_methods, reason = "the benchmarks have a client of their own")]
        let http = reqwest::Client::builder().no_proxy().timeout(Duration::from_mins(2)).build()?;
        let issuer = Issuer::start(folder).await?;
        let mut builds = vec![Build { name: "service", program: program("acs-token-vendor")? }];
        builds.extend(compare.map(|program| Build { name: "compared build", program }));
        Ok(Self { folder: folder.to_owned(), http, issuer, postgres: postgres.to_owned(), builds })
    }

    /// Returns this build and, if there is one, the build that it is compared with.
    pub fn builds(&self) -> &[Build] {
        &self.builds
    }

    /// Creates an empty database and returns its URL.
    pub async fn database(&self, name: &str) -> anyhow::Result<String> {
        let name = name.replace(['-', ' '], "_");
        let mut server = PgConnection::connect(&self.postgres).await.context("cannot connect to Postgres")?;
        sqlx::query(AssertSqlSafe(format!("DROP DATABASE IF EXISTS {name} WITH (FORCE)"))).execute(&mut server).await?;
        sqlx::query(AssertSqlSafe(format!("CREATE DATABASE {name}"))).execute(&mut server).await?;
        let (base, _) = self.postgres.rsplit_once('/').context("no database in the URL of Postgres")?;
        Ok(format!("{base}/{name}"))
    }

    /// Returns the URL of a SQLite database that does not exist yet.
    pub fn sqlite(&self, name: &str) -> String {
        let path = self.folder.join(format!("{name}.db"));
        for suffix in ["", "-wal", "-shm"] {
            let mut file = path.clone().into_os_string();
            file.push(suffix);
            let _ = std::fs::remove_file(file);
        }
        format!("sqlite:{}", path.display())
    }

    /// Starts an emulator whose tokens are cheap to sign.
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

    /// Starts this build of the service. Its log goes to a file, with the default level.
    pub async fn service(&self, name: &str, setup: &Setup<'_>) -> anyhow::Result<Service> {
        self.service_of(&self.builds[0], name, setup).await
    }

    pub async fn service_of(&self, build: &Build, name: &str, setup: &Setup<'_>) -> anyhow::Result<Service> {
        self.service_under(build, name, setup, None).await
    }

    /// Starts a service, if wanted by another command, such as a profiler.
    pub async fn service_under(
        &self,
        build: &Build,
        name: &str,
        setup: &Setup<'_>,
        profiler: Option<Command>,
    ) -> anyhow::Result<Service> {
        let mut command = under(profiler, &build.program);
        let (port, admin_port) = (free_port()?, free_port()?);
        let keys =
            if setup.caches { format!("[tokens]\nencryption_keys = \"{ENCRYPTION_KEY}\"\n") } else { String::new() };
        let settings = format!(
            "{more}\n{keys}[database]\nurl = {database}\n[acs]\nconnection_string = \"endpoint={emulator};accesskey={ACCESS_KEY}\"\n\
             [ops.keys.operator]\nhash = \"{hash}\"\nroles = [\"operator\"]\nscopes = [\"chat\", \"voip\"]\n\
             [shutdown]\ndelay = \"0s\"\n\
             [issuers.bench]\nissuer = \"{issuer}\"\njwks_url = \"{jwks}\"\naudience = \"{AUDIENCE}\"\n\
             [[issuers.bench.policy]]\nscopes = [\"chat\", \"voip\"]\n",
            more = setup.more,
            database = json!(setup.database),
            emulator = setup.emulator,
            hash = sha256(OPS_KEY),
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

    /// Starts the warm ceiling, if wanted under a profiler.
    pub async fn warm_ceiling(&self, database: &str, profiler: Option<Command>) -> anyhow::Result<Served> {
        self.ceiling("warm-ceiling", database, under(profiler, &program("ceiling")?)).await
    }

    pub async fn cold_ceiling(&self, database: &str, emulator: &str) -> anyhow::Result<Served> {
        let mut command = Command::new(program("ceiling")?);
        command.args(["--emulator", emulator, "--access-key", ACCESS_KEY]);
        self.ceiling("cold-ceiling", database, command).await
    }

    async fn ceiling(&self, name: &str, database: &str, mut command: Command) -> anyhow::Result<Served> {
        let address = format!("127.0.0.1:{}", free_port()?);
        command.args(["--listen", &address, "--database-url", database, "--issuer", &self.issuer.url]);
        command.args(["--audience", AUDIENCE]).arg("--jwks").arg(&self.issuer.jwks_file);
        let mut process = Process::start(name, &self.folder, &mut command)?;
        let url = format!("http://{address}");
        process.wait_for(&self.http, &url).await?;
        Ok(Served { process, url })
    }

    /// Starts the Express server. `scripts/bench` has installed its packages.
    pub async fn express(&self, database: &str, emulator: &str) -> anyhow::Result<Served> {
        let port = free_port()?.to_string();
        let server = concat!(env!("CARGO_MANIFEST_DIR"), "/peers/express/server.mjs");
        let mut command = Command::new("node");
        command.arg(server).env("NODE_ENV", "production").env("PORT", &port).env("DATABASE_URL", database);
        command.env("ACS_ENDPOINT", emulator).env("ACS_ACCESS_KEY", ACCESS_KEY);
        command.env("ISSUER", &self.issuer.url).env("AUDIENCE", AUDIENCE).env("JWKS_URL", self.issuer.jwks_url());
        let mut process = Process::start("express", &self.folder, &mut command)?;
        let url = format!("http://127.0.0.1:{port}");
        process.wait_for(&self.http, &url).await?;
        Ok(Served { process, url })
    }

    /// Writes sign-in tokens for the load generator.
    pub fn write_tokens(&self, name: &str, tokens: &[String]) -> anyhow::Result<PathBuf> {
        let path = self.folder.join(name);
        std::fs::write(&path, tokens.join("\n") + "\n")?;
        Ok(path)
    }

    /// Reads the counters of an emulator.
    pub async fn stats(&self, emulator: &str) -> anyhow::Result<Value> {
        Ok(self.http.get(format!("{emulator}/_emulator/stats")).send().await?.json().await?)
    }

    /// Delays every answer of an emulator.
    pub async fn delay(&self, emulator: &str, ms: u64) -> anyhow::Result<()> {
        let rules = json!({"rules": [{"operation": "*", "kind": "delay", "delayMs": ms}]});
        let answer = self.http.put(format!("{emulator}/_emulator/faults")).json(&rules).send().await?;
        answer.error_for_status()?;
        Ok(())
    }
}

/// Returns the subjects of so many users.
pub fn subjects(count: usize) -> Vec<String> {
    (0..count).map(|n| format!("user-{n}")).collect()
}

fn under(profiler: Option<Command>, program: &Path) -> Command {
    profiler.map_or_else(
        || Command::new(program),
        |mut profiler| {
            profiler.arg(program);
            profiler
        },
    )
}

fn sha256(text: &str) -> String {
    digest::digest(&digest::SHA256, text.as_bytes()).as_ref().iter().fold(String::new(), |mut hex, byte| {
        // Writing to a string cannot fail.
        let _ = write!(hex, "{byte:02x}");
        hex
    })
}

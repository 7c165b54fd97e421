//! The processes of a run: three replicas, an emulator with faults and an issuer, and proxies between them.

use std::{
    fs::File,
    process::{Child, Command, Stdio},
    sync::Mutex,
    time::Duration,
};

use acs_token_vendor::{app, auth::operator};
use reqwest::{Client, StatusCode};
use serde_json::{Value, json};
use sqlx::{AssertSqlSafe, Connection, PgConnection};
use tempfile::TempDir;

use crate::proxy::Proxy;

pub const REPLICAS: usize = 3;
pub const OPS_KEY: &str = "atv_operator_of-the-torture";
pub const ACCESS_KEY: &str = "dG9ydHVyZS1hY2Nlc3Mta2V5LW9mLXRoZS1lbXVsYXRvcg==";
pub const ENCRYPTION_KEY: &str = "U1NTU1NTU1NTU1NTU1NTU1NTU1NTU1NTU1NTU1NTU1M=";

/// A call to ACS acts at most so long after it was claimed: its own deadline, and what `late` adds.
pub const MAX_CALL_AGE_S: u64 = 6;
const LATE_MS: u64 = 4000;

pub struct World {
    pub http: Client,
    pub replicas: Vec<Replica>,
    pub emulator: String,
    pub issuer: String,
    pub postgres: Proxy,
    pub acs: Proxy,
    pub database: String,
    pub folder: TempDir,
    restart_postgres: String,
    processes: Mutex<Vec<Process>>,
}

pub struct Replica {
    pub url: String,
    name: String,
    admin: String,
    settings: String,
    process: Mutex<Option<Process>>,
}

/// A process that ends when it is dropped.
struct Process(Child);

impl Process {
    fn start(name: &str, folder: &TempDir, arguments: &[&str], environment: &[(&str, &str)]) -> Self {
        let log = File::options().create(true).append(true).open(folder.path().join(format!("{name}.log"))).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_acs-token-vendor"));
        command.env_clear().args(arguments).envs(environment.iter().copied());
        command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
        Self(command.spawn().unwrap())
    }
}

impl Drop for Process {
    /// A process that is killed had no time to finish anything.
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl World {
    pub async fn start(postgres: &str, restart_postgres: &str) -> Self {
        let folder = TempDir::new().unwrap();
        let http = app::client_builder(true).timeout(Duration::from_secs(20)).build().unwrap();
        let name = format!("torture_{}", uuid::Uuid::new_v4().simple());
        let mut server = PgConnection::connect(postgres).await.unwrap();
        sqlx::query(AssertSqlSafe(format!("CREATE DATABASE {name}"))).execute(&mut server).await.unwrap();
        let (base, _) = postgres.rsplit_once('/').unwrap();
        let (credentials, host) = base.rsplit_once('@').unwrap();

        let (emulator_at, issuer_at) = (free_address(), free_address());
        let emulator = format!("http://{emulator_at}");
        let limits = ["issue=3000", "create_with_token=1000", "revoke=1200", "delete=400"]
            .map(|limit| format!("--limit={limit}"));
        let mut arguments = vec!["emulator", "--listen", &emulator_at, "--access-key", ACCESS_KEY, "--log", "warn"];
        arguments.extend(limits.iter().map(String::as_str));
        arguments.extend(["--retry-after", "--cheap-signatures"]);
        let processes = vec![
            Process::start("emulator", &folder, &arguments, &[]),
            Process::start("issuer", &folder, &["dev-issuer", "--listen", &issuer_at], &[]),
        ];
        let issuer = format!("http://{issuer_at}/dev");
        wait_for(&http, &format!("{emulator}/_emulator/stats")).await;
        wait_for(&http, &format!("{issuer}/jwks")).await;

        let (postgres, acs) = (Proxy::start(host.to_owned()).await, Proxy::start(emulator_at).await);
        let through_proxy = format!("{credentials}@{}/{name}", postgres.address);
        let settings = format!(
            "[database]\nurl = \"{through_proxy}\"\nacquire_timeout = \"2s\"\n\
             [acs]\nconnection_string = \"endpoint=http://{acs};accesskey={ACCESS_KEY}\"\ntimeout = \"1500ms\"\nmax_call_age = \"{MAX_CALL_AGE_S}s\"\n\
             [tokens]\nencryption_keys = \"{ENCRYPTION_KEY}\"\n\
             [quota]\nissue = 3000\ncreate_with_token = 1000\nrevoke = 1200\ndelete = 400\n\
             [limits]\nuser = {{ requests = 1000000, per = \"1s\" }}\n\
             [ops.keys.operator]\nhash = \"{hash}\"\nroles = [\"operator\"]\nscopes = [\"chat\", \"voip\"]\n\
             [shutdown]\ndelay = \"0s\"\n\
             [issuers.main]\nissuer = \"{issuer}\"\naudience = \"{audience}\"\n\
             [[issuers.main.policy]]\nscopes = [\"chat\", \"voip\"]\n",
            acs = acs.address,
            hash = operator::hash(OPS_KEY),
            audience = acs_token_vendor::dev::issuer::AUDIENCE,
        );
        let replica = |number: usize| Replica {
            url: format!("http://{}", free_address()),
            name: format!("replica-{number}"),
            admin: free_address(),
            settings: settings.clone(),
            process: Mutex::new(None),
        };
        let world = Self {
            http,
            replicas: (0..REPLICAS).map(replica).collect(),
            emulator,
            issuer,
            postgres,
            acs,
            database: format!("{base}/{name}"),
            folder,
            restart_postgres: restart_postgres.to_owned(),
            processes: Mutex::new(processes),
        };
        for number in 0..REPLICAS {
            world.revive(number);
        }
        for replica in &world.replicas {
            wait_for(&world.http, &format!("http://{}/readyz", replica.admin)).await;
        }
        world.misbehave().await;
        world
    }

    /// Makes ACS lose answers, act late, refuse and be slow.
    async fn misbehave(&self) {
        let rules = json!({"rules": [
            {"operation": "*", "kind": "drop_after", "share": 0.05},
            {"operation": "*", "kind": "late", "share": 0.05, "delayMs": LATE_MS},
            {"operation": "*", "kind": "status", "status": 503, "share": 0.05},
            {"operation": "revoke", "kind": "late", "share": 0.15, "delayMs": LATE_MS},
            {"operation": "issue", "kind": "delay", "share": 0.25, "delayMs": 1200},
            {"operation": "*", "kind": "delay", "share": 0.05, "delayMs": 1200},
            {"operation": "*", "kind": "delay", "share": 0.2, "delayMs": 60},
        ]});
        let answer = self.http.put(format!("{}/_emulator/faults", self.emulator)).json(&rules).send().await.unwrap();
        assert_eq!(answer.status(), StatusCode::OK, "{}", answer.text().await.unwrap());
    }

    /// Makes ACS behave again.
    pub async fn behave(&self) {
        self.http.delete(format!("{}/_emulator/faults", self.emulator)).send().await.unwrap();
    }

    /// Kills a replica, as `kill -9` does.
    pub fn kill(&self, number: usize) {
        self.replicas[number].process.lock().unwrap().take();
    }

    /// Starts a replica, if it does not run.
    pub fn revive(&self, number: usize) {
        let replica = &self.replicas[number];
        let mut process = replica.process.lock().unwrap();
        let is_dead = process.as_mut().is_none_or(|process| process.0.try_wait().unwrap().is_some());
        if is_dead {
            let listen = replica.url.trim_start_matches("http://");
            let environment = [
                ("VENDOR__CONFIG", replica.settings.as_str()),
                ("VENDOR__SERVER__LISTEN", listen),
                ("VENDOR__ADMIN__LISTEN", replica.admin.as_str()),
            ];
            *process = Some(Process::start(&replica.name, &self.folder, &["serve"], &environment));
        }
    }

    /// Waits until every replica serves.
    pub async fn wait_until_ready(&self) {
        for replica in &self.replicas {
            wait_for(&self.http, &format!("http://{}/readyz", replica.admin)).await;
        }
    }

    /// Stops Postgres without warning and starts it again.
    pub async fn restart_postgres(&self) {
        let restart = self.restart_postgres.clone();
        let run = move || Command::new("sh").args(["-c", &restart]).stdout(Stdio::null()).status();
        let done = tokio::task::spawn_blocking(run).await.unwrap().unwrap();
        assert!(done.success(), "Postgres could not be restarted");
    }

    /// Reads the state of the emulator.
    pub async fn emulator(&self, path: &str) -> Value {
        self.http.get(format!("{}/_emulator/{path}", self.emulator)).send().await.unwrap().json().await.unwrap()
    }

    /// Asks the emulator whether a token is alive.
    pub async fn is_alive(&self, token: &str) -> bool {
        let url = format!("{}/_emulator/introspect", self.emulator);
        let answer = self.http.post(url).json(&json!({"token": token})).send().await.unwrap();
        answer.json::<Value>().await.unwrap()["active"] == true
    }

    /// Signs a user in, now.
    pub async fn sign_in(&self, user: &str) -> String {
        let answer =
            self.http.post(format!("{}/login", self.issuer)).json(&json!({"user": user})).send().await.unwrap();
        answer.json::<Value>().await.unwrap()["access_token"].as_str().unwrap().to_owned()
    }
}

impl Drop for World {
    fn drop(&mut self) {
        self.processes.lock().unwrap().clear();
    }
}

fn free_address() -> String {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string()
}

async fn wait_for(http: &Client, url: &str) {
    for _ in 0..6000 {
        if http.get(url).send().await.is_ok_and(|answer| answer.status() == StatusCode::OK) {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("no answer from {url}");
}

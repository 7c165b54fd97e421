//! The binary as a process of its own.

use std::{
    io::{BufRead, BufReader},
    process::{Child, Command, Output, Stdio},
};

use serde_json::Value;

use super::{Answer, client};

pub fn binary() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_acs-token-vendor"));
    command.env_clear().stdin(Stdio::null());
    command
}

pub fn run(arguments: &[&str], environment: &[(&str, &str)]) -> (bool, String, String) {
    let Output { status, stdout, stderr } =
        binary().args(arguments).envs(environment.iter().copied()).output().unwrap();
    (status.success(), String::from_utf8(stdout).unwrap(), String::from_utf8(stderr).unwrap())
}

/// A process that ends with the test.
pub struct Running {
    pub child: Child,
    pub said: Vec<String>,
}

impl Running {
    /// Starts a command and reads its output until a line has `until`.
    pub fn start(arguments: &[&str], until: &str) -> Self {
        let mut child = binary().args(arguments).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        let mut said = Vec::new();
        for line in BufReader::new(child.stdout.take().unwrap()).lines() {
            said.push(line.unwrap());
            if said.last().unwrap().contains(until) {
                return Self { child, said };
            }
        }
        let _ = child.wait();
        panic!("{arguments:?} ended, saying {said:?}");
    }

    /// The first URL after a word in the output.
    pub fn url(&self, after: &str) -> String {
        let line = self.said.iter().find(|line| line.contains(after)).unwrap();
        let (_, rest) = line.split_once(after).unwrap();
        let (_, rest) = rest.split_once("http://").unwrap();
        let host: String = rest.chars().take_while(|c| c.is_ascii_digit() || ".:".contains(*c)).collect();
        format!("http://{host}")
    }

    pub fn terminate(mut self) -> bool {
        let id = self.child.id().to_string();
        assert!(Command::new("kill").args(["-TERM", &id]).status().unwrap().success());
        self.child.wait().unwrap().success()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub fn dev(folder: &tempfile::TempDir) -> Running {
    let data = folder.path().to_str().unwrap();
    let any = "127.0.0.1:0";
    let arguments = ["dev", "--listen", any, "--admin-listen", any, "--emulator-listen", any, "--data", data];
    Running::start(&arguments, "curl -s -X POST")
}

pub async fn sign_in(url: &str, request: Value) -> String {
    let answer = client().post(format!("{url}/dev/login")).json(&request).send().await.unwrap();
    let answer = Answer::of(answer).await;
    answer.json()["access_token"].as_str().unwrap_or_else(|| panic!("{answer:?}")).to_owned()
}

pub async fn token(url: &str, sign_in: &str) -> Answer {
    Answer::of(client().post(format!("{url}/token")).bearer_auth(sign_in).send().await.unwrap()).await
}

//! Operators of the tests: one key for each role, and asking with it.

use std::fmt::Write;

use acs_token_vendor::auth::operator;
use reqwest::Method;
use serde_json::Value;

use super::{Answer, TestApp};

/// Subjects of real identity providers, and some that are difficult in paths, SQL and JSON.
pub const ODD_SUBJECTS: [&str; 12] = [
    "a/b",
    "100%",
    "%2F",
    "auth0|5f7c8ec7c33c6c004bbafe82",
    "alice@example.com",
    "https://idp.example.com/users/7?x=y#z",
    "two words",
    " leading and trailing ",
    "Zoë Ünïcode 李雷 🦀",
    "a:b:c",
    "../../users",
    "'; DROP TABLE users; --",
];

/// The key of a role.
pub fn key(role: &str) -> String {
    format!("atv_{role}_of-the-tests")
}

/// The settings of one key for each role.
pub fn settings() -> String {
    let mut toml = String::new();
    for role in ["viewer", "revoker", "minter", "operator"] {
        let hash = operator::hash(&key(role));
        let scopes = if role == "minter" { "scopes = [\"chat\", \"voip.join\"]\n" } else { "" };
        write!(toml, "[ops.keys.{role}]\nhash = \"{hash}\"\nroles = [\"{role}\"]\n{scopes}").unwrap();
    }
    toml
}

/// Writes a text as one segment of a path.
pub fn segment(text: &str) -> String {
    text.bytes().fold(String::new(), |mut path, byte| {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            path.push(char::from(byte));
        } else {
            write!(path, "%{byte:02X}").unwrap();
        }
        path
    })
}

impl TestApp {
    /// Asks as an operator.
    pub async fn ops(&self, method: Method, path: &str, body: Option<Value>) -> Answer {
        self.ops_as("operator", method, path, body, &[]).await
    }

    /// Asks with the key of a role and more headers.
    pub async fn ops_as(
        &self,
        role: &str,
        method: Method,
        path: &str,
        body: Option<Value>,
        headers: &[(&str, &str)],
    ) -> Answer {
        let mut request = self.http.request(method, format!("{}{path}", self.url)).bearer_auth(key(role));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        if let Some(body) = body {
            request = request.json(&body);
        }
        Answer::of(request.send().await.unwrap()).await
    }

    /// Revokes a user of the test's issuer.
    pub async fn revoke(&self, subject: &str) -> Answer {
        self.ops(Method::POST, &format!("/users/test:{subject}/revoke"), None).await
    }

    /// Reads a user of the test's issuer.
    pub async fn user(&self, subject: &str) -> Value {
        self.ops(Method::GET, &format!("/users/test:{subject}"), None).await.json()
    }
}

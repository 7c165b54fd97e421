//! Behind a real reverse proxy: nginx must pass every user's path through as it was written.

use std::{
    io::Write,
    process::{Child, Command, Stdio},
    time::Duration,
};

use acs_token_vendor::config;
use reqwest::StatusCode;
use serde_json::json;

use crate::support::{
    Answer, Database, TestApp, eventually,
    ops::{ODD_SUBJECTS, key, segment},
};

/// A running nginx that ends with the test.
struct Nginx {
    process: Child,
    _folder: tempfile::TempDir,
    url: String,
}

impl Nginx {
    /// Starts nginx before a service; without an nginx the test is skipped, unless that is forbidden.
    async fn start(upstream: &str) -> Option<Self> {
        let environment = config::environment();
        let Some(binary) = environment.get("TEST_NGINX") else {
            assert!(!environment.contains_key("TEST_POSTGRES_REQUIRED"), "TEST_NGINX is not set");
            eprintln!("skipped: TEST_NGINX is not set; ./scripts/test brings an nginx");
            return None;
        };
        let folder = tempfile::tempdir().unwrap();
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let at = folder.path().display();
        let settings = format!(
            "daemon off; pid {at}/pid; error_log {at}/error.log; worker_processes 1;\n\
             events {{}}\n\
             http {{\n  access_log off; client_body_temp_path {at}/body; proxy_temp_path {at}/proxy;\n  \
             fastcgi_temp_path {at}/fastcgi; uwsgi_temp_path {at}/uwsgi; scgi_temp_path {at}/scgi;\n  \
             server {{\n    listen 127.0.0.1:{port};\n    location / {{\n      proxy_pass {upstream};\n      \
             proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;\n    }}\n  }}\n}}\n"
        );
        let path = folder.path().join("nginx.conf");
        std::fs::File::create(&path).unwrap().write_all(settings.as_bytes()).unwrap();
        let process = Command::new(binary)
            .args(["-e", "stderr", "-c", path.to_str().unwrap(), "-g", "user root;"])
            .stderr(Stdio::inherit())
            .spawn()
            .unwrap();
        let nginx = Self { process, _folder: folder, url: format!("http://127.0.0.1:{port}") };
        eventually(async || std::net::TcpStream::connect(("127.0.0.1", port)).is_ok().then_some(())).await;
        Some(nginx)
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        // The master ends its workers on SIGTERM; killed outright it would leave them behind.
        let _ = Command::new("kill").args(["-TERM", &self.process.id().to_string()]).status();
        let _ = self.process.wait();
    }
}

#[tokio::test]
async fn odd_subjects_pass_through_nginx() {
    let app = TestApp::start_with(&Database::sqlite(), "[server]\ntrusted_proxies = [\"127.0.0.1\"]").await;
    let Some(nginx) = Nginx::start(&app.url).await else {
        return;
    };
    for subject in ODD_SUBJECTS {
        let sign_in = app.issuer.sign_in(subject);
        let token = app.http.post(format!("{}/token", nginx.url)).bearer_auth(&sign_in).send().await.unwrap();
        let identity = Answer::of(token).await.identity();
        // Long enough after the mint for the revocation to count at once.
        app.clock.advance(Duration::from_secs(3));
        let path = format!("{}/users/{}", nginx.url, segment(&format!("test:{subject}")));
        let user = app.http.get(&path).bearer_auth(key("viewer")).send().await.unwrap();
        let user = Answer::of(user).await.json();
        assert_eq!((&user["subject"], &user["communicationUserId"]), (&json!(subject), &json!(identity)));
        let revoke = app.http.post(format!("{path}/revoke")).bearer_auth(key("revoker")).send().await.unwrap();
        assert!(revoke.status().is_success(), "{subject}: {}", revoke.status());
    }
    let nul = format!("{}/users/test:a%00b", nginx.url);
    let refused = app.http.get(nul).bearer_auth(key("viewer")).send().await.unwrap();
    assert_eq!(refused.status(), StatusCode::BAD_REQUEST);
}

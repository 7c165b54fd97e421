//! Signed calls to ACS with nothing around them: no retries, no quota, no second key.

use std::time::SystemTime;

use anyhow::{Context, ensure};
use aws_lc_rs::{digest, hmac};
use base64::{Engine, prelude::BASE64_STANDARD};
use reqwest::{Client, StatusCode, Url, header::CONTENT_TYPE};
use serde::{Deserialize, Serialize};
use serde_json::json;

pub struct Acs {
    http: Client,
    endpoint: String,
    host: String,
    key: hmac::Key,
}

#[derive(Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct IssuedToken {
    pub token: String,
    pub expires_on: String,
}

impl Acs {
    pub fn new(http: Client, endpoint: &str, access_key: &str) -> anyhow::Result<Self> {
        let url: Url = endpoint.parse().context("not a URL")?;
        let host = url.host_str().context("no host")?;
        let host = url.port().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"));
        let key = BASE64_STANDARD.decode(access_key).context("the access key is not base64")?;
        let endpoint = endpoint.trim_end_matches('/').to_owned();
        Ok(Self { http, endpoint, host, key: hmac::Key::new(hmac::HMAC_SHA256, &key) })
    }

    /// Issues a token for an identity.
    pub async fn issue(&self, identity: &str) -> anyhow::Result<IssuedToken> {
        let body = json!({"scopes": ["chat", "voip"], "expiresInMinutes": 60});
        let body = serde_json::to_vec(&body)?;
        let target = format!("/identities/{identity}/:issueAccessToken?api-version=2023-10-01");
        #[expect(clippy::disallowed_methods, reason = "the benchmarks run on the system's clock")]
        let date = httpdate::fmt_http_date(SystemTime::now());
        let hash = BASE64_STANDARD.encode(digest::digest(&digest::SHA256, &body));
        let text = format!("POST\n{target}\n{date};{};{hash}", self.host);
        let signature = BASE64_STANDARD.encode(hmac::sign(&self.key, text.as_bytes()));
        let authorization =
            format!("HMAC-SHA256 SignedHeaders=x-ms-date;host;x-ms-content-sha256&Signature={signature}");
        let request = self
            .http
            .post(format!("{}{target}", self.endpoint))
            .header("x-ms-date", date)
            .header("x-ms-content-sha256", hash)
            .header("authorization", authorization)
            .header(CONTENT_TYPE, "application/json")
            .body(body);
        let answer = request.send().await?;
        let status = answer.status();
        ensure!(status == StatusCode::OK, "ACS answered {status}");
        Ok(answer.json().await?)
    }
}

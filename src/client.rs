//! The client of our own API, for the operator commands and the health check of the container.

use std::{io, time::Duration};

use anyhow::{Context, bail, ensure};
use futures_util::{Stream, TryStreamExt, stream::BoxStream};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use reqwest::{Method, RequestBuilder, Response, header};
use secrecy::{ExposeSecret, SecretString};
use serde::Serialize;
use serde_json::Value;
use tokio_util::{
    codec::{FramedRead, LinesCodec},
    io::StreamReader,
};
use url::Url;
use uuid::Uuid;

use crate::api::ProblemDocument;

/// Longer than the service waits for ACS before it answers 202.
const TIMEOUT: Duration = Duration::from_mins(1);

/// The longest line of a response.
const MAX_LINE_BYTES: usize = 64 * 1024;
/// All but the characters that RFC 3986 section 2.3 calls unreserved.
const RESERVED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// Checks whether the service on this machine is ready.
pub(crate) async fn check_ready(http: &reqwest::Client, admin: std::net::SocketAddr) -> anyhow::Result<()> {
    let url = format!("http://{admin}/readyz");
    let answer = http.get(&url).timeout(Duration::from_secs(2)).send().await.context("the service did not respond")?;
    ensure!(answer.status().is_success(), "the service is not ready: {url} answered {}", answer.status());
    Ok(())
}

/// A client of the API for operators.
///
/// It returns JSON as received, so that scripts also see members that a newer service adds.
#[derive(Debug)]
pub(crate) struct Client {
    http: reqwest::Client,
    base: Url,
    authorization: header::HeaderValue,
}

impl Client {
    /// Makes a client of the service at a URL, with an operator key.
    pub(crate) fn new(http: reqwest::Client, base: Url, key: &SecretString) -> anyhow::Result<Self> {
        let value = format!("Bearer {}", key.expose_secret());
        // The error of the library is dropped, because it could quote the key.
        let Ok(mut authorization) = header::HeaderValue::try_from(value) else {
            bail!("the operator key has invalid characters");
        };
        authorization.set_sensitive(true);
        Ok(Self { http, base, authorization })
    }

    pub(crate) async fn get(&self, path: &[&str], query: &[(&str, String)]) -> anyhow::Result<Value> {
        self.answer(self.request(Method::GET, path, query)?).await
    }

    pub(crate) async fn post(&self, path: &[&str], body: &impl Serialize) -> anyhow::Result<Value> {
        self.write(Method::POST, path, body).await
    }

    pub(crate) async fn put(&self, path: &[&str], body: &impl Serialize) -> anyhow::Result<Value> {
        self.write(Method::PUT, path, body).await
    }

    pub(crate) async fn delete(&self, path: &[&str], body: &impl Serialize) -> anyhow::Result<Value> {
        self.write(Method::DELETE, path, body).await
    }

    /// Streams lines to the service and returns the stream of its result lines.
    pub(crate) async fn post_lines(
        &self,
        path: &[&str],
        lines: BoxStream<'static, io::Result<Vec<u8>>>,
    ) -> anyhow::Result<impl Stream<Item = anyhow::Result<String>> + use<>> {
        let request = self
            .http
            .post(address(&self.base, path, &[])?)
            .header(header::AUTHORIZATION, self.authorization.clone())
            .header(header::CONTENT_TYPE, "application/x-ndjson")
            .body(reqwest::Body::wrap_stream(lines));
        let answer = self.send(request).await?;
        if !answer.status().is_success() {
            self.read(answer).await?;
            bail!("the service did not accept the lines");
        }
        let reader = StreamReader::new(answer.bytes_stream().map_err(|error| io::Error::other(error.without_url())));
        let lines = FramedRead::new(reader, LinesCodec::new_with_max_length(MAX_LINE_BYTES));
        Ok(lines.map_err(|error| anyhow::Error::new(error).context("the connection was lost")))
    }

    /// Each write has an idempotency key, so that a proxy that repeats it has no effect.
    async fn write(&self, method: Method, path: &[&str], body: &impl Serialize) -> anyhow::Result<Value> {
        let request = self.request(method, path, &[])?.header("idempotency-key", Uuid::new_v4().to_string()).json(body);
        self.answer(request).await
    }

    fn request(&self, method: Method, path: &[&str], query: &[(&str, String)]) -> anyhow::Result<RequestBuilder> {
        let request = self.http.request(method, address(&self.base, path, query)?);
        Ok(request
            .timeout(TIMEOUT)
            .header(header::ACCEPT, "application/json, application/problem+json")
            .header(header::AUTHORIZATION, self.authorization.clone()))
    }

    async fn answer(&self, request: RequestBuilder) -> anyhow::Result<Value> {
        self.read(self.send(request).await?).await
    }

    async fn send(&self, request: RequestBuilder) -> anyhow::Result<Response> {
        request.send().await.map_err(|error| self.no_answer(error))
    }

    fn no_answer(&self, error: reqwest::Error) -> anyhow::Error {
        anyhow::Error::new(error.without_url()).context(format!("no response from {}", self.base))
    }

    async fn read(&self, answer: Response) -> anyhow::Result<Value> {
        let status = answer.status();
        let is_problem = has_type(&answer, "application/problem+json");
        let body = answer.bytes().await.map_err(|error| self.no_answer(error))?;
        if status.is_success() {
            return serde_json::from_slice(&body).with_context(|| {
                format!("{} answered {status} without JSON; is this the address of the service?", self.base)
            });
        }
        match serde_json::from_slice::<ProblemDocument>(&body) {
            Ok(problem) if is_problem => bail!(describe(&problem)),
            _ => {
                bail!("{} answered {status} without a problem document; is this the address of the service?", self.base)
            }
        }
    }
}

/// Writes a problem as one line.
fn describe(problem: &ProblemDocument) -> String {
    let mut text = format!("{} ({})", problem.title, problem.code);
    if let Some(detail) = &problem.detail {
        text.push_str(": ");
        text.push_str(detail);
    }
    text.push_str(", request ");
    text.push_str(&problem.request_id);
    // A terminal obeys control characters, and a detail may quote what somebody else chose.
    text.chars().map(|c| if c.is_control() { c.escape_default().to_string() } else { c.to_string() }).collect()
}

fn has_type(answer: &Response, wanted: &str) -> bool {
    let given = answer.headers().get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
    given.is_some_and(|given| given.starts_with(wanted))
}

/// Builds a URL; each part of the path stays one segment, whatever its characters.
fn address(base: &Url, path: &[&str], query: &[(&str, String)]) -> anyhow::Result<Url> {
    let mut text = base.as_str().trim_end_matches('/').to_owned();
    for segment in path {
        // URLs treat these as relative segments even when they are encoded.
        ensure!(!matches!(*segment, "." | ".."), "`{segment}` cannot be part of a URL");
        text.push('/');
        text.extend(utf8_percent_encode(segment, RESERVED));
    }
    let mut url = Url::parse(&text)?;
    if !query.is_empty() {
        url.query_pairs_mut().extend_pairs(query);
    }
    Ok(url)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(base: &str, path: &[&str], query: &[(&str, String)]) -> anyhow::Result<String> {
        address(&base.parse().unwrap(), path, query).map(String::from)
    }

    #[test]
    fn a_user_is_one_segment_whatever_the_subject() {
        let path = ["users", "dev:a/b %:ü?#", "tokens"];
        assert_eq!(
            of("http://127.0.0.1:8080", &path, &[]).unwrap(),
            "http://127.0.0.1:8080/users/dev%3Aa%2Fb%20%25%3A%C3%BC%3F%23/tokens"
        );
        assert!(of("http://127.0.0.1:8080", &["users", ".."], &[]).is_err());
        assert_eq!(
            of("http://127.0.0.1:8080", &["users", "dev:.."], &[]).unwrap(),
            "http://127.0.0.1:8080/users/dev%3A.."
        );
    }

    #[test]
    fn a_service_may_be_served_below_a_path() {
        let query = [("user", "dev:a&b".to_owned())];
        assert_eq!(
            of("https://example.com/vendor/", &["audit"], &query).unwrap(),
            "https://example.com/vendor/audit?user=dev%3Aa%26b"
        );
    }

    #[test]
    fn a_problem_is_one_line_that_cannot_drive_a_terminal() {
        let problem = ProblemDocument {
            kind: String::new(),
            title: "Not found".to_owned(),
            status: 404,
            code: "not_found".to_owned(),
            detail: Some("no user `\u{1b}[2J`\n".to_owned()),
            sign_ins_valid_from: None,
            request_id: "r1".to_owned(),
        };
        assert_eq!(describe(&problem), "Not found (not_found): no user `\\u{1b}[2J`\\n, request r1");
    }

    #[test]
    fn a_client_does_not_show_its_key() {
        #[expect(clippy::disallowed_methods, reason = "it never sends")]
        let http = reqwest::Client::new();
        let base = Url::parse("http://127.0.0.1").unwrap();
        let client = Client::new(http.clone(), base.clone(), &"atv_x_secret".into()).unwrap();
        assert!(!format!("{client:?}").contains("secret"));
        let error = Client::new(http, base, &"secret\n".into()).unwrap_err();
        assert!(!format!("{error:?}").contains("secret"));
    }
}

//! The HTTP client of ACS's identity API: one attempt for each call, signed, with a timeout.
//!
//! The wire format is that of the REST reference "Identity" of Azure Communication Services, api-version 2023-10-01.

use std::time::Duration;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use reqwest::{
    Method,
    header::{CONTENT_TYPE, HOST, HeaderValue, RETRY_AFTER},
};
use secrecy::SecretString;
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use super::{
    connection_string::{ConnectionString, Endpoint},
    credential::{AccessKey, AccessKeys},
    error::Error,
    signing, wire,
};
use crate::domain::{
    clock::Clock,
    scope::Scopes,
    token::{CredentialId, IssuedToken, Lifetime},
    user::AcsId,
};

/// What RFC 3986 does not leave alone.
const RESERVED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');
/// Far more than any documented answer needs.
const MAX_ANSWER_BYTES: usize = 256 * 1024;

/// Which ACS resource, and how to talk to it.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// The connection string from the Azure portal.
    pub connection_string: Option<SecretString>,
    /// The resource's other access key, in base64: used if ACS denies the one of the connection string.
    pub second_access_key: Option<SecretString>,
    /// The version of the REST API.
    pub api_version: String,
    /// How long one call may take.
    #[serde(with = "humantime_serde")]
    pub timeout: Duration,
    /// How long a call that got no answer may still act; no token is cached meanwhile.
    #[serde(with = "humantime_serde")]
    pub max_call_age: Duration,
    /// Whether plain http to another machine is accepted: only for an emulator.
    pub allow_http: bool,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            connection_string: None,
            second_access_key: None,
            api_version: "2023-10-01".to_owned(),
            timeout: Duration::from_secs(4),
            max_call_age: Duration::from_mins(15),
            allow_http: false,
        }
    }
}

/// A client of one ACS resource.
#[derive(Debug)]
pub struct Client {
    http: reqwest::Client,
    endpoint: Endpoint,
    keys: AccessKeys,
    api_version: String,
    timeout: Duration,
    clock: Clock,
}

impl Client {
    /// Makes a client that sends through `http`.
    #[must_use]
    pub fn new(http: reqwest::Client, connection: ConnectionString, settings: &Settings, clock: Clock) -> Self {
        Self {
            http,
            endpoint: connection.endpoint,
            keys: AccessKeys::new(connection.access_key, connection.second_access_key),
            api_version: settings.api_version.clone(),
            timeout: settings.timeout,
            clock,
        }
    }

    /// Returns the resource's address in the form that clients of ACS need.
    #[must_use]
    pub fn endpoint(&self) -> &str {
        self.endpoint.as_str()
    }

    /// Returns how long one call may take.
    #[must_use]
    pub fn timeout(&self) -> Duration {
        self.timeout
    }

    /// Returns whether a token that was made with this credential can still be valid: replacing its key ends it.
    #[must_use]
    pub fn has_credential(&self, credential: &str) -> bool {
        self.keys.contain(credential)
    }

    /// Creates an identity without a token.
    ///
    /// # Errors
    /// Any [`Error`]; after [`Error::Unavailable`] or [`Error::Malformed`] an identity may exist all the same.
    pub async fn create(&self) -> Result<AcsId, Error> {
        let (answer, _): (wire::CreateResponse, _) =
            self.call_for_json("create", "/identities", None::<&()>, 201).await?;
        AcsId::parse(&answer.identity.id).map_err(|_| Error::Malformed { operation: "create" })
    }

    /// Creates an identity together with its first token, in one call.
    ///
    /// # Errors
    /// As [`Client::create`].
    pub async fn create_with_token(&self, scopes: &Scopes, lifetime: Lifetime) -> Result<(AcsId, IssuedToken), Error> {
        let operation = "create";
        let body = wire::CreateRequest::new(scopes, lifetime);
        let (answer, credential): (wire::CreateResponse, _) =
            self.call_for_json(operation, "/identities", Some(&body), 201).await?;
        let id = AcsId::parse(&answer.identity.id).map_err(|_| Error::Malformed { operation })?;
        let token = answer.access_token.ok_or(Error::Malformed { operation })?;
        Ok((id, token.made_with(credential)))
    }

    /// Issues a token for an identity.
    ///
    /// # Errors
    /// Any [`Error`].
    pub async fn issue(&self, id: &AcsId, scopes: &Scopes, lifetime: Lifetime) -> Result<IssuedToken, Error> {
        let path = format!("{}/:issueAccessToken", identity_path(id));
        let (answer, credential): (wire::TokenResponse, _) =
            self.call_for_json("issue", &path, Some(&wire::IssueRequest::new(scopes, lifetime)), 200).await?;
        Ok(answer.made_with(credential))
    }

    /// Revokes every token of an identity.
    ///
    /// # Errors
    /// Any [`Error`].
    pub async fn revoke(&self, id: &AcsId) -> Result<(), Error> {
        let path = format!("{}/:revokeAccessTokens", identity_path(id));
        self.call(Method::POST, &path, Vec::new(), 204).await.map(drop)
    }

    /// Deletes an identity, its tokens and its chat memberships, for good.
    ///
    /// # Errors
    /// Any [`Error`].
    pub async fn delete(&self, id: &AcsId) -> Result<(), Error> {
        self.call(Method::DELETE, &identity_path(id), Vec::new(), 204).await.map(drop)
    }

    async fn call_for_json<T: DeserializeOwned>(
        &self,
        operation: &'static str,
        path: &str,
        body: Option<&impl Serialize>,
        success: u16,
    ) -> Result<(T, CredentialId), Error> {
        let malformed = |_| Error::Malformed { operation };
        let body = body.map(serde_json::to_vec).transpose().map_err(malformed)?.unwrap_or_default();
        let (answer, credential) = self.call(Method::POST, path, body, success).await?;
        // The cause is left out on purpose: a JSON error may quote the answer, which holds a token.
        Ok((serde_json::from_slice(&answer).map_err(malformed)?, credential))
    }

    /// Calls with the key in use and, if ACS denies it, once with the other.
    async fn call(
        &self,
        method: Method,
        path: &str,
        body: Vec<u8>,
        success: u16,
    ) -> Result<(Vec<u8>, CredentialId), Error> {
        let is_denied =
            |answer: &Result<_, Error>| matches!(answer, Err(Error::Unauthorized { code }) if code == "Denied");
        let first = self.keys.in_use();
        let other = self.keys.other_than(first);
        let answer = self.send(first, method.clone(), path, body.clone(), success).await;
        let Some(other) = other.filter(|_| is_denied(&answer)) else { return answer };
        let answer = self.send(other, method, path, body, success).await;
        if !is_denied(&answer) {
            tracing::warn!("ACS denied one access key and took the other, which is used from now on");
            self.keys.remember(other);
        }
        answer
    }

    async fn send(
        &self,
        key: usize,
        method: Method,
        path: &str,
        body: Vec<u8>,
        success: u16,
    ) -> Result<(Vec<u8>, CredentialId), Error> {
        let (key, credential) = self.keys.get(key);
        let request = self.signed_request(key, method, path, body)?;
        let mut answer = self.http.execute(request).await.map_err(unanswered)?;
        let status = answer.status().as_u16();
        let now = self.clock.now();
        let retry_after = answer.headers().get(RETRY_AFTER).and_then(|v| wire::retry_after(v.to_str().ok()?, now));
        let mut body = Vec::new();
        while let Some(chunk) = answer.chunk().await.map_err(unanswered)? {
            body.extend_from_slice(&chunk);
            if body.len() > MAX_ANSWER_BYTES {
                return Err(Error::Unavailable { retry_after: None, source: None });
            }
        }
        if status == success { Ok((body, credential.clone())) } else { Err(wire::error_of(status, retry_after, &body)) }
    }

    fn signed_request(
        &self,
        key: &AccessKey,
        method: Method,
        path: &str,
        body: Vec<u8>,
    ) -> Result<reqwest::Request, Error> {
        let target = format!("{path}?api-version={}", self.api_version);
        let url = reqwest::Url::parse(&format!("{}{target}", self.endpoint.as_str()))
            .map_err(|_| Error::Refused { status: 0, code: "InvalidUrl".to_owned() })?;
        let host = match (url.host_str(), url.port()) {
            (Some(host), Some(port)) => format!("{host}:{port}"),
            (host, _) => host.unwrap_or_default().to_owned(),
        };
        let date = httpdate::fmt_http_date(self.clock.now().into());
        // What is signed is read back from the URL, so that it is what goes over the wire.
        let target = format!("{}?{}", url.path(), url.query().unwrap_or_default());
        let parts = signing::Parts { method: method.as_str(), target: &target, host: &host, date: &date, body: &body };
        let signature = signing::sign(key, parts);
        let mut request = self
            .http
            .request(method, url)
            .timeout(self.timeout)
            .header(HOST, &host)
            .header("x-ms-date", &date)
            .header("x-ms-content-sha256", &signature.content_sha256)
            .header("x-ms-client-request-id", uuid::Uuid::now_v7().to_string())
            .header("authorization", sensitive(&signature.authorization));
        if !body.is_empty() {
            request = request.header(CONTENT_TYPE, "application/json").body(body);
        }
        request.build().map_err(Error::Unreachable)
    }
}

fn sensitive(text: &str) -> HeaderValue {
    let mut value = HeaderValue::from_str(text).unwrap_or(HeaderValue::from_static(""));
    value.set_sensitive(true);
    value
}

/// A call without an answer: without a connection it had no effect, else it may have had.
fn unanswered(error: reqwest::Error) -> Error {
    let error = error.without_url();
    if error.is_connect() {
        Error::Unreachable(error)
    } else {
        Error::Unavailable { retry_after: None, source: Some(error) }
    }
}

/// Returns the path of an identity, escaped as the official SDKs do.
fn identity_path(id: &AcsId) -> String {
    format!("/identities/{}", utf8_percent_encode(id.as_str(), RESERVED))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identities_are_escaped_in_paths() {
        let id =
            AcsId::parse("8:acs:2dee53b4-368b-45b4-ab52-8493fb117652_00000005-14a2-493b-8a72-5a3a0d000081").unwrap();
        let path = "/identities/8%3Aacs%3A2dee53b4-368b-45b4-ab52-8493fb117652_00000005-14a2-493b-8a72-5a3a0d000081";
        assert_eq!(identity_path(&id), path);
    }
}

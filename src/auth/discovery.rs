//! Fetches the keys of an issuer, found by `OpenID` Connect Discovery 1.0 or at a configured URL.

use std::time::Duration;

use serde::Deserialize;
use url::Url;

use super::jwks::KeySet;

/// Key sets of real issuers are a few kilobytes.
const MAX_DOCUMENT_BYTES: usize = 256 * 1024;
const TIMEOUT: Duration = Duration::from_secs(5);

/// Where the keys are.
#[derive(Clone, Debug)]
pub enum Source {
    /// In the key set that the issuer's discovery document names.
    Discovery {
        /// The document must name this issuer byte for byte.
        issuer: String,
    },
    /// In this key set.
    KeySet { url: Url },
}

/// Why keys cannot be fetched.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("no response from {url}")]
    Unreachable {
        url: String,
        #[source]
        source: reqwest::Error,
    },
    #[error("{url} answered {what}")]
    Unexpected { url: String, what: String },
}

#[derive(Deserialize)]
struct Document {
    issuer: String,
    jwks_uri: String,
}

/// Fetches the key set of an issuer.
pub async fn fetch(http: &reqwest::Client, source: &Source) -> Result<KeySet, Error> {
    let keys_url = match source {
        Source::KeySet { url } => url.to_string(),
        Source::Discovery { issuer } => {
            let url = format!("{}/.well-known/openid-configuration", issuer.trim_end_matches('/'));
            let unexpected = |what: &str| Error::Unexpected { url: url.clone(), what: what.to_owned() };
            let bytes = get(http, &url).await?;
            let document: Document = serde_json::from_slice(&bytes)
                .map_err(|_| unexpected("with something else than a discovery document"))?;
            if document.issuer != *issuer {
                return Err(unexpected("with the discovery document of another issuer"));
            }
            // A document that is fetched over https must not lead to keys that are fetched without.
            if issuer.starts_with("https:") && !document.jwks_uri.starts_with("https:") {
                return Err(unexpected("with a `jwks_uri` without https"));
            }
            document.jwks_uri
        }
    };
    let bytes = get(http, &keys_url).await?;
    let unexpected = |what: &str| Error::Unexpected { url: keys_url.clone(), what: what.to_owned() };
    let keys = KeySet::parse(&bytes).ok_or_else(|| unexpected("with something else than a JSON Web Key Set"))?;
    if keys.is_empty() { Err(unexpected("with a key set without a usable key")) } else { Ok(keys) }
}

async fn get(http: &reqwest::Client, url: &str) -> Result<Vec<u8>, Error> {
    let unreachable = |error: reqwest::Error| Error::Unreachable { url: url.to_owned(), source: error.without_url() };
    let mut answer = http.get(url).timeout(TIMEOUT).send().await.map_err(unreachable)?;
    let unexpected = |what: String| Error::Unexpected { url: url.to_owned(), what };
    if answer.status() != reqwest::StatusCode::OK {
        return Err(unexpected(format!("with status {}", answer.status().as_u16())));
    }
    let mut body = Vec::new();
    while let Some(chunk) = answer.chunk().await.map_err(unreachable)? {
        body.extend_from_slice(&chunk);
        if body.len() > MAX_DOCUMENT_BYTES {
            return Err(unexpected(format!("with more than {MAX_DOCUMENT_BYTES} bytes")));
        }
    }
    Ok(body)
}

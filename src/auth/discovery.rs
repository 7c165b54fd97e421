//! Where an issuer's keys are: `OpenID` Connect Discovery 1.0, or a URL that is given.

use std::time::Duration;

use serde::Deserialize;
use url::Url;

use super::jwks::KeySet;

/// Key sets of real issuers are a few kilobytes.
const MAX_DOCUMENT_BYTES: usize = 256 * 1024;
const TIMEOUT: Duration = Duration::from_secs(5);

/// Where to get the keys from.
#[derive(Clone, Debug)]
pub enum Source {
    /// From the key set that the issuer's discovery document names.
    Discovery {
        /// The issuer, whose document must name it byte for byte.
        issuer: String,
    },
    /// From this key set.
    KeySet {
        /// Its address.
        url: Url,
    },
}

/// Why keys could not be fetched.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No answer.
    #[error("no answer from {url}")]
    Unreachable {
        /// Who was asked.
        url: String,
        /// What went wrong.
        #[source]
        source: reqwest::Error,
    },
    /// An answer that is none.
    #[error("{url} answered {what}")]
    Unexpected {
        /// Who was asked.
        url: String,
        /// What is wrong with the answer.
        what: String,
    },
}

#[derive(Deserialize)]
struct Document {
    issuer: String,
    jwks_uri: String,
}

/// Fetches the key set of an issuer.
///
/// # Errors
/// [`Error`] when nobody answers, or not with a key set.
pub async fn fetch(http: &reqwest::Client, source: &Source) -> Result<KeySet, Error> {
    let keys_url = match source {
        Source::KeySet { url } => url.to_string(),
        Source::Discovery { issuer } => {
            let url = format!("{}/.well-known/openid-configuration", issuer.trim_end_matches('/'));
            let unexpected = |what: &str| Error::Unexpected { url: url.clone(), what: what.to_owned() };
            let bytes = get(http, &url).await?;
            let document: Document = serde_json::from_slice(&bytes).map_err(|_| unexpected("no discovery document"))?;
            if document.issuer != *issuer {
                return Err(unexpected("the discovery document of another issuer"));
            }
            // A document fetched over https must not lead to keys fetched without.
            if issuer.starts_with("https:") && !document.jwks_uri.starts_with("https:") {
                return Err(unexpected("a `jwks_uri` without https"));
            }
            document.jwks_uri
        }
    };
    let bytes = get(http, &keys_url).await?;
    let unexpected = |what: &str| Error::Unexpected { url: keys_url.clone(), what: what.to_owned() };
    let keys = KeySet::parse(&bytes).ok_or_else(|| unexpected("no JSON Web Key Set"))?;
    if keys.is_empty() { Err(unexpected("a key set without a usable key")) } else { Ok(keys) }
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
            return Err(unexpected("more than fits a key set".to_owned()));
        }
    }
    Ok(body)
}

//! Connection strings as the Azure portal shows them: `endpoint=https://….communication.azure.com/;accesskey=…`.
//!
//! Names may come in any case and order, with spaces around, a trailing `;` and a trailing slash:
//! the official SDKs disagree on which of these they accept, so all are accepted.

use std::str::FromStr;

use url::Url;

use super::credential::{AccessKey, AccessKeyError};
use crate::domain::address::is_on_this_machine;

/// An endpoint and the key to it.
#[derive(Clone, Debug)]
pub struct ConnectionString {
    /// Scheme and authority of the resource.
    pub endpoint: Endpoint,
    /// The access key.
    pub access_key: AccessKey,
    /// The resource's other key, which has a setting of its own.
    pub second_access_key: Option<AccessKey>,
}

/// The address of an ACS resource: scheme, host and port, and nothing else.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint(Url);

/// What is wrong with a connection string; never shows the key.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum ParseError {
    /// A part has no `=`.
    #[error("part {0} of the connection string is not `name=value`")]
    NotAPair(usize),
    /// A name is missing.
    #[error("the connection string has no `{0}`")]
    Missing(&'static str),
    /// A name is there twice.
    #[error("the connection string has `{0}` twice")]
    Twice(&'static str),
    /// The endpoint is not the URL of a resource.
    #[error("`endpoint` {0}")]
    Endpoint(&'static str),
    /// The key cannot be used.
    #[error("`accesskey` is not usable")]
    AccessKey(#[source] AccessKeyError),
}

impl FromStr for ConnectionString {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        let (mut endpoint, mut access_key) = (None, None);
        let parts = text.split(';').map(str::trim).enumerate().filter(|(_, part)| !part.is_empty());
        for (index, part) in parts {
            let (name, value) = part.split_once('=').ok_or(ParseError::NotAPair(index + 1))?;
            let (slot, name) = match name.trim().to_ascii_lowercase().as_str() {
                "endpoint" => (&mut endpoint, "endpoint"),
                "accesskey" => (&mut access_key, "accesskey"),
                _ => continue,
            };
            if slot.replace(value.trim()).is_some() {
                return Err(ParseError::Twice(name));
            }
        }
        Ok(Self {
            endpoint: endpoint.ok_or(ParseError::Missing("endpoint"))?.parse()?,
            access_key: access_key.ok_or(ParseError::Missing("accesskey"))?.parse().map_err(ParseError::AccessKey)?,
            second_access_key: None,
        })
    }
}

impl Endpoint {
    /// Returns the address without a trailing slash, as clients of ACS need it.
    #[must_use]
    pub fn as_str(&self) -> &str {
        self.0.as_str().trim_end_matches('/')
    }

    /// Returns whether others can read what is sent there: plain http to another machine.
    #[must_use]
    pub fn is_exposed(&self) -> bool {
        self.0.scheme() == "http" && !self.is_loopback()
    }

    /// Returns whether the address is on this machine.
    #[must_use]
    pub fn is_loopback(&self) -> bool {
        is_on_this_machine(&self.0)
    }
}

impl FromStr for Endpoint {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        let fault = ParseError::Endpoint;
        let mut url =
            Url::parse(text).map_err(|_| fault("is not a URL such as `https://name.communication.azure.com`"))?;
        if !matches!(url.scheme(), "https" | "http") {
            return Err(fault("must begin with `https://`"));
        }
        if url.path().bytes().any(|c| c != b'/') || url.query().is_some() || url.fragment().is_some() {
            return Err(fault("must have no path, query or fragment"));
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err(fault("must have no user or password"));
        }
        url.set_path("/");
        Ok(Self(url))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<ConnectionString, ParseError> {
        text.parse()
    }

    #[test]
    fn every_common_spelling_is_accepted() {
        for text in [
            "endpoint=https://r.communication.azure.com/;accesskey=cHc=",
            "Endpoint=https://r.communication.azure.com;AccessKey=cHc=;",
            "accesskey=cHc=;endpoint=https://R.communication.azure.com/",
            " endpoint = https://r.communication.azure.com// ; ACCESSKEY = cHc= ",
            "endpoint=https://r.communication.azure.com:443/;accesskey=cHc=;other=1",
        ] {
            let parsed = parse(text).unwrap();
            assert_eq!(parsed.endpoint.as_str(), "https://r.communication.azure.com", "{text}");
        }
    }

    #[test]
    fn errors_are_named() {
        let fault = |text| parse(text).unwrap_err().to_string();
        assert_eq!(fault(""), "the connection string has no `endpoint`");
        assert_eq!(fault("endpoint=https://r.net"), "the connection string has no `accesskey`");
        assert_eq!(fault("https://r.net"), "part 1 of the connection string is not `name=value`");
        assert_eq!(fault("accesskey=a;accesskey=b"), "the connection string has `accesskey` twice");
        assert_eq!(
            fault("endpoint=r.net;accesskey=cHc="),
            "`endpoint` is not a URL such as `https://name.communication.azure.com`"
        );
        assert_eq!(fault("endpoint=ftp://r.net;accesskey=cHc="), "`endpoint` must begin with `https://`");
        assert_eq!(fault("endpoint=https://r.net/a;accesskey=cHc="), "`endpoint` must have no path, query or fragment");
        assert_eq!(fault("endpoint=https://r.net;accesskey=%"), "`accesskey` is not usable");
    }

    #[test]
    fn debug_does_not_show_the_key() {
        let shown = format!("{:?}", parse("endpoint=https://r.net;accesskey=c2VjcmV0").unwrap());
        assert!(!shown.contains("c2VjcmV0") && !shown.contains("secret"), "{shown}");
    }

    #[test]
    fn plain_http_is_exposed_unless_it_stays_on_the_machine() {
        let exposed = |text: &str| text.parse::<Endpoint>().unwrap().is_exposed();
        assert!(exposed("http://emulator:8081"));
        assert!(!exposed("http://127.0.0.1:8081") && !exposed("http://[::1]:8081") && !exposed("http://localhost:1"));
        assert!(!exposed("https://r.communication.azure.com"));
    }
}

//! HMAC-SHA256 request signing with an access key.
//!
//! The text that is signed is `METHOD\ntarget\ndate;host;content-hash` (learn.microsoft.com, "Authenticate to Azure
//! Communication Services", and the vectors in `tests/data/hmac_vectors.json` made by the official SDK).

use base64::{Engine, prelude::BASE64_STANDARD};
use sha2::{Digest, Sha256};

use super::credential::AccessKey;

/// The parts of a request that are signed.
#[derive(Clone, Copy, Debug)]
pub struct Parts<'a> {
    /// The method, upper case.
    pub method: &'a str,
    /// Path and query exactly as sent.
    pub target: &'a str,
    /// The `Host` header exactly as sent.
    pub host: &'a str,
    /// The time of signing, RFC 1123.
    pub date: &'a str,
    /// The body.
    pub body: &'a [u8],
}

/// The values of the two headers that a signature needs besides `x-ms-date`.
#[derive(Clone, PartialEq, Eq)]
pub struct Signature {
    /// `x-ms-content-sha256`.
    pub content_sha256: String,
    /// `Authorization`.
    pub authorization: String,
}

/// Signs a request.
#[must_use]
pub fn sign(key: &AccessKey, parts: Parts<'_>) -> Signature {
    let Parts { method, target, host, date, body } = parts;
    let content_sha256 = BASE64_STANDARD.encode(Sha256::digest(body));
    let signature = key.authenticate(&format!("{method}\n{target}\n{date};{host};{content_sha256}"));
    let authorization = format!("HMAC-SHA256 SignedHeaders=x-ms-date;host;x-ms-content-sha256&Signature={signature}");
    Signature { content_sha256, authorization }
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    #[test]
    fn every_vector_of_the_official_sdk_is_matched() {
        let file: Value = serde_json::from_str(include_str!("../../tests/data/hmac_vectors.json")).unwrap();
        let vectors = file["vectors"].as_array().unwrap();
        assert_eq!(vectors.len(), 7);
        for vector in vectors {
            let text = |name: &str| vector[name].as_str().unwrap();
            let parts = Parts {
                method: text("method"),
                target: text("request_target_on_the_wire"),
                host: text("host_header"),
                date: text("date"),
                body: text("body").as_bytes(),
            };
            let signature = sign(&text("access_key_base64").parse().unwrap(), parts);
            let expected = &vector["headers_added_by_policy"];
            assert_eq!(expected["x-ms-content-sha256"], signature.content_sha256, "{}", text("name"));
            assert_eq!(expected["Authorization"], signature.authorization, "{}", text("name"));
        }
    }
}

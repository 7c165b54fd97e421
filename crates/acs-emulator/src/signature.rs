//! Checks that a request was signed with one of the resource's access keys.
//!
//! The signed text is `{method}\n{target}\n{values}`. The values are those of the headers in `SignedHeaders`, in that order, joined by `;`.
//! Target, header values and body are used as received; nothing is normalised.
//! The date is in `x-ms-date`, or in `Date` with older clients; `SignedHeaders` says which.
//! There is no replay check: the official JavaScript client repeats date and signature when it retries.
//! A choice: dates may be off by up to 15 minutes; the tolerance of ACS is not documented.

use axum::http::{HeaderMap, header::AUTHORIZATION, request::Parts};
use base64::{Engine as _, prelude::BASE64_STANDARD};
use chrono::{DateTime, NaiveDateTime, TimeDelta, Utc};
use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;

use super::access_key::AccessKey;

const TOLERANCE: TimeDelta = TimeDelta::minutes(15);
const CONTENT_HASH: &str = "x-ms-content-sha256";
const DATES: [&str; 2] = ["x-ms-date", "date"];

/// Why a signature is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Denial {
    #[error("the HMAC-SHA256 authorization is missing or malformed")]
    Authorization,
    #[error("date, host and content hash must be signed and present exactly once")]
    SignedHeaders,
    #[error("the content hash does not match the body")]
    ContentHash,
    #[error("the date is malformed or off by more than 15 minutes")]
    Date,
    #[error("the signature matches neither access key")]
    Signature,
}

/// Checks signature, content hash and date of a request.
pub(super) fn verify(parts: &Parts, body: &[u8], keys: &[AccessKey], now: DateTime<Utc>) -> Result<(), Denial> {
    let authorization = sole(&parts.headers, AUTHORIZATION.as_str()).ok_or(Denial::Authorization)?;
    let (names, claimed) = parse(authorization).ok_or(Denial::Authorization)?;
    let signed = Signed::collect(&parts.headers, names).ok_or(Denial::SignedHeaders)?;

    let hash = BASE64_STANDARD.encode(Sha256::digest(body));
    if !bool::from(hash.as_bytes().ct_eq(signed.content_hash)) {
        return Err(Denial::ContentHash);
    }
    let date = parse_date(signed.date).ok_or(Denial::Date)?;
    if (now - date).abs() > TOLERANCE {
        return Err(Denial::Date);
    }

    let method = parts.method.as_str();
    let target = parts.uri.path_and_query().map_or("", |target| target.as_str());
    let matches = |target: &str, values: &[&[u8]]| {
        keys.iter().any(|key| sign(key, method, target, values).verify_slice(&claimed).is_ok())
    };
    if matches(target, &signed.values) {
        return Ok(());
    }
    if let Some(mistake) = signed.known_mistake(target, matches) {
        tracing::debug!(mistake, "the signature does not match because of a known mistake of the client");
    }
    Err(Denial::Signature)
}

/// The headers that the signature covers.
struct Signed<'a> {
    values: Vec<&'a [u8]>,
    date: &'a [u8],
    content_hash: &'a [u8],
    host_index: usize,
}

impl<'a> Signed<'a> {
    fn collect(headers: &'a HeaderMap, names: &str) -> Option<Self> {
        let names: Vec<String> = names.split(';').map(str::to_ascii_lowercase).collect();
        let values: Vec<&[u8]> = names.iter().map(|name| sole(headers, name)).collect::<Option<_>>()?;
        let index = |wanted: &str| names.iter().position(|name| name == wanted);
        let date = DATES.into_iter().find_map(index)?;
        let content_hash = index(CONTENT_HASH)?;
        let host_index = index("host")?;
        Some(Self { date: values[date], content_hash: values[content_hash], host_index, values })
    }

    /// Explains a mismatch by a known mistake of clients, for the log.
    fn known_mistake(&self, target: &str, matches: impl Fn(&str, &[&[u8]]) -> bool) -> Option<&'static str> {
        if target.strip_prefix('/').is_some_and(|target| matches(target, &self.values)) {
            return Some("the path was signed without its leading slash");
        }
        let host = [self.values[self.host_index], b"/"].concat();
        let mut values = self.values.clone();
        values[self.host_index] = &host;
        matches(target, &values).then_some("the host was signed with a trailing slash")
    }
}

/// Splits `HMAC-SHA256 SignedHeaders=…&Signature=…` into the names and the decoded signature.
fn parse(authorization: &[u8]) -> Option<(&str, Vec<u8>)> {
    let text = std::str::from_utf8(authorization).ok()?;
    let (names, signature) =
        text.strip_prefix("HMAC-SHA256 ")?.strip_prefix("SignedHeaders=")?.split_once("&Signature=")?;
    Some((names, BASE64_STANDARD.decode(signature).ok()?))
}

/// Returns the value of a header that must not be repeated.
fn sole<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a [u8]> {
    let mut values = headers.get_all(name).iter();
    let value = values.next()?;
    values.next().is_none().then(|| value.as_bytes())
}

fn parse_date(value: &[u8]) -> Option<DateTime<Utc>> {
    let text = std::str::from_utf8(value).ok()?;
    NaiveDateTime::parse_from_str(text, "%a, %d %b %Y %H:%M:%S GMT").ok().map(|date| date.and_utc())
}

fn sign(key: &AccessKey, method: &str, target: &str, values: &[&[u8]]) -> Hmac<Sha256> {
    #[expect(clippy::expect_used, reason = "HMAC takes keys of any length")]
    let mut mac = Hmac::<Sha256>::new_from_slice(key.as_bytes()).expect("any key length");
    for part in [method, "\n", target, "\n"] {
        mac.update(part.as_bytes());
    }
    for (index, value) in values.iter().enumerate() {
        if index > 0 {
            mac.update(b";");
        }
        mac.update(value);
    }
    mac
}

#[cfg(test)]
mod tests {
    use axum::http::Request;
    use serde_json::Value;

    use super::*;

    type Edit = fn(&mut Parts);

    fn vectors() -> Vec<Value> {
        let file: Value = serde_json::from_str(include_str!("../../../tests/data/hmac_vectors.json")).unwrap();
        file["vectors"].as_array().unwrap().clone()
    }

    fn text<'a>(vector: &'a Value, member: &str) -> &'a str {
        vector[member].as_str().unwrap()
    }

    /// The request of a vector as it came over the wire, with its key and the time at which it was signed.
    fn request(vector: &Value) -> (Parts, String, AccessKey, DateTime<Utc>) {
        let mut request = Request::builder()
            .method(text(vector, "method"))
            .uri(text(vector, "request_target_on_the_wire"))
            .header("host", text(vector, "host_header"));
        for (name, value) in vector["headers_added_by_policy"].as_object().unwrap() {
            request = request.header(name, value.as_str().unwrap());
        }
        let key = AccessKey::parse(text(vector, "access_key_base64")).unwrap();
        let date = parse_date(text(vector, "date").as_bytes()).unwrap();
        (request.body(()).unwrap().into_parts().0, text(vector, "body").to_owned(), key, date)
    }

    #[test]
    fn every_recorded_signature_is_accepted() {
        for vector in vectors() {
            let (parts, body, key, now) = request(&vector);
            let other = AccessKey::parse("b3RoZXI=").unwrap();
            let verdict = verify(&parts, body.as_bytes(), &[other, key], now);
            assert_eq!(verdict, Ok(()), "{}", text(&vector, "name"));
        }
    }

    #[test]
    fn every_signed_part_counts() {
        let vectors = vectors();
        let (parts, body, key, now) = request(&vectors[1]);
        let keys = [key];
        let edited = |edit: Edit| {
            let mut parts = parts.clone();
            edit(&mut parts);
            verify(&parts, body.as_bytes(), &keys, now)
        };
        assert_eq!(edited(|_| ()), Ok(()));
        let edits: [(Edit, Denial); 7] = [
            (|parts| parts.method = "PUT".parse().unwrap(), Denial::Signature),
            (|parts| parts.uri = "/identities?api-version=2022-10-01".parse().unwrap(), Denial::Signature),
            (|parts| parts.uri = "/identities/?api-version=2023-10-01".parse().unwrap(), Denial::Signature),
            (|parts| *parts.headers.get_mut("host").unwrap() = "x".parse().unwrap(), Denial::Signature),
            (|parts| _ = parts.headers.append("host", "x".parse().unwrap()), Denial::SignedHeaders),
            (|parts| _ = parts.headers.remove("x-ms-date"), Denial::SignedHeaders),
            (|parts| _ = parts.headers.remove("authorization"), Denial::Authorization),
        ];
        for (index, (edit, denial)) in edits.into_iter().enumerate() {
            assert_eq!(edited(edit), Err(denial), "edit {index}");
        }
        assert_eq!(verify(&parts, b"{}", &keys, now), Err(Denial::ContentHash));
        assert_eq!(verify(&parts, body.as_bytes(), &[], now), Err(Denial::Signature));
    }

    #[test]
    fn date_may_be_fifteen_minutes_off() {
        let (parts, body, key, now) = request(&vectors()[0]);
        let at =
            |offset: i64| verify(&parts, body.as_bytes(), std::slice::from_ref(&key), now + TimeDelta::seconds(offset));
        assert_eq!([at(900), at(-900)], [Ok(()), Ok(())]);
        assert_eq!([at(901), at(-901)], [Err(Denial::Date), Err(Denial::Date)]);
    }

    #[test]
    fn older_clients_sign_the_date_header() {
        let key = AccessKey::parse("a2V5").unwrap();
        let now = DateTime::from_timestamp(1_600_000_000, 0).unwrap();
        let date = now.format("%a, %d %b %Y %H:%M:%S GMT").to_string();
        let hash = BASE64_STANDARD.encode(Sha256::digest(b""));
        let mac = sign(&key, "POST", "/identities", &[date.as_bytes(), b"h", hash.as_bytes()]);
        let signature = BASE64_STANDARD.encode(mac.finalize().into_bytes());
        let authorization = format!("HMAC-SHA256 SignedHeaders=date;host;x-ms-content-sha256&Signature={signature}");
        let request = Request::post("/identities")
            .header("date", date)
            .header("host", "h")
            .header(CONTENT_HASH, hash)
            .header("authorization", authorization);
        let parts = request.body(()).unwrap().into_parts().0;
        assert_eq!(verify(&parts, b"", &[key], now), Ok(()));
    }
}

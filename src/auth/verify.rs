//! Verification of a compact JWS (RFC 7515) whose payload is a JSON object.

use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use jsonwebtoken::{Algorithm, Header};
use serde_json::{Map, Value};

use super::{jose::Error, key_cache::KeyCache};

/// A token that was parsed but not verified.
#[derive(Debug)]
pub struct Unverified<'a> {
    header: Header,
    signed: &'a str,
    signature: &'a str,
    claims: Map<String, Value>,
}

impl<'a> Unverified<'a> {
    pub fn parse(token: &'a str) -> Result<Self, Error> {
        let (signed, signature) = token.rsplit_once('.').ok_or(Error::Malformed("parts"))?;
        let (_, payload) = signed.split_once('.').ok_or(Error::Malformed("parts"))?;
        let header = jsonwebtoken::decode_header(token).map_err(|_| Error::Malformed("header"))?;
        if header.crit.is_some() {
            return Err(Error::Critical);
        }
        let payload = BASE64_URL_SAFE_NO_PAD.decode(payload).map_err(|_| Error::Malformed("payload"))?;
        let claims = serde_json::from_slice(&payload).map_err(|_| Error::Malformed("payload"))?;
        Ok(Self { header, signed, signature, claims })
    }

    /// Returns the issuer that the token claims, for nothing but the choice of keys.
    #[must_use]
    pub fn claimed_issuer(&self) -> Option<&str> {
        self.claims.get("iss").and_then(Value::as_str)
    }

    /// Refuses other types of tokens; a token without a type passes (RFC 8725 section 3.11).
    pub fn require_type(&self, wanted: &[&str]) -> Result<(), Error> {
        let Some(typ) = self.header.typ.as_deref() else {
            return Ok(());
        };
        // RFC 7515 section 4.1.9: the prefix `application/` may be left out.
        let short = typ.strip_prefix("application/").unwrap_or(typ);
        if wanted.iter().any(|name| name.eq_ignore_ascii_case(short)) { Ok(()) } else { Err(Error::Type) }
    }

    /// Verifies the signature with the issuer's keys and returns the claims.
    pub async fn verify(self, keys: &KeyCache, allowed: &[Algorithm]) -> Result<Map<String, Value>, Error> {
        let algorithm = self.header.alg;
        if !allowed.contains(&algorithm) {
            return Err(Error::Algorithm);
        }
        let kid = self.header.kid.as_deref();
        let keys = keys.keys_for(kid, algorithm).await?;
        let message = self.signed.as_bytes();
        let signed_by = |key| jsonwebtoken::crypto::verify(self.signature, message, key, algorithm).unwrap_or(false);
        if keys.candidates(kid, algorithm).any(signed_by) { Ok(self.claims) } else { Err(Error::Signature) }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn token(header: &str, payload: &str) -> String {
        let part = |text: &str| BASE64_URL_SAFE_NO_PAD.encode(text);
        format!("{}.{}.AAAA", part(header), part(payload))
    }

    #[test]
    fn malformed_tokens_are_refused() {
        let parse = |text: &str| Unverified::parse(text).map(|_| ());
        assert_eq!(parse("abc"), Err(Error::Malformed("parts")));
        assert_eq!(parse("a.b"), Err(Error::Malformed("parts")));
        assert_eq!(parse("a.b.c"), Err(Error::Malformed("header")));
        assert_eq!(parse(&token(r#"{"alg":"none"}"#, "{}")), Err(Error::Malformed("header")));
        assert_eq!(parse(&token(r#"{"alg":"RS256"}"#, "[]")), Err(Error::Malformed("payload")));
        assert_eq!(parse(&token(r#"{"alg":"RS256","crit":["b64"],"b64":false}"#, "{}")), Err(Error::Critical));
        assert_eq!(parse(&token(r#"{"alg":"RS256","crit":[]}"#, "{}")), Err(Error::Critical));
        assert!(parse(&format!("{}.x", token(r#"{"alg":"RS256"}"#, "{}"))).is_err());
    }

    #[test]
    fn types_are_compared_without_case_and_prefix() {
        let typed = |typ: &str| {
            let token = token(&format!(r#"{{"alg":"RS256","typ":"{typ}"}}"#), "{}");
            Unverified::parse(&token).unwrap().require_type(&["JWT", "at+jwt"])
        };
        for good in ["JWT", "jwt", "at+jwt", "application/at+jwt", "AT+JWT"] {
            assert_eq!(typed(good), Ok(()), "{good}");
        }
        for bad in ["secevent+jwt", "logout+jwt", "application/secevent+jwt", ""] {
            assert_eq!(typed(bad), Err(Error::Type), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn parsing_never_panics(text in any::<String>(), header in any::<Vec<u8>>(), payload in any::<Vec<u8>>(), typ in any::<String>()) {
            let _ = Unverified::parse(&text);
            let part = |bytes: &[u8]| BASE64_URL_SAFE_NO_PAD.encode(bytes);
            let _ = Unverified::parse(&format!("{}.{}.{text}", part(&header), part(&payload)));
            let header = serde_json::json!({"alg": "RS256", "typ": typ}).to_string();
            let token = format!("{}.{}.AAAA", part(header.as_bytes()), part(br#"{"iss": 7}"#));
            let parsed = Unverified::parse(&token).unwrap();
            prop_assert_eq!(parsed.claimed_issuer(), None);
            let _ = parsed.require_type(&["JWT"]);
        }
    }
}

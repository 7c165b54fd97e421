//! Access tokens: RS256 JWTs with the claims, and the order of claims, of real ones.
//!
//! Real tokens have no unique claim, so two from the same second may be identical.
//! The emulator has to tell them apart, so each has its number in an additional claim, `emulatorSerial`.
//! Region and location are those of a public sample; `scp` is 1792 in every sample, whatever the scopes.

use aws_lc_rs::{
    digest, hmac,
    rand::SystemRandom,
    rsa::KeySize,
    signature::{self, KeyPair as _, RSA_PKCS1_2048_8192_SHA256, RSA_PKCS1_SHA256, RsaKeyPair},
};
use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{access_key::Error, identity::Resource};

/// Signs tokens and recognises its own.
pub(super) struct Mint {
    key: RsaKeyPair,
    /// Signs instead of `key` if signatures are to be cheap; they only have the length of real ones.
    cheap: Option<hmac::Key>,
    key_id: String,
    thumbprint: String,
    encoded_header: String,
    resource: String,
}

/// The claims of a token, in the order of real ones.
#[derive(Debug, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Claims {
    skypeid: String,
    scp: u16,
    csi: String,
    pub(super) exp: i64,
    rgn: String,
    acs_scope: String,
    resource_id: String,
    resource_location: String,
    iat: i64,
    #[serde(rename = "emulatorSerial")]
    pub(super) serial: u64,
}

#[derive(Serialize)]
struct Header<'a> {
    alg: &'static str,
    kid: &'a str,
    x5t: &'a str,
    typ: &'static str,
}

impl Mint {
    /// Generates a key of 2048 bits, as ACS uses.
    pub(super) fn new(resource: &Resource, cheap_signatures: bool) -> Result<Self, Error> {
        let cheap = cheap_signatures.then(|| hmac::Key::generate(hmac::HMAC_SHA256, &SystemRandom::new()));
        let cheap = cheap.transpose().map_err(|_| Error::SigningKey)?;
        let key = RsaKeyPair::generate(KeySize::Rsa2048).map_err(|_| Error::SigningKey)?;
        let sha1 = digest::digest(&digest::SHA1_FOR_LEGACY_USE_ONLY, key.public_key().as_ref());
        let key_id = hex::encode_upper(sha1.as_ref());
        let thumbprint = BASE64_URL_SAFE_NO_PAD.encode(sha1);
        let header = Header { alg: "RS256", kid: &key_id, x5t: &thumbprint, typ: "JWT" };
        let encoded_header = encode(&header).ok_or(Error::SigningKey)?;
        Ok(Self { key, cheap, key_id, thumbprint, encoded_header, resource: resource.guid().to_owned() })
    }

    /// Makes a token; `issued` and `expires` are seconds since 1970. None if signing fails.
    pub(super) fn token(
        &self,
        identity: &str,
        scopes: &[String],
        issued: i64,
        expires: i64,
        serial: u64,
    ) -> Option<String> {
        let claims = Claims {
            skypeid: identity.strip_prefix("8:").unwrap_or(identity).to_owned(),
            scp: 1792,
            csi: issued.to_string(),
            exp: expires,
            rgn: "amer".to_owned(),
            acs_scope: scopes.join(","),
            resource_id: self.resource.clone(),
            resource_location: "unitedstates".to_owned(),
            iat: issued,
            serial,
        };
        let message = format!("{}.{}", self.encoded_header, encode(&claims)?);
        let signature = self.sign(message.as_bytes())?;
        Some(format!("{message}.{}", BASE64_URL_SAFE_NO_PAD.encode(signature)))
    }

    fn sign(&self, message: &[u8]) -> Option<Vec<u8>> {
        let length = self.key.public_modulus_len();
        if let Some(key) = &self.cheap {
            let tag = hmac::sign(key, message);
            return Some(tag.as_ref().repeat(length / tag.as_ref().len()));
        }
        let mut signature = vec![0; length];
        self.key.sign(&RSA_PKCS1_SHA256, &SystemRandom::new(), message, &mut signature).ok()?;
        Some(signature)
    }

    fn is_signed(&self, message: &[u8], signature: &[u8]) -> bool {
        match &self.cheap {
            Some(_) => self.sign(message).is_some_and(|own| own == signature),
            None => signature::UnparsedPublicKey::new(&RSA_PKCS1_2048_8192_SHA256, self.key.public_key().as_ref())
                .verify(message, signature)
                .is_ok(),
        }
    }

    /// Returns the claims of a token that this key signed, valid or not.
    pub(super) fn claims(&self, token: &str) -> Option<Claims> {
        let (message, signature) = token.rsplit_once('.')?;
        let signature = BASE64_URL_SAFE_NO_PAD.decode(signature).ok()?;
        if !self.is_signed(message.as_bytes(), &signature) {
            return None;
        }
        let (_, payload) = message.split_once('.')?;
        serde_json::from_slice(&BASE64_URL_SAFE_NO_PAD.decode(payload).ok()?).ok()
    }

    /// Returns the public key as a JWK set.
    pub(super) fn key_set(&self) -> Value {
        let (modulus, exponent) = components(self.key.public_key().as_ref());
        json!({ "keys": [{
            "kty": "RSA",
            "use": "sig",
            "alg": "RS256",
            "kid": self.key_id,
            "x5t": self.thumbprint,
            "n": BASE64_URL_SAFE_NO_PAD.encode(modulus),
            "e": BASE64_URL_SAFE_NO_PAD.encode(exponent),
        }] })
    }
}

impl Claims {
    pub(super) fn identity(&self) -> String {
        format!("8:{}", self.skypeid)
    }

    pub(super) fn scopes(&self) -> Vec<&str> {
        self.acs_scope.split(',').collect()
    }
}

/// Returns modulus and exponent of the DER form of a public key of 2048 bits.
///
/// The library always uses the exponent 65537, so there is only one layout: nine bytes of headers and sign, the modulus, two bytes of header, the exponent.
fn components(der: &[u8]) -> (&[u8], &[u8]) {
    (der.get(9..265).unwrap_or_default(), der.get(267..).unwrap_or_default())
}

fn encode(value: &impl Serialize) -> Option<String> {
    serde_json::to_vec(value).ok().map(|json| BASE64_URL_SAFE_NO_PAD.encode(json))
}

#[cfg(test)]
mod tests {
    use aws_lc_rs::rsa::PublicKeyComponents;

    use super::{super::AccessKey, *};

    fn mint() -> Mint {
        mint_with(false)
    }

    fn mint_with(cheap_signatures: bool) -> Mint {
        Mint::new(&Resource::of(&AccessKey::parse("a2V5").unwrap()), cheap_signatures).unwrap()
    }

    #[test]
    fn cheap_tokens_are_recognised_and_as_long_as_real_ones() {
        let (mint, other) = (mint_with(true), mint_with(true));
        let token = mint.token("8:acs:a_b", &["chat".into()], 1, 2, 3).unwrap();
        assert_eq!(token.rsplit_once('.').unwrap().1.len(), 342);
        assert_eq!(mint.claims(&token).unwrap().serial, 3);
        assert!(other.claims(&token).is_none());
    }

    #[test]
    fn token_has_the_shape_of_the_public_sample() {
        let sample: Value =
            serde_json::from_str(include_str!("../../../tests/data/access_token_samples.json")).unwrap();
        let identity = format!("8:{}", sample["payload"]["skypeid"].as_str().unwrap());
        let scopes = ["chat".to_owned(), "voip".to_owned()];
        let mint = mint();
        let token = mint.token(&identity, &scopes, 1_755_818_174, 1_755_821_774, 7).unwrap();
        let parts: Vec<&str> = token.split('.').collect();
        let text = |part: &str| String::from_utf8(BASE64_URL_SAFE_NO_PAD.decode(part).unwrap()).unwrap();
        let (kid, x5t) = (&mint.key_id, &mint.thumbprint);
        assert_eq!(text(parts[0]), format!(r#"{{"alg":"RS256","kid":"{kid}","x5t":"{x5t}","typ":"JWT"}}"#));
        let payload = concat!(
            r#"{"skypeid":SKYPEID,"scp":SCP,"csi":CSI,"exp":EXP,"rgn":RGN,"acsScope":SCOPES,"#,
            r#""resourceId":RESOURCE,"resourceLocation":LOCATION,"iat":IAT,"emulatorSerial":7}"#
        );
        let payload = [
            ("SKYPEID", "skypeid"),
            ("SCP", "scp"),
            ("CSI", "csi"),
            ("EXP", "exp"),
            ("RGN", "rgn"),
            ("SCOPES", "acsScope"),
            ("LOCATION", "resourceLocation"),
            ("IAT", "iat"),
        ]
        .iter()
        .fold(payload.to_owned(), |text, (mark, name)| text.replace(mark, &sample["payload"][name].to_string()))
        .replace("RESOURCE", &json!(mint.resource).to_string());
        assert_eq!(text(parts[1]), payload);
        assert_eq!(parts[2].len(), 342);
    }

    #[test]
    fn only_own_tokens_are_recognised() {
        let (mint, other) = (mint(), mint());
        let token = mint.token("8:acs:a_b", &["chat".into()], 1, 2, 3).unwrap();
        assert_eq!(mint.claims(&token).unwrap().identity(), "8:acs:a_b");
        assert!(other.claims(&token).is_none());
        for garbage in ["", "a.b.c", token.trim_end_matches(|c| c != '.')] {
            assert!(mint.claims(garbage).is_none());
        }
    }

    #[test]
    fn published_key_verifies_tokens() {
        let mint = mint();
        let token = mint.token("8:acs:a_b", &["chat".into()], 1, 2, 3).unwrap();
        let (message, signature) = token.rsplit_once('.').unwrap();
        let key = &mint.key_set()["keys"][0];
        let part = |name: &str| BASE64_URL_SAFE_NO_PAD.decode(key[name].as_str().unwrap()).unwrap();
        let signature = BASE64_URL_SAFE_NO_PAD.decode(signature).unwrap();
        PublicKeyComponents { n: part("n"), e: part("e") }
            .verify(&RSA_PKCS1_2048_8192_SHA256, message.as_bytes(), &signature)
            .unwrap();
        let kid = key["kid"].as_str().unwrap();
        assert_eq!(kid, hex::encode_upper(part("x5t")));
    }
}

//! Encryption of cached tokens: XChaCha20-Poly1305 with a ring of keys.
//!
//! The first key encrypts and all keys decrypt, so that keys can be replaced without losing what older ones encrypted.
//! Nonces are random: 192 bits do not repeat by chance (draft-irtf-cfrg-xchacha-03, section 2.1).
//! The associated data ties a ciphertext to its row, so that a copy in another row does not decrypt.

use std::fmt;

use aws_lc_rs::rand::{SecureRandom, SystemRandom};
use base64::{Engine, prelude::BASE64_STANDARD};
use chacha20poly1305::{
    KeyInit, XChaCha20Poly1305, XNonce,
    aead::{Aead, Payload},
};
use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Deserializer, de};
use sha2::{Digest, Sha256};

const KEY_BYTES: usize = 32;
const KEY_NAME_BYTES: usize = 4;
const NONCE_BYTES: usize = 24;

/// Encryption keys. Without any, no tokens are cached.
#[derive(Clone, Default)]
pub struct KeyRing(Vec<Key>);

#[derive(Clone)]
struct Key {
    /// The first bytes of the SHA-256 of the key: identifies the key without revealing it.
    name: [u8; KEY_NAME_BYTES],
    cipher: XChaCha20Poly1305,
}

/// A text is not a valid encryption key. The error does not show it.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("encryption key {position} is not 32 bytes in base64, as `openssl rand -base64 32` prints them")]
pub struct KeyError {
    position: usize,
}

/// No key of the ring decrypts a text with these associated data.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("no encryption key decrypts it")]
pub struct DecryptError;

impl KeyRing {
    /// Reads keys in base64.
    pub fn parse<'a>(texts: impl IntoIterator<Item = &'a str>) -> Result<Self, KeyError> {
        let read = |(index, text)| Key::read(text).ok_or(KeyError { position: index + 1 });
        texts.into_iter().enumerate().map(read).collect::<Result<_, _>>().map(Self)
    }

    /// Creates a ring of one random key.
    pub fn random() -> Result<Self, aws_lc_rs::error::Unspecified> {
        let mut bytes = [0; KEY_BYTES];
        SystemRandom::new().fill(&mut bytes)?;
        Ok(Self(vec![Key::new(&bytes)]))
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Encrypts a text. Returns `None` without a key, or when the system provides no random numbers.
    #[must_use]
    pub fn encrypt(&self, text: &str, aad: &Aad<'_>) -> Option<Vec<u8>> {
        let key = self.0.first()?;
        let mut nonce = XNonce::default();
        SystemRandom::new().fill(&mut nonce).ok()?;
        let payload = Payload { msg: text.as_bytes(), aad: &aad.bytes() };
        let ciphertext = key.cipher.encrypt(&nonce, payload).ok()?;
        Some([key.name.as_slice(), &nonce, &ciphertext].concat())
    }

    /// Decrypts what was encrypted with the same associated data.
    pub fn decrypt(&self, encrypted: &[u8], aad: &Aad<'_>) -> Result<SecretString, DecryptError> {
        let (name, rest) = encrypted.split_at_checked(KEY_NAME_BYTES).ok_or(DecryptError)?;
        let (nonce, ciphertext) = rest.split_at_checked(NONCE_BYTES).ok_or(DecryptError)?;
        let nonce = XNonce::try_from(nonce).map_err(|_| DecryptError)?;
        let aad = aad.bytes();
        // Names can be equal by chance, so every key with this name is tried.
        let mut named = self.0.iter().filter(|key| key.name == *name);
        let text = named.find_map(|key| key.cipher.decrypt(&nonce, Payload { msg: ciphertext, aad: &aad }).ok());
        String::from_utf8(text.ok_or(DecryptError)?).map(SecretString::from).map_err(|_| DecryptError)
    }
}

impl fmt::Debug for KeyRing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "[{} keys, redacted]", self.0.len())
    }
}

impl<'de> Deserialize<'de> for KeyRing {
    /// Reads a list of keys or, for environment variables, one string with commas.
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged, expecting = "expected a list of encryption keys, or a string with commas")]
        enum Keys {
            One(SecretString),
            Several(Vec<SecretString>),
        }
        let texts = match Keys::deserialize(deserializer)? {
            Keys::One(text) => vec![text],
            Keys::Several(texts) => texts,
        };
        let texts = texts.iter().flat_map(|text| text.expose_secret().split(','));
        let ring = Self::parse(texts.map(str::trim).filter(|text| !text.is_empty())).map_err(de::Error::custom)?;
        // Otherwise an empty file would switch the cache off.
        if ring.is_empty() { Err(de::Error::custom("there is no encryption key")) } else { Ok(ring) }
    }
}

impl Key {
    fn read(text: &str) -> Option<Self> {
        let bytes = BASE64_STANDARD.decode(text).ok()?;
        Some(Self::new(&bytes.try_into().ok()?))
    }

    fn new(bytes: &[u8; KEY_BYTES]) -> Self {
        let mut name = [0; KEY_NAME_BYTES];
        name.copy_from_slice(&Sha256::digest(bytes)[..KEY_NAME_BYTES]);
        Self { name, cipher: XChaCha20Poly1305::new(&(*bytes).into()) }
    }
}

/// Associated data: the row of cached tokens, and its generation when they were minted.
#[derive(Clone, Copy, Debug)]
pub struct Aad<'a> {
    /// The id of the user.
    pub user: &'a str,
    /// The ACS identity of the user.
    pub identity: &'a str,
    /// The generation under which the tokens were authorised.
    pub generation: i64,
}

impl Aad<'_> {
    /// Writes each text after its length, so that different data have different bytes.
    fn bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(192);
        for text in ["users.cached_tokens", self.user, self.identity] {
            bytes.extend_from_slice(&(text.len() as u64).to_be_bytes());
            bytes.extend_from_slice(text.as_bytes());
        }
        bytes.extend_from_slice(&self.generation.to_be_bytes());
        bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: &str = "QUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUE=";
    const B: &str = "QkJCQkJCQkJCQkJCQkJCQkJCQkJCQkJCQkJCQkJCQkI=";
    const AAD: Aad<'static> = Aad { user: "u_1", identity: "8:acs:1_2", generation: 7 };

    fn ring(keys: &[&str]) -> KeyRing {
        KeyRing::parse(keys.iter().copied()).unwrap()
    }

    #[test]
    fn a_ciphertext_decrypts_and_hides_the_text() {
        let (first, second) =
            (ring(&[A]).encrypt("secret", &AAD).unwrap(), ring(&[A]).encrypt("secret", &AAD).unwrap());
        assert_ne!(first, second, "each nonce is new");
        assert!(!first.windows(6).any(|window| window == b"secret"));
        assert_eq!(ring(&[A]).decrypt(&first, &AAD).unwrap().expose_secret(), "secret");
    }

    #[test]
    fn all_keys_decrypt_and_the_first_encrypts() {
        let old = ring(&[A]).encrypt("secret", &AAD).unwrap();
        let rotated = ring(&[B, A]);
        assert_eq!(rotated.decrypt(&old, &AAD).unwrap().expose_secret(), "secret");
        let new = rotated.encrypt("secret", &AAD).unwrap();
        assert!(ring(&[B]).decrypt(&new, &AAD).is_ok());
        assert_eq!(ring(&[A]).decrypt(&new, &AAD).unwrap_err(), DecryptError);
        assert_eq!(ring(&[B]).decrypt(&old, &AAD).unwrap_err(), DecryptError);
    }

    #[test]
    fn other_associated_data_or_bytes_do_not_decrypt() {
        let encrypted = ring(&[A]).encrypt("secret", &AAD).unwrap();
        for other in [
            Aad { user: "u_2", ..AAD },
            Aad { user: "u_18:acs:1_2", identity: "", ..AAD },
            Aad { identity: "8:acs:1_3", ..AAD },
            Aad { generation: 8, ..AAD },
        ] {
            assert_eq!(ring(&[A]).decrypt(&encrypted, &other).unwrap_err(), DecryptError, "{other:?}");
        }
        for at in 0..encrypted.len() {
            let mut changed = encrypted.clone();
            changed[at] ^= 1;
            assert_eq!(ring(&[A]).decrypt(&changed, &AAD).unwrap_err(), DecryptError, "byte {at}");
            assert_eq!(ring(&[A]).decrypt(&encrypted[..at], &AAD).unwrap_err(), DecryptError, "first {at} bytes");
        }
    }

    #[test]
    fn keys_are_read_from_lists_and_strings_and_errors_have_a_position() {
        let read = |json: serde_json::Value| serde_json::from_value::<KeyRing>(json).map(|ring| ring.0.len());
        assert_eq!(read(serde_json::json!([A, B])).unwrap(), 2);
        assert_eq!(read(serde_json::json!(format!(" {A}, {B},"))).unwrap(), 2);
        assert!(read(serde_json::json!("")).is_err() && read(serde_json::json!([])).is_err());
        let error = read(serde_json::json!([A, "c2hvcnQ="])).unwrap_err().to_string();
        assert!(error.contains("encryption key 2") && !error.contains("c2hvcnQ="), "{error}");
        assert_eq!(format!("{:?}", ring(&[A, B])), "[2 keys, redacted]");
    }

    #[test]
    fn without_a_key_nothing_is_encrypted() {
        assert!(KeyRing::default().encrypt("secret", &AAD).is_none());
        assert!(!KeyRing::random().unwrap().is_empty());
    }
}

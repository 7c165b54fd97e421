//! Sealing of tokens that are kept for reuse: XChaCha20-Poly1305 under a ring of keys.
//!
//! The first key seals, every key opens, so that keys can be replaced without losing what the old ones sealed.
//! The nonce is random: 192 bits never repeat by chance (draft-irtf-cfrg-xchacha-03, section 2.1).
//! What a sealed text is about is authenticated with it, so that one moved to another row stays shut.

use std::fmt;

use aws_lc_rs::rand::{SecureRandom, SystemRandom};
use base64::{Engine, prelude::BASE64_STANDARD};
use chacha20poly1305::{
    KeyInit, Tag, XChaCha20Poly1305, XNonce,
    aead::{AeadInOut, inout::InOutBuf},
};
use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Deserializer, de};
use sha2::{Digest, Sha256};

const KEY_BYTES: usize = 32;
const KEY_NAME_BYTES: usize = 4;
const NONCE_BYTES: usize = 24;
const TAG_BYTES: usize = 16;
const HEAD_BYTES: usize = KEY_NAME_BYTES + NONCE_BYTES;

/// Encryption keys, the first of which seals; without any, nothing can be kept.
#[derive(Clone, Default)]
pub struct KeyRing(Vec<Key>);

#[derive(Clone)]
struct Key {
    /// The first bytes of the key's SHA-256: tells which key to open with, and nothing of a random key.
    name: [u8; KEY_NAME_BYTES],
    cipher: XChaCha20Poly1305,
}

/// Why a text is no encryption key; never shows the text.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("encryption key {position} is not 32 bytes in base64, as `openssl rand -base64 32` prints them")]
pub struct KeyError {
    position: usize,
}

/// Why a sealed text does not open: it was sealed under a key that is not in the ring, or is not about what it is opened for.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("no encryption key opens it")]
pub struct DecryptError;

impl KeyRing {
    /// Reads keys in base64.
    ///
    /// # Errors
    /// [`KeyError`] with the position of the first that is none.
    pub fn parse<'a>(texts: impl IntoIterator<Item = &'a str>) -> Result<Self, KeyError> {
        let read = |(index, text)| Key::read(text).ok_or(KeyError { position: index + 1 });
        texts.into_iter().enumerate().map(read).collect::<Result<_, _>>().map(Self)
    }

    /// Makes a ring of one new key, which nobody else has.
    ///
    /// # Errors
    /// When the system gives no randomness.
    pub fn random() -> Result<Self, aws_lc_rs::error::Unspecified> {
        let mut bytes = [0; KEY_BYTES];
        SystemRandom::new().fill(&mut bytes)?;
        Ok(Self(vec![Key::new(&bytes)]))
    }

    /// Tells whether there is no key.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Seals a text that is about something; `None` without a key, or when the system gives no randomness.
    #[must_use]
    pub fn seal(&self, text: &str, about: &About<'_>) -> Option<Vec<u8>> {
        let key = self.0.first()?;
        let mut sealed = Vec::with_capacity(HEAD_BYTES + text.len() + TAG_BYTES);
        sealed.extend_from_slice(&key.name);
        sealed.extend_from_slice(&[0; NONCE_BYTES]);
        SystemRandom::new().fill(&mut sealed[KEY_NAME_BYTES..]).ok()?;
        let nonce = XNonce::try_from(&sealed[KEY_NAME_BYTES..]).ok()?;
        sealed.extend_from_slice(text.as_bytes());
        let secret = InOutBuf::from(&mut sealed[HEAD_BYTES..]);
        let tag = key.cipher.encrypt_inout_detached(&nonce, &about.bytes(), secret).ok()?;
        sealed.extend_from_slice(&tag);
        Some(sealed)
    }

    /// Opens what was sealed about the same.
    ///
    /// # Errors
    /// [`DecryptError`] when no key opens it.
    pub fn open(&self, mut sealed: Vec<u8>, about: &About<'_>) -> Result<SecretString, DecryptError> {
        let tag_at = sealed.len().checked_sub(TAG_BYTES).filter(|at| *at >= HEAD_BYTES).ok_or(DecryptError)?;
        let (head, rest) = sealed.split_at_mut(HEAD_BYTES);
        let (secret, tag) = rest.split_at_mut(tag_at - HEAD_BYTES);
        let (name, nonce) = head.split_at(KEY_NAME_BYTES);
        let nonce = XNonce::try_from(nonce).map_err(|_| DecryptError)?;
        let tag = Tag::try_from(&*tag).map_err(|_| DecryptError)?;
        let about = about.bytes();
        // Names may be equal by chance, so each key of the name is tried; a failed try leaves the bytes as they are.
        let mut named = self.0.iter().filter(|key| key.name == *name);
        let mut opens =
            |key: &Key| key.cipher.decrypt_inout_detached(&nonce, &about, InOutBuf::from(&mut *secret), &tag).is_ok();
        if !named.any(&mut opens) {
            return Err(DecryptError);
        }
        // In place, so that no second copy of the secret is left behind.
        sealed.truncate(tag_at);
        sealed.drain(..HEAD_BYTES);
        String::from_utf8(sealed).map(SecretString::from).map_err(|_| DecryptError)
    }
}

impl fmt::Debug for KeyRing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "[{} keys, redacted]", self.0.len())
    }
}

impl<'de> Deserialize<'de> for KeyRing {
    /// Reads a list of keys or, as environment variables can say it, one text with commas.
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
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
        // An empty file would otherwise look like a wish to store nothing.
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

/// What sealed tokens are about: the row they belong to, and what it was when they were minted.
#[derive(Clone, Copy, Debug)]
pub struct About<'a> {
    /// Whose tokens they are, in our words.
    pub user: &'a str,
    /// Whose they are, in ACS's words.
    pub identity: &'a str,
    /// The generation that they were authorised under.
    pub generation: i64,
}

impl About<'_> {
    /// Writes the parts so that no two different ones look alike: texts after their lengths.
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
    const ABOUT: About<'static> = About { user: "u_1", identity: "8:acs:1_2", generation: 7 };

    fn ring(keys: &[&str]) -> KeyRing {
        KeyRing::parse(keys.iter().copied()).unwrap()
    }

    #[test]
    fn what_is_sealed_opens_and_shows_nothing() {
        let (first, second) = (ring(&[A]).seal("secret", &ABOUT).unwrap(), ring(&[A]).seal("secret", &ABOUT).unwrap());
        assert_ne!(first, second, "each nonce is its own");
        assert!(!first.windows(6).any(|window| window == b"secret"));
        assert_eq!(ring(&[A]).open(first, &ABOUT).unwrap().expose_secret(), "secret");
    }

    #[test]
    fn every_key_opens_and_the_first_seals() {
        let old = ring(&[A]).seal("secret", &ABOUT).unwrap();
        let rotated = ring(&[B, A]);
        assert_eq!(rotated.open(old.clone(), &ABOUT).unwrap().expose_secret(), "secret");
        let new = rotated.seal("secret", &ABOUT).unwrap();
        assert!(ring(&[B]).open(new.clone(), &ABOUT).is_ok());
        assert_eq!(ring(&[A]).open(new, &ABOUT).unwrap_err(), DecryptError);
        assert_eq!(ring(&[B]).open(old, &ABOUT).unwrap_err(), DecryptError);
    }

    #[test]
    fn what_is_about_something_else_stays_shut() {
        let sealed = ring(&[A]).seal("secret", &ABOUT).unwrap();
        for other in [
            About { user: "u_2", ..ABOUT },
            About { user: "u_18:acs:1_2", identity: "", ..ABOUT },
            About { identity: "8:acs:1_3", ..ABOUT },
            About { generation: 8, ..ABOUT },
        ] {
            assert_eq!(ring(&[A]).open(sealed.clone(), &other).unwrap_err(), DecryptError, "{other:?}");
        }
        for at in 0..sealed.len() {
            let mut changed = sealed.clone();
            changed[at] ^= 1;
            assert_eq!(ring(&[A]).open(changed, &ABOUT).unwrap_err(), DecryptError, "byte {at}");
            assert_eq!(ring(&[A]).open(sealed[..at].to_vec(), &ABOUT).unwrap_err(), DecryptError, "first {at} bytes");
        }
    }

    #[test]
    fn keys_are_read_from_lists_and_texts_and_faults_have_a_place() {
        let read = |json: serde_json::Value| serde_json::from_value::<KeyRing>(json).map(|ring| ring.0.len());
        assert_eq!(read(serde_json::json!([A, B])).unwrap(), 2);
        assert_eq!(read(serde_json::json!(format!(" {A}, {B},"))).unwrap(), 2);
        assert!(read(serde_json::json!("")).is_err() && read(serde_json::json!([])).is_err());
        let fault = read(serde_json::json!([A, "c2hvcnQ="])).unwrap_err().to_string();
        assert!(fault.contains("encryption key 2") && !fault.contains("c2hvcnQ="), "{fault}");
        assert_eq!(format!("{:?}", ring(&[A, B])), "[2 keys, redacted]");
    }

    #[test]
    fn without_a_key_nothing_is_sealed() {
        assert!(KeyRing::default().seal("secret", &ABOUT).is_none());
        assert!(!KeyRing::random().unwrap().is_empty());
    }
}

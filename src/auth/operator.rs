//! Operators and backends: keys with names and roles, stored as hashes.
//!
//! A key is 32 random bytes, so a plain SHA-256 of it tells nothing (there is no dictionary of such keys to try).

use std::{collections::BTreeMap, fmt::Write};

use aws_lc_rs::rand::{SecureRandom, SystemRandom};
use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use secrecy::SecretString;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use super::{
    Error,
    policy::{Grant, StringList, scopes_of},
};
use crate::domain::{scope::Scopes, token::Lifetime};

/// What the holder of a key may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Look at users, operations and the audit trail.
    Viewer,
    /// Revoke, block and unblock: for the hook of a password change.
    Revoker,
    /// Look up, ensure and mint for users: for backends.
    Minter,
    /// Everything.
    Operator,
}

impl Role {
    /// Returns the role's name in settings and answers.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Viewer => "viewer",
            Self::Revoker => "revoker",
            Self::Minter => "minter",
            Self::Operator => "operator",
        }
    }

    fn parse(text: &str) -> Option<Self> {
        [Self::Viewer, Self::Revoker, Self::Minter, Self::Operator].into_iter().find(|role| role.as_str() == text)
    }
}

/// One key as the settings have it.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KeySettings {
    /// SHA-256 of the key, in hexadecimal.
    pub hash: String,
    /// What its holder may do.
    pub roles: StringList,
    /// The scopes that a minter may ask for.
    pub scopes: Option<StringList>,
    /// The longest life of a token that a minter gets.
    #[serde(default = "default_max_lifetime")]
    pub max_lifetime: Lifetime,
}

fn default_max_lifetime() -> Lifetime {
    Lifetime::HOUR
}

/// The holder of a key.
#[derive(Clone, Debug)]
pub struct Operator {
    /// The key's name.
    pub name: String,
    roles: Vec<Role>,
    /// What a minter may ask for.
    pub grant: Option<Grant>,
    hash: [u8; 32],
}

impl Operator {
    /// Tells whether the holder may do what one of the roles may.
    #[must_use]
    pub fn has_one_of(&self, roles: &[Role]) -> bool {
        self.roles.iter().any(|role| *role == Role::Operator || roles.contains(role))
    }
}

/// The keys of a service.
#[derive(Clone, Debug, Default)]
pub struct Operators(Vec<Operator>);

impl Operators {
    /// Reads keys.
    ///
    /// # Errors
    /// Every fault, with the key's name and member.
    pub fn parse(keys: BTreeMap<String, KeySettings>) -> Result<Self, Vec<(String, String)>> {
        let mut faults = Vec::new();
        let mut operators = Vec::new();
        for (name, key) in keys {
            match read(&name, &key) {
                Ok(operator) => operators.push(operator),
                Err((member, message)) => faults.push((format!("{name}.{member}"), message)),
            }
        }
        if faults.is_empty() { Ok(Self(operators)) } else { Err(faults) }
    }

    /// Finds the holder of a key.
    ///
    /// # Errors
    /// [`Error::UnknownKey`] when there is none.
    pub fn authenticate(&self, key: &str) -> Result<&Operator, Error> {
        let hash: [u8; 32] = Sha256::digest(key).into();
        // Every key is compared, so that the time tells nothing about which one is near.
        let holder = self
            .0
            .iter()
            .fold(None, |found, operator| if bool::from(operator.hash.ct_eq(&hash)) { Some(operator) } else { found });
        holder.ok_or(Error::UnknownKey)
    }
}

fn read(name: &str, key: &KeySettings) -> Result<Operator, (&'static str, String)> {
    let hash = decode_hash(&key.hash)
        .ok_or_else(|| ("hash", "must be 64 hexadecimal digits: `ops-key new` prints them".to_owned()))?;
    let parse = |word: &String| {
        Role::parse(word).ok_or_else(|| ("roles", format!("`{word}` is not one of viewer, revoker, minter, operator")))
    };
    let roles = key.roles.0.iter().map(parse).collect::<Result<Vec<_>, _>>()?;
    if roles.is_empty() {
        return Err(("roles", format!("the key `{name}` may do nothing: name at least one role")));
    }
    let scopes: Option<Scopes> =
        key.scopes.as_ref().map(scopes_of).transpose().map_err(|message| ("scopes", message))?;
    let mints = roles.iter().any(|role| matches!(role, Role::Minter | Role::Operator));
    if roles.contains(&Role::Minter) && scopes.is_none() {
        return Err(("scopes", "a minter needs the scopes that it may ask for".to_owned()));
    }
    let grant =
        scopes.filter(|_| mints).map(|scopes| Grant { when: BTreeMap::new(), scopes, max_lifetime: key.max_lifetime });
    Ok(Operator { name: name.to_owned(), roles, grant, hash })
}

/// Makes a new key: its text, which is shown once, and its hash, which is kept.
///
/// # Errors
/// When the system gives no randomness.
pub fn generate(name: &str) -> Result<(SecretString, String), std::io::Error> {
    let mut random = [0; 32];
    SystemRandom::new().fill(&mut random).map_err(|_| std::io::Error::other("the system gives no randomness"))?;
    let key = format!("atv_{name}_{}", BASE64_URL_SAFE_NO_PAD.encode(random));
    let hash = hash(&key);
    Ok((key.into(), hash))
}

/// Returns the hash of a key as settings have it.
#[must_use]
pub fn hash(key: &str) -> String {
    let mut text = String::with_capacity(64);
    for byte in Sha256::digest(key) {
        let _ = write!(text, "{byte:02x}");
    }
    text
}

fn decode_hash(text: &str) -> Option<[u8; 32]> {
    let mut bytes = [0; 32];
    if text.len() != 64 || !text.is_ascii() {
        return None;
    }
    for (index, byte) in bytes.iter_mut().enumerate() {
        *byte = u8::from_str_radix(&text[2 * index..2 * index + 2], 16).ok()?;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use secrecy::ExposeSecret;

    use super::*;

    fn operators(hash: &str, roles: &str, scopes: Option<&str>) -> Result<Operators, Vec<(String, String)>> {
        let words = |text: &str| StringList(text.split(',').map(str::to_owned).collect());
        let settings = KeySettings {
            hash: hash.to_owned(),
            roles: words(roles),
            scopes: scopes.map(words),
            max_lifetime: Lifetime::HOUR,
        };
        Operators::parse(BTreeMap::from([("hook".to_owned(), settings)]))
    }

    #[test]
    fn a_new_key_is_known_by_its_hash_only() {
        let (key, hash) = generate("hook").unwrap();
        let operators = operators(&hash, "revoker", None).unwrap();
        let holder = operators.authenticate(key.expose_secret()).unwrap();
        assert_eq!(holder.name, "hook");
        assert!(holder.has_one_of(&[Role::Revoker]) && !holder.has_one_of(&[Role::Viewer, Role::Minter]));
        for other in ["", "atv_hook_", &hash, &key.expose_secret().to_uppercase()] {
            assert!(operators.authenticate(other).is_err());
        }
        assert!(key.expose_secret().starts_with("atv_hook_"));
    }

    #[test]
    fn an_operator_may_everything() {
        let (key, hash) = generate("hook").unwrap();
        let operators = operators(&hash, "operator", Some("voip")).unwrap();
        let holder = operators.authenticate(key.expose_secret()).unwrap();
        assert!(holder.has_one_of(&[Role::Viewer]) && holder.has_one_of(&[Role::Minter]));
        assert_eq!(holder.grant.as_ref().unwrap().scopes.to_string(), "voip");
    }

    #[test]
    fn faults_are_named() {
        let fault = |hash: &str, roles, scopes| operators(hash, roles, scopes).unwrap_err()[0].0.clone();
        let good = "0".repeat(64);
        assert_eq!(fault("abc", "viewer", None), "hook.hash");
        assert_eq!(fault(&"é".repeat(32), "viewer", None), "hook.hash");
        assert_eq!(fault(&good, "viewer,boss", None), "hook.roles");
        assert_eq!(fault(&good, "minter", None), "hook.scopes");
        assert_eq!(fault(&good, "minter", Some("fax")), "hook.scopes");
    }
}

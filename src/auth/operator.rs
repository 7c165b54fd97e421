//! Keys of operators and backends, with names and roles. Settings hold only their hashes.
//!
//! A key is 32 random bytes, so a plain SHA-256 is enough: such keys cannot be guessed.

use std::collections::BTreeMap;

use aws_lc_rs::{
    constant_time::verify_slices_are_equal,
    rand::{SecureRandom, SystemRandom},
};
use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use secrecy::SecretString;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use strum::{EnumString, IntoStaticStr, VariantNames};

use super::{
    Error,
    policy::{Grant, scopes_of},
};
use crate::domain::{string_list::StringList, token::Lifetime};

/// What a key permits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, EnumString, IntoStaticStr, VariantNames)]
#[serde(rename_all = "snake_case")]
#[strum(serialize_all = "snake_case")]
pub enum Role {
    /// Read users, operations and the audit trail.
    Viewer,
    /// Revoke, block and unblock: for example for the hook of a password change.
    Revoker,
    /// Look up users, create identities and get tokens for them: for backends.
    Minter,
    /// Everything.
    Operator,
}

impl Role {
    /// Returns the role's name in settings and responses.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        self.into()
    }
}

/// A key as settings hold it.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KeySettings {
    /// SHA-256 of the key, in hexadecimal.
    pub hash: String,
    /// What it permits.
    pub roles: StringList,
    /// The scopes that a minter may request.
    pub scopes: Option<StringList>,
    /// The maximum lifetime of a token that a minter gets.
    #[serde(default = "default_max_lifetime")]
    pub max_lifetime: Lifetime,
}

fn default_max_lifetime() -> Lifetime {
    Lifetime::HOUR
}

/// The holder of a key.
#[derive(Clone, Debug)]
pub struct Operator {
    pub name: String,
    roles: Vec<Role>,
    /// What a minter may request.
    pub grant: Option<Grant>,
    hash: [u8; 32],
}

impl Operator {
    /// Tells whether the holder has one of the roles, or may do everything.
    #[must_use]
    pub fn has_one_of(&self, roles: &[Role]) -> bool {
        self.roles.iter().any(|role| *role == Role::Operator || roles.contains(role))
    }
}

/// The keys of a service.
#[derive(Clone, Debug, Default)]
pub struct Operators(Vec<Operator>);

impl Operators {
    /// Reads keys. An error is the path of a setting below `ops.keys` and a message.
    pub fn parse(keys: BTreeMap<String, KeySettings>) -> Result<Self, Vec<(String, String)>> {
        let mut errors = Vec::new();
        let mut operators = Vec::new();
        for (name, key) in keys {
            match read(&name, &key) {
                Ok(operator) => operators.push(operator),
                Err((member, message)) => errors.push((format!("{name}.{member}"), message)),
            }
        }
        if errors.is_empty() { Ok(Self(operators)) } else { Err(errors) }
    }

    /// Finds the holder of a key.
    pub fn authenticate(&self, key: &str) -> Result<&Operator, Error> {
        let hash: [u8; 32] = Sha256::digest(key).into();
        // Every key is compared, so that the time does not depend on which one matches.
        let holder = self.0.iter().fold(None, |found, operator| {
            if verify_slices_are_equal(&operator.hash, &hash).is_ok() { Some(operator) } else { found }
        });
        holder.ok_or(Error::UnknownKey)
    }
}

fn read(name: &str, key: &KeySettings) -> Result<Operator, (&'static str, String)> {
    let mut hash = [0; 32];
    hex::decode_to_slice(&key.hash, &mut hash)
        .map_err(|_| ("hash", "must be 64 hexadecimal digits, as `ops-key new` prints them".to_owned()))?;
    let roles: Vec<Role> = key
        .roles
        .0
        .iter()
        .map(|name| name.parse())
        .collect::<Result<_, _>>()
        .map_err(|_| ("roles", format!("each role must be one of {}", Role::VARIANTS.join(", "))))?;
    if roles.is_empty() {
        return Err(("roles", "must name at least one role".to_owned()));
    }
    let scopes = key.scopes.as_ref().map(scopes_of).transpose().map_err(|error| ("scopes", error.to_string()))?;
    let mints = roles.iter().any(|role| matches!(role, Role::Minter | Role::Operator));
    if roles.contains(&Role::Minter) && scopes.is_none() {
        return Err(("scopes", "is missing: a minter needs the scopes that it may request".to_owned()));
    }
    let grant =
        scopes.filter(|_| mints).map(|scopes| Grant { when: BTreeMap::new(), scopes, max_lifetime: key.max_lifetime });
    Ok(Operator { name: name.to_owned(), roles, grant, hash })
}

/// Creates a key. Returns its text, which is shown once, and its hash for the settings.
pub fn generate(name: &str) -> Result<(SecretString, String), std::io::Error> {
    let mut random = [0; 32];
    SystemRandom::new()
        .fill(&mut random)
        .map_err(|_| std::io::Error::other("the system provides no random numbers"))?;
    let key = format!("atv_{name}_{}", BASE64_URL_SAFE_NO_PAD.encode(random));
    let hash = hash(&key);
    Ok((key.into(), hash))
}

/// Returns the hash of a key as settings hold it.
#[must_use]
pub fn hash(key: &str) -> String {
    hex::encode(Sha256::digest(key))
}

#[cfg(test)]
mod tests {
    use secrecy::ExposeSecret;

    use super::*;

    fn operators(hash: &str, roles: &str, scopes: Option<&str>) -> Result<Operators, Vec<(String, String)>> {
        let list = |text: &str| StringList(text.split(',').map(str::to_owned).collect());
        let settings = KeySettings {
            hash: hash.to_owned(),
            roles: list(roles),
            scopes: scopes.map(list),
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
    fn the_operator_role_implies_all_roles() {
        let (key, hash) = generate("hook").unwrap();
        let operators = operators(&hash, "operator", Some("voip")).unwrap();
        let holder = operators.authenticate(key.expose_secret()).unwrap();
        assert!(holder.has_one_of(&[Role::Viewer]) && holder.has_one_of(&[Role::Minter]));
        assert_eq!(holder.grant.as_ref().unwrap().scopes.to_string(), "voip");
    }

    #[test]
    fn errors_name_the_setting() {
        let error = |hash: &str, roles, scopes| operators(hash, roles, scopes).unwrap_err()[0].0.clone();
        let good = "0".repeat(64);
        assert_eq!(error("abc", "viewer", None), "hook.hash");
        assert_eq!(error(&"é".repeat(32), "viewer", None), "hook.hash");
        assert_eq!(error(&good, "viewer,boss", None), "hook.roles");
        assert_eq!(error(&good, "minter", None), "hook.scopes");
        assert_eq!(error(&good, "minter", Some("fax")), "hook.scopes");
    }
}

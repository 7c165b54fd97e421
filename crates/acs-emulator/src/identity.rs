//! The ids of the resource and of its identities.
//!
//! An id is `8:acs:<resource guid>_<guid-shaped suffix>`, compared as given, letter case included.
//! The resource's guid follows from its first access key, so that a restarted emulator still owns the identities of an earlier run.

use chrono::{DateTime, Utc};
use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::Sha256;
use uuid::Uuid;

use super::{access_key::AccessKey, refusal::Refusal};

/// The clouds that identities may name; this resource is in the first.
const CLOUDS: [&str; 3] = ["acs", "gcch-acs", "dod-acs"];

/// The emulated resource.
#[derive(Debug)]
pub(super) struct Resource {
    guid: String,
}

impl Resource {
    /// Derives the resource from its first key, one way.
    pub(super) fn of(key: &AccessKey) -> Self {
        #[expect(clippy::expect_used, reason = "HMAC takes keys of any length")]
        let mac = Hmac::<Sha256>::new_from_slice(key.as_bytes()).expect("any key length");
        let digest = mac.chain_update(b"resource id of the emulator").finalize().into_bytes();
        let mut bytes = [0; 16];
        bytes.copy_from_slice(&digest[..16]);
        Self { guid: uuid::Builder::from_random_bytes(bytes).into_uuid().to_string() }
    }

    pub(super) fn guid(&self) -> &str {
        &self.guid
    }

    /// Makes the id of a new identity: milliseconds first, because real ids look ordered by time, then 62 random bits.
    pub(super) fn new_identity(&self, now: DateTime<Utc>) -> String {
        let time = u128::try_from(now.timestamp_millis()).unwrap_or_default();
        let suffix = Uuid::from_u128((time << 64) | (Uuid::new_v4().as_u128() & u128::from(u64::MAX)));
        format!("8:acs:{}_{suffix}", self.guid)
    }

    /// Checks that `id` is well-formed and belongs to this resource.
    ///
    /// A choice: a malformed id is a 400 `ValidationError`, since only a foreign resource's id was recorded as `IdentityNotOwned`.
    pub(super) fn check(&self, id: &str) -> Result<(), Refusal> {
        let (cloud, guid) =
            parse(id).ok_or_else(|| Refusal::validation("Provided identity has invalid format.").at("identity"))?;
        if cloud == "acs" && guid == self.guid { Ok(()) } else { Err(Refusal::identity_not_owned()) }
    }
}

/// Splits a well-formed id into its cloud and its resource.
fn parse(id: &str) -> Option<(&str, &str)> {
    let (cloud, rest) = id.strip_prefix("8:")?.split_once(':')?;
    let (resource, suffix) = rest.split_once('_')?;
    (CLOUDS.contains(&cloud) && is_guid(resource) && is_guid(suffix)).then_some((cloud, resource))
}

fn is_guid(text: &str) -> bool {
    text.len() == 36 && Uuid::try_parse(text).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const ZERO: &str = "00000000-0000-0000-0000-000000000000";

    #[test]
    fn the_same_key_gives_the_same_resource() {
        let [a, b, other] = ["a2V5", "a2V5", "a2V6"].map(|key| Resource::of(&AccessKey::parse(key).unwrap()));
        assert_eq!(a.guid(), b.guid());
        assert_ne!(a.guid(), other.guid());
    }

    #[test]
    fn own_foreign_and_malformed_ids_are_told_apart() {
        let resource = Resource::of(&AccessKey::parse("a2V5").unwrap());
        let own = resource.new_identity(DateTime::from_timestamp(1_755_818_174, 0).unwrap());
        assert!(own.contains("_00000198-"), "{own}");
        assert!(resource.check(&own).is_ok());
        for foreign in [format!("8:acs:{ZERO}_{ZERO}"), own.replace("8:acs", "8:dod-acs")] {
            assert_eq!(resource.check(&foreign).unwrap_err().detail.code, "IdentityNotOwned");
        }
        for malformed in ["", "alice", "8:acs:x_y", &format!("{own}_{ZERO}"), &own[2..]] {
            assert_eq!(resource.check(malformed).unwrap_err().detail.code, "ValidationError", "{malformed}");
        }
    }
}

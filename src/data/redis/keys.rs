//! All keys in Redis. The braces around the owner put all keys of a user, and all keys of an API
//! key, into one slot of a cluster.
//!
//! | key | value |
//! | --- | --- |
//! | `billing:{USER}:account` | hash: the account, see [`super::hash`] |
//! | `billing:{API KEY}:api_key` | hash: the quotas of the API key |
//! | the same with the suffix `:fence` | text: the fence of a load in flight, see `quota_load.lua` |
//! | `billing:{USER}:rate`, `billing:{API KEY}:key_rate` | hash: buckets, see `rate_limit.lua` |
//! | `billing:difference` | text: the difference of the last comparison with the database, an amount and units |
//! | `billing:{N}:marker` | text: the id of the server run that has current entries; one per node |

use crate::biz::values::{
    cache_key::CacheKey,
    ids::{ApiKeyId, UserId},
};

/// Slots of a cluster.
pub(super) const SLOTS: u16 = 16_384;

/// SCAN pattern of the hashes. It also matches other keys; [`is_hash`] filters them.
pub(super) const HASHES: &str = "billing:{*}:a*";
/// SCAN pattern of the fences. It also matches other keys; [`is_fence`] filters them.
pub(super) const FENCES: &str = "billing:{*}:a*:fence";

/// The difference that the last comparison with the database found.
pub(super) const DIFFERENCE: &str = "billing:difference";

const ACCOUNT: &str = ":account";
const API_KEY: &str = ":api_key";
const FENCE: &str = ":fence";

/// The hash of a cache key.
pub(super) fn hash(cache_key: &CacheKey) -> String {
    match cache_key {
        CacheKey::User(user) => format!("billing:{{{user}}}{ACCOUNT}"),
        CacheKey::ApiKey(key) => format!("billing:{{{}}}{API_KEY}", escaped(key.as_str())),
    }
}

/// The fence of a hash.
pub(super) fn fence(hash: &str) -> String {
    format!("{hash}{FENCE}")
}

pub(super) fn is_hash(key: &str) -> bool {
    cache_key_of(key).is_some()
}

pub(super) fn is_fence(key: &str) -> bool {
    key.strip_suffix(FENCE).is_some_and(is_hash)
}

/// The buckets of a cache key.
pub(super) fn rate(cache_key: &CacheKey) -> String {
    match cache_key {
        CacheKey::User(user) => format!("billing:{{{user}}}:rate"),
        CacheKey::ApiKey(key) => format!("billing:{{{}}}:key_rate", escaped(key.as_str())),
    }
}

/// The cache key of a hash; `None` if the key is no hash.
pub(super) fn cache_key_of(key: &str) -> Option<CacheKey> {
    let (owner, kind) = key.strip_prefix("billing:{")?.rsplit_once('}')?;
    match kind {
        ACCOUNT => UserId::parse("user_id", owner).ok().map(CacheKey::User),
        API_KEY => ApiKeyId::parse("api_key_id", &unescaped(owner)).ok().map(CacheKey::ApiKey),
        _ => None,
    }
}

/// The marker of a node that owns the slots for which `owns` is true; `None` for a node without
/// slots.
pub(super) fn marker(owns: impl Fn(u16) -> bool) -> Option<String> {
    // For each slot there is a small number whose marker hashes to it.
    let mut markers = (0..u32::from(SLOTS) * 16).map(|number| format!("billing:{{{number}}}:marker"));
    markers.find(|marker| owns(slot(marker)))
}

/// A key in the slot of a marker that never exists.
pub(super) fn absent_key_beside(marker: &str) -> String {
    format!("{marker}:nothing")
}

/// The slot of a key. Source: the Redis Cluster specification.
pub(super) fn slot(key: &str) -> u16 {
    let tag = key.split_once('{').and_then(|(_, rest)| rest.split_once('}')).map(|(tag, _)| tag);
    let hashed = tag.filter(|tag| !tag.is_empty()).unwrap_or(key);
    crc16::State::<crc16::XMODEM>::calculate(hashed.as_bytes()) % SLOTS
}

/// An API key without braces, because braces could put its hash and its fence into two slots.
fn escaped(key: &str) -> String {
    key.replace('%', "%25").replace('{', "%7B").replace('}', "%7D")
}

fn unescaped(key: &str) -> String {
    key.replace("%7B", "{").replace("%7D", "}").replace("%25", "%")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_keys_of_a_cache_key_are_in_one_slot_and_lead_back_to_it() {
        for key in ["k", "}{", "{a}b", "%7B", "a%", " "] {
            let cache_key = CacheKey::ApiKey(ApiKeyId::from_stored(key));
            let hash = hash(&cache_key);
            assert_eq!(slot(&hash), slot(&fence(&hash)), "{key}");
            assert_eq!(cache_key_of(&hash), Some(cache_key), "{key}");
            assert_eq!(cache_key_of(&fence(&hash)), None);
            assert_eq!((is_fence(&fence(&hash)), is_fence(&hash)), (true, false), "{key}");
        }
        let user = CacheKey::User(UserId::from_stored("a:b@c"));
        assert_eq!(hash(&user), "billing:{a:b@c}:account");
        assert_eq!(cache_key_of(&hash(&user)), Some(user));
    }

    #[test]
    fn slots_are_those_of_the_specification() {
        assert_eq!(slot("123456789"), 0x31c3);
        assert_eq!(slot("foo{hash_tag}"), slot("hash_tag"));
        assert_eq!(slot("foo{}bar"), crc16::State::<crc16::XMODEM>::calculate(b"foo{}bar") % SLOTS);
    }

    #[test]
    fn every_node_has_a_marker_of_its_own() {
        let marker = marker(|slot| slot == 16_000).unwrap();
        assert_eq!(slot(&marker), 16_000);
        assert_eq!(super::marker(|_| false), None);
    }
}

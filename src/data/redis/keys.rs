//! All keys in Redis. Each begins with the id of the database: several deployments share one
//! Redis, and none reads, counts or drops entries of another. The braces around the owner put all
//! keys of a user, and all keys of an API key, into one slot of a cluster.
//!
//! | key | value |
//! | --- | --- |
//! | `billing:ID:{USER}:account` | hash: the account, see [`super::hash`] |
//! | `billing:ID:{API KEY}:api_key` | hash: the quotas of the API key |
//! | the same with the suffix `:fence` | text: the fence of a load in flight, see `quota_load.lua` |
//! | `billing:ID:{USER}:rate`, `billing:ID:{API KEY}:key_rate` | hash: buckets, see `rate_limit.lua` |
//! | `billing:ID:difference` | text: the difference of the last comparison with the database, an amount and units |
//! | `billing:ID:{N}:marker` | text: the id of the server run that has current entries; one per node |

use uuid::Uuid;

use crate::biz::values::{
    cache_key::CacheKey,
    ids::{ApiKeyId, UserId},
};

/// Slots of a cluster.
pub(super) const SLOTS: u16 = 16_384;

const ACCOUNT: &str = ":account";
const API_KEY: &str = ":api_key";
const FENCE: &str = ":fence";

/// The keys of one database.
#[derive(Debug, Clone)]
pub(super) struct Keys {
    prefix: String,
}

impl Keys {
    pub fn of(database: Uuid) -> Self {
        Self { prefix: format!("billing:{database}:") }
    }

    /// SCAN pattern of the hashes. It also matches other keys; [`Self::is_hash`] filters them.
    pub fn hashes(&self) -> String {
        format!("{}{{*}}:a*", self.prefix)
    }

    /// SCAN pattern of the fences. It also matches other keys; [`Self::is_fence`] filters them.
    pub fn fences(&self) -> String {
        format!("{}{{*}}:a*{FENCE}", self.prefix)
    }

    /// The difference that the last comparison with the database found.
    pub fn difference(&self) -> String {
        format!("{}difference", self.prefix)
    }

    /// The hash of a cache key.
    pub fn hash(&self, cache_key: &CacheKey) -> String {
        match cache_key {
            CacheKey::User(user) => format!("{}{{{user}}}{ACCOUNT}", self.prefix),
            CacheKey::ApiKey(key) => format!("{}{{{}}}{API_KEY}", self.prefix, escaped(key.as_str())),
        }
    }

    pub fn is_hash(&self, key: &str) -> bool {
        self.cache_key_of(key).is_some()
    }

    pub fn is_fence(&self, key: &str) -> bool {
        key.strip_suffix(FENCE).is_some_and(|hash| self.is_hash(hash))
    }

    /// The buckets of a cache key.
    pub fn rate(&self, cache_key: &CacheKey) -> String {
        match cache_key {
            CacheKey::User(user) => format!("{}{{{user}}}:rate", self.prefix),
            CacheKey::ApiKey(key) => format!("{}{{{}}}:key_rate", self.prefix, escaped(key.as_str())),
        }
    }

    /// The cache key of a hash; `None` if the key is no hash of this database.
    pub fn cache_key_of(&self, key: &str) -> Option<CacheKey> {
        let (owner, kind) = key.strip_prefix(&self.prefix)?.strip_prefix('{')?.rsplit_once('}')?;
        match kind {
            ACCOUNT => UserId::parse("user_id", owner).ok().map(CacheKey::User),
            API_KEY => ApiKeyId::parse("api_key_id", &unescaped(owner)).ok().map(CacheKey::ApiKey),
            _ => None,
        }
    }

    /// The marker of a node that owns the slots for which `owns` is true; `None` for a node without
    /// slots.
    pub fn marker(&self, owns: impl Fn(u16) -> bool) -> Option<String> {
        // For each slot there is a small number whose marker hashes to it.
        let mut markers = (0..u32::from(SLOTS) * 16).map(|number| format!("{}{{{number}}}:marker", self.prefix));
        markers.find(|marker| owns(slot(marker)))
    }
}

/// The fence of a hash.
pub(super) fn fence(hash: &str) -> String {
    format!("{hash}{FENCE}")
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

    const ID: &str = "01980000-0000-7000-8000-00000000000a";

    fn keys() -> Keys {
        Keys::of(ID.parse().unwrap())
    }

    #[test]
    fn the_keys_of_a_cache_key_are_in_one_slot_and_lead_back_to_it() {
        let keys = keys();
        for key in ["k", "}{", "{a}b", "%7B", "a%", " "] {
            let cache_key = CacheKey::ApiKey(ApiKeyId::from_stored(key));
            let hash = keys.hash(&cache_key);
            assert_eq!(slot(&hash), slot(&fence(&hash)), "{key}");
            assert_eq!(slot(&hash), slot(&keys.rate(&cache_key)), "{key}");
            assert_eq!(keys.cache_key_of(&hash), Some(cache_key), "{key}");
            assert_eq!(keys.cache_key_of(&fence(&hash)), None);
            assert_eq!((keys.is_fence(&fence(&hash)), keys.is_fence(&hash)), (true, false), "{key}");
        }
        let user = CacheKey::User(UserId::from_stored("a:b@c"));
        assert_eq!(keys.hash(&user), format!("billing:{ID}:{{a:b@c}}:account"));
        assert_eq!(slot(&keys.hash(&user)), slot("a:b@c"));
        assert_eq!(keys.cache_key_of(&keys.hash(&user)), Some(user));
    }

    #[test]
    fn the_keys_of_another_database_are_none_of_this() {
        let (keys, other) = (keys(), Keys::of(Uuid::nil()));
        let user = CacheKey::User(UserId::from_stored("u"));
        assert_eq!(keys.cache_key_of(&other.hash(&user)), None);
        assert!(!keys.is_fence(&fence(&other.hash(&user))));
        assert_ne!((keys.difference(), keys.rate(&user)), (other.difference(), other.rate(&user)));
        // Nor are those of releases without an id.
        assert_eq!(keys.cache_key_of("billing:{u}:account"), None);
    }

    #[test]
    fn slots_are_those_of_the_specification() {
        assert_eq!(slot("123456789"), 0x31c3);
        assert_eq!(slot("foo{hash_tag}"), slot("hash_tag"));
        assert_eq!(slot("foo{}bar"), crc16::State::<crc16::XMODEM>::calculate(b"foo{}bar") % SLOTS);
    }

    #[test]
    fn every_node_has_a_marker_of_its_own() {
        let marker = keys().marker(|slot| slot == 16_000).unwrap();
        assert_eq!(slot(&marker), 16_000);
        assert_eq!(keys().marker(|_| false), None);
    }
}

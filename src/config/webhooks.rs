//! `billing.webhooks`: the deliveries of events to webhooks.

use std::path::PathBuf;

use anyhow::anyhow;
use base64::{Engine, prelude::BASE64_STANDARD};
use serde::{Deserialize, Deserializer, Serialize, de};

use super::{secret::Secret, values};
use crate::data::tls::{ClientTls, TlsDefect, TlsFiles};

/// Bytes of the key.
const KEY_BYTES: usize = 32;
/// Most old keys.
const MAX_OLD_KEYS: usize = 4;

#[derive(Debug, Clone, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct WebhooksConfig {
    /// The key that seals the secrets of webhooks, in base64. Without it there are no webhooks.
    #[serde(deserialize_with = "key")]
    pub key: Option<Secret>,
    key_file: Option<PathBuf>,
    /// Earlier keys. Secrets that were sealed by them still open, and are sealed again by the key.
    #[serde(deserialize_with = "old_keys")]
    pub old_keys: Vec<Secret>,
    old_keys_file: Option<PathBuf>,
    /// Whether URLs may lead to addresses that are not public, and may do without TLS.
    pub allow_private: bool,
    /// The authorities of the receivers' certificates; `None` for those of the system.
    ca_file: Option<PathBuf>,
}

impl WebhooksConfig {
    /// The key; `None` if it is not configured.
    pub fn key(&self) -> Option<[u8; KEY_BYTES]> {
        bytes(self.key.as_ref()?.reveal())
    }

    /// The earlier keys.
    pub fn old_keys(&self) -> Vec<[u8; KEY_BYTES]> {
        self.old_keys.iter().filter_map(|key| bytes(key.reveal())).collect()
    }

    /// Old keys seal nothing, so they need a key beside them.
    pub(super) fn check(&self) -> anyhow::Result<()> {
        if self.key.is_none() && !self.old_keys.is_empty() {
            return Err(anyhow!("config key billing.webhooks.old_keys: needs billing.webhooks.key_file"));
        }
        self.client_tls().map(drop)
    }

    /// The authorities of `ca_file`; `None` for those of the system.
    ///
    /// # Errors
    /// The key and its defect.
    pub fn client_tls(&self) -> anyhow::Result<Option<ClientTls>> {
        if self.ca_file.is_none() {
            return Ok(None);
        }
        let read = TlsFiles { ca: &self.ca_file, cert: &None, key: &None }.read();
        read.map(Some).map_err(|TlsDefect { key, why }| anyhow!("config key billing.webhooks.{key}: {why}"))
    }
}

/// The form of a key.
const FORM: &str = "must be 32 bytes in base64, as `openssl rand -base64 32` prints them";

fn bytes(text: &str) -> Option<[u8; KEY_BYTES]> {
    BASE64_STANDARD.decode(text.trim()).ok()?.try_into().ok()
}

/// 32 bytes in base64. The error does not show the text.
fn key<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Secret>, D::Error> {
    let Some(text) = Option::<String>::deserialize(deserializer)? else { return Ok(None) };
    match bytes(&text) {
        Some(_) => Ok(Some(Secret(text))),
        None => Err(de::Error::custom(FORM)),
    }
}

/// As [`key`], of several keys.
fn old_keys<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<Secret>, D::Error> {
    let keys = values::texts(deserializer)?;
    match keys.len() <= MAX_OLD_KEYS && keys.iter().all(|key| bytes(key).is_some()) {
        true => Ok(keys.into_iter().map(Secret).collect()),
        false => Err(de::Error::custom(format!("must be at most {MAX_OLD_KEYS} keys, and each {FORM}"))),
    }
}

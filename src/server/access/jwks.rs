//! The public keys of the issuer of tokens: a JWK set from a file or a URL, kept in memory.

use std::{
    path::PathBuf,
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};

use anyhow::{Context, bail};
use jsonwebtoken::{
    AlgorithmFamily, DecodingKey,
    jwk::{Jwk, JwkSet, PublicKeyUse},
};
use tokio::{
    sync::{Mutex, Semaphore},
    time::{Instant, timeout},
};
use tokio_util::sync::CancellationToken;

use crate::config::JwtConfig;

/// Largest JWK set in bytes.
const MAX_BYTES: usize = 256 * 1024;
/// Most keys of a set.
const MAX_KEYS: usize = 100;
/// Deadline of a read of the set.
const READ_TIMEOUT: Duration = Duration::from_secs(3);
/// Shortest time between two reads for the sake of unknown keys.
const MIN_PAUSE: Duration = Duration::from_secs(10);
/// Most requests that wait for such a read. Further ones are refused at once.
const MAX_WAITING: usize = 1_000;
/// Interval of the reads that notice removed keys.
const FILE_INTERVAL: Duration = Duration::from_secs(10);
const URL_INTERVAL: Duration = Duration::from_secs(300);

/// One key of the issuer.
struct Key {
    id: Option<String>,
    key: DecodingKey,
}

/// The keys, with their source.
pub struct KeySource {
    location: KeyLocation,
    /// `None` until the first read succeeds.
    keys: RwLock<Option<Arc<[Key]>>>,
    /// The time of the last read for an unknown key. Held during a read, so that there is one.
    last_read: Mutex<Option<Instant>>,
    /// A permit for each request that waits for a read.
    waiting: Semaphore,
}

enum KeyLocation {
    File(PathBuf),
    Url(reqwest::Client, String),
}

/// The result of a search for a key.
pub enum Found {
    Key(DecodingKey),
    /// The issuer has no such key.
    Unknown,
    /// The set was never read.
    Unavailable,
}

impl KeySource {
    /// Reads the set. A URL that does not answer is tried again later; a file must be valid now.
    ///
    /// # Errors
    /// The file is missing or is no JWK set.
    pub async fn open(config: &JwtConfig) -> anyhow::Result<Option<Arc<Self>>> {
        let location = match (&config.jwks_file, &config.jwks_url) {
            (Some(path), _) => KeyLocation::File(path.clone()),
            (None, Some(url)) => KeyLocation::Url(client()?, url.clone()),
            (None, None) => return Ok(None),
        };
        let source = Self {
            location,
            keys: RwLock::new(None),
            last_read: Mutex::new(None),
            waiting: Semaphore::new(MAX_WAITING),
        };
        match (source.read().await, &source.location) {
            (Ok(()), _) => {}
            (Err(error), KeyLocation::File(path)) => {
                return Err(error.context(format!("config key server.http.auth.jwt.jwks_file: {}", path.display())));
            }
            (Err(error), KeyLocation::Url(..)) => {
                let error = format!("{error:#}");
                tracing::warn!(%error, "the keys of the issuer are not available; tokens are refused until they are");
            }
        }
        Ok(Some(Arc::new(source)))
    }

    /// Reads the set again and again, until `stop`.
    pub async fn keep(self: Arc<Self>, stop: CancellationToken) {
        let interval = match self.location {
            KeyLocation::File(_) => FILE_INTERVAL,
            KeyLocation::Url(..) => URL_INTERVAL,
        };
        loop {
            // Until the first success, at the pace of unknown keys.
            let pause = if self.keys().is_some() { interval } else { MIN_PAUSE };
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = stop.cancelled() => return,
            }
            if let Err(error) = self.read().await {
                let error = format!("{error:#}");
                tracing::warn!(%error, "the keys of the issuer could not be read; the last ones stay in use");
            }
        }
    }

    /// The key with an id, for an algorithm of the family. Reads the set again if it lacks the key. A
    /// token without an id of its key needs a set with one key of the family.
    pub async fn find(self: &Arc<Self>, id: Option<&str>, family: AlgorithmFamily) -> Found {
        if let Some(key) = self.known(id, family) {
            return Found::Key(key);
        }
        // One request reads, and others that come with an unknown key meanwhile wait for it.
        let waiting = self.waiting.try_acquire();
        if waiting.is_ok()
            && self.read_soon().await
            && let Some(key) = self.known(id, family)
        {
            return Found::Key(key);
        }
        if self.keys().is_some() { Found::Unknown } else { Found::Unavailable }
    }

    /// Reads in a task of its own, because a caller that goes away must not stop the read for others.
    async fn read_soon(self: &Arc<Self>) -> bool {
        let source = self.clone();
        let read = tokio::spawn(async move { source.read_for_unknown_key().await });
        timeout(READ_TIMEOUT, read).await.is_ok()
    }

    async fn read_for_unknown_key(&self) {
        let mut last_read = self.last_read.lock().await;
        if last_read.is_some_and(|last| last.elapsed() < MIN_PAUSE) {
            return;
        }
        *last_read = Some(Instant::now());
        if let Err(error) = self.read().await {
            let error = format!("{error:#}");
            tracing::warn!(%error, "the keys of the issuer could not be read for an unknown key");
        }
    }

    fn keys(&self) -> Option<Arc<[Key]>> {
        self.keys.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn known(&self, id: Option<&str>, family: AlgorithmFamily) -> Option<DecodingKey> {
        let keys = self.keys()?;
        let mut matching = keys
            .iter()
            .filter(|key| key.key.family() == family && (id.is_none() || key.id.as_deref() == id))
            .map(|key| &key.key);
        let first = matching.next()?;
        (id.is_some() || matching.next().is_none()).then(|| first.clone())
    }

    async fn read(&self) -> anyhow::Result<()> {
        let json = match &self.location {
            KeyLocation::File(path) => read_file(path.clone()).await?,
            KeyLocation::Url(client, url) => fetch(client, url).await?,
        };
        let keys = parse(&json)?;
        *self.keys.write().unwrap_or_else(PoisonError::into_inner) = Some(keys);
        Ok(())
    }
}

fn client() -> anyhow::Result<reqwest::Client> {
    // A redirect could lead to any address.
    let redirects = reqwest::redirect::Policy::none();
    Ok(reqwest::Client::builder().redirect(redirects).timeout(READ_TIMEOUT).build()?)
}

async fn read_file(path: PathBuf) -> anyhow::Result<Vec<u8>> {
    let read = tokio::task::spawn_blocking(move || {
        let length = std::fs::metadata(&path)?.len();
        if length > MAX_BYTES as u64 {
            return Err(std::io::Error::other(format!("is longer than {MAX_BYTES} bytes")));
        }
        std::fs::read(&path)
    });
    Ok(read.await??)
}

async fn fetch(client: &reqwest::Client, url: &str) -> anyhow::Result<Vec<u8>> {
    let mut response = client.get(url).send().await?.error_for_status()?;
    if !response.status().is_success() {
        bail!("the answer has status {}", response.status());
    }
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await? {
        if body.len() + chunk.len() > MAX_BYTES {
            bail!("the answer is longer than {MAX_BYTES} bytes");
        }
        body.extend_from_slice(&chunk);
    }
    Ok(body)
}

/// The keys of a set that verify signatures. A set may have keys of other kinds.
fn parse(json: &[u8]) -> anyhow::Result<Arc<[Key]>> {
    let set: JwkSet = serde_json::from_slice(json).context("is no JWK set")?;
    if set.keys.len() > MAX_KEYS {
        bail!("has more than {MAX_KEYS} keys");
    }
    let keys: Arc<[Key]> = set.keys.iter().filter_map(key).collect();
    if keys.is_empty() {
        bail!("has no key for RS256, ES256 or EdDSA");
    }
    Ok(keys)
}

fn key(jwk: &Jwk) -> Option<Key> {
    if matches!(jwk.common.public_key_use, Some(PublicKeyUse::Encryption)) {
        return None;
    }
    let key = DecodingKey::from_jwk(jwk).ok()?;
    // A shared secret has no place in a public set.
    (key.family() != AlgorithmFamily::Hmac).then(|| Key { id: jwk.common.key_id.clone(), key })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_set_without_a_usable_key_is_refused() {
        for bad in ["", "[]", "{}", r#"{"keys": []}"#, r#"{"keys": [{"kty": "oct", "k": "c2VjcmV0"}]}"#] {
            assert!(parse(bad.as_bytes()).is_err(), "{bad}");
        }
    }
}

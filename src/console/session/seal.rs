//! Authenticated encryption of short texts: AES-256-GCM with a random nonce before each.

use anyhow::anyhow;
use aws_lc_rs::{
    aead::{AES_256_GCM, Aad, Nonce, RandomizedNonceKey},
    rand,
};

/// Bytes of a nonce.
const NONCE: usize = 12;

pub(super) struct Seal(RandomizedNonceKey);

impl Seal {
    /// # Errors
    /// The key is not usable.
    pub fn new(key: &[u8; 32]) -> anyhow::Result<Self> {
        RandomizedNonceKey::new(&AES_256_GCM, key).map(Self).map_err(|_| anyhow!("the key of sessions is not usable"))
    }

    /// # Errors
    /// The machine has no random numbers.
    pub fn seal(&self, mut text: Vec<u8>) -> anyhow::Result<Vec<u8>> {
        let nonce = self.0.seal_in_place_append_tag(Aad::empty(), &mut text);
        let nonce = nonce.map_err(|_| anyhow!("a session could not be sealed"))?;
        Ok([&nonce.as_ref()[..], &text].concat())
    }

    /// The text; `None` if it was not sealed by this key.
    pub fn open(&self, mut sealed: Vec<u8>) -> Option<Vec<u8>> {
        if sealed.len() < NONCE {
            return None;
        }
        let mut text = sealed.split_off(NONCE);
        let nonce = Nonce::try_assume_unique_for_key(&sealed).ok()?;
        let length = self.0.open_in_place(nonce, Aad::empty(), &mut text).ok()?.len();
        text.truncate(length);
        Some(text)
    }
}

/// # Errors
/// The machine has no random numbers.
pub(super) fn random<const N: usize>() -> anyhow::Result<[u8; N]> {
    let mut bytes = [0; N];
    rand::fill(&mut bytes).map_err(|_| anyhow!("the machine has no random numbers"))?;
    Ok(bytes)
}

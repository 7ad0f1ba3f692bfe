//! The vault of the secrets of webhooks: AES-256-GCM under the key of the configuration.
//!
//! A sealed secret is the base64 of a random nonce, the cipher text and its tag. The id of the webhook is
//! authenticated with it, so that the secret of one webhook does not open for another.

use aws_lc_rs::{
    aead::{AES_256_GCM, Aad, NONCE_LEN, Nonce, RandomizedNonceKey},
    rand,
};
use base64::{Engine, prelude::BASE64_STANDARD};

use crate::biz::{
    values::ids::WebhookId,
    webhooks::secret::{SECRET_BYTES, SecretVault, SigningSecret, VaultError},
};

/// Bytes of the key.
pub const KEY_BYTES: usize = 32;

/// A vault that seals by one key, and opens by earlier ones too.
pub struct Vault {
    key: RandomizedNonceKey,
    old_keys: Vec<RandomizedNonceKey>,
}

impl Vault {
    /// # Errors
    /// The cipher does not take a key.
    pub fn new(key: &[u8; KEY_BYTES], old_keys: &[[u8; KEY_BYTES]]) -> Result<Self, VaultError> {
        let usable = |key: &[u8; KEY_BYTES]| {
            RandomizedNonceKey::new(&AES_256_GCM, key).map_err(|_| VaultError("the key is not usable"))
        };
        Ok(Self { key: usable(key)?, old_keys: old_keys.iter().map(usable).collect::<Result<_, _>>()? })
    }
}

/// The secret, if it was sealed by this key.
fn open(key: &RandomizedNonceKey, webhook: &WebhookId, sealed: &str) -> Option<SigningSecret> {
    let all = BASE64_STANDARD.decode(sealed).ok()?;
    let (nonce, cipher) = all.split_at_checked(NONCE_LEN)?;
    let nonce = Nonce::try_assume_unique_for_key(nonce).ok()?;
    let mut cipher = cipher.to_vec();
    let bytes = key.open_in_place(nonce, Aad::from(webhook.as_str()), &mut cipher).ok()?;
    (&*bytes).try_into().ok().map(SigningSecret::new)
}

impl SecretVault for Vault {
    fn fresh(&self) -> Result<SigningSecret, VaultError> {
        let mut bytes = [0; SECRET_BYTES];
        rand::fill(&mut bytes).map_err(|_| VaultError("the system has no randomness"))?;
        Ok(SigningSecret::new(bytes))
    }

    fn seal(&self, webhook: &WebhookId, secret: &SigningSecret) -> Result<String, VaultError> {
        let mut sealed = secret.bytes().to_vec();
        let nonce = self.key.seal_in_place_append_tag(Aad::from(webhook.as_str()), &mut sealed);
        let nonce = nonce.map_err(|_| VaultError("the secret can't be sealed"))?;
        let all = [nonce.as_ref().as_slice(), &sealed].concat();
        Ok(BASE64_STANDARD.encode(all))
    }

    fn open(&self, webhook: &WebhookId, sealed: &str) -> Result<SigningSecret, VaultError> {
        let mut keys = std::iter::once(&self.key).chain(&self.old_keys);
        keys.find_map(|key| open(key, webhook, sealed)).ok_or(VaultError(
            "the secret was not sealed by billing.webhooks.key, nor by one of old_keys; add its key to old_keys, or give the \
             webhook a new secret by rotate_secret, with overlap_hours: 0",
        ))
    }

    fn sealed_again(&self, webhook: &WebhookId, sealed: &str) -> Result<Option<String>, VaultError> {
        match open(&self.key, webhook, sealed) {
            Some(_) => Ok(None),
            None => self.seal(webhook, &self.open(webhook, sealed)?).map(Some),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_opens_by_its_key_and_for_its_webhook_only() {
        let vault_of = |key: u8| Vault::new(&[key; KEY_BYTES], &[]).unwrap();
        let (vault, other) = (vault_of(1), vault_of(2));
        let (id, other_id) = (WebhookId::from_stored("w"), WebhookId::from_stored("v"));
        let secret = vault.fresh().unwrap();
        let sealed = vault.seal(&id, &secret).unwrap();
        assert_eq!(vault.open(&id, &sealed), Ok(secret.clone()));
        assert_ne!(vault.seal(&id, &secret).unwrap(), sealed, "each seal has a nonce of its own");
        assert!(other.open(&id, &sealed).is_err());
        assert!(vault.open(&other_id, &sealed).is_err());
        for damaged in ["", "AAAA", "?", &BASE64_STANDARD.encode([0; 60]), &sealed[4..]] {
            assert!(vault.open(&id, damaged).is_err(), "{damaged}");
        }
        assert_ne!(vault.fresh().unwrap(), secret);
    }

    #[test]
    fn a_secret_of_an_old_key_opens_and_is_sealed_again_by_the_new_one() {
        let id = WebhookId::from_stored("w");
        let old = Vault::new(&[1; KEY_BYTES], &[]).unwrap();
        let both = Vault::new(&[2; KEY_BYTES], &[[9; KEY_BYTES], [1; KEY_BYTES]]).unwrap();
        let new = Vault::new(&[2; KEY_BYTES], &[]).unwrap();
        let secret = old.fresh().unwrap();
        let sealed = old.seal(&id, &secret).unwrap();
        assert_eq!(both.open(&id, &sealed), Ok(secret.clone()));
        let again = both.sealed_again(&id, &sealed).unwrap().expect("the old key has sealed it");
        assert_eq!(new.open(&id, &again), Ok(secret));
        assert_eq!(both.sealed_again(&id, &again), Ok(None));
        assert!(new.sealed_again(&id, &sealed).is_err() && old.open(&id, &again).is_err());
    }
}

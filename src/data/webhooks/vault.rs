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

/// A vault under one key.
pub struct Vault(RandomizedNonceKey);

impl Vault {
    /// # Errors
    /// The cipher does not take the key.
    pub fn new(key: &[u8; KEY_BYTES]) -> Result<Self, VaultError> {
        RandomizedNonceKey::new(&AES_256_GCM, key).map(Self).map_err(|_| VaultError("the key is not usable"))
    }
}

impl SecretVault for Vault {
    fn fresh(&self) -> Result<SigningSecret, VaultError> {
        let mut bytes = [0; SECRET_BYTES];
        rand::fill(&mut bytes).map_err(|_| VaultError("the system has no randomness"))?;
        Ok(SigningSecret::new(bytes))
    }

    fn seal(&self, webhook: &WebhookId, secret: &SigningSecret) -> Result<String, VaultError> {
        let mut sealed = secret.bytes().to_vec();
        let nonce = self.0.seal_in_place_append_tag(Aad::from(webhook.as_str()), &mut sealed);
        let nonce = nonce.map_err(|_| VaultError("the secret can't be sealed"))?;
        let all = [nonce.as_ref().as_slice(), &sealed].concat();
        Ok(BASE64_STANDARD.encode(all))
    }

    fn open(&self, webhook: &WebhookId, sealed: &str) -> Result<SigningSecret, VaultError> {
        let foreign = VaultError(
            "the secret was not sealed by billing.webhooks.key; give the webhook a new one by rotate_secret, with overlap_hours: 0",
        );
        let all = BASE64_STANDARD.decode(sealed).map_err(|_| foreign.clone())?;
        let (nonce, cipher) = all.split_at_checked(NONCE_LEN).ok_or(foreign.clone())?;
        let nonce = Nonce::try_assume_unique_for_key(nonce).map_err(|_| foreign.clone())?;
        let mut cipher = cipher.to_vec();
        let opened = self.0.open_in_place(nonce, Aad::from(webhook.as_str()), &mut cipher);
        let bytes = opened.map_err(|_| foreign.clone())?;
        bytes.try_into().map(SigningSecret::new).map_err(|_| foreign)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_opens_by_its_key_and_for_its_webhook_only() {
        let (vault, other) = (Vault::new(&[1; KEY_BYTES]).unwrap(), Vault::new(&[2; KEY_BYTES]).unwrap());
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
}

//! The secrets of webhooks, and the signatures of the Standard Webhooks specification.
//!
//! A secret exists in clear only in memory. The database has it sealed, so a copy of the database signs nothing.

use std::fmt;

use base64::{Engine, prelude::BASE64_STANDARD};
use chrono::{DateTime, TimeDelta, Utc};
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use thiserror::Error;

use crate::biz::values::ids::WebhookId;

/// The begin of a secret in its text form.
const PREFIX: &str = "whsec_";
/// Random bytes of a secret.
pub const SECRET_BYTES: usize = 32;
/// Most valid secrets of a webhook at once: the current one, and those that it has replaced lately.
pub const MAX_SECRETS: usize = 4;
/// The time for which a replaced secret stays valid, unless the operator gives another one.
pub const DEFAULT_OVERLAP: TimeDelta = TimeDelta::hours(24);
/// Most hours of that time.
pub const MAX_OVERLAP_HOURS: u32 = 720;

/// A secret that signs deliveries.
#[derive(Clone, PartialEq, Eq)]
pub struct SigningSecret([u8; SECRET_BYTES]);

impl SigningSecret {
    pub fn new(bytes: [u8; SECRET_BYTES]) -> Self {
        Self(bytes)
    }

    pub fn bytes(&self) -> &[u8; SECRET_BYTES] {
        &self.0
    }

    /// Its text for the receiver. It is shown once, and must not reach a log.
    pub fn reveal(&self) -> String {
        format!("{PREFIX}{}", BASE64_STANDARD.encode(self.0))
    }
}

impl fmt::Debug for SigningSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// A secret as the database has it.
#[derive(Clone, PartialEq, Eq)]
pub struct SealedSecret {
    pub sealed: String,
    /// The end of its validity; `None` for the current secret.
    pub until: Option<DateTime<Utc>>,
}

impl SealedSecret {
    pub fn is_valid(&self, now: DateTime<Utc>) -> bool {
        self.until.is_none_or(|until| now < until)
    }
}

impl fmt::Debug for SealedSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SealedSecret").field("until", &self.until).finish_non_exhaustive()
    }
}

/// The reason why a secret can't be made, sealed or opened. It shows no secret.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{0}")]
pub struct VaultError(pub &'static str);

/// Makes, seals and opens secrets by the key of the configuration.
pub trait SecretVault: Send + Sync + 'static {
    /// A new random secret.
    ///
    /// # Errors
    /// The system has no randomness.
    fn fresh(&self) -> Result<SigningSecret, VaultError>;

    /// The form for the database. It opens for this webhook only.
    ///
    /// # Errors
    /// The cipher fails.
    fn seal(&self, webhook: &WebhookId, secret: &SigningSecret) -> Result<String, VaultError>;

    /// The secret of a webhook.
    ///
    /// # Errors
    /// The text was sealed by another key or for another webhook, or was changed.
    fn open(&self, webhook: &WebhookId, sealed: &str) -> Result<SigningSecret, VaultError>;

    /// The secret sealed again by the key of now, if it was sealed by an earlier one.
    ///
    /// # Errors
    /// As [`Self::open`] and [`Self::seal`].
    fn sealed_again(&self, webhook: &WebhookId, sealed: &str) -> Result<Option<String>, VaultError>;
}

/// The value of the header `webhook-signature`: a signature by each secret.
pub fn signatures(secrets: &[SigningSecret], id: &str, at: DateTime<Utc>, body: &str) -> String {
    let message = format!("{id}.{}.{body}", at.timestamp());
    let sign = |secret: &SigningSecret| {
        // An HMAC takes a key of any length.
        let mac = Hmac::<Sha256>::new_from_slice(&secret.0).ok()?;
        let code = mac.chain_update(message.as_bytes()).finalize().into_bytes();
        Some(format!("v1,{}", BASE64_STANDARD.encode(code)))
    };
    secrets.iter().filter_map(sign).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_delivery_has_a_signature_by_each_secret() {
        let (one, other) = (SigningSecret::new([7; SECRET_BYTES]), SigningSecret::new([8; SECRET_BYTES]));
        let at = DateTime::from_timestamp(1_674_087_231, 0).unwrap();
        let both = signatures(&[one.clone(), other.clone()], "msg", at, "{}");
        let each = [one.clone(), other].map(|secret| signatures(&[secret], "msg", at, "{}"));
        assert_eq!(both, each.join(" "));
        assert!(each[0] != each[1] && each[0].starts_with("v1,"));
        assert_eq!(format!("{one:?}"), "***");
        assert_eq!(one.reveal(), format!("whsec_{}", BASE64_STANDARD.encode([7; 32])));
    }

    /// The example of the specification.
    #[test]
    fn the_signature_is_that_of_the_specification() {
        let key = BASE64_STANDARD.decode("MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw").unwrap();
        let mut padded = [0; SECRET_BYTES];
        // An HMAC pads a short key with zeros, so the padded key signs alike.
        padded[..key.len()].copy_from_slice(&key);
        let at = DateTime::from_timestamp(1_614_265_330, 0).unwrap();
        let signed =
            signatures(&[SigningSecret::new(padded)], "msg_p5jXN8AQM9LWM0D4loKWxJek", at, r#"{"test": 2432232314}"#);
        assert_eq!(signed, "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=");
    }
}

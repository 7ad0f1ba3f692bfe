//! `payment_service`: the connection to payment-service, and the proof of its callbacks.

use std::{path::PathBuf, time::Duration};

use anyhow::bail;
use http::HeaderName;
use serde::{Deserialize, Serialize};

use super::{
    choices::{self, CallbackAuth},
    secret::Secret,
    shown::shown,
    values,
};

#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct PaymentServiceConfig {
    #[serde(deserialize_with = "values::address")]
    pub grpc_addr: String,
    #[serde(default = "default_payment_timeout", deserialize_with = "values::duration", serialize_with = "shown")]
    pub timeout: Duration,
    #[serde(default)]
    pub return_url: String,
    #[serde(default)]
    pub notify_url: String,
    /// Runs payment-sandbox in the server's process, at `grpc_addr`.
    #[serde(default)]
    pub sandbox: bool,
    /// The configured value; [`Self::callback_auth`] gives the default.
    #[serde(default, rename = "callback_auth", deserialize_with = "choices::optional_word", serialize_with = "shown")]
    pub chosen_callback_auth: Option<CallbackAuth>,
    /// The secret of the signatures and, while it is changed, a second one.
    #[serde(default, deserialize_with = "values::callback_secrets")]
    pub callback_secrets: Vec<Secret>,
    #[serde(default)]
    callback_secrets_file: Option<PathBuf>,
    #[serde(default)]
    pub(super) tls: bool,
    /// The authorities of the server's certificate; `None` for those of the system.
    #[serde(default)]
    pub(super) ca_file: Option<PathBuf>,
    /// The certificate of this client, and its key.
    #[serde(default)]
    pub(super) cert_file: Option<PathBuf>,
    #[serde(default)]
    pub(super) key_file: Option<PathBuf>,
    /// The headers, or gRPC metadata, of a caller that go on to payment-service.
    #[serde(default, deserialize_with = "values::metadata_names", serialize_with = "shown")]
    pub forward_metadata: Vec<HeaderName>,
    #[serde(default = "default_reconcile_after", deserialize_with = "values::duration", serialize_with = "shown")]
    pub reconcile_after: Duration,
    #[serde(default = "default_expire_after", deserialize_with = "values::duration", serialize_with = "shown")]
    pub expire_after: Duration,
}

impl PaymentServiceConfig {
    /// Checks the rules that involve several keys.
    pub(super) fn check(&self) -> anyhow::Result<()> {
        if self.callback_auth() == CallbackAuth::Signed && self.callback_secrets.is_empty() {
            bail!(
                "config key payment_service.callback_secrets: must have at least one secret, because callback_auth is signed"
            );
        }
        if self.expire_after < self.reconcile_after {
            bail!("config key payment_service.expire_after: must not be below reconcile_after");
        }
        Ok(())
    }

    /// The configured proof of callbacks, or the default.
    pub fn callback_auth(&self) -> CallbackAuth {
        let by_secrets = if self.callback_secrets.is_empty() { CallbackAuth::Confirm } else { CallbackAuth::Signed };
        self.chosen_callback_auth.unwrap_or(by_secrets)
    }
}

fn default_payment_timeout() -> Duration {
    Duration::from_secs(5)
}

fn default_reconcile_after() -> Duration {
    Duration::from_secs(5 * 60)
}

fn default_expire_after() -> Duration {
    Duration::from_secs(24 * 3_600)
}

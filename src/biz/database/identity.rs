//! The identity of a database: its id, and the currency and the time zone of all its data. The id
//! keeps the entries of several databases in one Redis apart. All three are set once.

use async_trait::async_trait;
use uuid::Uuid;

use crate::biz::values::{currency::Currency, error::StoreError};

/// The id, the currency and the time zone that a database stores.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    pub id: Uuid,
    /// ISO 4217 code of all amounts.
    pub currency: String,
    /// IANA name of the zone of all days and months.
    pub time_zone: String,
}

impl Identity {
    /// An identity for a database that has none.
    pub fn fresh(currency: Currency, zone: chrono_tz::Tz) -> Self {
        Self { id: Uuid::now_v7(), currency: currency.to_string(), time_zone: zone.to_string() }
    }
}

/// Stores the identity.
#[async_trait]
pub trait IdentityStore: Send + Sync + 'static {
    /// The identity of the database. A database without one stores `first`, unless another process
    /// was faster.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`], [`StoreError::Failed`].
    async fn identity(&self, first: &Identity) -> Result<Identity, StoreError>;
}

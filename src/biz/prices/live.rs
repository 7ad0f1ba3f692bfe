//! The price book as it is now: the configured versions, and over them those of the database.

use std::sync::{Arc, PoisonError, RwLock};

use async_trait::async_trait;
use chrono::{DateTime, Utc};

use super::{PriceBook, PriceVersion, TokenPrices};
use crate::biz::{
    error::{Invalid, StoreError},
    ids::{ModelName, PriceVersionId},
    money::Money,
};

/// Versions that a database may have; more are an error and not half a book.
pub const MAX_STORED: usize = 10_000;

/// A row of `price_version`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredVersion {
    pub model: ModelName,
    pub effective_from: DateTime<Utc>,
    pub version: PriceVersion,
}

impl StoredVersion {
    /// Checks what may have been written by hand.
    ///
    /// # Errors
    /// [`StoreError::Failed`] names the column.
    pub fn parse(
        model: &str,
        effective_from: DateTime<Utc>,
        id: &str,
        prices: TokenPrices,
    ) -> Result<Self, StoreError> {
        let parsed = || -> Result<Self, Invalid> {
            let amounts = [
                ("input_price", prices.input),
                ("cached_input_price", prices.cached_input),
                ("output_price", prices.output),
            ];
            if let Some((column, _)) = amounts.iter().find(|(_, price)| price.is_negative() || *price > Money::MAX) {
                return Err(Invalid::new(*column, format!("must be 0 to {}", Money::MAX)));
            }
            let version = PriceVersion { id: PriceVersionId::parse("version_id", id)?, prices };
            Ok(Self { model: ModelName::parse("model", model)?, effective_from, version })
        };
        parsed().map_err(|why| StoreError::Failed(format!("price_version of {model:?} from {effective_from}: {why}")))
    }
}

/// Where versions are kept beside the configuration.
#[async_trait]
pub trait PriceStore: Send + Sync + 'static {
    /// All versions, in no order; one more than [`MAX_STORED`] at the most.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`]; [`StoreError::Failed`], also where a row is none.
    async fn price_versions(&self) -> Result<Vec<StoredVersion>, StoreError>;
}

/// The book in use.
pub struct Prices {
    configured: PriceBook,
    current: RwLock<Arc<PriceBook>>,
}

impl Prices {
    /// With the configured versions alone, until the first [`Self::refresh`].
    pub fn new(configured: PriceBook) -> Self {
        let current = RwLock::new(Arc::new(configured.clone()));
        Self { configured, current }
    }

    pub fn book(&self) -> Arc<PriceBook> {
        self.current.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Reads the versions of the database anew. They take the place of configured ones of the
    /// same model and instant. The book stays as it was where that fails.
    ///
    /// # Errors
    /// As [`PriceStore::price_versions`], and [`StoreError::Failed`] where there are too many.
    pub async fn refresh(&self, store: &dyn PriceStore) -> Result<(), StoreError> {
        let stored = store.price_versions().await?;
        if stored.len() > MAX_STORED {
            return Err(StoreError::Failed(format!("price_version has more than {MAX_STORED} rows")));
        }
        let mut book = self.configured.clone();
        for StoredVersion { model, effective_from, version } in stored {
            book.set(model, effective_from, version);
        }
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(book);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Rows(std::sync::Mutex<Result<Vec<StoredVersion>, StoreError>>);

    #[async_trait]
    impl PriceStore for Rows {
        async fn price_versions(&self) -> Result<Vec<StoredVersion>, StoreError> {
            self.0.lock().unwrap().clone()
        }
    }

    fn prices(input: i64) -> TokenPrices {
        TokenPrices { input: Money::from_micros(input), cached_input: Money::ZERO, output: Money::ZERO }
    }

    fn stored(model: &str, from: i64, id: &str) -> StoredVersion {
        StoredVersion::parse(model, DateTime::from_timestamp(from, 0).unwrap(), id, prices(1)).unwrap()
    }

    fn shown(live: &Prices, model: &str, at: i64) -> Option<String> {
        let at = DateTime::from_timestamp(at, 0).unwrap();
        live.book().at(&ModelName::from_stored(model), at).ok().map(|version| version.id.to_string())
    }

    #[tokio::test]
    async fn rows_add_to_the_configuration_and_override_it() {
        let mut configured = PriceBook::default();
        for from in [0, 100] {
            let StoredVersion { model, effective_from, version } = stored("m", from, "config");
            configured.set(model, effective_from, version);
        }
        let live = Prices::new(configured);
        let rows = Rows(std::sync::Mutex::new(Ok(vec![stored("m", 100, "row"), stored("n", 5, "new")])));
        live.refresh(&rows).await.unwrap();
        let all =
            |live: &Prices| [shown(live, "m", 99), shown(live, "m", 100), shown(live, "n", 4), shown(live, "n", 5)];
        let expected = [Some("config".to_owned()), Some("row".to_owned()), None, Some("new".to_owned())];
        assert_eq!(all(&live), expected);
        // What can't be read changes nothing; a row that is gone is.
        *rows.0.lock().unwrap() = Err(StoreError::Unavailable("down".into()));
        live.refresh(&rows).await.unwrap_err();
        assert_eq!(all(&live), expected);
        *rows.0.lock().unwrap() = Ok(vec![stored("m", 1, "row"); MAX_STORED + 1]);
        live.refresh(&rows).await.unwrap_err();
        assert_eq!(all(&live), expected);
        *rows.0.lock().unwrap() = Ok(vec![]);
        live.refresh(&rows).await.unwrap();
        assert_eq!(all(&live), [Some("config".to_owned()), Some("config".to_owned()), None, None]);
    }

    #[test]
    fn a_row_that_is_none_is_named() {
        let from = DateTime::from_timestamp(0, 0).unwrap();
        for (model, id, price, column) in
            [("", "v", 1, "model"), ("m", "a\nb", 1, "version_id"), ("m", "v", -1, "input_price")]
        {
            let error = StoredVersion::parse(model, from, id, prices(price)).unwrap_err();
            assert!(error.to_string().contains(column), "{error}");
        }
    }
}

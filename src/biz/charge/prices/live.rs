//! The current price book: the configured versions, overridden by the versions in the database.

use std::sync::{Arc, PoisonError, RwLock};

use async_trait::async_trait;
use chrono::{DateTime, TimeDelta, Utc};

use super::{PriceBook, PriceVersion, TokenPrices};
use crate::biz::values::{
    error::StoreError,
    ids::{ModelName, PriceVersionId},
    invalid::Invalid,
    money::Money,
};

/// Rows of `price_version` that are read at once.
pub const PAGE: u32 = 1_000;

/// A replaced version is kept for this long, because clocks may be set back and a quote may have
/// begun before the read.
const LOOK_BACK: TimeDelta = TimeDelta::hours(1);

/// A row of `price_version`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredVersion {
    pub model: ModelName,
    pub effective_from: DateTime<Utc>,
    /// The version, or the defect of the row. The model of an invalid row has no price while the
    /// row would be in force.
    pub version: Result<PriceVersion, Invalid>,
}

impl StoredVersion {
    /// Checks a row, because rows may be written by hand.
    ///
    /// # Errors
    /// [`Invalid`]: `model` is malformed, so no call can name it.
    pub fn parse(
        model: &str,
        effective_from: DateTime<Utc>,
        version: Result<(String, TokenPrices), StoreError>,
    ) -> Result<Self, Invalid> {
        let version = match version {
            Ok((id, prices)) => version_of(&id, prices),
            Err(error) => Err(Invalid::new("price", error.to_string())),
        };
        Ok(Self { model: ModelName::parse("model", model)?, effective_from, version })
    }
}

fn version_of(id: &str, prices: TokenPrices) -> Result<PriceVersion, Invalid> {
    let amounts =
        [("input_price", prices.input), ("cached_input_price", prices.cached_input), ("output_price", prices.output)];
    if let Some((column, _)) = amounts.iter().find(|(_, price)| price.is_negative() || *price > Money::MAX) {
        return Err(Invalid::new(*column, format!("must be 0 to {}", Money::MAX)));
    }
    Ok(PriceVersion { id: PriceVersionId::parse("version_id", id)?, prices })
}

/// Reads price versions from the database.
#[async_trait]
pub trait PriceStore: Send + Sync + 'static {
    /// The versions in force at `from`, one for each model, and all later versions, in no order. An
    /// unusable row is returned as its defect. The query reads pages of [`PAGE`] rows.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`], [`StoreError::Failed`].
    async fn price_versions(&self, from: DateTime<Utc>) -> Result<Vec<Result<StoredVersion, Invalid>>, StoreError>;
}

/// The price book in use.
pub struct Prices {
    configured: PriceBook,
    current: RwLock<Arc<PriceBook>>,
}

impl Prices {
    /// Starts with the configured versions alone, until the first [`Self::refresh`].
    pub fn new(configured: PriceBook) -> Self {
        let current = RwLock::new(Arc::new(configured.clone()));
        Self { configured, current }
    }

    pub fn book(&self) -> Arc<PriceBook> {
        self.current.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Reads the versions of the database that are in force now or later. They replace configured
    /// versions of the same model and instant. Returns the unusable rows. If the read fails, the
    /// book stays as it was.
    ///
    /// # Errors
    /// As [`PriceStore::price_versions`].
    pub async fn refresh(&self, store: &dyn PriceStore, now: DateTime<Utc>) -> Result<Vec<String>, StoreError> {
        let stored = store.price_versions(now - LOOK_BACK).await?;
        let (mut book, mut unusable) = (self.configured.clone(), Vec::new());
        for row in stored {
            match row {
                Ok(StoredVersion { model, effective_from, version }) => {
                    if let Err(why) = &version {
                        unusable.push(format!("{model} from {effective_from}: {why}"));
                    }
                    book.set(model, effective_from, version);
                }
                Err(why) => unusable.push(why.to_string()),
            }
        }
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(book);
        Ok(unusable)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    type Read = Result<Vec<Result<StoredVersion, Invalid>>, StoreError>;

    struct Rows(std::sync::Mutex<Read>);

    #[async_trait]
    impl PriceStore for Rows {
        async fn price_versions(&self, _: DateTime<Utc>) -> Read {
            self.0.lock().unwrap().clone()
        }
    }

    fn prices(input: i64) -> TokenPrices {
        TokenPrices { input: Money::from_micros(input), cached_input: Money::ZERO, output: Money::ZERO }
    }

    fn stored(model: &str, from: i64, id: &str) -> StoredVersion {
        row(model, from, Ok((id.to_owned(), prices(1)))).unwrap()
    }

    fn row(
        model: &str,
        from: i64,
        version: Result<(String, TokenPrices), StoreError>,
    ) -> Result<StoredVersion, Invalid> {
        StoredVersion::parse(model, DateTime::from_timestamp(from, 0).unwrap(), version)
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
        let rows = Rows(std::sync::Mutex::new(Ok(vec![Ok(stored("m", 100, "row")), Ok(stored("n", 5, "new"))])));
        live.refresh(&rows, DateTime::UNIX_EPOCH).await.unwrap();
        let all =
            |live: &Prices| [shown(live, "m", 99), shown(live, "m", 100), shown(live, "n", 4), shown(live, "n", 5)];
        let expected = [Some("config".to_owned()), Some("row".to_owned()), None, Some("new".to_owned())];
        assert_eq!(all(&live), expected);
        // A failed read changes nothing. A deleted row leaves the book.
        *rows.0.lock().unwrap() = Err(StoreError::Unavailable("down".into()));
        live.refresh(&rows, DateTime::UNIX_EPOCH).await.unwrap_err();
        assert_eq!(all(&live), expected);
        *rows.0.lock().unwrap() = Ok(vec![]);
        live.refresh(&rows, DateTime::UNIX_EPOCH).await.unwrap();
        assert_eq!(all(&live), [Some("config".to_owned()), Some("config".to_owned()), None, None]);
    }

    /// An invalid row affects its own model only, while the row would be in force.
    #[tokio::test]
    async fn an_unusable_row_removes_the_price_of_its_model_only() {
        let live = Prices::new(PriceBook::default());
        let bad = |price| Ok(("v".to_owned(), prices(price)));
        let rows = vec![
            Ok(stored("m", 0, "old")),
            row("m", 100, bad(-1)),
            Ok(stored("m", 200, "new")),
            row("n", 0, Ok(("a\nb".to_owned(), prices(1)))),
            row("o", 0, Err(StoreError::Failed("input_price is no number".into()))),
            row("", 0, bad(1)),
            Ok(stored("p", 0, "good")),
        ];
        let unusable = live.refresh(&Rows(std::sync::Mutex::new(Ok(rows))), DateTime::UNIX_EPOCH).await.unwrap();
        for (said, parts) in
            unusable.iter().zip([["m ", "input_price"], ["n ", "version_id"], ["o ", "input_price"], ["", "model"]])
        {
            assert!(parts.iter().all(|part| said.contains(part)), "{said}");
        }
        assert_eq!(unusable.len(), 4);
        let at = |model, at| shown(&live, model, at);
        assert_eq!([at("m", 99), at("m", 100), at("m", 199)], [Some("old".to_owned()), None, None]);
        assert_eq!(
            [at("m", 200), at("n", 0), at("o", 9), at("p", 0)],
            [Some("new".to_owned()), None, None, Some("good".to_owned())]
        );
        let refused =
            live.book().at(&ModelName::from_stored("m"), DateTime::from_timestamp(150, 0).unwrap()).unwrap_err();
        assert_eq!(refused.field, "model");
    }
}

//! The price book as it is now: the configured versions, and over them those of the database.

use std::sync::{Arc, PoisonError, RwLock};

use async_trait::async_trait;
use chrono::{DateTime, Utc};

use super::{PriceBook, PriceVersion, TokenPrices};
use crate::biz::values::{
    error::StoreError,
    ids::{ModelName, PriceVersionId},
    invalid::Invalid,
    money::Money,
};

/// Versions that a database may have; more are an error and not half a book.
pub const MAX_STORED: usize = 10_000;

/// A row of `price_version`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredVersion {
    pub model: ModelName,
    pub effective_from: DateTime<Utc>,
    /// Or what is wrong with it. Its model then has no price as long as it would be in force.
    pub version: Result<PriceVersion, Invalid>,
}

impl StoredVersion {
    /// Checks what may have been written by hand.
    ///
    /// # Errors
    /// For a `model` that is none, which no call can name.
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

/// Where versions are kept beside the configuration.
#[async_trait]
pub trait PriceStore: Send + Sync + 'static {
    /// All versions, in no order, and what is wrong with rows that are none; one more than
    /// [`MAX_STORED`] at the most.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`], [`StoreError::Failed`].
    async fn price_versions(&self) -> Result<Vec<Result<StoredVersion, Invalid>>, StoreError>;
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
    /// same model and instant. Tells which rows can't be used. The book stays as it was where
    /// this fails.
    ///
    /// # Errors
    /// As [`PriceStore::price_versions`], and [`StoreError::Failed`] where there are too many.
    pub async fn refresh(&self, store: &dyn PriceStore) -> Result<Vec<String>, StoreError> {
        let stored = store.price_versions().await?;
        if stored.len() > MAX_STORED {
            return Err(StoreError::Failed(format!("price_version has more than {MAX_STORED} rows")));
        }
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
        async fn price_versions(&self) -> Read {
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
        live.refresh(&rows).await.unwrap();
        let all =
            |live: &Prices| [shown(live, "m", 99), shown(live, "m", 100), shown(live, "n", 4), shown(live, "n", 5)];
        let expected = [Some("config".to_owned()), Some("row".to_owned()), None, Some("new".to_owned())];
        assert_eq!(all(&live), expected);
        // What can't be read changes nothing; a row that is gone is.
        *rows.0.lock().unwrap() = Err(StoreError::Unavailable("down".into()));
        live.refresh(&rows).await.unwrap_err();
        assert_eq!(all(&live), expected);
        *rows.0.lock().unwrap() = Ok(vec![Ok(stored("m", 1, "row")); MAX_STORED + 1]);
        live.refresh(&rows).await.unwrap_err();
        assert_eq!(all(&live), expected);
        *rows.0.lock().unwrap() = Ok(vec![]);
        live.refresh(&rows).await.unwrap();
        assert_eq!(all(&live), [Some("config".to_owned()), Some("config".to_owned()), None, None]);
    }

    /// It is worth no more than its own model, for as long as it would be in force.
    #[tokio::test]
    async fn a_bad_row_leaves_its_model_without_a_price_and_others_alone() {
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
        let unusable = live.refresh(&Rows(std::sync::Mutex::new(Ok(rows)))).await.unwrap();
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

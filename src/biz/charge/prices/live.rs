//! The current price book: the configured versions, overridden by the versions in the database.

use std::sync::{Arc, PoisonError, RwLock};

use async_trait::async_trait;
use chrono::{DateTime, TimeDelta, Utc};
use tokio::sync::Mutex;

use super::{
    book::{PriceBook, PriceVersion},
    list::Draft,
};
use crate::biz::values::{
    error::StoreError,
    ids::{ModelName, PriceVersionId},
    invalid::Invalid,
};

/// Rows of `price_version` that are read at once.
pub const PAGE: u32 = 10_000;

/// A defect of a replaced version is shown for this long, because clocks may be set back.
const LOOK_BACK: TimeDelta = TimeDelta::hours(1);

/// The rows are read again after this time, even if their stamp says that none has changed.
const FULL_READ: TimeDelta = TimeDelta::minutes(10);

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
        version: Result<(String, Draft), Invalid>,
    ) -> Result<Self, Invalid> {
        let version = version.and_then(|(id, draft)| version_of(&id, draft));
        Ok(Self { model: ModelName::parse("model", model)?, effective_from, version })
    }
}

fn version_of(id: &str, draft: Draft) -> Result<PriceVersion, Invalid> {
    // The operator sees the row, so the error names the column.
    let of_column = |invalid: Invalid| match invalid.field.as_str() {
        "input" | "cached_input" | "output" => Invalid::new(format!("{}_price", invalid.field), invalid.why),
        _ => Invalid::new("price_details", invalid.to_string()),
    };
    let prices = draft.check().map_err(of_column)?;
    Ok(PriceVersion::new(PriceVersionId::parse("version_id", id)?, prices))
}

/// A text that is another one after the rows of `price_version` have changed.
pub type Stamp = String;

/// Reads price versions from the database.
#[async_trait]
pub trait PriceStore: Send + Sync + 'static {
    /// The stamp of the rows. It costs much less than reading them.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`], [`StoreError::Failed`].
    async fn price_stamp(&self) -> Result<Stamp, StoreError>;

    /// All versions, in no order. An unusable row is returned as its defect. The query reads pages of
    /// [`PAGE`] rows.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`], [`StoreError::Failed`].
    async fn price_versions(&self) -> Result<Vec<Result<StoredVersion, Invalid>>, StoreError>;
}

/// The price book in use.
pub struct Prices {
    configured: PriceBook,
    current: RwLock<Arc<PriceBook>>,
    last: Mutex<Option<LastRead>>,
}

/// The last read of the rows.
struct LastRead {
    stamp: Stamp,
    at: DateTime<Utc>,
    /// Rows that no call can name.
    nameless: Vec<String>,
    /// The instant and the defect of each other unusable row.
    unusable: Vec<(ModelName, DateTime<Utc>, String)>,
}

impl Prices {
    /// Starts with the configured versions alone, until the first [`Self::refresh`].
    pub fn new(configured: PriceBook) -> Self {
        let current = RwLock::new(Arc::new(configured.clone()));
        Self { configured, current, last: Mutex::new(None) }
    }

    pub fn book(&self) -> Arc<PriceBook> {
        self.current.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Reads the versions of the database, if they have changed. They replace configured versions of
    /// the same model and instant. Returns the unusable rows that are in force or will be. If the read
    /// fails, the book stays as it was.
    ///
    /// # Errors
    /// As [`PriceStore::price_versions`].
    pub async fn refresh(&self, store: &dyn PriceStore, now: DateTime<Utc>) -> Result<Vec<String>, StoreError> {
        let mut last = self.last.lock().await;
        // The stamp comes first, so that a row that is written meanwhile is read the next time.
        let stamp = store.price_stamp().await?;
        let is_current = |last: &LastRead| last.stamp == stamp && (now - last.at).abs() < FULL_READ;
        if !last.as_ref().is_some_and(is_current) {
            let (book, nameless, unusable) = self.with_rows(store.price_versions().await?);
            *self.current.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(book);
            *last = Some(LastRead { stamp, at: now, nameless, unusable });
        }
        let (book, since) = (self.book(), now - LOOK_BACK);
        let is_shown = |(model, from, _): &&(ModelName, DateTime<Utc>, String)| {
            *from > since || book.last_before(model, since).is_some_and(|last| last == *from)
        };
        Ok(last
            .iter()
            .flat_map(|last| {
                let unusable = last.unusable.iter().filter(is_shown).map(|(_, _, said)| said.clone());
                unusable.chain(last.nameless.iter().cloned())
            })
            .collect())
    }

    #[expect(clippy::type_complexity, reason = "the parts of one LastRead, and the book")]
    fn with_rows(
        &self,
        rows: Vec<Result<StoredVersion, Invalid>>,
    ) -> (PriceBook, Vec<String>, Vec<(ModelName, DateTime<Utc>, String)>) {
        let (mut book, mut nameless, mut unusable) = (self.configured.clone(), Vec::new(), Vec::new());
        for row in rows {
            match row {
                Ok(StoredVersion { model, effective_from, version }) => {
                    if let Err(why) = &version {
                        let said = format!("{model} from {effective_from}: {why}");
                        unusable.push((model.clone(), effective_from, said));
                    }
                    book.set(model, effective_from, version);
                }
                Err(why) => nameless.push(why.to_string()),
            }
        }
        (book, nameless, unusable)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::biz::values::{class::Class, money::Money};

    type Read = Result<Vec<Result<StoredVersion, Invalid>>, StoreError>;

    /// The rows, and the number of their reads.
    struct Rows(std::sync::Mutex<Read>, std::sync::atomic::AtomicUsize);

    impl Rows {
        fn new(rows: Read) -> Self {
            Self(std::sync::Mutex::new(rows), 0.into())
        }

        fn reads(&self) -> usize {
            self.1.load(std::sync::atomic::Ordering::Relaxed)
        }
    }

    #[async_trait]
    impl PriceStore for Rows {
        async fn price_stamp(&self) -> Result<Stamp, StoreError> {
            self.0.lock().unwrap().as_ref().map(|rows| rows.len().to_string()).map_err(StoreError::clone)
        }

        async fn price_versions(&self) -> Read {
            self.1.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            self.0.lock().unwrap().clone()
        }
    }

    fn prices(input: i64) -> Draft {
        let mut draft = Draft::default();
        draft.given[Class::Input as usize] = Some(Money::from_micros(input));
        draft.given[Class::Output as usize] = Some(Money::ZERO);
        draft
    }

    fn stored(model: &str, from: i64, id: &str) -> StoredVersion {
        row(model, from, Ok((id.to_owned(), prices(1)))).unwrap()
    }

    fn row(model: &str, from: i64, version: Result<(String, Draft), Invalid>) -> Result<StoredVersion, Invalid> {
        StoredVersion::parse(model, DateTime::from_timestamp(from, 0).unwrap(), version)
    }

    fn shown(live: &Prices, model: &str, at: i64) -> Option<String> {
        let at = DateTime::from_timestamp(at, 0).unwrap();
        live.book().at(&ModelName::from_stored(model), at).ok().map(|found| found.version.id.to_string())
    }

    #[tokio::test]
    async fn rows_add_to_the_configuration_and_override_it() {
        let mut configured = PriceBook::default();
        for from in [0, 100] {
            let StoredVersion { model, effective_from, version } = stored("m", from, "config");
            configured.set(model, effective_from, version);
        }
        let live = Prices::new(configured);
        let rows = Rows::new(Ok(vec![Ok(stored("m", 100, "row")), Ok(stored("n", 5, "new"))]));
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
            row("o", 0, Err(Invalid::new("price", "input_price is no number"))),
            row("", 0, bad(1)),
            Ok(stored("p", 0, "good")),
        ];
        let unusable = live.refresh(&Rows::new(Ok(rows)), DateTime::UNIX_EPOCH).await.unwrap();
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

    #[tokio::test]
    async fn rows_are_read_after_a_change_and_now_and_then() {
        let live = Prices::new(PriceBook::default());
        let rows = Rows::new(Ok(vec![Ok(stored("m", 0, "v"))]));
        let at = |minutes: i64| DateTime::UNIX_EPOCH + TimeDelta::minutes(minutes);
        for (minutes, reads) in [(0, 1), (1, 1), (9, 1), (10, 2), (11, 2)] {
            live.refresh(&rows, at(minutes)).await.unwrap();
            assert_eq!(rows.reads(), reads, "{minutes}");
        }
        rows.0.lock().unwrap().as_mut().unwrap().push(Ok(stored("n", 0, "v")));
        live.refresh(&rows, at(11)).await.unwrap();
        assert_eq!(rows.reads(), 3);
    }

    #[tokio::test]
    async fn the_defect_of_a_replaced_version_is_not_shown() {
        let live = Prices::new(PriceBook::default());
        let bad = || Ok(("v".to_owned(), prices(-1)));
        let rows = vec![row("m", 0, bad()), Ok(stored("m", 7_200, "v")), row("n", 0, bad())];
        let rows = Rows::new(Ok(rows));
        let at = |hours: i64| DateTime::UNIX_EPOCH + TimeDelta::hours(hours);
        for (hours, shown) in [(0, 2), (2, 2), (4, 1)] {
            assert_eq!(live.refresh(&rows, at(hours)).await.unwrap().len(), shown, "{hours}");
        }
    }
}

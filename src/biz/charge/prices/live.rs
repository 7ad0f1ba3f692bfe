//! The current price book: the configured versions, overridden by the versions in the database.

use std::{
    mem,
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};

use async_trait::async_trait;
use chrono::{DateTime, TimeDelta, Utc};
use tokio::{sync::Mutex, task, time::timeout};

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

/// Deadline of a read, for example over a connection that went silent.
const READ_TIMEOUT: Duration = Duration::from_secs(10);

/// A defect of a replaced version is shown for this long, because clocks may be set back.
const LOOK_BACK: TimeDelta = TimeDelta::hours(1);

/// The rows are read again after this time, even if their stamp says that none has changed.
const FULL_READ: TimeDelta = TimeDelta::minutes(10);

/// Most replaced books that are kept until the calls that use them have ended. Each may have a hundred thousand
/// versions.
const MAX_REPLACED: usize = 3;

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
    /// [`PAGE`] rows, and parses them on a thread that may block.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`], [`StoreError::Failed`].
    async fn price_versions(&self) -> Result<Vec<Result<StoredVersion, Invalid>>, StoreError>;
}

/// The price book in use.
pub struct Prices {
    configured: Arc<PriceBook>,
    current: RwLock<Arc<PriceBook>>,
    reads: Mutex<Reads>,
}

/// The reads of the rows.
#[derive(Default)]
struct Reads {
    last: Option<LastRead>,
    /// Books before the current one. A call that ends must not be the one to drop a large book, so they are
    /// dropped on a thread that may block.
    replaced: Vec<Arc<PriceBook>>,
}

/// The last read of the rows.
struct LastRead {
    stamp: Stamp,
    at: DateTime<Utc>,
    defects: Defects,
}

/// The unusable rows.
#[derive(Default)]
struct Defects {
    /// Rows that no call can name.
    nameless: Vec<String>,
    /// The instant and the defect of each other row.
    of_models: Vec<(ModelName, DateTime<Utc>, String)>,
}

impl Prices {
    /// Starts with the configured versions alone, until the first [`Self::refresh`].
    pub fn new(configured: PriceBook) -> Self {
        let configured = Arc::new(configured);
        let current = RwLock::new(configured.clone());
        Self { configured, current, reads: Mutex::default() }
    }

    pub fn book(&self) -> Arc<PriceBook> {
        self.current.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Reads the versions of the database, if they have changed. They replace configured versions of
    /// the same model and instant. Returns the unusable rows that are in force or will be. If the read
    /// fails, the book stays as it was.
    ///
    /// # Errors
    /// As [`PriceStore::price_versions`]; [`StoreError::Unavailable`] also after ten seconds.
    pub async fn refresh(&self, store: &dyn PriceStore, now: DateTime<Utc>) -> Result<Vec<String>, StoreError> {
        let read = timeout(READ_TIMEOUT, self.read(store, now)).await;
        read.unwrap_or_else(|_| Err(StoreError::Unavailable("no answer in time".into())))
    }

    async fn read(&self, store: &dyn PriceStore, now: DateTime<Utc>) -> Result<Vec<String>, StoreError> {
        let mut reads = self.reads.lock().await;
        // The stamp comes first, so that a row that is written meanwhile is read the next time.
        let stamp = store.price_stamp().await?;
        let is_current = |last: &LastRead| last.stamp == stamp && (now - last.at).abs() < FULL_READ;
        if !reads.last.as_ref().is_some_and(is_current) {
            let (rows, configured) = (store.price_versions().await?, self.configured.clone());
            let (book, defects) = blocking(move || with_rows(&configured, rows)).await?;
            let book = Arc::new(book);
            let before = mem::replace(&mut *self.current.write().unwrap_or_else(PoisonError::into_inner), book);
            if !Arc::ptr_eq(&before, &self.configured) {
                reads.replaced.push(before);
            }
            reads.last = Some(LastRead { stamp, at: now, defects });
        }
        reads.drop_unused().await?;
        let (book, since) = (self.book(), now - LOOK_BACK);
        let is_shown = |(model, from, _): &&(ModelName, DateTime<Utc>, String)| {
            *from > since || book.last_before(model, since).is_some_and(|last| last == *from)
        };
        let shown = |last: &LastRead| {
            let of_models = last.defects.of_models.iter().filter(is_shown).map(|(_, _, said)| said.clone());
            of_models.chain(last.defects.nameless.iter().cloned()).collect()
        };
        Ok(reads.last.as_ref().map(shown).unwrap_or_default())
    }
}

impl Reads {
    /// Drops the replaced books that no call uses, and those beyond the bound.
    async fn drop_unused(&mut self) -> Result<(), StoreError> {
        let beyond = self.replaced.len().saturating_sub(MAX_REPLACED);
        let mut unused: Vec<_> = self.replaced.drain(..beyond).collect();
        unused.extend(self.replaced.extract_if(.., |book| Arc::strong_count(book) == 1));
        if unused.is_empty() { Ok(()) } else { blocking(move || drop(unused)).await }
    }
}

/// The configured versions with the rows.
fn with_rows(configured: &PriceBook, rows: Vec<Result<StoredVersion, Invalid>>) -> (PriceBook, Defects) {
    let (mut book, mut defects) = (configured.clone(), Defects::default());
    for row in rows {
        match row {
            Ok(StoredVersion { model, effective_from, version }) => {
                if let Err(why) = &version {
                    let said = format!("{model} from {effective_from}: {why}");
                    defects.of_models.push((model.clone(), effective_from, said));
                }
                book.set(model, effective_from, version);
            }
            Err(why) => defects.nameless.push(why.to_string()),
        }
    }
    (book, defects)
}

/// Runs work that takes long for many versions, so that it delays no other request of its thread.
///
/// # Errors
/// [`StoreError::Failed`] if the work panicked, or the process ends.
pub async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, StoreError> {
    let done = task::spawn_blocking(work).await;
    done.map_err(|error| StoreError::Failed(format!("the work on price versions ended abnormally: {error}")))
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
    async fn a_replaced_book_is_dropped_by_a_read_and_not_by_the_call_that_used_it() {
        let live = Prices::new(PriceBook::default());
        let rows = Rows::new(Ok(Vec::new()));
        let mut grow = 0;
        let mut reload = async |live: &Prices| {
            grow += 1;
            rows.0.lock().unwrap().as_mut().unwrap().push(Ok(stored("m", grow, &format!("v{grow}"))));
            live.refresh(&rows, DateTime::UNIX_EPOCH).await.unwrap();
        };
        reload(&live).await;
        let used = live.book();
        let seen = Arc::downgrade(&used);
        reload(&live).await;
        drop(used);
        assert!(seen.upgrade().is_some(), "dropped by the call");
        live.refresh(&rows, DateTime::UNIX_EPOCH).await.unwrap();
        assert!(seen.upgrade().is_none(), "kept for ever");

        // A call that never ends keeps a few books at most.
        let mut all = Vec::new();
        for _ in 0..=MAX_REPLACED {
            all.push(live.book());
            reload(&live).await;
        }
        assert_eq!(all.iter().filter(|book| Arc::strong_count(book) > 1).count(), MAX_REPLACED);
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

//! The statement of an account, and the exports of all accounts.

mod exports;

use std::{io, sync::Arc, time::Duration};

use async_trait::async_trait;
use axum::body::Bytes;
use chrono::{DateTime, Utc};
use futures_util::{Stream, future::Either, stream};
use tokio::sync::{OnceCell, OwnedSemaphorePermit, Semaphore};

use super::{
    convert::int64,
    exports::{Exports, LIMIT, Pages, csv_of, stream_csv_at_once},
    proto::{self, GetStatementReply, GetStatementRequest},
    reads::{ReadBounds, Reads},
};
use crate::{
    biz::{
        reports::record::{RecordFilter, RecordStore},
        statements::{
            exports::BookStore,
            period::StatementPeriod,
            statement::{Line, Split, Statement, StatementStore},
        },
        values::{
            calendar::{Calendar, parse_month},
            currency::Currency,
            error::{Error, Result},
            ids::UserId,
            money::Money,
        },
    },
    context,
};

/// The bounds of the split by model, for which the database reads each record of the month and its
/// transaction. Beyond a bound, charges are summed up by service, from the rollup.
#[derive(Debug, Clone, Copy)]
struct SplitBounds {
    records: u64,
    split: Split,
}

/// A reply must be there within a second.
const REPLY: SplitBounds = SplitBounds { records: 10_000, split: Split { lines: 1_000, within: LIMIT } };
/// A file has the time of an export; the database sums up a million records in less than a minute. Its lines take
/// some 10 MB. The file of more records than a reply may have counts as an export.
const FILE: SplitBounds = SplitBounds { records: 5_000_000, split: Split { lines: 20_000, within: LIMIT } };
/// Most such files at once. The query of each keeps a connection to the database busy until it ends, also if its
/// reader goes, so there are fewer if the other reads would have none left.
const LARGE_FILES: usize = 2;

/// Statements and exports.
pub struct StatementService {
    store: Arc<dyn StatementStore>,
    books: Arc<dyn BookStore>,
    records: Arc<dyn RecordStore>,
    terms: StatementTerms,
    exports: Arc<Exports>,
    reads: Reads,
    large_files: Arc<Semaphore>,
    /// Never changes while the service runs.
    taken_over_at: OnceCell<Option<DateTime<Utc>>>,
}

/// The terms of all statements.
#[derive(Clone)]
pub struct StatementTerms {
    pub calendar: Arc<Calendar>,
    /// The currency of every amount.
    pub currency: Currency,
    /// Time during which a batch is retried.
    pub retry_timeout: Duration,
    /// Connections to the database for reads.
    pub connections: usize,
}

impl StatementService {
    pub fn new(
        store: Arc<dyn StatementStore>,
        books: Arc<dyn BookStore>,
        records: Arc<dyn RecordStore>,
        terms: StatementTerms,
        ReadBounds { exports, reads }: ReadBounds,
    ) -> Self {
        let large_files = Arc::new(Semaphore::new(LARGE_FILES.min(terms.connections.saturating_sub(1)).max(1)));
        Self { store, books, records, terms, exports, reads, large_files, taken_over_at: OnceCell::new() }
    }

    pub async fn get_statement(&self, request: GetStatementRequest) -> Result<GetStatementReply> {
        let user = UserId::parse("user_id", &request.user_id)?;
        let _turn = self.reads.begin(&user).await?;
        let wanted = self.wanted(user, &request.month, REPLY).await?;
        let statement = wanted.read(&*self.store).await?;
        Ok(GetStatementReply {
            user_id: statement.user.to_string(),
            month: statement.month.to_string(),
            currency: self.terms.currency.to_string(),
            opening_balance: statement.opening.to_wire(),
            closing_balance: statement.closing.to_wire(),
            closed: statement.is_closed,
            lines: statement.lines.iter().map(line_reply).collect(),
            time_zone: self.terms.calendar.zone_name().into(),
            by_model: statement.is_by_model,
        })
    }

    /// The statement as CSV: a line for the opening balance, the lines, and one for the closing balance. The
    /// file of many records begins before they are summed up.
    ///
    /// # Errors
    /// As [`Self::get_statement`]; [`Error::Overloaded`] for many records if too
    /// many exports run. If their sums fail, the stream is aborted.
    pub async fn export_statement(
        &self,
        request: GetStatementRequest,
    ) -> Result<impl Stream<Item = io::Result<Bytes>> + Send + use<>> {
        let user = UserId::parse("user_id", &request.user_id)?;
        let _turn = self.reads.begin(&user).await?;
        let wanted = self.wanted(user.clone(), &request.month, FILE).await?;
        let (store, terms, is_large) = (self.store.clone(), self.terms.clone(), wanted.is_large);
        let mut page = StatementPage { store, terms, wanted: Some(wanted), place: None };
        if is_large {
            let permit = self.exports.admit(Some(&user))?;
            let place = self.large_files.clone().try_acquire_owned();
            let overloaded = |_| Error::Overloaded("too many statements of many records at once; retry later".into());
            page.place = Some(place.map_err(overloaded)?);
            return Ok(Either::Left(stream_csv_at_once(page, &COLUMNS, permit)));
        }
        let mut csv = format!("{}\n", COLUMNS.join(",")).into_bytes();
        csv.extend(page.page().await?.unwrap_or_default());
        Ok(Either::Right(stream::once(async move { Ok(csv.into()) })))
    }

    async fn wanted(&self, user: UserId, month: &str, bounds: SplitBounds) -> Result<Wanted> {
        let period = self.period(month).await?;
        let filter = RecordFilter::of_days(&user, Some(period.days));
        let records = self.records.count_records(&filter).await?.records;
        let split = (records <= bounds.records).then_some(bounds.split);
        Ok(Wanted { user, period, split, is_large: split.is_some() && records > REPLY.records })
    }

    /// The period of a month; of the running month for an empty text.
    async fn period(&self, month: &str) -> Result<StatementPeriod> {
        let calendar = &self.terms.calendar;
        let month = if month.is_empty() { calendar.now().month } else { parse_month("month", month)? };
        let taken_over_at = self.taken_over_at.get_or_try_init(|| self.store.taken_over_at()).await?;
        Ok(StatementPeriod::of(month, calendar, self.terms.retry_timeout, *taken_over_at)?)
    }
}

/// The statement to read.
struct Wanted {
    user: UserId,
    period: StatementPeriod,
    /// The split of charges by model; `None` if they are not split.
    split: Option<Split>,
    /// Whether many records are summed up.
    is_large: bool,
}

impl Wanted {
    async fn read(&self, store: &dyn StatementStore) -> Result<Statement> {
        Statement::of(store.month_books(&self.user, &self.period, self.split).await?, &self.period)
    }
}

/// The lines of one statement, on one page.
struct StatementPage {
    store: Arc<dyn StatementStore>,
    terms: StatementTerms,
    /// `None` behind the page.
    wanted: Option<Wanted>,
    /// Of a statement of many records, until its query ends.
    place: Option<OwnedSemaphorePermit>,
}

#[async_trait]
impl Pages for StatementPage {
    async fn page(&mut self) -> Result<Option<Vec<u8>>> {
        let Some(wanted) = self.wanted.take() else { return Ok(None) };
        let statement = match self.place.take() {
            Some(place) => read_to_end(wanted, self.store.clone(), place).await?,
            None => wanted.read(&*self.store).await?,
        };
        let balance = |kind: &str, amount: Money| {
            let mut cells = vec![kind.to_owned()];
            cells.resize(AMOUNT, String::new());
            cells.push(amount.to_string());
            cells.resize(COLUMNS.len() - HEAD - 1, String::new());
            cells
        };
        let lines = std::iter::once(balance("opening_balance", statement.opening))
            .chain(statement.lines.iter().map(line_cells))
            .chain([balance("closing_balance", statement.closing)])
            .map(|cells| [self.terms.head(&statement), cells, vec![statement.is_by_model.to_string()]].concat());
        csv_of(lines).map(Some)
    }
}

/// Reads in a task of its own, which keeps the place until the query ends. The database goes on with a query when
/// its reader goes, so a freed place would admit one more beside it.
async fn read_to_end(wanted: Wanted, store: Arc<dyn StatementStore>, place: OwnedSemaphorePermit) -> Result<Statement> {
    let reading = async move {
        let statement = wanted.read(&*store).await;
        drop(place);
        statement
    };
    let reading = tokio::spawn(context::carry(reading));
    reading.await.map_err(|error| Error::Internal(format!("a read of a statement ended abnormally: {error}")))?
}

impl StatementTerms {
    /// The first cells of each line of a statement.
    fn head(&self, statement: &Statement) -> Vec<String> {
        vec![
            statement.user.to_string(),
            statement.month.to_string(),
            self.calendar.zone_name().into(),
            self.currency.to_string(),
            statement.is_closed.to_string(),
        ]
    }
}

/// The number of cells of [`StatementTerms::head`].
const HEAD: usize = 5;
/// The position of the amount behind the head. The columns behind it came later.
const AMOUNT: usize = 11;
const COLUMNS: [&str; 24] = [
    "user_id",
    "month",
    "time_zone",
    "currency",
    "closed",
    "kind",
    "service_name",
    "model",
    "late_of",
    "calls",
    "units",
    "free_count",
    "paid_count",
    "input_tokens",
    "output_tokens",
    "cached_input_tokens",
    "amount",
    "cache_write_tokens",
    "cache_write_1h_tokens",
    "reasoning_tokens",
    "audio_input_tokens",
    "audio_output_tokens",
    "images",
    "by_model",
];

/// The cells of a line between those of [`StatementTerms::head`] and the last one.
fn line_cells(line: &Line) -> Vec<String> {
    let reply = line_reply(line);
    let numbers = [
        reply.calls,
        reply.units,
        reply.free_count,
        reply.paid_count,
        reply.input_tokens,
        reply.output_tokens,
        reply.cached_input_tokens,
    ];
    let mut cells = vec![reply.kind, reply.service_name, reply.model, reply.late_of];
    cells.extend(numbers.map(|number| number.to_string()));
    cells.push(line.sums.amount.to_string());
    let later = [
        reply.cache_write_tokens,
        reply.cache_write_1h_tokens,
        reply.reasoning_tokens,
        reply.audio_input_tokens,
        reply.audio_output_tokens,
        reply.images,
    ];
    cells.extend(later.map(|number| number.to_string()));
    cells
}

fn line_reply(Line { key, sums }: &Line) -> proto::StatementLine {
    let text = |value: Option<&str>| value.unwrap_or_default().to_owned();
    proto::StatementLine {
        kind: key.kind.name().into(),
        service_name: text(key.service.as_ref().map(|service| service.as_str())),
        model: text(key.model.as_ref().map(|model| model.as_str())),
        calls: int64(sums.calls),
        units: int64(sums.free_count.saturating_add(sums.paid_count)),
        input_tokens: int64(sums.usage.input_tokens),
        output_tokens: int64(sums.usage.output_tokens),
        cached_input_tokens: int64(sums.usage.cached_input_tokens),
        free_count: int64(sums.free_count),
        paid_count: int64(sums.paid_count),
        amount: sums.amount.to_wire(),
        late_of: key.late_of.map(|month| month.to_string()).unwrap_or_default(),
        cache_write_tokens: int64(sums.usage.cache_write_tokens),
        cache_write_1h_tokens: int64(sums.usage.cache_write_1h_tokens),
        reasoning_tokens: int64(sums.usage.reasoning_tokens),
        audio_input_tokens: int64(sums.usage.audio_input_tokens),
        audio_output_tokens: int64(sums.usage.audio_output_tokens),
        images: int64(sums.usage.images),
    }
}

#[cfg(test)]
mod tests {
    use std::future::pending;

    use futures_util::poll;
    use tokio::sync::Notify;

    use super::*;
    use crate::biz::{
        statements::statement::MonthBooks,
        values::{calendar::SystemClock, error::StoreError},
    };

    /// A store whose query goes on after its reader has gone.
    #[derive(Default)]
    struct Slow {
        has_begun: Notify,
        ends: Notify,
    }

    #[async_trait]
    impl StatementStore for Slow {
        async fn taken_over_at(&self) -> std::result::Result<Option<DateTime<Utc>>, StoreError> {
            Ok(None)
        }

        async fn books_of(
            &self,
            _: &[UserId],
            _: &StatementPeriod,
        ) -> std::result::Result<Vec<MonthBooks>, StoreError> {
            pending().await
        }

        async fn month_books(
            &self,
            user: &UserId,
            _: &StatementPeriod,
            _: Option<Split>,
        ) -> std::result::Result<MonthBooks, StoreError> {
            self.has_begun.notify_one();
            self.ends.notified().await;
            Ok(MonthBooks::of(user.clone()))
        }
    }

    #[tokio::test]
    async fn the_place_of_a_large_file_is_kept_until_its_query_ends() {
        let store = Arc::new(Slow::default());
        let calendar = Arc::new(Calendar::new(chrono_tz::UTC, SystemClock));
        let period = StatementPeriod::of(calendar.now().month, &calendar, Duration::ZERO, None).unwrap();
        let currency = Currency::parse("CNY").unwrap();
        let terms = StatementTerms { calendar, currency, retry_timeout: Duration::ZERO, connections: 1 };
        let user = UserId::parse("user_id", "u").unwrap();
        let wanted = Some(Wanted { user, period, split: Some(FILE.split), is_large: true });
        let places = Arc::new(Semaphore::new(1));
        let place = Some(places.clone().try_acquire_owned().unwrap());
        let mut page = StatementPage { store: store.clone(), terms, wanted, place };
        let mut reading = page.page();
        assert!(poll!(&mut reading).is_pending());
        store.has_begun.notified().await;
        drop(reading);
        drop(page);
        assert_eq!(places.available_permits(), 0, "the database still works for the reader that has gone");
        store.ends.notify_one();
        drop(places.acquire().await.unwrap());
    }
}

//! The statement of an account, and the exports of all accounts.

mod exports;

use std::{io, sync::Arc, time::Duration};

use axum::body::Bytes;
use chrono::{DateTime, Utc};
use futures_util::{Stream, stream};
use tokio::sync::OnceCell;

use super::{
    convert::int64,
    exports::{Exports, csv_of},
    proto::{self, GetStatementReply, GetStatementRequest},
    reads::Reads,
};
use crate::biz::{
    reports::record::{RecordFilter, RecordStore},
    statements::{
        exports::BookStore,
        period::StatementPeriod,
        statement::{Line, Statement, StatementStore},
    },
    values::{
        calendar::{Calendar, parse_month},
        currency::Currency,
        error::Result,
        ids::UserId,
        money::Money,
    },
};

/// Most records of a month whose charges are split by model: the split reads them and their transactions.
/// The charges of a month with more are summed up by service, from the rollup.
const MAX_SPLIT_RECORDS: u64 = 10_000;

/// Statements and exports.
pub struct StatementService {
    store: Arc<dyn StatementStore>,
    books: Arc<dyn BookStore>,
    records: Arc<dyn RecordStore>,
    terms: StatementTerms,
    exports: Arc<Exports>,
    reads: Reads,
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
}

impl StatementService {
    pub fn new(
        store: Arc<dyn StatementStore>,
        books: Arc<dyn BookStore>,
        records: Arc<dyn RecordStore>,
        terms: StatementTerms,
        (exports, reads): (Arc<Exports>, Reads),
    ) -> Self {
        Self { store, books, records, terms, exports, reads, taken_over_at: OnceCell::new() }
    }

    pub async fn get_statement(&self, request: GetStatementRequest) -> Result<GetStatementReply> {
        let statement = self.statement(&request).await?;
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

    /// The statement as CSV: a line for the opening balance, the lines, and one for the closing balance.
    ///
    /// # Errors
    /// As [`Self::get_statement`].
    pub async fn export_statement(
        &self,
        request: GetStatementRequest,
    ) -> Result<impl Stream<Item = io::Result<Bytes>> + Send + use<>> {
        let statement = self.statement(&request).await?;
        let balance = |kind: &str, amount: Money| {
            let mut cells = vec![kind.to_owned()];
            cells.resize(COLUMNS.len() - HEAD - 1, String::new());
            cells.push(amount.to_string());
            cells
        };
        let lines = std::iter::once(balance("opening_balance", statement.opening))
            .chain(statement.lines.iter().map(line_cells))
            .chain([balance("closing_balance", statement.closing)])
            .map(|cells| [self.terms.head(&statement), cells].concat());
        let mut csv = format!("{}\n", COLUMNS.join(",")).into_bytes();
        csv.extend(csv_of(lines)?);
        Ok(stream::once(async move { Ok(csv.into()) }))
    }

    async fn statement(&self, request: &GetStatementRequest) -> Result<Statement> {
        let user = UserId::parse("user_id", &request.user_id)?;
        let _turn = self.reads.begin(&user).await?;
        let period = self.period(&request.month).await?;
        let filter = RecordFilter { user: user.clone(), service: None, kind: None, days: Some(period.days) };
        let split = self.records.count_records(&filter).await?.records <= MAX_SPLIT_RECORDS;
        Statement::of(self.store.month_books(&user, &period, split).await?, &period)
    }

    /// The period of a month; of the running month for an empty text.
    async fn period(&self, month: &str) -> Result<StatementPeriod> {
        let calendar = &self.terms.calendar;
        let month = if month.is_empty() { calendar.now().month } else { parse_month("month", month)? };
        let taken_over_at = self.taken_over_at.get_or_try_init(|| self.store.taken_over_at()).await?;
        Ok(StatementPeriod::of(month, calendar, self.terms.retry_timeout, *taken_over_at)?)
    }
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
const COLUMNS: [&str; 17] = [
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
];

/// The cells of a line behind those of [`StatementTerms::head`].
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
        input_tokens: int64(sums.input_tokens),
        output_tokens: int64(sums.output_tokens),
        cached_input_tokens: int64(sums.cached_input_tokens),
        free_count: int64(sums.free_count),
        paid_count: int64(sums.paid_count),
        amount: sums.amount.to_wire(),
        late_of: key.late_of.map(|month| month.to_string()).unwrap_or_default(),
    }
}

//! The exports of all accounts as CSV: statements, records, top-ups, their refunds, and adjustments. Each
//! line names its billing day or month, and the zone.

mod tables;
mod users;

use std::{io, sync::Arc};

use async_trait::async_trait;
use axum::body::Bytes;
use chrono::{DateTime, Datelike, Utc};
use futures_util::Stream;

use self::{
    tables::{ADJUSTMENT_COLUMNS, Adjustments, ORDER_COLUMNS, OrderRefunds, Orders, REFUND_COLUMNS, RowPages, Table},
    users::{UserPages, Users},
};
use super::{StatementService, StatementTerms};
use crate::{
    biz::{
        statements::{
            exports::{BookStore, RecordSpan, UserRecord},
            period::StatementPeriod,
            statement::{LineKind, Statement, StatementStore},
        },
        values::{calendar::DaySpan, error::Result, ids::UserId, invalid::Invalid, paging::Cursor},
    },
    service::{
        convert::{MAX_DAYS, span},
        exports::{PAGE, Pages, csv_of, stream_csv, stream_csv_at_once},
        proto::{ExportBooksRequest, ExportStatementsRequest},
        reports::export::{COLUMNS as RECORD_COLUMNS, LATER_COLUMNS, record_cells},
    },
};

const STATEMENT_COLUMNS: [&str; 18] = [
    "user_id",
    "month",
    "time_zone",
    "currency",
    "closed",
    "opening_balance",
    "top_ups",
    "unapplied_payments",
    "top_up_refunds",
    "chargebacks",
    "adjustments",
    "charges",
    "charge_refunds",
    "closing_balance",
    "free_count",
    "paid_count",
    "refunded_free_count",
    "refunded_paid_count",
];

impl StatementService {
    /// The statement of every user for a month, a line each, by user.
    ///
    /// # Errors
    /// [`Error::Invalid`](crate::biz::values::error::Error) for the month; `Overloaded` if too many exports
    /// run. A later failure aborts the stream.
    pub async fn export_statements(
        &self,
        request: ExportStatementsRequest,
    ) -> Result<impl Stream<Item = io::Result<Bytes>> + Send + use<>> {
        let permit = self.exports.admit(None)?;
        let period = self.period(&request.month).await?;
        let (store, books, terms) = (self.store.clone(), self.books.clone(), self.terms.clone());
        let users = UserPages::new(books, Users::All);
        // Statements of an old month sum up all later movements.
        Ok(stream_csv_at_once(StatementPages { store, terms, period, users }, &STATEMENT_COLUMNS, permit))
    }

    /// The records of every user on some days, by user and time.
    ///
    /// # Errors
    /// As [`Self::export_statements`].
    pub async fn export_all_records(
        &self,
        request: ExportBooksRequest,
    ) -> Result<impl Stream<Item = io::Result<Bytes>> + Send + use<>> {
        let permit = self.exports.admit(None)?;
        let days = self.days(&request)?;
        let (books, terms) = (self.books.clone(), self.terms.clone());
        let between = terms.calendar.bounds(days);
        let users = UserPages::new(books.clone(), Users::All);
        let (first, later) = RECORD_COLUMNS.split_at(RECORD_COLUMNS.len() - LATER_COLUMNS);
        let columns = [&["user_id"][..], first, &["currency", "time_zone", "reported"], later].concat();
        stream_csv(RecordPages { books, terms, between, users, chunk: Vec::new(), after: None }, &columns, permit).await
    }

    /// The top-ups whose billing day is one of some days, by user and id: the day of the credit, or that of
    /// the creation before it.
    ///
    /// # Errors
    /// As [`Self::export_statements`].
    pub async fn export_recharges(
        &self,
        request: ExportBooksRequest,
    ) -> Result<impl Stream<Item = io::Result<Bytes>> + Send + use<>> {
        let permit = self.exports.admit(None)?;
        let rows = self.rows::<Orders>(&request)?;
        stream_csv(rows, &ORDER_COLUMNS, permit).await
    }

    /// The refunds and chargebacks of top-ups whose billing day is one of some days, by user and id: the day of
    /// the debit, or that of the request before it.
    ///
    /// # Errors
    /// As [`Self::export_statements`].
    pub async fn export_recharge_refunds(
        &self,
        request: ExportBooksRequest,
    ) -> Result<impl Stream<Item = io::Result<Bytes>> + Send + use<>> {
        let permit = self.exports.admit(None)?;
        let rows = self.rows::<OrderRefunds>(&request)?;
        stream_csv(rows, &REFUND_COLUMNS, permit).await
    }

    /// The adjustments of some days, by user and id.
    ///
    /// # Errors
    /// As [`Self::export_statements`].
    pub async fn export_adjustments(
        &self,
        request: ExportBooksRequest,
    ) -> Result<impl Stream<Item = io::Result<Bytes>> + Send + use<>> {
        let permit = self.exports.admit(None)?;
        let rows = self.rows::<Adjustments>(&request)?;
        stream_csv(rows, &ADJUSTMENT_COLUMNS, permit).await
    }

    fn rows<T: Table>(&self, request: &ExportBooksRequest) -> Result<RowPages<T>> {
        let days = self.days(request)?;
        Ok(RowPages::new(self.books.clone(), self.terms.clone(), days))
    }

    /// The days of an export. Without an end they end today, and without a begin they begin with the month
    /// of the end.
    fn days(&self, request: &ExportBooksRequest) -> Result<DaySpan> {
        let today = self.terms.calendar.now().day;
        let days = span(&request.from, &request.to, today, |last| last.with_day(1).unwrap_or(last))?;
        if days.days() > MAX_DAYS {
            return Err(Invalid::new("from", format!("must be at most {MAX_DAYS} days before to")).into());
        }
        Ok(days)
    }
}

struct StatementPages {
    store: Arc<dyn StatementStore>,
    terms: StatementTerms,
    period: StatementPeriod,
    users: UserPages,
}

#[async_trait]
impl Pages for StatementPages {
    async fn page(&mut self) -> Result<Option<Vec<u8>>> {
        let users = self.users.next().await?;
        if users.is_empty() {
            return Ok(None);
        }
        let books = self.store.books_of(&users, &self.period).await?;
        let statements: Result<Vec<_>> = books.into_iter().map(|books| Statement::of(books, &self.period)).collect();
        // Accounts that open after a month is closed must not change its file.
        let shown = statements?;
        let shown = shown.iter().filter(|statement| !statement.is_empty());
        csv_of(shown.map(|statement| self.cells(statement))).map(Some)
    }
}

impl StatementPages {
    fn cells(&self, statement: &Statement) -> Vec<String> {
        let mut cells = self.terms.head(statement);
        cells.push(statement.opening.to_string());
        cells.extend(LineKind::ALL.map(|kind| statement.sums_of(kind).amount.to_string()));
        cells.push(statement.closing.to_string());
        for kind in [LineKind::Charge, LineKind::ChargeRefund] {
            let sums = statement.sums_of(kind);
            cells.extend([sums.free_count.to_string(), sums.paid_count.to_string()]);
        }
        cells
    }
}

struct RecordPages {
    books: Arc<dyn BookStore>,
    terms: StatementTerms,
    between: (DateTime<Utc>, DateTime<Utc>),
    users: UserPages,
    /// The users whose records are not all read yet, and the last record of the first of them.
    chunk: Vec<UserId>,
    after: Option<Cursor>,
}

#[async_trait]
impl Pages for RecordPages {
    async fn page(&mut self) -> Result<Option<Vec<u8>>> {
        if self.chunk.is_empty() {
            self.chunk = self.users.next().await?;
            if self.chunk.is_empty() {
                return Ok(None);
            }
        }
        let span = RecordSpan { users: &self.chunk, between: self.between, after: self.after.as_ref() };
        let records = self.books.records_of(span, PAGE).await?;
        match records.last() {
            Some(UserRecord { user, record, .. }) if records.len() == PAGE as usize => {
                self.chunk.retain(|other| other >= user);
                self.after = Some(Cursor { created_at: record.created_at, id: record.id.clone() });
            }
            _ => {
                self.chunk.clear();
                self.after = None;
            }
        }
        csv_of(records.iter().map(|record| self.cells(record))).map(Some)
    }
}

impl RecordPages {
    fn cells(&self, UserRecord { user, record, is_reported }: &UserRecord) -> Vec<String> {
        let day = self.terms.calendar.at(record.created_at).day;
        let mut cells = vec![user.to_string()];
        cells.extend(record_cells(record, day));
        let later = cells.split_off(cells.len() - LATER_COLUMNS);
        cells.extend([self.terms.currency.to_string(), self.terms.calendar.zone_name().into()]);
        cells.push(is_reported.to_string());
        cells.extend(later);
        cells
    }
}

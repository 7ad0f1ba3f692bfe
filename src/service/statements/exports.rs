//! The exports of all accounts as CSV: statements, records, top-ups, their refunds, and adjustments. Each
//! line names its billing day or month, and the zone.

use std::{io, sync::Arc};

use async_trait::async_trait;
use axum::body::Bytes;
use chrono::{DateTime, Datelike, NaiveDate, SecondsFormat, Utc};
use futures_util::Stream;

use super::{StatementService, StatementTerms};
use crate::{
    biz::{
        settlement::{order::Order, order_refund::OrderRefund, posting::Adjusted},
        statements::{
            exports::{BookStore, RecordSpan, UserRecord},
            period::StatementPeriod,
            statement::{LineKind, Statement, StatementStore},
        },
        values::{
            calendar::DaySpan,
            error::Result,
            ids::{OrderId, RefundId, UserId},
            invalid::Invalid,
            paging::Cursor,
        },
    },
    service::{
        convert::{MAX_DAYS, span},
        exports::{Pages, csv_of, stream_csv},
        proto::{ExportBooksRequest, ExportStatementsRequest},
        reports::export::{COLUMNS as RECORD_COLUMNS, record_cells},
    },
};

/// Rows that are read at once.
const PAGE: u32 = 5_000;
/// Users whose books or records are read at once.
const USERS: u32 = 200;

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
const ORDER_COLUMNS: [&str; 12] = [
    "order_id",
    "user_id",
    "amount",
    "currency",
    "status",
    "payment_method",
    "payment_order_id",
    "refunded_amount",
    "created_at",
    "credited_at",
    "billing_day",
    "time_zone",
];
const REFUND_COLUMNS: [&str; 12] = [
    "refund_id",
    "order_id",
    "user_id",
    "kind",
    "status",
    "amount",
    "currency",
    "reason",
    "created_at",
    "settled_at",
    "billing_day",
    "time_zone",
];
const ADJUSTMENT_COLUMNS: [&str; 10] = [
    "adjustment_id",
    "user_id",
    "amount",
    "currency",
    "reason",
    "operator",
    "balance",
    "created_at",
    "billing_day",
    "time_zone",
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
        let users = UserPages { books, after: None, is_done: false };
        stream_csv(StatementPages { store, terms, period, users }, &STATEMENT_COLUMNS, permit).await
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
        let users = UserPages { books: books.clone(), after: None, is_done: false };
        let columns = [&["user_id"][..], &RECORD_COLUMNS, &["currency", "time_zone"]].concat();
        stream_csv(RecordPages { books, terms, between, users, chunk: Vec::new(), after: None }, &columns, permit).await
    }

    /// The top-ups whose billing day is one of some days, by id: the day of the credit, or that of the
    /// creation before it.
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

    /// The refunds and chargebacks of top-ups whose billing day is one of some days, by id: the day of the
    /// debit, or that of the request before it.
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
        Ok(RowPages { books: self.books.clone(), terms: self.terms.clone(), days, last: None, is_done: false })
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

/// All users, some at a time.
struct UserPages {
    books: Arc<dyn BookStore>,
    after: Option<UserId>,
    is_done: bool,
}

impl UserPages {
    /// The next users; none at the end.
    async fn next(&mut self) -> Result<Vec<UserId>> {
        if self.is_done {
            return Ok(Vec::new());
        }
        let users = self.books.users(self.after.as_ref(), USERS).await?;
        self.is_done = users.len() < USERS as usize;
        self.after = users.last().cloned();
        Ok(users)
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
            Some(UserRecord { user, record }) if records.len() == PAGE as usize => {
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
    fn cells(&self, UserRecord { user, record }: &UserRecord) -> Vec<String> {
        let day = self.terms.calendar.at(record.created_at).day;
        let mut cells = vec![user.to_string()];
        cells.extend(record_cells(record, day));
        cells.extend([self.terms.currency.to_string(), self.terms.calendar.zone_name().into()]);
        cells
    }
}

/// A table whose rows are exported by their billing day. It has few rows, so all of them are read.
#[async_trait]
trait Table: Send + Sync + 'static {
    type Row: Send + Sync;

    async fn read(books: &dyn BookStore, after: Option<&Self::Row>) -> Result<Vec<Self::Row>>;

    /// The time that decides its billing day.
    fn time(row: &Self::Row) -> DateTime<Utc>;

    fn cells(row: &Self::Row, day: NaiveDate, terms: &StatementTerms) -> Vec<String>;
}

struct RowPages<T: Table> {
    books: Arc<dyn BookStore>,
    terms: StatementTerms,
    days: DaySpan,
    last: Option<T::Row>,
    is_done: bool,
}

#[async_trait]
impl<T: Table> Pages for RowPages<T> {
    async fn page(&mut self) -> Result<Option<Vec<u8>>> {
        if self.is_done {
            return Ok(None);
        }
        let mut rows = T::read(&*self.books, self.last.as_ref()).await?;
        self.is_done = rows.len() < PAGE as usize;
        let of_days = rows.iter().filter_map(|row| {
            let day = self.terms.calendar.at(T::time(row)).day;
            (self.days.first..=self.days.last).contains(&day).then(|| T::cells(row, day, &self.terms))
        });
        let lines = csv_of(of_days)?;
        self.last = rows.pop();
        Ok(Some(lines))
    }
}

enum Orders {}

#[async_trait]
impl Table for Orders {
    type Row = Order;

    async fn read(books: &dyn BookStore, after: Option<&Order>) -> Result<Vec<Order>> {
        let after: Option<&OrderId> = after.map(|order| &order.id);
        Ok(books.all_orders(after, PAGE).await?)
    }

    fn time(order: &Order) -> DateTime<Utc> {
        credit_of(order).unwrap_or(order.created_at)
    }

    fn cells(order: &Order, day: NaiveDate, terms: &StatementTerms) -> Vec<String> {
        vec![
            order.id.to_string(),
            order.user.to_string(),
            order.amount.to_string(),
            terms.currency.to_string(),
            order.status.to_string(),
            order.method.map(|method| method.name().to_owned()).unwrap_or_default(),
            order.payment.as_ref().map(ToString::to_string).unwrap_or_default(),
            order.refunded.to_string(),
            time_text(order.created_at),
            credit_of(order).map(time_text).unwrap_or_default(),
            day.to_string(),
            terms.calendar.zone_name().into(),
        ]
    }
}

/// The time of the credit. The last change of an order that an older release has credited was the credit.
fn credit_of(order: &Order) -> Option<DateTime<Utc>> {
    order.status.is_credited().then(|| order.credited_at.unwrap_or(order.updated_at))
}

enum OrderRefunds {}

#[async_trait]
impl Table for OrderRefunds {
    type Row = OrderRefund;

    async fn read(books: &dyn BookStore, after: Option<&OrderRefund>) -> Result<Vec<OrderRefund>> {
        let after: Option<&RefundId> = after.map(|refund| &refund.id);
        Ok(books.all_order_refunds(after, PAGE).await?)
    }

    fn time(refund: &OrderRefund) -> DateTime<Utc> {
        refund.settled_at.unwrap_or(refund.created_at)
    }

    fn cells(refund: &OrderRefund, day: NaiveDate, terms: &StatementTerms) -> Vec<String> {
        vec![
            refund.id.to_string(),
            refund.order.to_string(),
            refund.user.to_string(),
            refund.kind.name().into(),
            refund.status.name().into(),
            refund.amount.to_string(),
            terms.currency.to_string(),
            refund.reason.clone(),
            time_text(refund.created_at),
            refund.settled_at.map(time_text).unwrap_or_default(),
            day.to_string(),
            terms.calendar.zone_name().into(),
        ]
    }
}

enum Adjustments {}

#[async_trait]
impl Table for Adjustments {
    type Row = Adjusted;

    async fn read(books: &dyn BookStore, after: Option<&Adjusted>) -> Result<Vec<Adjusted>> {
        Ok(books.all_adjustments(after, PAGE).await?)
    }

    fn time(adjusted: &Adjusted) -> DateTime<Utc> {
        adjusted.created_at
    }

    fn cells(adjusted: &Adjusted, day: NaiveDate, terms: &StatementTerms) -> Vec<String> {
        vec![
            adjusted.id.to_string(),
            adjusted.user.to_string(),
            adjusted.content.amount.to_string(),
            terms.currency.to_string(),
            adjusted.content.reason.clone(),
            adjusted.content.operator.clone(),
            adjusted.balance_after.to_string(),
            time_text(adjusted.created_at),
            day.to_string(),
            terms.calendar.zone_name().into(),
        ]
    }
}

fn time_text(time: DateTime<Utc>) -> String {
    time.to_rfc3339_opts(SecondsFormat::Micros, true)
}

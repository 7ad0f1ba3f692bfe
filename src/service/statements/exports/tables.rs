//! The exports of top-ups, their refunds, and adjustments.

use std::sync::Arc;

use async_trait::async_trait;
use chrono::{DateTime, NaiveDate, Utc};

use super::users::{UserPages, Users};
use crate::{
    biz::{
        settlement::{order::Order, order_refund::OrderRefund, posting::Adjusted},
        statements::exports::{BookStore, RowSpan},
        values::{calendar::DaySpan, error::Result, ids::UserId},
    },
    service::{
        exports::{PAGE, Pages, csv_of, time_text},
        statements::StatementTerms,
    },
};

pub const ORDER_COLUMNS: [&str; 12] = [
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
pub const REFUND_COLUMNS: [&str; 12] = [
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
pub const ADJUSTMENT_COLUMNS: [&str; 10] = [
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

/// A table whose rows are exported by their billing day.
#[async_trait]
pub trait Table: Send + Sync + 'static {
    type Row: Send + Sync;

    /// The users of whom the table may have rows.
    const USERS: Users;

    async fn read(books: &dyn BookStore, span: RowSpan<'_>) -> Result<Vec<Self::Row>>;

    /// Its user and its id, by which the rows are read.
    fn key(row: &Self::Row) -> (&UserId, &str);

    /// The time that decides its billing day.
    fn time(row: &Self::Row) -> DateTime<Utc>;

    fn cells(row: &Self::Row, day: NaiveDate, terms: &StatementTerms) -> Vec<String>;
}

/// The rows of a table whose billing day is one of some days, by user and id.
pub struct RowPages<T: Table> {
    books: Arc<dyn BookStore>,
    terms: StatementTerms,
    between: (DateTime<Utc>, DateTime<Utc>),
    users: UserPages,
    /// The users whose rows are not all read yet, and the last row of the first of them.
    chunk: Vec<UserId>,
    last: Option<T::Row>,
}

impl<T: Table> RowPages<T> {
    pub fn new(books: Arc<dyn BookStore>, terms: StatementTerms, days: DaySpan) -> Self {
        let between = terms.calendar.bounds(days);
        let users = UserPages::new(books.clone(), T::USERS);
        Self { books, terms, between, users, chunk: Vec::new(), last: None }
    }
}

#[async_trait]
impl<T: Table> Pages for RowPages<T> {
    async fn page(&mut self) -> Result<Option<Vec<u8>>> {
        if self.chunk.is_empty() {
            self.chunk = self.users.next().await?;
            if self.chunk.is_empty() {
                return Ok(None);
            }
        }
        let after = self.last.as_ref().map(|row| T::key(row).1);
        let span = RowSpan { users: &self.chunk, between: self.between, after };
        let mut rows = T::read(&*self.books, span).await?;
        let lines =
            csv_of(rows.iter().map(|row| T::cells(row, self.terms.calendar.at(T::time(row)).day, &self.terms)))?;
        let is_full = rows.len() >= PAGE as usize;
        self.last = rows.pop().filter(|_| is_full);
        match &self.last {
            Some(last) => {
                let user = T::key(last).0;
                self.chunk.retain(|other| other >= user);
            }
            None => self.chunk.clear(),
        }
        Ok(Some(lines))
    }
}

pub enum Orders {}

#[async_trait]
impl Table for Orders {
    type Row = Order;

    const USERS: Users = Users::Payers;

    async fn read(books: &dyn BookStore, span: RowSpan<'_>) -> Result<Vec<Order>> {
        Ok(books.orders_of(span, PAGE).await?)
    }

    fn key(order: &Order) -> (&UserId, &str) {
        (&order.user, order.id.as_str())
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

pub enum OrderRefunds {}

#[async_trait]
impl Table for OrderRefunds {
    type Row = OrderRefund;

    const USERS: Users = Users::Payers;

    async fn read(books: &dyn BookStore, span: RowSpan<'_>) -> Result<Vec<OrderRefund>> {
        Ok(books.order_refunds_of(span, PAGE).await?)
    }

    fn key(refund: &OrderRefund) -> (&UserId, &str) {
        (&refund.user, refund.id.as_str())
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

pub enum Adjustments {}

#[async_trait]
impl Table for Adjustments {
    type Row = Adjusted;

    const USERS: Users = Users::All;

    async fn read(books: &dyn BookStore, span: RowSpan<'_>) -> Result<Vec<Adjusted>> {
        Ok(books.adjustments_of(span, PAGE).await?)
    }

    fn key(adjusted: &Adjusted) -> (&UserId, &str) {
        (&adjusted.user, adjusted.id.as_str())
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

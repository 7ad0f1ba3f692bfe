//! The exports of whole tables: top-ups, their refunds, and adjustments.

use std::sync::Arc;

use async_trait::async_trait;
use chrono::{DateTime, NaiveDate, Utc};

use crate::{
    biz::{
        settlement::{order::Order, order_refund::OrderRefund, posting::Adjusted},
        statements::exports::BookStore,
        values::{
            calendar::DaySpan,
            error::Result,
            ids::{OrderId, RefundId},
        },
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

/// A table whose rows are exported by their billing day. It has few rows, so all of them are read.
#[async_trait]
pub trait Table: Send + Sync + 'static {
    type Row: Send + Sync;

    async fn read(books: &dyn BookStore, after: Option<&Self::Row>) -> Result<Vec<Self::Row>>;

    /// The time that decides its billing day.
    fn time(row: &Self::Row) -> DateTime<Utc>;

    fn cells(row: &Self::Row, day: NaiveDate, terms: &StatementTerms) -> Vec<String>;
}

/// The rows of a table whose billing day is one of some days.
pub struct RowPages<T: Table> {
    books: Arc<dyn BookStore>,
    terms: StatementTerms,
    days: DaySpan,
    last: Option<T::Row>,
    is_done: bool,
}

impl<T: Table> RowPages<T> {
    pub fn new(books: Arc<dyn BookStore>, terms: StatementTerms, days: DaySpan) -> Self {
        Self { books, terms, days, last: None, is_done: false }
    }
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

pub enum Orders {}

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

pub enum OrderRefunds {}

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

pub enum Adjustments {}

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

//! Payments that were reported and not credited, in the table `unapplied_payment`, and their money that
//! went back, in `unapplied_return`.

use std::{
    collections::BTreeSet,
    sync::{Mutex, PoisonError},
};

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use sqlx::{QueryBuilder, mysql::MySqlRow};

use super::{
    MySqlStore, audit_trail, events,
    reports::LAST,
    statement::{LockMode, Row as StatementRow, Statement},
};
use crate::{
    biz::{
        recharge::unapplied::{CountedReturn, Resolution, Resolved, UnappliedReport, UnappliedStore},
        settlement::{
            lock::{LeftOut, Obstacle},
            posting::Batch,
            rule::State,
            unapplied::{UnappliedPayment, UnappliedStatus},
        },
        values::{
            error::{self, StoreError},
            ids::{PaymentId, RefundId, UserId},
            money::Money,
            paging::Cursor,
        },
    },
    data::{
        row::Columns,
        rows::unapplied::{found_unapplied_of, unapplied_columns, unapplied_of},
    },
};

const COLUMNS: &str = unapplied_columns!();

#[async_trait]
impl UnappliedStore for MySqlStore {
    async fn report_unapplied(&self, report: &UnappliedReport, at: DateTime<Utc>) -> Result<(), StoreError> {
        let upsert = Statement::transaction(|statement| {
            statement
                .push(
                    "INSERT INTO unapplied_payment \
                     (payment_order_id, order_id, amount, currency, cause, first_seen_at, last_seen_at) VALUES ",
                )
                .rows([report], |row, report| {
                    row.text(report.payment.as_str())
                        .text(report.order.as_str())
                        .money(report.amount)
                        .text(&report.currency)
                        .text(report.cause.name())
                        .instant(at)
                        .instant(at);
                })
                // MySQL assigns in this order, and each assignment sees those before it.
                .push(
                    " ON DUPLICATE KEY UPDATE last_seen_at = VALUES(last_seen_at), \
                     order_id = IF(status = 'open' OR times_seen = 0, VALUES(order_id), order_id), \
                     amount = IF(status = 'open' OR times_seen = 0, VALUES(amount), amount), \
                     currency = IF(status = 'open' OR times_seen = 0, VALUES(currency), currency), \
                     cause = IF(status = 'open' OR times_seen = 0, VALUES(cause), cause), \
                     status = IF(status = 'refunded' AND times_seen = 0 \
                     AND VALUES(amount) <> returned_amount, 'conflict', status), \
                     times_seen = times_seen + 1; ",
                );
            events::insert_if_first_report(statement, &report.event(at), report.payment.as_str());
        });
        self.waiter.run(upsert).await
    }

    async fn is_return_counted(&self, refund: &RefundId) -> Result<bool, StoreError> {
        let query = sqlx::query("SELECT 1 FROM unapplied_return WHERE refund_id = ?").bind(refund.as_str());
        Ok(!self.reader.fetch_all(query).await?.is_empty())
    }

    async fn returns_of_unapplied(&self, payment: &PaymentId) -> Result<Vec<Money>, StoreError> {
        let query =
            sqlx::query("SELECT amount FROM unapplied_return WHERE payment_order_id = ?").bind(payment.as_str());
        self.reader.fetch_all(query).await?.iter().map(|row| row.money(0)).collect()
    }

    async fn unapplied_payment(&self, payment: &PaymentId) -> Result<Option<UnappliedPayment>, StoreError> {
        let mut query = QueryBuilder::new("SELECT ");
        query.push(COLUMNS).push(" FROM unapplied_payment WHERE payment_order_id = ").push_bind(payment.as_str());
        let rows = self.reader.fetch_all(query.build()).await?;
        rows.first().map(unapplied_of).transpose()
    }

    async fn unapplied_payments(
        &self,
        status: Option<UnappliedStatus>,
        after: Option<&Cursor>,
        limit: u32,
    ) -> Result<Vec<UnappliedPayment>, StoreError> {
        let (after, after_id) = after.map_or((LAST, ""), |cursor| (cursor.created_at, cursor.id.as_str()));
        let mut query = QueryBuilder::new("SELECT ");
        // The first condition limits the range of the key; the second one is exact.
        query.push(COLUMNS).push(" FROM unapplied_payment WHERE first_seen_at <= ").push_bind(after.naive_utc());
        query.push(" AND (first_seen_at < ").push_bind(after.naive_utc());
        query.push(" OR payment_order_id < ").push_bind(after_id).push(")");
        if let Some(status) = status {
            query.push(" AND status = ").push_bind(status.name());
        }
        query.push(" ORDER BY first_seen_at DESC, payment_order_id DESC LIMIT ").push_bind(limit);
        self.reader.fetch_all(query.build()).await?.iter().map(unapplied_of).collect()
    }

    async fn resolve_unapplied(
        &self,
        payment: &PaymentId,
        resolution: &Resolution,
    ) -> Result<error::Result<Resolved>, StoreError> {
        let mut read = Statement::beginning(LockMode::Wait);
        if let Some(expected) = &resolution.expected {
            expect(&mut read, expected, resolution.at);
        }
        // The lock comes first, so that the next statement sees each commit of those that held it. Conditions of a
        // locking read would be of the time before the wait.
        read.push("SELECT 1 FROM unapplied_payment WHERE payment_order_id = ");
        read.texts([payment.as_str()]).push(LockMode::Wait.suffix());
        read.push("SELECT ").push(COLUMNS);
        read.push(
            ", EXISTS (SELECT 1 FROM recharge_order paid WHERE paid.payment_order_id = unapplied_payment.payment_order_id \
             AND paid.status IN ('success', 'refunded')), EXISTS (SELECT 1 FROM unapplied_return WHERE refund_id = ",
        );
        read.optional_text(resolution.refund.as_ref().map(RefundId::as_str));
        read.push(
            "), EXISTS (SELECT 1 FROM unapplied_return counted \
             WHERE counted.payment_order_id = unapplied_payment.payment_order_id) \
             FROM unapplied_payment WHERE payment_order_id = ",
        );
        read.texts([payment.as_str()]).push(LockMode::Wait.suffix());
        let decided = Mutex::new(None);
        let decide = |row: Option<&MySqlRow>| {
            let found = row.map(found_unapplied_of).transpose()?;
            let decision = resolution.decide(payment, found);
            let packet = match &decision {
                Ok(Resolved { payment, changed: true, event, returned }) => {
                    Some(Statement::committing(LockMode::Wait, |packet| {
                        update(packet, std::slice::from_ref(payment));
                        if let Some(returned) = returned {
                            count_return(packet, returned);
                        }
                        if let Some(event) = event {
                            audit_trail::insert(packet, std::slice::from_ref(event));
                        }
                    }))
                }
                _ => None,
            };
            *decided.lock().unwrap_or_else(PoisonError::into_inner) = Some(decision);
            Ok(packet)
        };
        self.change_last_rows(read, |rows| decide(rows.first())).await?;
        let decided = decided.into_inner().unwrap_or_else(PoisonError::into_inner);
        decided.ok_or_else(|| StoreError::Failed("an unapplied payment was not decided".into()))
    }
}

/// Stores a payment of which only a return is known, with the amount of the return, unless it is stored or has
/// credited an order. The update of nothing takes the lock of a write, so repeats at once wait for each other.
fn expect(statement: &mut Statement, report: &UnappliedReport, at: DateTime<Utc>) {
    statement
        .push(
            "INSERT INTO unapplied_payment \
             (payment_order_id, order_id, amount, currency, cause, times_seen, first_seen_at, last_seen_at) SELECT ",
        )
        .row(|row| {
            row.text(report.payment.as_str())
                .text(report.order.as_str())
                .money(report.amount)
                .text(&report.currency)
                .text(report.cause.name())
                .number(0)
                .instant(at)
                .instant(at);
        })
        .push(" FROM DUAL WHERE NOT EXISTS (SELECT 1 FROM recharge_order WHERE payment_order_id = ")
        .texts([report.payment.as_str()])
        .push(" AND status IN ('success', 'refunded')) ")
        .push("ON DUPLICATE KEY UPDATE times_seen = unapplied_payment.times_seen; ");
}

/// A repeat that is counted at the same time fails at the key, and is decided again.
fn count_return(statement: &mut Statement, returned: &CountedReturn) {
    let columns = "INSERT INTO unapplied_return (refund_id, payment_order_id, amount, created_at) VALUES ";
    statement.push(columns).rows([returned], |row, CountedReturn { refund, payment, amount, at }| {
        row.text(refund.as_str()).text(payment.as_str()).money(*amount).instant(*at);
    });
    statement.push("; ");
}

/// Locks the unapplied ones of some payments.
pub(super) fn lock(statement: &mut Statement, payments: &BTreeSet<&PaymentId>, mode: LockMode) {
    statement
        .push("SELECT ")
        .push(COLUMNS)
        .push(" FROM unapplied_payment WHERE payment_order_id IN (")
        .texts(payments.iter().map(|payment| payment.as_str()))
        .push(") ORDER BY payment_order_id")
        .push(mode.suffix());
}

/// The rows of [`lock`].
pub(super) fn add_locked(
    (state, left_out): (&mut State, &mut LeftOut),
    batch: &Batch,
    rows: &[MySqlRow],
) -> Result<(), StoreError> {
    for row in rows {
        let id = PaymentId::from_stored(row.text(0)?);
        match unapplied_of(row) {
            Ok(payment) => drop(state.unapplied.insert(id, payment)),
            Err(StoreError::Failed(why)) => {
                let of_payment = batch.postings.iter().filter(|posting| posting.credited_payment() == Some(&id));
                for posting in of_payment {
                    left_out.insert(posting.user(), Obstacle::Unreadable(format!("unapplied_payment: {why}")));
                }
            }
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Finds the existing ones of some unapplied payments by a plain read, which ignores locks.
pub(super) fn read_present(statement: &mut Statement, payments: &[&PaymentId]) {
    statement
        .push("SELECT payment_order_id FROM unapplied_payment WHERE payment_order_id IN (")
        .texts(payments.iter().map(|payment| payment.as_str()))
        .push("); ");
}

/// Writes the resolutions of payments, whose rows are locked.
pub(super) fn update(statement: &mut Statement, payments: &[UnappliedPayment]) {
    for payment in payments {
        statement.push("UPDATE unapplied_payment SET status = ").texts([payment.status.name()]);
        statement.push(", amount = ").money(payment.amount).push(", returned_amount = ").money(payment.returned);
        statement.push(", user_id = ").optional_text(payment.user.as_ref().map(UserId::as_str));
        statement.push(", reason = ").texts([payment.reason.as_str()]);
        statement.push(", refunds = ").number(payment.refunds).push(", resolved_at = ").row(|row| {
            row.optional(payment.resolved_at, StatementRow::instant);
        });
        statement.push(" WHERE payment_order_id = ").texts([payment.payment.as_str()]).push("; ");
    }
}

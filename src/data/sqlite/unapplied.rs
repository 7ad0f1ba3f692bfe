//! Payments that were reported and not credited, in the table `unapplied_payment`, and their money that
//! went back, in `unapplied_return`.

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use rusqlite::{Connection, Transaction, TransactionBehavior, params};

use super::{
    SqliteStore, audit_trail, events,
    writer::{commit, found, writer_error},
};
use crate::{
    biz::{
        recharge::unapplied::{CountedReturn, Resolution, Resolved, UnappliedReport, UnappliedStore},
        settlement::{
            lock::LeftOut,
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
        error::store_error,
        row::Columns,
        rows::unapplied::{found_unapplied_of, unapplied_columns, unapplied_of},
    },
};

/// Selects unapplied payments in the columns of [`unapplied_of`]; further columns or conditions follow.
macro_rules! select {
    ($rest:literal) => {
        concat!("SELECT ", unapplied_columns!(), $rest)
    };
}

#[async_trait]
impl UnappliedStore for SqliteStore {
    async fn report_unapplied(&self, report: &UnappliedReport, at: DateTime<Utc>) -> Result<(), StoreError> {
        let report = report.clone();
        let upsert = move |connection: &mut Connection| {
            let transaction =
                connection.transaction_with_behavior(TransactionBehavior::Immediate).map_err(writer_error)?;
            transaction
                .execute(
                    "INSERT INTO unapplied_payment \
                 (payment_order_id, order_id, amount, currency, cause, first_seen_at, last_seen_at) \
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?6) \
                 ON CONFLICT DO UPDATE SET times_seen = times_seen + 1, last_seen_at = excluded.last_seen_at, \
                 order_id = iif(status = 'open' OR times_seen = 0, excluded.order_id, order_id), \
                 amount = iif(status = 'open' OR times_seen = 0, excluded.amount, amount), \
                 currency = iif(status = 'open' OR times_seen = 0, excluded.currency, currency), \
                 cause = iif(status = 'open' OR times_seen = 0, excluded.cause, cause), \
                 status = iif(status = 'refunded' AND times_seen = 0 \
                 AND excluded.amount <> returned_amount, 'conflict', status)",
                    params![
                        report.payment.as_str(),
                        report.order.as_str(),
                        report.amount.micros(),
                        report.currency,
                        report.cause.name(),
                        at.timestamp_micros(),
                    ],
                )
                .map_err(writer_error)?;
            let seen = "SELECT times_seen FROM unapplied_payment WHERE payment_order_id = ?";
            let seen: i64 =
                transaction.query_row(seen, [report.payment.as_str()], |row| row.get(0)).map_err(writer_error)?;
            if seen == 1 {
                events::insert(&transaction, &[report.event(at)]).map_err(writer_error)?;
            }
            commit(transaction)
        };
        self.writer.run(upsert).await
    }

    async fn is_return_counted(&self, refund: &RefundId) -> Result<bool, StoreError> {
        let query = sqlx::query("SELECT 1 FROM unapplied_return WHERE refund_id = ?").bind(refund.as_str());
        Ok(query.fetch_optional(&self.reader).await.map_err(store_error)?.is_some())
    }

    async fn returns_of_unapplied(&self, payment: &PaymentId) -> Result<Vec<Money>, StoreError> {
        let query =
            sqlx::query("SELECT amount FROM unapplied_return WHERE payment_order_id = ?").bind(payment.as_str());
        let rows = query.fetch_all(&self.reader).await.map_err(store_error)?;
        rows.iter().map(|row| row.money(0)).collect()
    }

    async fn unapplied_payment(&self, payment: &PaymentId) -> Result<Option<UnappliedPayment>, StoreError> {
        let query = sqlx::query(select!(" FROM unapplied_payment WHERE payment_order_id = ?")).bind(payment.as_str());
        let row = query.fetch_optional(&self.reader).await.map_err(store_error)?;
        row.as_ref().map(unapplied_of).transpose()
    }

    async fn unapplied_payments(
        &self,
        status: Option<UnappliedStatus>,
        after: Option<&Cursor>,
        limit: u32,
    ) -> Result<Vec<UnappliedPayment>, StoreError> {
        let (after, after_id) =
            after.map_or((i64::MAX, ""), |cursor| (cursor.created_at.timestamp_micros(), cursor.id.as_str()));
        let query = sqlx::query(select!(
            " FROM unapplied_payment WHERE (?1 IS NULL OR status = ?1) AND (first_seen_at, payment_order_id) < (?2, ?3) \
             ORDER BY first_seen_at DESC, payment_order_id DESC LIMIT ?4"
        ))
        .bind(status.map(UnappliedStatus::name))
        .bind(after)
        .bind(after_id)
        .bind(limit);
        let rows = query.fetch_all(&self.reader).await.map_err(store_error)?;
        rows.iter().map(unapplied_of).collect()
    }

    async fn resolve_unapplied(
        &self,
        payment: &PaymentId,
        resolution: &Resolution,
    ) -> Result<error::Result<Resolved>, StoreError> {
        let (payment, resolution) = (payment.clone(), resolution.clone());
        self.writer.run(move |connection| resolve(connection, &payment, &resolution)).await
    }
}

/// The transaction is immediate, so no other write happens until the commit.
fn resolve(
    connection: &mut Connection,
    payment: &PaymentId,
    resolution: &Resolution,
) -> Result<error::Result<Resolved>, StoreError> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate).map_err(writer_error)?;
    if let Some(expected) = &resolution.expected {
        expect(&transaction, expected, resolution.at).map_err(writer_error)?;
    }
    let stored = {
        let mut find = transaction
            .prepare_cached(select!(
                ", EXISTS (SELECT 1 FROM recharge_order paid \
                 WHERE paid.payment_order_id = unapplied_payment.payment_order_id \
                 AND paid.status IN ('success', 'refunded')), \
                 EXISTS (SELECT 1 FROM unapplied_return WHERE refund_id = ?2), \
                 EXISTS (SELECT 1 FROM unapplied_return counted \
                 WHERE counted.payment_order_id = unapplied_payment.payment_order_id) \
                 FROM unapplied_payment WHERE payment_order_id = ?1"
            ))
            .map_err(writer_error)?;
        let refund = resolution.refund.as_ref().map(RefundId::as_str);
        found(&mut find, params![payment.as_str(), refund], |row| found_unapplied_of(row))?
    };
    let decided = resolution.decide(payment, stored);
    if let Ok(Resolved { payment, changed: true, event, returned }) = &decided {
        update(&transaction, std::slice::from_ref(payment)).map_err(writer_error)?;
        if let Some(returned) = returned {
            count_return(&transaction, returned).map_err(writer_error)?;
        }
        audit_trail::insert(&transaction, event.as_slice()).map_err(writer_error)?;
        commit(transaction)?;
    }
    Ok(decided)
}

/// Stores a payment of which only a return is known, with the amount of the return, unless it is stored or has
/// credited an order.
fn expect(transaction: &Transaction<'_>, report: &UnappliedReport, at: DateTime<Utc>) -> rusqlite::Result<()> {
    transaction.execute(
        "INSERT INTO unapplied_payment \
         (payment_order_id, order_id, amount, currency, cause, times_seen, first_seen_at, last_seen_at) \
         SELECT ?1, ?2, ?3, ?4, ?5, 0, ?6, ?6 WHERE NOT EXISTS (SELECT 1 FROM recharge_order \
         WHERE payment_order_id = ?1 AND status IN ('success', 'refunded')) ON CONFLICT DO NOTHING",
        params![
            report.payment.as_str(),
            report.order.as_str(),
            report.amount.micros(),
            report.currency,
            report.cause.name(),
            at.timestamp_micros(),
        ],
    )?;
    Ok(())
}

fn count_return(transaction: &Transaction<'_>, returned: &CountedReturn) -> rusqlite::Result<()> {
    let CountedReturn { refund, payment, amount, at } = returned;
    transaction.execute(
        "INSERT INTO unapplied_return (refund_id, payment_order_id, amount, created_at) VALUES (?, ?, ?, ?)",
        params![refund.as_str(), payment.as_str(), amount.micros(), at.timestamp_micros()],
    )?;
    Ok(())
}

/// Loads the unapplied ones of the payments of the batch.
pub(super) fn load(
    transaction: &Transaction<'_>,
    batch: &Batch,
    (state, left_out): (&mut State, &mut LeftOut),
) -> Result<(), StoreError> {
    let mut find = transaction
        .prepare_cached(select!(" FROM unapplied_payment WHERE payment_order_id = ?"))
        .map_err(writer_error)?;
    for posting in &batch.postings {
        let Some(id) = posting.credited_payment() else { continue };
        let payment = found(&mut find, [id.as_str()], |row| unapplied_of(row));
        if let Some(payment) = left_out.decoded(posting.user(), "unapplied_payment", payment)?.flatten() {
            state.unapplied.insert(id.clone(), payment);
        }
    }
    Ok(())
}

/// Writes the resolutions of payments.
pub(super) fn update(transaction: &Transaction<'_>, payments: &[UnappliedPayment]) -> rusqlite::Result<()> {
    for payment in payments {
        let mut update = transaction.prepare_cached(
            "UPDATE unapplied_payment SET status = ?, amount = ?, user_id = ?, reason = ?, refunds = ?, \
             returned_amount = ?, resolved_at = ? WHERE payment_order_id = ?",
        )?;
        update.execute(params![
            payment.status.name(),
            payment.amount.micros(),
            payment.user.as_ref().map(UserId::as_str),
            payment.reason,
            payment.refunds,
            payment.returned.micros(),
            payment.resolved_at.map(|at| at.timestamp_micros()),
            payment.payment.as_str(),
        ])?;
    }
    Ok(())
}

//! Charges and reservations, in the table `billing_transaction`.

use std::collections::BTreeSet;

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use rusqlite::{Statement, ToSql, Transaction as Tx};

use crate::{
    biz::{
        charge::prices::Class,
        settlement::{
            lock::LeftOut,
            refund::Refunded,
            rule::{ReservationWrite, State},
            transaction::{Delivered, Due, Transaction, TransactionStore},
        },
        values::{
            error::StoreError,
            ids::{ApiKeyId, ModelName, PlanName, ServiceTier, TraceId, UserId},
            money::Money,
            usage::Usage,
        },
    },
    data::{
        column_codes::{charged_by_number, price_details, quota_unit_name, reports_text, usage_parts},
        error::store_error,
        rows::{
            refund::{refund_columns, refunded_of},
            transaction::{due_of, transaction_of},
        },
        sqlite::{
            SqliteStore,
            writer::{found, writer_error},
        },
    },
};

macro_rules! columns {
    () => {
        "user_id, trace_id, status, service_name, count, cost, api_key_id, model, input_tokens, output_tokens, \
        cached_input_tokens, free_count, paid_count, amount, record_id, balance_after, free_remaining_after, created_at, \
        held_free, held_amount, full_cost, commit_cost, usage_date, expires_at, \
        price_version, input_price, cached_input_price, output_price, estimated_input_tokens, estimated_output_tokens, \
        quota_unit, shortfall, charged_by, refunded_free, refunded_paid, refunded_amount, late_date, cache_write_tokens, cache_write_1h_tokens, audio_input_tokens, \
        reasoning_tokens, audio_output_tokens, images, service_tier, commit_service_tier, served_model, plan, price_details, reports"
    };
}

/// The columns of [`transaction_of`].
pub const COLUMNS: &str = columns!();
const ONE: &str = concat!("SELECT ", columns!(), " FROM settled_transaction WHERE user_id = ? AND trace_id = ?");

#[async_trait]
impl TransactionStore for SqliteStore {
    async fn transaction(&self, user: &UserId, trace: &TraceId) -> Result<Option<Transaction>, StoreError> {
        sqlx::query(ONE)
            .bind(user.as_str())
            .bind(trace.as_str())
            .fetch_optional(&self.reader)
            .await
            .map_err(store_error)?
            .as_ref()
            .map(transaction_of)
            .transpose()
    }

    async fn refunds_of(&self, user: &UserId, trace: &TraceId, limit: u32) -> Result<Vec<Refunded>, StoreError> {
        let query = sqlx::query(concat!(
            "SELECT ",
            refund_columns!(),
            " FROM charge_refund WHERE user_id = ? AND trace_id = ? ORDER BY created_at, refund_id LIMIT ?"
        ));
        let query = query.bind(user.as_str()).bind(trace.as_str()).bind(limit);
        query.fetch_all(&self.reader).await.map_err(store_error)?.iter().map(refunded_of).collect()
    }

    async fn due(&self, until: DateTime<Utc>, after: Option<&Due>, limit: u32) -> Result<Vec<Due>, StoreError> {
        let (after_time, after_user, after_trace) = match after {
            Some(due) => (due.expires_at, due.user.as_str(), due.trace.as_str()),
            None => (DateTime::UNIX_EPOCH, "", ""),
        };
        let rows = sqlx::query(DUE)
            .bind(until.timestamp_micros())
            .bind(after_time.timestamp_micros())
            .bind(after_user)
            .bind(after_trace)
            .bind(limit)
            .fetch_all(&self.reader)
            .await
            .map_err(store_error)?;
        rows.iter().map(due_of).collect()
    }

    /// Does nothing, because the index has PENDING reservations only.
    async fn forget(&self, _: &[Due]) -> Result<(), StoreError> {
        Ok(())
    }
}

/// The expired reservations behind another one.
const DUE: &str = "SELECT expires_at, user_id, trace_id, TRUE FROM billing_transaction \
    WHERE status = 'PENDING' AND expires_at <= ? AND (expires_at, user_id, trace_id) > (?, ?, ?) \
    ORDER BY expires_at, user_id, trace_id LIMIT ?";

/// Loads the stored transactions of the batch.
pub fn load(
    transaction: &Tx<'_>,
    keys: &BTreeSet<(&UserId, &TraceId)>,
    (state, left_out): (&mut State, &mut LeftOut),
) -> Result<(), StoreError> {
    let mut find = transaction.prepare_cached(ONE).map_err(writer_error)?;
    for &(user, trace) in keys {
        let one = found(&mut find, [user.as_str(), trace.as_str()], |row| transaction_of(row));
        if let Some(one) = left_out.decoded(user, "billing_transaction", one)?.flatten() {
            state.transactions.insert((user.clone(), trace.clone()), one);
        }
    }
    Ok(())
}

/// Whether one of these transactions exists, archived or not.
pub fn exist<'k>(
    transaction: &Tx<'_>,
    keys: impl IntoIterator<Item = (&'k UserId, &'k TraceId)>,
) -> rusqlite::Result<bool> {
    let find = "SELECT 1 FROM billing_transaction WHERE user_id = ? AND trace_id = ?";
    let mut find = transaction.prepare_cached(find)?;
    for (user, trace) in keys {
        if find.exists([user.as_str(), trace.as_str()])? {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Inserts charges. The columns of reservations stay NULL.
pub fn insert_charges(transaction: &Tx<'_>, charges: &[Transaction]) -> rusqlite::Result<()> {
    let mut insert = transaction.prepare_cached(
        "INSERT INTO billing_transaction (user_id, trace_id, status, service_name, count, cost, api_key_id, model, \
         input_tokens, output_tokens, cached_input_tokens, free_count, paid_count, amount, record_id, balance_after, \
         free_remaining_after, created_at, quota_unit, price_version, input_price, cached_input_price, output_price, \
         cache_write_tokens, cache_write_1h_tokens, audio_input_tokens, reasoning_tokens, audio_output_tokens, images, \
         service_tier, plan, price_details, shortfall) \
         VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
    )?;
    for charge in charges {
        let next = bind_shared(&mut insert, charge, charge.content.usage)?;
        bind(&mut insert, next, &[&shortfall(charge)])?;
        insert.raw_execute()?;
    }
    Ok(())
}

macro_rules! insert_reservation {
    () => {
        "INSERT INTO billing_transaction (user_id, trace_id, status, service_name, count, cost, api_key_id, model, \
         input_tokens, output_tokens, cached_input_tokens, free_count, paid_count, amount, record_id, balance_after, \
         free_remaining_after, created_at, quota_unit, price_version, input_price, cached_input_price, output_price, \
         cache_write_tokens, cache_write_1h_tokens, audio_input_tokens, reasoning_tokens, audio_output_tokens, images, \
         service_tier, plan, price_details, held_free, held_amount, full_cost, commit_cost, usage_date, expires_at, estimated_input_tokens, \
         estimated_output_tokens, shortfall, charged_by, late_date, commit_service_tier, served_model, reports) \
         VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, \
         ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
    };
}

/// A plain insert, so that an id in use fails.
const NEW_RESERVATION: &str = insert_reservation!();
const CHANGED_RESERVATION: &str = concat!(
    insert_reservation!(),
    " \
         ON CONFLICT DO UPDATE SET status = excluded.status, input_tokens = excluded.input_tokens, \
         output_tokens = excluded.output_tokens, cached_input_tokens = excluded.cached_input_tokens, \
         free_count = excluded.free_count, paid_count = excluded.paid_count, amount = excluded.amount, \
         record_id = excluded.record_id, balance_after = excluded.balance_after, \
         free_remaining_after = excluded.free_remaining_after, commit_cost = excluded.commit_cost, \
         held_free = excluded.held_free, held_amount = excluded.held_amount, expires_at = excluded.expires_at, \
         shortfall = excluded.shortfall, charged_by = excluded.charged_by, late_date = excluded.late_date, \
         cache_write_tokens = excluded.cache_write_tokens, cache_write_1h_tokens = excluded.cache_write_1h_tokens, \
         audio_input_tokens = excluded.audio_input_tokens, reasoning_tokens = excluded.reasoning_tokens, \
         audio_output_tokens = excluded.audio_output_tokens, images = excluded.images, \
         commit_service_tier = excluded.commit_service_tier, served_model = excluded.served_model, \
         price_version = excluded.price_version, input_price = excluded.input_price, \
         cached_input_price = excluded.cached_input_price, output_price = excluded.output_price, \
         price_details = excluded.price_details, reports = excluded.reports"
);

/// Writes new reservations, and the new state of changed ones.
pub fn write_reservations(transaction: &Tx<'_>, writes: &[ReservationWrite]) -> rusqlite::Result<()> {
    let (changed, new): (Vec<_>, Vec<_>) = writes.iter().partition(|write| write.was.is_some());
    put_reservations(transaction, NEW_RESERVATION, &new)?;
    put_reservations(transaction, CHANGED_RESERVATION, &changed)
}

fn put_reservations(transaction: &Tx<'_>, put: &str, writes: &[&ReservationWrite]) -> rusqlite::Result<()> {
    if writes.is_empty() {
        return Ok(());
    }
    let mut put = transaction.prepare_cached(put)?;
    for ReservationWrite { transaction, .. } in writes {
        let Some(reservation) = &transaction.reservation else { continue };
        let delivered: Option<&Delivered> = reservation.delivered.as_ref();
        let next = bind_shared(&mut put, transaction, reservation.usage())?;
        let estimate = transaction.content.estimate;
        let values: [&dyn ToSql; 14] = [
            &reservation.free,
            &reservation.amount.micros(),
            &reservation.full_cost.micros(),
            &delivered.and_then(|delivered| delivered.cost).map(Money::micros),
            &reservation.day.to_string(),
            &reservation.expires_at.timestamp_micros(),
            &estimate.map(|usage| usage.input_tokens),
            &estimate.map(|usage| usage.output_tokens),
            &shortfall(transaction),
            &charged_by_number(transaction),
            &reservation.late_day.map(|day| day.to_string()),
            &delivered.and_then(|delivered| delivered.service_tier.as_ref()).map(ServiceTier::as_str),
            &delivered.and_then(|delivered| delivered.model.as_ref()).map(ModelName::as_str),
            &reports_text(transaction),
        ];
        bind(&mut put, next, &values)?;
        put.raw_execute()?;
    }
    Ok(())
}

/// NULL without a shortfall.
fn shortfall(transaction: &Transaction) -> Option<i64> {
    Some(transaction.shortfall.micros()).filter(|shortfall| *shortfall != 0)
}

/// Binds the common columns of charges and reservations. Returns the number of the next column.
fn bind_shared(
    statement: &mut Statement<'_>,
    transaction: &Transaction,
    usage: Option<Usage>,
) -> rusqlite::Result<usize> {
    let content = &transaction.content;
    let version = transaction.price_version.as_ref();
    let price = |class| version.and_then(|version| version.prices.base().given(class)).map(Money::micros);
    let [cache_write, cache_write_1h, audio_input, reasoning, audio_output, images] = usage_parts(usage);
    let values: [&dyn ToSql; 32] = [
        &transaction.user.as_str(),
        &transaction.trace.as_str(),
        &transaction.status.name(),
        &content.service.as_str(),
        &content.count,
        &content.cost.map(Money::micros),
        &content.api_key.as_ref().map(ApiKeyId::as_str),
        &content.model.as_ref().map(ModelName::as_str),
        &usage.map(|usage| usage.input_tokens),
        &usage.map(|usage| usage.output_tokens),
        &usage.map(|usage| usage.cached_input_tokens),
        &transaction.free,
        &transaction.paid,
        &transaction.amount.micros(),
        &transaction.record_id.to_string(),
        &transaction.balance_after.micros(),
        &transaction.free_remaining_after,
        &transaction.created_at.timestamp_micros(),
        &quota_unit_name(transaction),
        &version.map(|version| version.id.as_str()),
        &price(Class::Input),
        &price(Class::CachedInput),
        &price(Class::Output),
        &cache_write,
        &cache_write_1h,
        &audio_input,
        &reasoning,
        &audio_output,
        &images,
        &content.service_tier.as_ref().map(ServiceTier::as_str),
        &transaction.plan.as_ref().map(PlanName::as_str),
        &price_details(transaction),
    ];
    bind(statement, 1, &values)
}

fn bind(statement: &mut Statement<'_>, first: usize, values: &[&dyn ToSql]) -> rusqlite::Result<usize> {
    for (parameter, value) in (first..).zip(values) {
        statement.raw_bind_parameter(parameter, value)?;
    }
    Ok(first + values.len())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::sqlite::tests::{empty_store, searches};

    #[tokio::test]
    async fn a_sweep_reads_expired_reservations_alone() {
        let (store, _folder) = empty_store().await;
        let plan: &'static str = format!("EXPLAIN QUERY PLAN {DUE}").leak();
        let searches = searches(&sqlx::query(plan).fetch_all(&store.reader).await.unwrap());
        let index = "INDEX idx_pending_expiry ((expires_at,user_id,trace_id)>(?,?,?) AND expires_at<?)";
        assert!(
            searches.len() == 1 && searches[0].starts_with("SEARCH ") && searches[0].ends_with(index),
            "{searches:?}"
        );
    }
}

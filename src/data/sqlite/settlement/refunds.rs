//! Refunds of charges: rows of `charge_refund`, the sums in `billing_transaction`, and the refunds of
//! a day in `usage_daily`.

use rusqlite::{Transaction, params};

use crate::{
    biz::{
        settlement::{
            keys::Keys,
            lock::LeftOut,
            refund::{Refunded, RefundedPart},
            rule::{RefundDelta, State, TransactionKey, UsageKey, Writes},
        },
        values::error::StoreError,
    },
    data::{
        rows::refund::{refund_columns, refunded_of},
        sqlite::writer::{found, writer_error},
    },
};

/// Finds the refunds of the batch that are settled.
pub fn load(
    transaction: &Transaction<'_>,
    keys: &Keys<'_>,
    (state, left_out): (&mut State, &mut LeftOut),
) -> Result<(), StoreError> {
    for &(user, id) in &keys.refunds {
        let mut find = transaction
            .prepare_cached(concat!(
                "SELECT ",
                refund_columns!(),
                " FROM charge_refund WHERE user_id = ? AND refund_id = ?"
            ))
            .map_err(writer_error)?;
        let settled = found(&mut find, [user.as_str(), id.as_str()], |row| refunded_of(row));
        if let Some(settled) = left_out.decoded(user, "charge_refund", settled)?.flatten() {
            state.refunds.insert((user.clone(), id.clone()), settled);
        }
    }
    Ok(())
}

/// Writes the refunds of a batch.
pub fn write(transaction: &Transaction<'_>, writes: &Writes) -> rusqlite::Result<()> {
    writes.refunds.iter().try_for_each(|refunded| insert(transaction, refunded))?;
    writes.refunded_charges.iter().try_for_each(|charge| set_refunded(transaction, charge))?;
    writes.refund_usage.iter().try_for_each(|usage| add_usage(transaction, usage))
}

fn insert(transaction: &Transaction<'_>, refunded: &Refunded) -> rusqlite::Result<()> {
    let mut insert = transaction.prepare_cached(concat!(
        "INSERT INTO charge_refund (",
        refund_columns!(),
        ") VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
    ))?;
    insert.execute(params![
        refunded.user.as_str(),
        refunded.id.as_str(),
        refunded.content.trace.as_str(),
        refunded.content.count,
        refunded.content.reason,
        refunded.request.to_string(),
        refunded.free,
        refunded.lapsed,
        refunded.paid,
        refunded.amount.micros(),
        refunded.sum.free,
        refunded.sum.paid,
        refunded.sum.amount.micros(),
        refunded.balance_after.micros(),
        refunded.day.to_string(),
        refunded.created_at.timestamp_micros(),
    ])?;
    Ok(())
}

fn set_refunded(
    transaction: &Transaction<'_>,
    ((user, trace), refunded): &(TransactionKey, RefundedPart),
) -> rusqlite::Result<()> {
    let mut update = transaction.prepare_cached(
        "UPDATE billing_transaction SET refunded_free = ?, refunded_paid = ?, refunded_amount = ? \
         WHERE user_id = ? AND trace_id = ?",
    )?;
    let RefundedPart { free, paid, amount } = refunded;
    update.execute(params![free, paid, amount.micros(), user.as_str(), trace.as_str()])?;
    Ok(())
}

fn add_usage(
    transaction: &Transaction<'_>,
    ((user, day, service), delta): &(UsageKey, RefundDelta),
) -> rusqlite::Result<()> {
    let mut upsert = transaction.prepare_cached(
        "INSERT INTO usage_daily \
         (user_id, usage_date, service_name, free_count, paid_count, amount, free_records, paid_records, \
         refunded_free, refunded_paid, refunded_amount, free_refunds, paid_refunds) \
         VALUES (?, ?, ?, 0, 0, 0, 0, 0, ?, ?, ?, ?, ?) \
         ON CONFLICT DO UPDATE SET refunded_free = COALESCE(refunded_free, 0) + excluded.refunded_free, \
         refunded_paid = COALESCE(refunded_paid, 0) + excluded.refunded_paid, \
         refunded_amount = COALESCE(refunded_amount, 0) + excluded.refunded_amount, \
         free_refunds = COALESCE(free_refunds, 0) + excluded.free_refunds, \
         paid_refunds = COALESCE(paid_refunds, 0) + excluded.paid_refunds",
    )?;
    upsert.execute(params![
        user.as_str(),
        day.to_string(),
        service.as_str(),
        delta.free,
        delta.paid,
        delta.amount.micros(),
        delta.free_records,
        delta.paid_records,
    ])?;
    Ok(())
}

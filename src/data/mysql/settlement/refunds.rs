//! Refunds of charges: rows of `charge_refund`, the sums in `billing_transaction`, and the refunds of
//! a day in `usage_daily`.

use crate::{
    biz::settlement::{
        keys::Keys,
        refund::{Refunded, RefundedPart},
        rule::{RefundDelta, TransactionKey, UsageKey, Writes},
    },
    data::{
        mysql::statement::{Row as StatementRow, Statement},
        rows::refund::refund_columns,
    },
};

/// Reads the refunds of the batch that are settled.
pub fn read(statement: &mut Statement, keys: &Keys<'_>) {
    statement
        .push(concat!("SELECT ", refund_columns!(), " FROM charge_refund WHERE (user_id, refund_id) IN ("))
        .pairs(&keys.refunds)
        .push("); ");
}

/// Writes the refunds of a batch. A batch without refunds sends nothing.
pub fn write(statement: &mut Statement, writes: &Writes) {
    if writes.refunds.is_empty() {
        return;
    }
    insert(statement, &writes.refunds);
    for charge in &writes.refunded_charges {
        set_refunded(statement, charge);
    }
    // A refund of free units whose month is over gives nothing back.
    if !writes.refund_usage.is_empty() {
        add_usage(statement, &writes.refund_usage);
    }
}

fn insert(statement: &mut Statement, refunds: &[Refunded]) {
    statement
        .push(concat!("INSERT INTO charge_refund (", refund_columns!(), ") VALUES "))
        .rows(refunds, |row, refunded| {
            row.text(refunded.user.as_str())
                .text(refunded.id.as_str())
                .text(refunded.content.trace.as_str())
                .optional(refunded.content.count, StatementRow::number)
                .text(&refunded.content.reason)
                .text(&refunded.request.to_string())
                .number(refunded.free)
                .number(refunded.lapsed)
                .number(refunded.paid)
                .money(refunded.amount)
                .number(refunded.sum.free)
                .number(refunded.sum.paid)
                .money(refunded.sum.amount)
                .money(refunded.balance_after)
                .day(refunded.day)
                .instant(refunded.created_at);
        })
        .push("; ");
}

/// The charge exists, and its account is locked.
fn set_refunded(statement: &mut Statement, ((user, trace), refunded): &(TransactionKey, RefundedPart)) {
    statement.push("UPDATE billing_transaction SET refunded_free = ").number(refunded.free);
    statement.push(", refunded_paid = ").number(refunded.paid);
    statement.push(", refunded_amount = ").money(refunded.amount);
    statement.push(" WHERE user_id = ").texts([user.as_str()]);
    statement.push(" AND trace_id = ").texts([trace.as_str()]).push("; ");
}

fn add_usage(statement: &mut Statement, usage: &[(UsageKey, RefundDelta)]) {
    statement
        .push(
            "INSERT INTO usage_daily \
             (user_id, usage_date, service_name, free_count, paid_count, amount, free_records, paid_records, \
             refunded_free, refunded_paid, refunded_amount, free_refunds, paid_refunds) VALUES ",
        )
        .rows(usage, |row, ((user, day, service), delta)| {
            row.text(user.as_str()).day(*day).text(service.as_str());
            row.number(0).number(0).number(0).number(0).number(0);
            row.number(delta.free)
                .number(delta.paid)
                .money(delta.amount)
                .number(delta.free_records)
                .number(delta.paid_records);
        })
        .push(
            " ON DUPLICATE KEY UPDATE refunded_free = COALESCE(refunded_free, 0) + VALUES(refunded_free), \
             refunded_paid = COALESCE(refunded_paid, 0) + VALUES(refunded_paid), \
             refunded_amount = COALESCE(refunded_amount, 0) + VALUES(refunded_amount), \
             free_refunds = COALESCE(free_refunds, 0) + VALUES(free_refunds), \
             paid_refunds = COALESCE(paid_refunds, 0) + VALUES(paid_refunds); ",
        );
}

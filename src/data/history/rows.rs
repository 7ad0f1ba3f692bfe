//! The rows of the history that a seal covers, with the text of all their values.

use crate::{
    biz::{
        jobs::seals::content::{HistoryRow, Kind},
        values::error::StoreError,
    },
    data::{row::Columns, rows::account::user_of},
};

/// The separator of values in a content: a character that no id has.
macro_rules! content {
    ($first:literal $(, $value:literal)*) => {
        concat!("CONCAT(", $first, $(", x'1F', ", $value,)* ")")
    };
}

/// The records of one table.
macro_rules! records_of {
    ($table:literal) => {
        concat!(
            "SELECT * FROM (SELECT user_id, created_at, billing_record_id, service_name, type, amount, count, usage_date, \
             trace_id, late_of FROM ",
            $table,
            " WHERE user_id IN ({users}) AND created_at >= {from} AND created_at < {until} \
             AND (created_at > {from} OR billing_record_id > {id}) \
             ORDER BY user_id, created_at, billing_record_id LIMIT {limit}) ",
            $table
        )
    };
}

/// The outcome of a charge that a commit may still add to is left out. An archived transaction that has lost its content
/// still has a text, which is never the sealed one.
const RECORDS: &str = concat!(
    "SELECT r.user_id, r.created_at, r.billing_record_id, CASE WHEN r.type IN (3, 4) THEN r.amount ELSE -r.amount END, \
     CASE WHEN r.type IN (3, 4) THEN 1 ELSE 0 END, CASE WHEN r.type IN (3, 4) THEN r.count ELSE 0 END, ",
    content!(
        "r.service_name",
        "r.type",
        "r.amount",
        "r.count",
        "r.usage_date",
        "COALESCE(r.trace_id, '')",
        "COALESCE(r.late_of, '')"
    ),
    ", CASE WHEN t.user_id IS NULL THEN '' WHEN t.status = 'ARCHIVED' THEN ",
    content!("t.trace_id", "t.status"),
    " WHEN t.charged_by IS NULL THEN ",
    content!(
        "t.trace_id",
        "t.service_name",
        "t.count",
        "t.created_at",
        "COALESCE(t.api_key_id, '')",
        "COALESCE(t.model, '')",
        "COALESCE(t.cost, '')",
        "t.status",
        "t.free_count",
        "t.paid_count",
        "t.amount",
        "t.balance_after",
        "COALESCE(t.input_tokens, '')",
        "COALESCE(t.cached_input_tokens, '')",
        "COALESCE(t.output_tokens, '')",
        "COALESCE(t.price_version, '')",
        "COALESCE(t.shortfall, '')",
        "COALESCE(t.late_date, '')",
        "t.record_id",
        "COALESCE(t.usage_date, '')",
        "COALESCE(t.commit_cost, '')",
        "COALESCE(t.input_price, '')",
        "COALESCE(t.cached_input_price, '')",
        "COALESCE(t.output_price, '')",
        "COALESCE(t.price_details, '')",
        "COALESCE(t.plan, '')",
        "COALESCE(t.quota_unit, '')",
        "COALESCE(t.cache_write_tokens, '')",
        "COALESCE(t.cache_write_1h_tokens, '')",
        "COALESCE(t.audio_input_tokens, '')",
        "COALESCE(t.reasoning_tokens, '')",
        "COALESCE(t.audio_output_tokens, '')",
        "COALESCE(t.images, '')",
        "COALESCE(t.service_tier, '')",
        "COALESCE(t.commit_service_tier, '')",
        "COALESCE(t.served_model, '')",
        "COALESCE(t.reports, '')",
        "t.free_remaining_after",
        "{t_free_remaining_large}",
        "COALESCE(t.held_free, '')",
        "COALESCE(t.held_amount, '')",
        "COALESCE(t.full_cost, '')",
        "COALESCE(t.expires_at, '')",
        "COALESCE(t.estimated_input_tokens, '')",
        "COALESCE(t.estimated_output_tokens, '')"
    ),
    " ELSE ",
    content!(
        "t.trace_id",
        "t.service_name",
        "t.count",
        "t.created_at",
        "COALESCE(t.api_key_id, '')",
        "COALESCE(t.model, '')"
    ),
    " END FROM (",
    records_of!("billing_record"),
    " UNION ALL ",
    records_of!("billing_record_archive"),
    " ORDER BY user_id, created_at, billing_record_id LIMIT {limit}) r \
     LEFT JOIN settled_transaction t ON t.user_id = r.user_id AND t.trace_id = r.trace_id \
     ORDER BY r.user_id, r.created_at, r.billing_record_id"
);

/// The rows of another kind: its table and condition, its time and id, its change of the balance, and its content.
macro_rules! rows_of {
    ($from:literal, $at:literal, $id:literal, $amount:literal, $content:expr) => {
        concat!(
            "SELECT user_id, at, id, amount, 0, 0, content, '' FROM (SELECT user_id, ",
            $at,
            " AS at, ",
            $id,
            " AS id, ",
            $amount,
            " AS amount, ",
            $content,
            " AS content FROM ",
            $from,
            " user_id IN ({users})) h WHERE at >= {from} AND at < {until} AND (at > {from} OR id > {id}) \
             ORDER BY user_id, at, id LIMIT {limit}"
        )
    };
}

const REFUNDS: &str = rows_of!(
    "charge_refund WHERE",
    "created_at",
    "refund_id",
    "amount * 0",
    content!(
        "trace_id",
        "COALESCE(count, '')",
        "free_count",
        "lapsed_count",
        "paid_count",
        "amount",
        "refunded_free",
        "refunded_paid",
        "refunded_amount",
        "balance_after",
        "usage_date",
        "request_id",
        "reason"
    )
);
const ADJUSTMENTS: &str = rows_of!(
    "balance_adjustment WHERE",
    "created_at",
    "adjustment_id",
    "amount",
    content!("amount", "balance_after", "operator", "request_id", "reason")
);
const OPENINGS: &str = rows_of!(
    "quota_opening WHERE",
    "created_at",
    "CONCAT(reset_month, ' ', service_name)",
    "{no_amount}",
    content!("reset_month", "service_name", "units")
);
const TOP_UPS: &str = rows_of!(
    "recharge_order WHERE status IN ('success', 'refunded') AND",
    "COALESCE(credited_at, updated_at)",
    "order_id",
    "amount",
    content!(
        "amount",
        "COALESCE(payment_order_id, '')",
        "COALESCE(payment_method, '')",
        "created_at",
        "COALESCE(idempotency_key, '')"
    )
);
const TOP_UP_REFUNDS: &str = rows_of!(
    "recharge_refund WHERE status = 'success' AND",
    "settled_at",
    "refund_id",
    "-amount",
    content!(
        "order_id",
        "kind",
        "amount",
        "balance_after",
        "created_at",
        "COALESCE(asked_amount, '')",
        "is_forced",
        "reason",
        "request_id"
    )
);

/// The statement of a kind, for the scope of a page.
pub(in crate::data) fn rows(kind: Kind) -> &'static str {
    match kind {
        Kind::Records => RECORDS,
        Kind::Refunds => REFUNDS,
        Kind::Adjustments => ADJUSTMENTS,
        Kind::Openings => OPENINGS,
        Kind::TopUps => TOP_UPS,
        Kind::TopUpRefunds => TOP_UP_REFUNDS,
    }
}

/// A row of [`rows`].
pub(in crate::data) fn history_row_of(row: &impl Columns) -> Result<HistoryRow, StoreError> {
    Ok(HistoryRow {
        user: user_of(row)?,
        at: row.time(1)?,
        id: row.text(2)?,
        amount: row.money(3)?,
        is_refund: row.number::<i64>(4)? != 0,
        given_back: row.number(5)?,
        content: row.text(6)?,
        transaction: row.text(7)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::transaction_archive::moved_columns;

    /// The archive has every column of a settled transaction that nothing changes later; its own tests compare it with the
    /// table. A seal is of one user, and `charged_by` decides which columns a content has.
    #[test]
    fn a_seal_covers_every_column_that_the_archive_keeps() {
        let (_, from) = RECORDS.split_once("WHEN t.charged_by IS NULL THEN CONCAT(").unwrap();
        let (sealed, _) = from.split_once(" ELSE ").unwrap();
        let sealed: Vec<&str> = sealed.split(|c: char| !c.is_ascii_alphanumeric() && !"._".contains(c)).collect();
        for column in moved_columns!().split(", ").filter(|column| !["user_id", "charged_by"].contains(column)) {
            assert!(sealed.contains(&format!("t.{column}").as_str()), "{column}");
        }
    }
}

//! The SQL of seals and of the nightly audit that both databases understand, and its rows.
//!
//! A statement has names in braces for the values of a [`Scope`]. Each database fills them in.

use std::sync::LazyLock;

use chrono::{DateTime, NaiveDate, Utc};

use super::{
    error::corrupt,
    row::Columns,
    rows::{
        account::user_of,
        audit::{self, Note},
    },
    usage,
};
use crate::biz::{
    account::users::UserSpan,
    jobs::seals::{
        content::{Figures, HistoryRow, Kind},
        store::{Changed, HistoryPage, Sealed, Since, StoredSeal, TraceSpan},
    },
    values::{calendar::Month, error::StoreError, ids::UserId},
};

/// The values of a statement.
#[derive(Debug, Clone, Copy)]
pub(super) struct Scope<'s> {
    /// `{users}`
    pub users: &'s [UserId],
    /// `{first}` and `{last}`
    pub first: &'s str,
    pub last: &'s str,
    /// `{from}` and `{until}`
    pub from: DateTime<Utc>,
    pub until: DateTime<Utc>,
    /// `{id}`
    pub id: &'s str,
    /// `{after_trace}` and `{last_trace}`
    pub after_trace: &'s str,
    pub last_trace: &'s str,
    /// `{day}`, and its month `{month}`
    pub day: NaiveDate,
    /// `{limit}`
    pub limit: u32,
}

impl<'s> Scope<'s> {
    pub fn of_users(users: &'s [UserId], since: Since) -> Self {
        let Since { at, day } = since;
        let [first, last, id, after_trace, last_trace] = [""; 5];
        Self { users, first, last, from: at, until: at, id, after_trace, last_trace, day, limit: u32::MAX }
    }

    /// The users behind `first` up to `last`.
    pub fn of_span(span: &'s UserSpan) -> Self {
        Self { first: span.after(), last: span.last.as_str(), ..Self::of_users(&[], Since::BEGINNING) }
    }

    pub fn with_traces(self, traces: &'s TraceSpan) -> Self {
        Self { after_trace: &traces.after, last_trace: &traces.last, ..self }
    }

    pub fn of_page(page: HistoryPage<'s>) -> Self {
        let HistoryPage { users, from, after_id: id, until, limit } = page;
        Self { from, until, id, limit, ..Self::of_users(users, Since::BEGINNING) }
    }
}

/// A part of a statement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Piece {
    Sql(&'static str),
    /// The name of a value.
    Value(&'static str),
}

/// The parts of a statement, in order.
pub(super) fn pieces(sql: &'static str) -> impl Iterator<Item = Piece> {
    sql.split('{')
        .enumerate()
        .flat_map(|(index, part)| match (index, part.split_once('}')) {
            (1.., Some((name, sql))) => [Some(Piece::Value(name)), Some(Piece::Sql(sql))],
            _ => [Some(Piece::Sql(part)), None],
        })
        .flatten()
}

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

/// The outcome of a charge that a commit may still add to is left out.
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
    ", CASE WHEN t.user_id IS NULL THEN '' WHEN t.charged_by IS NULL THEN ",
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
        "{t_free_remaining_large}"
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
     LEFT JOIN billing_transaction t ON t.user_id = r.user_id AND t.trace_id = r.trace_id \
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
    "0.0 * units",
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
pub(super) fn rows(kind: Kind) -> &'static str {
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
pub(super) fn history_row_of(row: &impl Columns) -> Result<HistoryRow, StoreError> {
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

/// The accounts behind `{first}` up to `{last}` that may have changed since their seals. The hour covers the
/// difference of two clocks: the database writes the time of a change, and a server decides its month.
///
/// The newest record of each account is read too, because a batch that was committed in part may lack the write of
/// the account. It is one probe of the clustered key; MariaDB would read all records of an account for an EXISTS.
pub(super) const CHANGED: &str = "SELECT b.user_id, b.version, \
    CASE WHEN s.user_id IS NULL AND (SELECT m.month FROM sealed_month m WHERE m.user_id = b.user_id LIMIT 1) \
    IS NOT NULL THEN 1 ELSE 0 END, s.month, s.sealed_until, s.version, s.balance, \
    s.charged, s.given_back, s.given_back_count, s.seal FROM user_balance b \
    LEFT JOIN sealed_account s ON s.user_id = b.user_id \
    WHERE b.user_id > {first} AND b.user_id <= {last} AND (s.user_id IS NULL OR b.version <> s.version \
    OR b.balance <> s.balance OR b.held <> 0 OR b.updated_at >= {an_hour_before_the_end_of_s} \
    OR (SELECT r.created_at FROM billing_record r WHERE r.user_id = b.user_id \
    ORDER BY r.created_at DESC LIMIT 1) >= s.sealed_until) ORDER BY b.user_id";

/// A row of [`CHANGED`].
pub(super) fn changed_of(row: &impl Columns) -> Result<Changed, StoreError> {
    let sealed = match row.optional_text(3)? {
        Some(month) => Some(sealed_at(row, &month, 4)?),
        None => None,
    };
    Ok(Changed { user: user_of(row)?, version: row.number(1)?, sealed, has_lost_seal: row.number::<i64>(2)? != 0 })
}

/// The users behind `{first}` up to `{last}` with a seal or a quota of `{month}`, and without an account.
pub(super) const LOST: &str = "SELECT s.user_id AS user_id FROM sealed_account s \
    LEFT JOIN user_balance b ON b.user_id = s.user_id \
    WHERE s.user_id > {first} AND s.user_id <= {last} AND b.user_id IS NULL UNION \
    SELECT q.user_id FROM free_quota q LEFT JOIN user_balance b ON b.user_id = q.user_id \
    WHERE q.reset_month = {month} AND q.user_id > {first} AND q.user_id <= {last} AND b.user_id IS NULL \
    ORDER BY user_id";

/// The unsealed records of `{users}` by the daily rollup.
pub(super) const UNSEALED_SIZES: &str = "SELECT user_id, SUM(free_records + paid_records \
    + COALESCE(free_refunds + paid_refunds, 0)) FROM usage_daily WHERE user_id IN ({users}) AND usage_date >= {day} \
    GROUP BY user_id ORDER BY user_id";

/// The trace id of the user `{first}` with `{limit}` others between it and `{after_trace}`.
pub(super) const TRACE_BEHIND: &str = "SELECT trace_id FROM billing_transaction WHERE user_id = {first} \
    AND trace_id > {after_trace} ORDER BY trace_id LIMIT 1 OFFSET {limit}";

/// The month of `all_sealed`.
pub(super) const ALL_SEALED: &str = "SELECT month FROM all_sealed";

/// A row of [`ALL_SEALED`].
pub(super) fn all_sealed_of(row: &impl Columns) -> Result<Month, StoreError> {
    month_of(&row.text(0)?)
}

/// The last seal of a month, from column `first` on.
fn sealed_at(row: &impl Columns, month: &str, first: usize) -> Result<Sealed, StoreError> {
    let month = month_of(month)?;
    Ok(Sealed {
        month,
        since: Since { at: row.time(first)?, day: month.next().first_day() },
        version: row.number(first + 1)?,
        figures: Figures {
            balance: row.money(first + 2)?,
            charged: row.money(first + 3)?,
            given_back: row.money(first + 4)?,
            given_back_count: row.number(first + 5)?,
        },
        seal: row.text(first + 6)?,
    })
}

fn month_of(text: &str) -> Result<Month, StoreError> {
    text.parse().map_err(|_| corrupt("month of a seal"))
}

/// The seals of `{users}`.
pub(super) const SEALS: &str = "SELECT user_id, month, content, balance, seal FROM sealed_month WHERE user_id IN ({users}) ORDER BY user_id, month";

/// A row of [`SEALS`].
pub(super) fn stored_seal_of(row: &impl Columns) -> Result<StoredSeal, StoreError> {
    Ok(StoredSeal {
        user: user_of(row)?,
        month: month_of(&row.text(1)?)?,
        content: row.text(2)?,
        balance: row.money(3)?,
        seal: row.text(4)?,
    })
}

/// The last seals of `{users}`.
pub(super) const LAST_SEALS: &str = "SELECT user_id, month, sealed_until, version, balance, charged, given_back, \
    given_back_count, seal FROM sealed_account WHERE user_id IN ({users})";

/// A row of [`LAST_SEALS`].
pub(super) fn last_seal_of(row: &impl Columns) -> Result<(UserId, Sealed), StoreError> {
    Ok((user_of(row)?, sealed_at(row, &row.text(1)?, 2)?))
}

/// The sums of the unsealed records of a table.
macro_rules! sums_of {
    ($table:literal) => {
        concat!(
            "SELECT user_id, service_name, SUBSTR(usage_date, 1, 7) AS month, \
             CAST(SUM(CASE type WHEN 1 THEN count WHEN 3 THEN -count ELSE 0 END) AS SIGNED), \
             SUM(CASE WHEN type IN (3, 4) THEN 0 ELSE amount END), CAST(SUM(0) AS SIGNED), SUM(amount * 0), \
             CAST(SUM(CASE WHEN type IN (3, 4) THEN count ELSE 0 END) AS SIGNED), \
             SUM(CASE WHEN type IN (3, 4) THEN amount ELSE 0 END) FROM ",
            $table,
            " WHERE user_id IN ({users}) AND created_at >= {from} GROUP BY user_id, service_name, month"
        )
    };
}

/// The books of `{users}` with their unsealed records. All other rows of an account are few, and are read whole.
pub(super) fn unsealed_books<R: Columns>() -> Vec<(&'static str, Note<R>)> {
    vec![
        ("SELECT user_id, balance, held FROM user_balance WHERE user_id IN ({users})", audit::note_balance),
        (
            "SELECT user_id, SUM(amount), SUM(refunded_amount), SUM(refunding_amount) FROM recharge_order \
             WHERE status IN ('success', 'refunded') AND user_id IN ({users}) GROUP BY user_id",
            audit::note_recharges,
        ),
        (
            "SELECT user_id, status, kind, SUM(amount) FROM recharge_refund \
             WHERE status <> 'failed' AND user_id IN ({users}) GROUP BY user_id, status, kind",
            audit::note_order_refunds,
        ),
        (
            "SELECT user_id, SUM(amount) FROM balance_adjustment WHERE user_id IN ({users}) GROUP BY user_id",
            audit::note_adjustments,
        ),
        (
            "SELECT user_id, SUM(amount), CAST(SUM(free_count + lapsed_count + paid_count) AS SIGNED), \
             CAST(SUM(free_count + paid_count) AS SIGNED) FROM charge_refund WHERE user_id IN ({users}) GROUP BY user_id",
            audit::note_refunds_alone,
        ),
        (audit::WRONG_CHARGES_OF, audit::note_wrong_charges),
        (
            "SELECT user_id, service_name, reset_month, used_quota FROM free_quota \
             WHERE used_quota <> 0 AND user_id IN ({users}) AND reset_month >= {month}",
            audit::note_used_quota,
        ),
        (
            "SELECT user_id, service_name, reset_month, units FROM quota_opening \
             WHERE user_id IN ({users}) AND reset_month >= {month}",
            audit::note_opened_quota,
        ),
        (
            "SELECT user_id, service_name, reset_month, held_quota FROM free_quota \
             WHERE held_quota <> 0 AND user_id IN ({users})",
            audit::note_held_quota,
        ),
        (
            "SELECT t.user_id, t.service_name, SUBSTR(t.usage_date, 1, 7) AS month, CAST(SUM(t.held_free) AS SIGNED), \
             SUM(t.held_amount) FROM {pending_as_t} \
             WHERE t.status = 'PENDING' AND t.user_id IN ({users}) GROUP BY t.user_id, t.service_name, month",
            audit::note_reservations,
        ),
        (sums_of!("billing_record"), audit::note_records),
        (sums_of!("billing_record_archive"), audit::note_records),
    ]
}

/// The users whose rollup by service, model and API key differs from the unsealed records.
pub(super) static DIFFERING_USE: LazyLock<String> = LazyLock::new(|| {
    let days = "user_id IN ({users}) AND usage_date >= {day}";
    let differing =
        usage::differing(days, &format!("{days} AND created_at >= {{from}}")).replace("LIMIT ?", "LIMIT {limit}");
    format!("SELECT DISTINCT user_id FROM ({differing}) d")
});

/// The columns of the daily rollup, and their sums over records.
const DAILY: [(&str, &str); 10] = [
    ("free_count", "SUM(CASE type WHEN 1 THEN count ELSE 0 END)"),
    ("paid_count", "SUM(CASE type WHEN 2 THEN count ELSE 0 END)"),
    ("amount", "SUM(CASE WHEN type IN (3, 4) THEN 0 ELSE amount END)"),
    ("free_records", "SUM(CASE type WHEN 1 THEN 1 ELSE 0 END)"),
    ("paid_records", "SUM(CASE type WHEN 2 THEN 1 ELSE 0 END)"),
    ("refunded_free", "SUM(CASE type WHEN 3 THEN count ELSE 0 END)"),
    ("refunded_paid", "SUM(CASE type WHEN 4 THEN count ELSE 0 END)"),
    ("refunded_amount", "SUM(CASE WHEN type IN (3, 4) THEN amount ELSE 0 END)"),
    ("free_refunds", "SUM(CASE type WHEN 3 THEN 1 ELSE 0 END)"),
    ("paid_refunds", "SUM(CASE type WHEN 4 THEN 1 ELSE 0 END)"),
];

/// The users whose daily rollup differs from the unsealed records.
pub(super) static DIFFERING_DAYS: LazyLock<String> = LazyLock::new(|| {
    let list = |of: &dyn Fn(&str, &str) -> String| DAILY.map(|(column, sum)| of(column, sum)).join(", ");
    let rollup = list(&|column, _| column.to_owned());
    let recorded = list(&|column, _| format!("0 AS recorded_{column}"));
    let zeros = list(&|_, _| "0".to_owned());
    let sums = list(&|_, sum| sum.to_owned());
    let differs = DAILY.map(|(column, _)| format!("COALESCE(SUM({column}), 0) <> SUM(recorded_{column})")).join(" OR ");
    let records = |table| {
        format!(
            "SELECT user_id, usage_date, service_name, {zeros}, {sums} FROM {table} WHERE user_id IN ({{users}}) \
             AND usage_date >= {{day}} AND created_at >= {{from}} GROUP BY user_id, usage_date, service_name"
        )
    };
    format!(
        "SELECT DISTINCT user_id FROM (SELECT user_id FROM (\
         SELECT user_id, usage_date, service_name, {rollup}, {recorded} FROM usage_daily \
         WHERE user_id IN ({{users}}) AND usage_date >= {{day}} UNION ALL {} UNION ALL {}) books \
         GROUP BY user_id, usage_date, service_name HAVING {differs}) d",
        records("billing_record"),
        records("billing_record_archive")
    )
});

/// The unsealed records of charges in a table, by transaction.
macro_rules! charges_of {
    ($table:literal) => {
        concat!(
            "SELECT user_id, trace_id, CASE type WHEN 1 THEN count ELSE 0 END AS free, \
             CASE type WHEN 2 THEN count ELSE 0 END AS paid, amount FROM ",
            $table,
            " WHERE user_id IN ({users}) AND created_at >= {from} AND trace_id > {after_trace} \
             AND trace_id <= {last_trace} AND type IN (1, 2)"
        )
    };
}

/// The users with unsealed records of the trace ids that differ from their transactions. A charge of reported usage
/// may have gone on after its first part was sealed, by a commit or by its stream.
pub(super) const DIFFERING_CHARGES: &str = concat!(
    "SELECT DISTINCT r.user_id FROM (SELECT user_id, trace_id, SUM(free) AS free, SUM(paid) AS paid, \
     SUM(amount) AS amount FROM (",
    charges_of!("billing_record"),
    " UNION ALL ",
    charges_of!("billing_record_archive"),
    ") charges GROUP BY user_id, trace_id) r \
     LEFT JOIN billing_transaction t ON t.user_id = r.user_id AND t.trace_id = r.trace_id \
     WHERE t.user_id IS NULL OR t.status <> 'COMMITTED' OR CASE WHEN t.charged_by IS NOT NULL AND t.created_at < {from} \
     THEN r.free > t.free_count OR r.paid > t.paid_count OR r.amount > t.amount \
     ELSE r.free <> t.free_count OR r.paid <> t.paid_count OR r.amount <> t.amount END"
);

/// The records of charges in a table, beside the transactions.
macro_rules! recorded_of {
    ($table:literal) => {
        concat!(
            "SELECT user_id, trace_id, 0, 0, 0, CASE type WHEN 1 THEN count ELSE 0 END, \
             CASE type WHEN 2 THEN count ELSE 0 END, amount FROM ",
            $table,
            " WHERE type IN (1, 2) AND user_id IN ({users}) AND trace_id > {after_trace} AND trace_id <= {last_trace}"
        )
    };
}

/// The transactions of `{users}` that differ from all their records.
pub(super) const DIFFERING_TRANSACTIONS: &str = concat!(
    "SELECT user_id, trace_id, SUM(free), SUM(paid), SUM(amount), SUM(recorded_free), SUM(recorded_paid), \
     SUM(recorded_amount) FROM (SELECT user_id, trace_id, free_count AS free, paid_count AS paid, amount, \
     0 AS recorded_free, 0 AS recorded_paid, 0 AS recorded_amount FROM billing_transaction \
     WHERE status = 'COMMITTED' AND user_id IN ({users}) AND trace_id > {after_trace} \
     AND trace_id <= {last_trace} UNION ALL ",
    recorded_of!("billing_record"),
    " UNION ALL ",
    recorded_of!("billing_record_archive"),
    ") books GROUP BY user_id, trace_id HAVING SUM(free) <> SUM(recorded_free) OR SUM(paid) <> SUM(recorded_paid) \
     OR SUM(amount) <> SUM(recorded_amount) ORDER BY user_id, trace_id LIMIT {limit}"
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_statement_is_cut_at_its_values() {
        let pieces: Vec<_> = pieces("SELECT {first} WHERE {last}").collect();
        let expected =
            [Piece::Sql("SELECT "), Piece::Value("first"), Piece::Sql(" WHERE "), Piece::Value("last"), Piece::Sql("")];
        assert_eq!(pieces, expected);
    }
}

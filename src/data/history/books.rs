//! The books of accounts since their last seals.

use std::sync::LazyLock;

use crate::data::{
    row::Columns,
    rows::audit::{self, Note},
    usage,
};

/// The records of `{users}` since `{day}`, by the daily rollup.
pub(in crate::data) const UNSEALED_SIZES: &str = "SELECT user_id, SUM(free_records + paid_records \
    + COALESCE(free_refunds + paid_refunds, 0)) FROM usage_daily WHERE user_id IN ({users}) AND usage_date >= {day} \
    GROUP BY user_id ORDER BY user_id";

/// The sums of the unsealed records, by the daily rollup. They are added up by whoever reads them, because a group by
/// month takes the database twice the time.
const SUMS: &str = "SELECT user_id, service_name, SUBSTR(usage_date, 1, 7) AS month, \
    CAST(free_count - COALESCE(refunded_free, 0) AS SIGNED), amount, CAST(0 AS SIGNED), amount * 0, \
    CAST(COALESCE(refunded_free, 0) + COALESCE(refunded_paid, 0) AS SIGNED), \
    COALESCE(refunded_amount, amount * 0) FROM usage_daily \
    WHERE user_id IN ({users}) AND usage_date >= {day}";

/// The sum of a column of the credited top-ups.
macro_rules! credited {
    ($column:literal) => {
        concat!("SUM(CASE WHEN status IN ('success', 'refunded') THEN ", $column, " ELSE ", $column, " * 0 END)")
    };
}

/// The books of `{users}` with the sums of their unsealed records. All other rows of an account are few, and are read
/// whole. Each table is read once, also for its rows that the service cannot read.
pub(in crate::data) fn unsealed_books<R: Columns>() -> Vec<(&'static str, Note<R>)> {
    vec![
        (
            "SELECT user_id, balance, held, alerts, CASE WHEN {unreadable_balance} THEN 1 ELSE 0 END \
             FROM user_balance WHERE user_id IN ({users})",
            audit::note_account,
        ),
        (
            concat!(
                "SELECT user_id, ",
                credited!("amount"),
                ", ",
                credited!("refunded_amount"),
                ", ",
                credited!("refunding_amount"),
                ", CAST(SUM(CASE WHEN {unreadable_order} THEN 1 ELSE 0 END) AS SIGNED) \
             FROM recharge_order WHERE user_id IN ({users}) GROUP BY user_id"
            ),
            audit::note_orders,
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
            "SELECT user_id, service_name, reset_month, CASE WHEN reset_month >= {month} THEN used_quota ELSE 0 END, \
             held_quota, CASE WHEN {unreadable_quota} THEN 1 ELSE 0 END FROM free_quota WHERE user_id IN ({users}) \
             AND (held_quota <> 0 OR used_quota <> 0 AND reset_month >= {month} OR {unreadable_quota})",
            audit::note_quota,
        ),
        (
            "SELECT user_id, 'caps' FROM tenant_quota WHERE {unreadable_caps} AND user_id IN ({users})",
            audit::note_unreadable,
        ),
        (
            "SELECT user_id, service_name, reset_month, units FROM quota_opening \
             WHERE user_id IN ({users}) AND reset_month >= {month}",
            audit::note_opened_quota,
        ),
        (
            "SELECT t.user_id, t.service_name, SUBSTR(t.usage_date, 1, 7) AS month, CAST(SUM(t.held_free) AS SIGNED), \
             SUM(t.held_amount) FROM {pending_as_t} \
             WHERE t.status = 'PENDING' AND t.user_id IN ({users}) GROUP BY t.user_id, t.service_name, month",
            audit::note_reservations,
        ),
        (SUMS, audit::note_records),
    ]
}

/// The users whose rollup by service, model and API key differs from the records since `{from}`, the begin of `{day}`.
pub(in crate::data) static DIFFERING_USE: LazyLock<String> = LazyLock::new(|| {
    let days = "user_id IN ({users}) AND usage_date >= {day}";
    let differing = usage::differing(days, &format!("{days} AND created_at >= {{from}}"), "{limit}");
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

/// The users whose daily rollup differs from the records since `{from}`, the begin of `{day}`.
pub(in crate::data) static DIFFERING_DAYS: LazyLock<String> = LazyLock::new(|| {
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

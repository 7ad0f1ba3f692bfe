//! The rows that the service cannot read.

use sqlx::sqlite::SqliteRow;

use crate::data::rows::audit::{self, Note};

/// The condition of an order that `rows::order` refuses, or that is negative.
macro_rules! unreadable_order {
    () => {
        "(status NOT IN ('pending', 'success', 'failed', 'expired', 'refunded') \
         OR payment_method NOT IN ('alipay', 'wechat', 'wechatpay', 'stripe') OR amount < 0)"
    };
}

macro_rules! unreadable_balance {
    () => {
        "(version < 0 OR typeof(version) NOT IN ('integer', 'null') OR status NOT IN (0, 1, 2))"
    };
}

macro_rules! unreadable_quota {
    () => {
        "(total_quota < 0 OR typeof(total_quota) NOT IN ('integer', 'null') OR used_quota < 0 \
         OR typeof(used_quota) NOT IN ('integer', 'null') OR held_quota < 0 \
         OR typeof(held_quota) NOT IN ('integer', 'null'))"
    };
}

macro_rules! unreadable_caps {
    () => {
        "(daily_limit < 0 OR typeof(daily_limit) NOT IN ('integer', 'null') OR monthly_limit < 0 \
         OR typeof(monthly_limit) NOT IN ('integer', 'null') OR daily_used < 0 \
         OR typeof(daily_used) NOT IN ('integer', 'null') OR monthly_used < 0 \
         OR typeof(monthly_used) NOT IN ('integer', 'null'))"
    };
}

pub(super) use unreadable_order;

/// A condition of rows that the service cannot read, by its name in a statement.
pub fn unreadable(name: &str) -> Option<&'static str> {
    Some(match name {
        "unreadable_order" => unreadable_order!(),
        "unreadable_balance" => unreadable_balance!(),
        "unreadable_quota" => unreadable_quota!(),
        "unreadable_caps" => unreadable_caps!(),
        _ => return None,
    })
}

/// The queries of the rows that the service cannot read. Those of transactions, which are many, are read with the books.
pub const UNREADABLE: &[(&str, Note<SqliteRow>)] = &[
    (
        concat!(
            "SELECT user_id, 'order ' || order_id || ' with status ' || status || ', payment method ' \
             || COALESCE(payment_method, 'NULL') || ', amount in millionths ' || amount FROM recharge_order WHERE ",
            unreadable_order!(),
            " AND user_id BETWEEN ? AND ?"
        ),
        audit::note_unreadable,
    ),
    (
        concat!(
            "SELECT user_id, 'balance with version ' || version || ', status ' || status FROM user_balance \
             WHERE ",
            unreadable_balance!(),
            " AND user_id BETWEEN ? AND ?"
        ),
        audit::note_unreadable,
    ),
    (
        concat!(
            "SELECT user_id, 'quota of ' || service_name || ' in ' || reset_month || ' with total ' || total_quota || ', used ' || used_quota || ', held ' || held_quota \
             FROM free_quota WHERE ",
            unreadable_quota!(),
            " AND user_id BETWEEN ? AND ?"
        ),
        audit::note_unreadable,
    ),
    (
        concat!(
            "SELECT user_id, 'caps with daily_limit ' || COALESCE(daily_limit, 'NULL') || ', monthly_limit ' || COALESCE(monthly_limit, 'NULL') || ', daily_used ' || daily_used || ', monthly_used ' || monthly_used \
             FROM tenant_quota WHERE ",
            unreadable_caps!(),
            " AND user_id BETWEEN ? AND ?"
        ),
        audit::note_unreadable,
    ),
    (
        "SELECT user_id, alerts FROM user_balance WHERE alerts IS NOT NULL AND user_id BETWEEN ? AND ?",
        audit::note_alerts,
    ),
];

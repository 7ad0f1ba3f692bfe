//! The rows that the service cannot read.

use sqlx::mysql::MySqlRow;

use crate::data::rows::audit::{self, Note};

/// The condition of an order that `rows::order` refuses, or that is negative. The comparison of
/// bytes sees case and trailing spaces.
macro_rules! unreadable_order {
    () => {
        "(CAST(status AS BINARY) NOT IN ('pending', 'success', 'failed', 'expired', 'refunded') \
         OR CAST(payment_method AS BINARY) NOT IN ('alipay', 'wechat', 'wechatpay', 'stripe') OR amount < 0)"
    };
}

macro_rules! unreadable_balance {
    () => {
        "(version < 0 OR status NOT IN (0, 1, 2))"
    };
}

macro_rules! unreadable_quota {
    () => {
        "(total_quota < 0 OR used_quota < 0 OR held_quota < 0)"
    };
}

macro_rules! unreadable_caps {
    () => {
        "(daily_limit < 0 OR monthly_limit < 0 OR daily_used < 0 OR monthly_used < 0)"
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
pub const UNREADABLE: &[(&str, Note<MySqlRow>)] = &[
    (
        concat!(
            "SELECT user_id, CONCAT('order ', order_id, ' with status ', status, ', payment method ', \
             COALESCE(payment_method, 'NULL'), ', amount ', amount) FROM recharge_order WHERE ",
            unreadable_order!(),
            " AND user_id BETWEEN ? AND ?"
        ),
        audit::note_unreadable,
    ),
    (
        concat!(
            "SELECT user_id, CONCAT('balance with version ', version, ', status ', status) FROM user_balance WHERE ",
            unreadable_balance!(),
            " AND user_id BETWEEN ? AND ?"
        ),
        audit::note_unreadable,
    ),
    (
        concat!(
            "SELECT user_id, CONCAT('quota of ', service_name, ' in ', reset_month, ' with total ', total_quota, ', used ', used_quota, ', held ', held_quota) \
             FROM free_quota WHERE ",
            unreadable_quota!(),
            " AND user_id BETWEEN ? AND ?"
        ),
        audit::note_unreadable,
    ),
    (
        concat!(
            "SELECT user_id, CONCAT('caps with daily_limit ', COALESCE(daily_limit, 'NULL'), ', monthly_limit ', COALESCE(monthly_limit, 'NULL'), ', daily_used ', daily_used, ', monthly_used ', monthly_used) \
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

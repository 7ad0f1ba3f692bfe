//! Opening entries. Some legacy balances and used quotas do not match their history, for example
//! because they were set by hand. An opening entry records the difference, so that the audit
//! finds none.
//!
//! The difference is computed as in the audit, from the tables after the migrations.

use sqlx::{AssertSqlSafe, MySqlConnection};

use super::chunk::Chunk;
use crate::{biz::values::error::StoreError, data::error::store_error};

/// Adds an account for every user in any of the tables.
const ACCOUNTS: &str = "\
    INSERT INTO user_balance (user_id, balance, version, created_at, updated_at) \
    SELECT known.user_id, 0, 0, UTC_TIMESTAMP(6), UTC_TIMESTAMP(6) FROM ( \
        SELECT user_id FROM free_quota WHERE user_id BETWEEN ? AND ? UNION \
        SELECT user_id FROM billing_record WHERE user_id BETWEEN ? AND ? UNION \
        SELECT user_id FROM recharge_order WHERE user_id BETWEEN ? AND ?) known \
    LEFT JOIN user_balance account ON account.user_id = known.user_id WHERE account.user_id IS NULL";

/// Adds balance − (successful recharges + adjustments − charged amounts), where it is not zero.
const BALANCES: &str = "\
    INSERT INTO balance_adjustment \
    (user_id, adjustment_id, amount, reason, operator, request_id, balance_after, created_at) \
    SELECT user_id, 'opening', SUM(difference), \
        'Opening entry: the part of the legacy balance that no top-up and no record explains', \
        'upgrade', UUID(), SUM(balance), UTC_TIMESTAMP(6) FROM ( \
        SELECT user_id, balance AS difference, balance FROM user_balance WHERE user_id BETWEEN ? AND ? UNION ALL \
        SELECT user_id, -amount, 0 FROM recharge_order WHERE status = 'success' AND user_id BETWEEN ? AND ? UNION ALL \
        SELECT user_id, -amount, 0 FROM balance_adjustment WHERE user_id BETWEEN ? AND ? UNION ALL \
        SELECT user_id, amount, 0 FROM usage_daily WHERE user_id BETWEEN ? AND ?) history \
    GROUP BY user_id HAVING SUM(difference) <> 0";

/// Adds used quota − free units of its month, where it is not zero.
const QUOTAS: &str = "\
    INSERT INTO quota_opening (user_id, reset_month, service_name, units, created_at) \
    SELECT user_id, reset_month, service_name, SUM(units), UTC_TIMESTAMP(6) FROM ( \
        SELECT user_id, reset_month, service_name, used_quota AS units \
        FROM free_quota WHERE used_quota <> 0 AND user_id BETWEEN ? AND ? UNION ALL \
        SELECT user_id, CONVERT(DATE_FORMAT(usage_date, '%Y-%m') USING utf8mb4) COLLATE utf8mb4_bin, service_name, \
        -free_count FROM usage_daily WHERE free_count <> 0 AND user_id BETWEEN ? AND ?) history \
    GROUP BY user_id, reset_month, service_name HAVING SUM(units) <> 0";

/// Expires pending orders that may have been credited by hand, because their callback was lost. An
/// order counts as such if its user's opening entry is at least its amount. If it stayed pending,
/// payment-service could report it as paid, and it would be credited twice.
const PERHAPS_CREDITED_BY_HAND: &str = "\
    UPDATE recharge_order paid JOIN balance_adjustment opening \
        ON opening.user_id = paid.user_id AND opening.adjustment_id = 'opening' AND opening.amount >= paid.amount \
    SET paid.status = 'expired', paid.updated_at = paid.updated_at \
    WHERE paid.status = 'pending' AND paid.user_id BETWEEN ? AND ?";

/// Writes the opening entries of a chunk of users, whose rollup is already written.
pub(super) async fn write(connection: &mut MySqlConnection, chunk: &Chunk) -> Result<(), StoreError> {
    for sql in [ACCOUNTS, BALANCES, QUOTAS, PERHAPS_CREDITED_BY_HAND] {
        let mut query = sqlx::query(AssertSqlSafe(sql));
        for _ in 0..sql.matches('?').count() / 2 {
            query = query.bind(&chunk.first).bind(&chunk.last);
        }
        query.execute(&mut *connection).await.map_err(store_error)?;
    }
    Ok(())
}

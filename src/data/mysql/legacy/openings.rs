//! What of a balance or a used quota does not follow from its history, as it was often set
//! by hand: an opening entry says by how much, so that the audit is clean from then on.
//!
//! It is computed as the audit computes it, from our tables after the migrations.

use sqlx::{AssertSqlSafe, MySqlConnection};

use super::{super::store_error, users::Chunk};
use crate::biz::values::error::StoreError;

/// An account for everybody whom a table knows.
const ACCOUNTS: &str = "\
    INSERT INTO user_balance (user_id, balance, version, created_at, updated_at) \
    SELECT known.user_id, 0, 0, UTC_TIMESTAMP(6), UTC_TIMESTAMP(6) FROM ( \
        SELECT user_id FROM free_quota WHERE user_id BETWEEN ? AND ? UNION \
        SELECT user_id FROM billing_record WHERE user_id BETWEEN ? AND ? UNION \
        SELECT user_id FROM recharge_order WHERE user_id BETWEEN ? AND ?) known \
    LEFT JOIN user_balance account ON account.user_id = known.user_id WHERE account.user_id IS NULL";

/// Balance − (successful recharges + adjustments − charged amounts).
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

/// Used quota − the free records of its month.
const QUOTAS: &str = "\
    INSERT INTO quota_opening (user_id, reset_month, service_name, units, created_at) \
    SELECT user_id, reset_month, service_name, SUM(units), UTC_TIMESTAMP(6) FROM ( \
        SELECT user_id, reset_month, service_name, used_quota AS units \
        FROM free_quota WHERE used_quota <> 0 AND user_id BETWEEN ? AND ? UNION ALL \
        SELECT user_id, CONVERT(DATE_FORMAT(usage_date, '%Y-%m') USING utf8mb4) COLLATE utf8mb4_bin, service_name, \
        -free_count FROM usage_daily WHERE free_count <> 0 AND user_id BETWEEN ? AND ?) history \
    GROUP BY user_id, reset_month, service_name HAVING SUM(units) <> 0";

/// Orders whose callback was lost were often made good by hand. Where the balance is that much
/// above its history, one that stays pending is not looked up any more: payment-service
/// would say that it is paid, and it would credit once more.
const PERHAPS_MADE_GOOD: &str = "\
    UPDATE recharge_order paid JOIN balance_adjustment opening \
        ON opening.user_id = paid.user_id AND opening.adjustment_id = 'opening' AND opening.amount >= paid.amount \
    SET paid.status = 'expired', paid.updated_at = paid.updated_at \
    WHERE paid.status = 'pending' AND paid.user_id BETWEEN ? AND ?";

/// Writes the openings of the users of a chunk, whose rollup is there.
pub(super) async fn write(connection: &mut MySqlConnection, chunk: &Chunk) -> Result<(), StoreError> {
    for sql in [ACCOUNTS, BALANCES, QUOTAS, PERHAPS_MADE_GOOD] {
        let mut query = sqlx::query(AssertSqlSafe(sql));
        for _ in 0..sql.matches('?').count() / 2 {
            query = query.bind(&chunk.first).bind(&chunk.last);
        }
        query.execute(&mut *connection).await.map_err(store_error)?;
    }
    Ok(())
}

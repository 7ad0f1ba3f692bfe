//! The daily rollup, compared with the records and made anew from them.

use async_trait::async_trait;
use rusqlite::{Connection, TransactionBehavior};

use super::{SqliteStore, row::text, store_error, writer::writer_error};
use crate::biz::{error::StoreError, ids::UserId, rollup::RollupStore, users::UserSpan};

/// What the rollup says, and against it what the records say, cancel out or do not.
const DIFFERING: &str = "\
    SELECT DISTINCT user_id FROM (\
    SELECT user_id, usage_date, service_name, free_count, paid_count, amount, free_records, paid_records \
    FROM usage_daily WHERE user_id > ?1 AND user_id <= ?2 UNION ALL \
    SELECT user_id, usage_date, service_name, -iif(type = 1, count, 0), -iif(type = 2, count, 0), -amount, \
    -(type = 1), -(type = 2) FROM billing_record WHERE user_id > ?1 AND user_id <= ?2 UNION ALL \
    SELECT user_id, usage_date, service_name, -iif(type = 1, count, 0), -iif(type = 2, count, 0), -amount, \
    -(type = 1), -(type = 2) FROM billing_record_archive WHERE user_id > ?1 AND user_id <= ?2) \
    GROUP BY user_id, usage_date, service_name \
    HAVING SUM(free_count) <> 0 OR SUM(paid_count) <> 0 OR SUM(amount) <> 0 \
    OR SUM(free_records) <> 0 OR SUM(paid_records) <> 0";

const REBUILD: &str = "\
    INSERT INTO usage_daily \
    (user_id, usage_date, service_name, free_count, paid_count, amount, free_records, paid_records) \
    SELECT user_id, usage_date, service_name, SUM(iif(type = 1, count, 0)), SUM(iif(type = 2, count, 0)), \
    SUM(amount), SUM(type = 1), SUM(type = 2) FROM \
    (SELECT user_id, usage_date, service_name, type, count, amount FROM billing_record WHERE user_id = ?1 UNION ALL \
    SELECT user_id, usage_date, service_name, type, count, amount FROM billing_record_archive WHERE user_id = ?1) \
    GROUP BY user_id, usage_date, service_name";

#[async_trait]
impl RollupStore for SqliteStore {
    async fn differing(&self, users: &UserSpan) -> Result<Vec<UserId>, StoreError> {
        let query = sqlx::query(DIFFERING).bind(users.after()).bind(users.last.as_str());
        let rows = query.fetch_all(&self.reader).await.map_err(store_error)?;
        rows.iter().map(|row| Ok(UserId::from_stored(text(row, 0)?))).collect()
    }

    async fn rebuild(&self, users: &[UserId]) -> Result<(), StoreError> {
        let users = users.to_vec();
        self.writer.run(move |connection| rebuild(connection, &users).map_err(writer_error)).await
    }
}

fn rebuild(connection: &mut Connection, users: &[UserId]) -> rusqlite::Result<()> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    for user in users {
        transaction.prepare_cached("DELETE FROM usage_daily WHERE user_id = ?")?.execute([user.as_str()])?;
        transaction.prepare_cached(REBUILD)?.execute([user.as_str()])?;
    }
    transaction.commit()
}

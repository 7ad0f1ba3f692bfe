//! Quota rows of months that begin: inserts by set, a chunk of users at a time.

use async_trait::async_trait;
use rusqlite::{Connection, TransactionBehavior, params};

use super::{
    SqliteStore,
    row::{number, optional_text},
    store_error,
    writer::writer_error,
};
use crate::biz::{
    calendar::{BillingTime, Month},
    catalog::Plan,
    error::StoreError,
    ids::{ServiceName, UserId},
    reset::{QuotaRows, Span},
};

#[async_trait]
impl QuotaRows for SqliteStore {
    async fn end_of_chunk(&self, after: Option<&UserId>, count: u32) -> Result<Option<(UserId, u64)>, StoreError> {
        let row = sqlx::query(
            "SELECT MAX(user_id), COUNT(*) FROM \
             (SELECT user_id FROM user_balance WHERE user_id > ? ORDER BY user_id LIMIT ?)",
        )
        .bind(after.map_or("", |user| user.as_str()))
        .bind(count)
        .fetch_one(&self.reader)
        .await
        .map_err(store_error)?;
        let users: u32 = number(&row, 1)?;
        Ok(optional_text(&row, 0)?.map(|last| (UserId::from_stored(last), users.into())))
    }

    async fn open_months(
        &self,
        span: &Span,
        plans: &[(&ServiceName, Plan)],
        at: BillingTime,
    ) -> Result<(), StoreError> {
        let span = span.clone();
        let plans: Vec<(ServiceName, Plan)> = plans.iter().map(|(service, plan)| ((*service).clone(), *plan)).collect();
        self.writer.run(move |connection| open(connection, &span, &plans, at).map_err(writer_error)).await
    }
}

fn open(
    connection: &mut Connection,
    span: &Span,
    plans: &[(ServiceName, Plan)],
    at: BillingTime,
) -> rusqlite::Result<()> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let after = span.after.as_ref().map_or("", |user| user.as_str());
    {
        let mut insert = transaction.prepare_cached(
            "INSERT INTO free_quota \
             (free_quota_id, user_id, service_name, total_quota, used_quota, reset_month, created_at, updated_at) \
             SELECT lower(hex(randomblob(16))), user_id, ?3, ?4, 0, ?5, ?6, ?6 FROM user_balance \
             WHERE user_id > ?1 AND user_id <= ?2 ON CONFLICT DO NOTHING",
        )?;
        // Of a month to come, of which nothing can have been used.
        let mut set_total = transaction.prepare_cached(
            "UPDATE free_quota SET total_quota = ?4, updated_at = ?6 WHERE user_id > ?1 AND user_id <= ?2 \
             AND reset_month = ?5 AND service_name = ?3 AND total_quota <> ?4 AND used_quota = 0 AND held_quota = 0",
        )?;
        let now = at.utc.timestamp_micros();
        for month in span.months {
            let of = |month: Month| month.to_string();
            for (service, plan) in plans {
                let values = params![after, span.last.as_str(), service.as_str(), plan.free_quota, of(month), now];
                insert.execute(values)?;
                if month > at.month {
                    set_total.execute(values)?;
                }
            }
        }
    }
    transaction.commit()
}

//! Writes the quota rows of new months, for a chunk of users per statement.

use async_trait::async_trait;
use rusqlite::{Connection, TransactionBehavior, params};

use crate::{
    biz::{
        account::{catalog::Plan, users::UserSpan},
        jobs::reset::{Lacking, QuotaRows, opened},
        values::{
            calendar::{BillingTime, Month},
            error::StoreError,
            ids::ServiceName,
        },
    },
    data::{
        error::store_error,
        rows::jobs::lacking_of,
        sqlite::{SqliteStore, writer::writer_error},
    },
};

#[async_trait]
impl QuotaRows for SqliteStore {
    async fn open_months(
        &self,
        users: &UserSpan,
        plans: &[(&ServiceName, Plan)],
        at: BillingTime,
    ) -> Result<(), StoreError> {
        let users = users.clone();
        let plans: Vec<(ServiceName, Plan)> = plans.iter().map(|(service, plan)| ((*service).clone(), *plan)).collect();
        self.writer.run_and_rest(move |connection| open(connection, &users, &plans, at).map_err(writer_error)).await
    }

    async fn lacking(
        &self,
        users: &UserSpan,
        month: Month,
        (service, plan): (&ServiceName, Plan),
    ) -> Result<Lacking, StoreError> {
        let row = sqlx::query(
            "SELECT COUNT(*) - COUNT(q.user_id), \
             COUNT(CASE WHEN q.total_quota <> ? AND q.used_quota = 0 AND q.held_quota = 0 THEN 1 END) \
             FROM user_balance b \
             LEFT JOIN free_quota q ON q.user_id = b.user_id AND q.reset_month = ? AND q.service_name = ? \
             WHERE b.user_id > ? AND b.user_id <= ?",
        )
        .bind(i64::try_from(plan.free_quota).unwrap_or(i64::MAX))
        .bind(month.to_string())
        .bind(service.as_str())
        .bind(users.after())
        .bind(users.last.as_str())
        .fetch_one(&self.reader)
        .await
        .map_err(store_error)?;
        lacking_of(&row)
    }
}

fn open(
    connection: &mut Connection,
    users: &UserSpan,
    plans: &[(ServiceName, Plan)],
    at: BillingTime,
) -> rusqlite::Result<()> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let after = users.after();
    {
        let mut insert = transaction.prepare_cached(
            "INSERT INTO free_quota \
             (free_quota_id, user_id, service_name, total_quota, used_quota, reset_month, created_at, updated_at) \
             SELECT lower(hex(randomblob(16))), user_id, ?3, ?4, 0, ?5, ?6, ?6 FROM user_balance \
             WHERE user_id > ?1 AND user_id <= ?2 ON CONFLICT DO NOTHING",
        )?;
        // Only for the next month, whose quotas are unused.
        let mut set_total = transaction.prepare_cached(
            "UPDATE free_quota SET total_quota = ?4, updated_at = ?6 WHERE user_id > ?1 AND user_id <= ?2 \
             AND reset_month = ?5 AND service_name = ?3 AND total_quota <> ?4 AND used_quota = 0 AND held_quota = 0",
        )?;
        let now = at.utc.timestamp_micros();
        for month in opened(at) {
            let of = |month: Month| month.to_string();
            for (service, plan) in plans {
                let values = params![after, users.last.as_str(), service.as_str(), plan.free_quota, of(month), now];
                insert.execute(values)?;
                if month > at.month {
                    set_total.execute(values)?;
                }
            }
        }
    }
    transaction.commit()
}

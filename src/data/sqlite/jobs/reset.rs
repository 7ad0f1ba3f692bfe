//! Writes the quota rows of new months, for a chunk of users per statement.

use std::collections::BTreeMap;

use async_trait::async_trait;
use rusqlite::{Connection, TransactionBehavior, params};

use crate::{
    biz::{
        account::users::UserSpan,
        jobs::reset::{FreeUnits, Lacking, QuotaRows, opened},
        values::{
            calendar::{BillingTime, Month},
            error::StoreError,
        },
    },
    data::{
        error::store_error,
        rows::jobs::lacking_of,
        sqlite::{SqliteStore, writer::writer_error},
    },
};

/// The free units of the plan in a column, from the JSON of [`by_plan`].
macro_rules! units {
    ($units:literal, $plan:literal) => {
        concat!(
            "COALESCE(json_extract(",
            $units,
            ", '$.\"' || ",
            $plan,
            " || '\"'), json_extract(",
            $units,
            ", '$.\"*\"'))"
        )
    };
}

/// Only for the next month, whose quotas are unused. Reads the quotas of that month.
const SET_TOTAL: &str = concat!(
    "UPDATE free_quota AS q SET total_quota = ",
    units!("?4", "b.plan"),
    ", updated_at = ?6 FROM user_balance b WHERE b.user_id = q.user_id AND q.user_id > ?1 AND q.user_id <= ?2 \
     AND q.reset_month = ?5 AND q.service_name = ?3 AND q.used_quota = 0 AND q.held_quota = 0 AND q.total_quota <> ",
    units!("?4", "b.plan"),
);

#[async_trait]
impl QuotaRows for SqliteStore {
    async fn open_months(&self, users: &UserSpan, quotas: &[FreeUnits], at: BillingTime) -> Result<(), StoreError> {
        let (users, quotas) = (users.clone(), quotas.to_vec());
        self.writer.run_and_rest(move |connection| open(connection, &users, &quotas, at).map_err(writer_error)).await
    }

    async fn lacking(&self, users: &UserSpan, month: Month, quota: &FreeUnits) -> Result<Lacking, StoreError> {
        let row = sqlx::query(concat!(
            "SELECT COUNT(*) - COUNT(q.user_id), \
             COUNT(CASE WHEN q.total_quota <> ",
            units!("?1", "b.plan"),
            " AND q.used_quota = 0 AND q.held_quota = 0 THEN 1 END) \
             FROM user_balance b \
             LEFT JOIN free_quota q ON q.user_id = b.user_id AND q.reset_month = ?2 AND q.service_name = ?3 \
             WHERE b.user_id > ?4 AND b.user_id <= ?5",
        ))
        .bind(by_plan(quota))
        .bind(month.to_string())
        .bind(quota.service.as_str())
        .bind(users.after())
        .bind(users.last.as_str())
        .fetch_one(&self.reader)
        .await
        .map_err(store_error)?;
        lacking_of(&row)
    }
}

/// The free units of every plan as a JSON object; those of the others under `*`.
fn by_plan(quota: &FreeUnits) -> String {
    let in_plans = quota.in_plans.iter().map(|(plan, units)| (plan.to_string(), *units));
    let units: BTreeMap<_, _> = in_plans.chain([("*".to_owned(), quota.units)]).collect();
    serde_json::json!(units).to_string()
}

fn open(connection: &mut Connection, users: &UserSpan, quotas: &[FreeUnits], at: BillingTime) -> rusqlite::Result<()> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let after = users.after();
    {
        let mut insert = transaction.prepare_cached(concat!(
            "INSERT INTO free_quota \
             (free_quota_id, user_id, service_name, total_quota, used_quota, reset_month, created_at, updated_at) \
             SELECT lower(hex(randomblob(16))), b.user_id, ?3, ",
            units!("?4", "b.plan"),
            ", 0, ?5, ?6, ?6 FROM user_balance b WHERE b.user_id > ?1 AND b.user_id <= ?2 ON CONFLICT DO NOTHING",
        ))?;
        let mut set_total = transaction.prepare_cached(SET_TOTAL)?;
        let now = at.utc.timestamp_micros();
        for month in opened(at) {
            let of = |month: Month| month.to_string();
            for quota in quotas {
                let (service, units) = (quota.service.as_str(), by_plan(quota));
                let values = params![after, users.last.as_str(), service, units, of(month), now];
                insert.execute(values)?;
                if month > at.month {
                    set_total.execute(values)?;
                }
            }
        }
    }
    transaction.commit()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::sqlite::tests::{empty_store, searches};

    #[tokio::test]
    async fn a_reset_reads_the_quotas_of_one_month() {
        let (store, _folder) = empty_store().await;
        let plan: &'static str = format!("EXPLAIN QUERY PLAN {SET_TOTAL}").leak();
        let searches = searches(&sqlx::query(plan).fetch_all(&store.reader).await.unwrap());
        let quotas = "SEARCH q USING INDEX idx_free_quota_month (reset_month=? AND user_id>? AND user_id<?)";
        assert_eq!(searches, [quotas, "SEARCH b USING PRIMARY KEY (user_id=?)"]);
    }
}

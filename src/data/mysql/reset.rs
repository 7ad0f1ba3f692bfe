//! Quota rows of months that begin: inserts by set, a chunk of users at a time.

use async_trait::async_trait;
use sqlx::Row;

use super::{MySqlStore, optional_text, statement::Statement, store_error};
use crate::biz::{
    calendar::{BillingTime, Month},
    catalog::Plan,
    error::StoreError,
    ids::{ServiceName, UserId},
    reset::{QuotaRows, Span},
};

#[async_trait]
impl QuotaRows for MySqlStore {
    async fn end_of_chunk(&self, after: Option<&UserId>, count: u32) -> Result<Option<(UserId, u64)>, StoreError> {
        let query = sqlx::query(
            "SELECT MAX(user_id), COUNT(*) FROM \
             (SELECT user_id FROM user_balance WHERE user_id > ? ORDER BY user_id LIMIT ?) chunk",
        )
        .bind(after.map_or("", |user| user.as_str()))
        .bind(count);
        let rows = self.reader.fetch_all(query).await?;
        let Some(row) = rows.first() else { return Ok(None) };
        let users: i64 = row.try_get(1).map_err(store_error)?;
        Ok(optional_text(row, 0)?.map(|last| (UserId::from_stored(last), users.unsigned_abs())))
    }

    async fn open_months(
        &self,
        span: &Span,
        plans: &[(&ServiceName, Plan)],
        at: BillingTime,
    ) -> Result<(), StoreError> {
        let mut statement = Statement::new("START TRANSACTION; ");
        for month in span.months {
            for (service, plan) in plans {
                insert_missing(&mut statement, span, (month, service, plan), at);
                if month > at.month {
                    set_total(&mut statement, span, (month, service, plan));
                }
            }
        }
        statement.push("COMMIT");
        let mut connection = self.writer.take().await?;
        statement.execute(&mut connection).await?;
        connection.give_back();
        Ok(())
    }
}

/// Rows that are there are neither touched nor locked; one that another inserts meanwhile
/// is ignored.
fn insert_missing(
    statement: &mut Statement,
    span: &Span,
    (month, service, plan): (Month, &ServiceName, &Plan),
    at: BillingTime,
) {
    let month = month.to_string();
    statement
        .push(
            "INSERT IGNORE INTO free_quota \
             (free_quota_id, user_id, service_name, total_quota, used_quota, reset_month, created_at, updated_at) \
             SELECT UUID(), b.user_id, ",
        )
        .texts([service.as_str()])
        .push(", ")
        .number(plan.free_quota)
        .push(", 0, ")
        .texts([month.as_str()])
        .push(", ")
        .instant(at.utc)
        .push(", ")
        .instant(at.utc)
        .push(" FROM user_balance b LEFT JOIN free_quota q ON q.user_id = b.user_id AND q.reset_month = ")
        .texts([month.as_str()])
        .push(" AND q.service_name = ")
        .texts([service.as_str()])
        .push(" WHERE b.user_id > ")
        .texts([span.after.as_ref().map_or("", |user| user.as_str())])
        .push(" AND b.user_id <= ")
        .texts([span.last.as_str()])
        .push(" AND q.user_id IS NULL; ");
}

/// Of a month to come, of which nothing can have been used.
fn set_total(statement: &mut Statement, span: &Span, (month, service, plan): (Month, &ServiceName, &Plan)) {
    statement
        .push("UPDATE free_quota SET total_quota = ")
        .number(plan.free_quota)
        .push(" WHERE user_id > ")
        .texts([span.after.as_ref().map_or("", |user| user.as_str())])
        .push(" AND user_id <= ")
        .texts([span.last.as_str()])
        .push(" AND reset_month = ")
        .texts([month.to_string().as_str()])
        .push(" AND service_name = ")
        .texts([service.as_str()])
        .push(" AND total_quota <> ")
        .number(plan.free_quota)
        .push(" AND used_quota = 0 AND held_quota = 0; ");
}

//! Writes the quota rows of new months, for a chunk of users per statement.

use async_trait::async_trait;

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
        mysql::{MySqlStore, statement::Statement},
        rows::jobs::lacking_of,
    },
};

#[async_trait]
impl QuotaRows for MySqlStore {
    async fn open_months(
        &self,
        users: &UserSpan,
        plans: &[(&ServiceName, Plan)],
        at: BillingTime,
    ) -> Result<(), StoreError> {
        let open = Statement::transaction(|statement| {
            for month in opened(at) {
                for (service, plan) in plans {
                    insert_missing(statement, users, (month, service, plan), at);
                    if month > at.month {
                        set_total(statement, users, (month, service, plan));
                    }
                }
            }
        });
        self.waiter.run(open).await
    }

    async fn lacking(
        &self,
        users: &UserSpan,
        month: Month,
        (service, plan): (&ServiceName, Plan),
    ) -> Result<Lacking, StoreError> {
        let query = sqlx::query(
            "SELECT COUNT(*) - COUNT(q.user_id), \
             COUNT(CASE WHEN q.total_quota <> ? AND q.used_quota = 0 AND q.held_quota = 0 THEN 1 END) \
             FROM user_balance b \
             LEFT JOIN free_quota q ON q.user_id = b.user_id AND q.reset_month = ? AND q.service_name = ? \
             WHERE b.user_id > ? AND b.user_id <= ?",
        )
        .bind(plan.free_quota)
        .bind(month.to_string())
        .bind(service.as_str())
        .bind(users.after())
        .bind(users.last.as_str());
        let rows = self.reader.fetch_all(query).await?;
        let row = rows.first().ok_or_else(|| StoreError::Failed("a count returned no row".into()))?;
        lacking_of(row)
    }
}

/// Inserts the missing rows. Existing rows are neither changed nor locked. A row that another
/// process inserts at the same time is ignored.
fn insert_missing(
    statement: &mut Statement,
    users: &UserSpan,
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
        .texts([users.after()])
        .push(" AND b.user_id <= ")
        .texts([users.last.as_str()])
        .push(" AND q.user_id IS NULL; ");
}

/// Sets the totals of the next month, whose quotas are unused.
fn set_total(statement: &mut Statement, users: &UserSpan, (month, service, plan): (Month, &ServiceName, &Plan)) {
    statement
        .push("UPDATE free_quota SET total_quota = ")
        .number(plan.free_quota)
        .push(" WHERE user_id > ")
        .texts([users.after()])
        .push(" AND user_id <= ")
        .texts([users.last.as_str()])
        .push(" AND reset_month = ")
        .texts([month.to_string().as_str()])
        .push(" AND service_name = ")
        .texts([service.as_str()])
        .push(" AND total_quota <> ")
        .number(plan.free_quota)
        .push(" AND used_quota = 0 AND held_quota = 0; ");
}

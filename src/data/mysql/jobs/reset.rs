//! Writes the quota rows of new months, for a chunk of users per statement.

use async_trait::async_trait;

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
        mysql::{MySqlStore, statement::Statement},
        rows::jobs::lacking_of,
    },
};

#[async_trait]
impl QuotaRows for MySqlStore {
    async fn open_months(&self, users: &UserSpan, quotas: &[FreeUnits], at: BillingTime) -> Result<(), StoreError> {
        let open = Statement::transaction(|statement| {
            for month in opened(at) {
                for quota in quotas {
                    insert_missing(statement, users, (month, quota), at);
                    if month > at.month {
                        set_total(statement, users, (month, quota));
                    }
                }
            }
        });
        self.waiter.run(open).await
    }

    async fn lacking(&self, users: &UserSpan, month: Month, quota: &FreeUnits) -> Result<Lacking, StoreError> {
        let mut count = Statement::new(
            "SELECT COUNT(*) - COUNT(q.user_id), \
             COUNT(CASE WHEN q.used_quota = 0 AND q.held_quota = 0 AND q.total_quota <> ",
        );
        units(&mut count, quota, "b.plan");
        count.push(
            " THEN 1 END) FROM user_balance b LEFT JOIN free_quota q ON q.user_id = b.user_id AND q.reset_month = ",
        );
        count.texts([month.to_string().as_str()]).push(" AND q.service_name = ").texts([quota.service.as_str()]);
        count
            .push(" WHERE b.user_id > ")
            .texts([users.after()])
            .push(" AND b.user_id <= ")
            .texts([users.last.as_str()]);
        let sets = self.reader.fetch(count).await?;
        let row = sets.first().and_then(|rows| rows.first());
        let row = row.ok_or_else(|| StoreError::Failed("a count returned no row".into()))?;
        lacking_of(row)
    }
}

/// Inserts the missing rows. Existing rows are neither changed nor locked. A row that another
/// process inserts at the same time is ignored.
fn insert_missing(statement: &mut Statement, users: &UserSpan, (month, quota): (Month, &FreeUnits), at: BillingTime) {
    let month = month.to_string();
    statement
        .push(
            "INSERT IGNORE INTO free_quota \
             (free_quota_id, user_id, service_name, total_quota, used_quota, reset_month, created_at, updated_at) \
             SELECT UUID(), b.user_id, ",
        )
        .texts([quota.service.as_str()])
        .push(", ");
    units(statement, quota, "b.plan")
        .push(", 0, ")
        .texts([month.as_str()])
        .push(", ")
        .instant(at.utc)
        .push(", ")
        .instant(at.utc)
        .push(" FROM user_balance b LEFT JOIN free_quota q ON q.user_id = b.user_id AND q.reset_month = ")
        .texts([month.as_str()])
        .push(" AND q.service_name = ")
        .texts([quota.service.as_str()])
        .push(" WHERE b.user_id > ")
        .texts([users.after()])
        .push(" AND b.user_id <= ")
        .texts([users.last.as_str()])
        .push(" AND q.user_id IS NULL; ");
}

/// Sets the totals of the next month, whose quotas are unused.
fn set_total(statement: &mut Statement, users: &UserSpan, (month, quota): (Month, &FreeUnits)) {
    statement.push("UPDATE free_quota q JOIN user_balance b ON b.user_id = q.user_id SET q.total_quota = ");
    units(statement, quota, "b.plan")
        .push(" WHERE q.user_id > ")
        .texts([users.after()])
        .push(" AND q.user_id <= ")
        .texts([users.last.as_str()])
        .push(" AND q.reset_month = ")
        .texts([month.to_string().as_str()])
        .push(" AND q.service_name = ")
        .texts([quota.service.as_str()])
        .push(" AND q.used_quota = 0 AND q.held_quota = 0 AND q.total_quota <> ");
    units(statement, quota, "b.plan").push("; ");
}

/// The free units of the plan in a column.
fn units<'s>(statement: &'s mut Statement, quota: &FreeUnits, plan: &'static str) -> &'s mut Statement {
    if quota.in_plans.is_empty() {
        return statement.number(quota.units);
    }
    statement.push("CASE ").push(plan);
    for (name, units) in &quota.in_plans {
        statement.push(" WHEN ").texts([name.as_str()]).push(" THEN ").number(*units);
    }
    statement.push(" ELSE ").number(quota.units).push(" END")
}

//! Request caps: rows of `tenant_quota`.

use async_trait::async_trait;
use chrono::NaiveDate;
use sqlx::{Row, mysql::MySqlRow};

use crate::{
    biz::{
        limits::caps::{Caps, LimitStore, Requests},
        values::{calendar::BillingTime, error::StoreError, ids::UserId},
    },
    data::{
        error::store_error,
        mysql::{
            MySqlStore,
            row::number,
            statement::{Row as StatementRow, Statement},
        },
    },
};

#[async_trait]
impl LimitStore for MySqlStore {
    async fn set_caps(&self, user: &UserId, caps: Caps, at: BillingTime) -> Result<(), StoreError> {
        self.reader.run(set(user, caps, at)).await
    }
}

fn set(user: &UserId, caps: Caps, at: BillingTime) -> Statement {
    if caps == Caps::default() {
        let mut delete = Statement::new("DELETE FROM tenant_quota WHERE user_id = ");
        delete.texts([user.as_str()]);
        return delete;
    }
    let mut upsert = Statement::new(
        "INSERT INTO tenant_quota (user_id, daily_limit, monthly_limit, usage_date, created_at, updated_at) VALUES ",
    );
    upsert
        .rows([caps], |row, caps| {
            row.text(user.as_str())
                .optional(caps.daily, StatementRow::number)
                .optional(caps.monthly, StatementRow::number)
                .day(at.day)
                .instant(at.utc)
                .instant(at.utc);
        })
        .push(
            " ON DUPLICATE KEY UPDATE daily_limit = VALUES(daily_limit), monthly_limit = VALUES(monthly_limit), \
             version = version + 1, updated_at = VALUES(updated_at)",
        );
    upsert
}

/// The rows are there, and locked with their accounts.
pub fn set_used(statement: &mut Statement, requests: &[(UserId, Requests)], at: BillingTime) {
    statement
        .push(
            "INSERT INTO tenant_quota (user_id, usage_date, daily_used, monthly_used, created_at, updated_at) VALUES ",
        )
        .rows(requests, |row, (user, requests)| {
            row.text(user.as_str())
                .day(requests.day)
                .number(requests.daily)
                .number(requests.monthly)
                .instant(at.utc)
                .instant(at.utc);
        })
        .push(
            " ON DUPLICATE KEY UPDATE usage_date = VALUES(usage_date), daily_used = VALUES(daily_used), \
             monthly_used = VALUES(monthly_used), version = version + 1, updated_at = VALUES(updated_at); ",
        );
}

/// Six columns from `first` on, all of them NULL for a user without caps.
pub fn requests_of(row: &MySqlRow, first: usize) -> Result<Option<Requests>, StoreError> {
    let day: Option<NaiveDate> = row.try_get(first).map_err(store_error)?;
    let Some(day) = day else { return Ok(None) };
    let caps = Caps { daily: optional_number(row, first + 1)?, monthly: optional_number(row, first + 2)? };
    let since = row.try_get(first + 5).map_err(store_error)?;
    Ok(Some(Requests { caps, since, day, daily: number(row, first + 3)?, monthly: number(row, first + 4)? }))
}

fn optional_number(row: &MySqlRow, column: usize) -> Result<Option<u32>, StoreError> {
    let value: Option<i64> = row.try_get(column).map_err(store_error)?;
    value.map(|_| number(row, column)).transpose()
}

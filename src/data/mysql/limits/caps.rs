//! Request caps, in the table `tenant_quota`.

use async_trait::async_trait;

use crate::{
    biz::{
        limits::caps::{Caps, LimitStore, Requests},
        settlement::keys::Keys,
        values::{calendar::BillingTime, error::StoreError, ids::UserId},
    },
    data::mysql::{
        MySqlStore,
        statement::{Row as StatementRow, Statement},
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

/// Finds the users that have caps by a plain read, which ignores locks.
pub fn read_present(statement: &mut Statement, keys: &Keys<'_>) {
    statement
        .push("SELECT user_id FROM tenant_quota WHERE user_id IN (")
        .texts(keys.users.iter().map(|user| user.as_str()))
        .push("); ");
}

/// Updates the counted calls. The rows exist, and are locked with their accounts.
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

//! Request caps, in the table `tenant_quota`.

use async_trait::async_trait;

use crate::{
    biz::{
        audit_trail::AuditedCall,
        limits::caps::{self, Caps, LimitStore, Requests},
        settlement::keys::Keys,
        values::{
            calendar::BillingTime,
            error::{self, StoreError},
            ids::UserId,
        },
    },
    data::{
        mysql::{
            MySqlStore,
            statement::{LockMode, Row as StatementRow, Statement},
        },
        row::Columns,
    },
};

#[async_trait]
impl LimitStore for MySqlStore {
    async fn set_caps(
        &self,
        user: &UserId,
        caps: Caps,
        call: &AuditedCall,
        at: BillingTime,
    ) -> Result<error::Result<()>, StoreError> {
        let mut read = Statement::beginning(LockMode::Wait);
        // Servers that know the account as one without caps find another version of it, see `RecentAccounts`.
        read.push("UPDATE user_balance SET version = version + 1 WHERE user_id = ").texts([user.as_str()]);
        read.push("; SELECT daily_limit, monthly_limit FROM tenant_quota WHERE user_id = ");
        read.texts([user.as_str()]).push(LockMode::Wait.suffix());
        let changed = self.change_audited(
            read,
            |row| Ok(Caps { daily: row.optional_number(0)?, monthly: row.optional_number(1)? }),
            |stored| caps::audited(call, user, stored.copied().unwrap_or_default(), caps, at),
            |packet, stored| set(packet, user, (stored.copied(), caps), at),
        );
        let changed = changed.await;
        // Its next call need not find out that it has changed.
        self.recent.forget_account(user);
        changed
    }
}

/// Writes the caps of a user, whose row is locked if it exists.
fn set(statement: &mut Statement, user: &UserId, (stored, caps): (Option<Caps>, Caps), at: BillingTime) {
    if caps == Caps::default() {
        statement.push("DELETE FROM tenant_quota WHERE user_id = ").texts([user.as_str()]).push("; ");
    } else if let Some(stored) = stored {
        statement.push("UPDATE tenant_quota SET daily_limit = ").row(|row| {
            row.optional(caps.daily, StatementRow::number);
        });
        statement.push(", monthly_limit = ").row(|row| {
            row.optional(caps.monthly, StatementRow::number);
        });
        if stored.daily != caps.daily {
            statement.push(", fired_daily = 0");
        }
        if stored.monthly != caps.monthly {
            statement.push(", fired_monthly = 0");
        }
        statement.push(", version = version + 1, updated_at = ").instant(at.utc);
        statement.push(" WHERE user_id = ").texts([user.as_str()]).push("; ");
    } else {
        statement
            .push(
                "INSERT INTO tenant_quota \
                 (user_id, daily_limit, monthly_limit, usage_date, created_at, updated_at) VALUES ",
            )
            .rows([caps], |row, caps| {
                row.text(user.as_str())
                    .optional(caps.daily, StatementRow::number)
                    .optional(caps.monthly, StatementRow::number)
                    .day(at.day)
                    .instant(at.utc)
                    .instant(at.utc);
            })
            .push("; ");
    }
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
            "INSERT INTO tenant_quota \
             (user_id, usage_date, daily_used, monthly_used, fired_daily, fired_monthly, created_at, updated_at) VALUES ",
        )
        .rows(requests, |row, (user, requests)| {
            row.text(user.as_str())
                .day(requests.day)
                .number(requests.daily)
                .number(requests.monthly)
                .number(requests.fired.daily)
                .number(requests.fired.monthly)
                .instant(at.utc)
                .instant(at.utc);
        })
        .push(
            " ON DUPLICATE KEY UPDATE usage_date = VALUES(usage_date), daily_used = VALUES(daily_used), \
             monthly_used = VALUES(monthly_used), fired_daily = VALUES(fired_daily), \
             fired_monthly = VALUES(fired_monthly), version = version + 1, updated_at = VALUES(updated_at); ",
        );
}

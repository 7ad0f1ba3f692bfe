//! Request caps, in the table `tenant_quota`.

use async_trait::async_trait;
use rusqlite::{Connection, Transaction, TransactionBehavior, params};

use crate::{
    biz::{
        audit_trail::AuditedCall,
        limits::caps::{self, Caps, LimitStore, Requests},
        settlement::{keys::Keys, lock::LeftOut, rule::State},
        values::{
            calendar::BillingTime,
            error::{self, StoreError},
            ids::UserId,
        },
    },
    data::{
        row::Columns,
        rows::account::requests_of,
        sqlite::{
            SqliteStore, audit_trail,
            writer::{commit, found, writer_error},
        },
    },
};

#[async_trait]
impl LimitStore for SqliteStore {
    async fn set_caps(
        &self,
        user: &UserId,
        caps: Caps,
        call: &AuditedCall,
        at: BillingTime,
    ) -> Result<error::Result<()>, StoreError> {
        let (user, call) = (user.clone(), call.clone());
        self.writer.run(move |connection| set(connection, &user, caps, (&call, at))).await
    }
}

fn set(
    connection: &mut Connection,
    user: &UserId,
    caps: Caps,
    (call, at): (&AuditedCall, BillingTime),
) -> Result<error::Result<()>, StoreError> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate).map_err(writer_error)?;
    let stored = {
        let mut find = transaction
            .prepare_cached("SELECT daily_limit, monthly_limit FROM tenant_quota WHERE user_id = ?")
            .map_err(writer_error)?;
        found(&mut find, [user.as_str()], |row| {
            Ok(Caps { daily: row.optional_number(0)?, monthly: row.optional_number(1)? })
        })?
    };
    let event = match caps::audited(call, user, stored.unwrap_or_default(), caps, at) {
        Ok(Some(event)) => event,
        Ok(None) => return Ok(Ok(())),
        Err(refused) => return Ok(Err(refused)),
    };
    let written = if caps == Caps::default() {
        transaction.execute("DELETE FROM tenant_quota WHERE user_id = ?", [user.as_str()])
    } else {
        transaction.execute(
            "INSERT INTO tenant_quota (user_id, daily_limit, monthly_limit, usage_date, created_at, updated_at) \
             VALUES (?1, ?2, ?3, ?4, ?5, ?5) ON CONFLICT DO UPDATE SET daily_limit = excluded.daily_limit, \
             monthly_limit = excluded.monthly_limit, \
             fired_daily = CASE WHEN daily_limit IS excluded.daily_limit THEN fired_daily ELSE 0 END, \
             fired_monthly = CASE WHEN monthly_limit IS excluded.monthly_limit THEN fired_monthly ELSE 0 END, version = version + 1, updated_at = excluded.updated_at",
            params![user.as_str(), caps.daily, caps.monthly, at.day.to_string(), at.utc.timestamp_micros()],
        )
    };
    written.map_err(writer_error)?;
    audit_trail::insert(&transaction, &[event]).map_err(writer_error)?;
    commit(transaction).map(Ok)
}

/// Loads the caps of the batch's users.
pub fn load(
    transaction: &Transaction<'_>,
    keys: &Keys<'_>,
    (state, left_out): (&mut State, &mut LeftOut),
) -> Result<(), StoreError> {
    let mut find = transaction
        .prepare_cached(
            "SELECT usage_date, daily_limit, monthly_limit, daily_used, monthly_used, created_at, \
             fired_daily, fired_monthly FROM tenant_quota WHERE user_id = ?",
        )
        .map_err(writer_error)?;
    for &user in &keys.users {
        let requests = found(&mut find, [user.as_str()], |row| requests_of(row, 0));
        let requests = left_out.decoded(user, "tenant_quota", requests)?.flatten().flatten();
        state.requests.extend(requests.map(|requests| (user.clone(), requests)));
    }
    Ok(())
}

pub fn set_used(
    transaction: &Transaction<'_>,
    requests: &[(UserId, Requests)],
    at: BillingTime,
) -> rusqlite::Result<()> {
    let mut update = transaction.prepare_cached(
        "UPDATE tenant_quota SET usage_date = ?, daily_used = ?, monthly_used = ?, fired_daily = ?, fired_monthly = ?, \
         version = version + 1, updated_at = ? WHERE user_id = ?",
    )?;
    for (user, requests) in requests {
        let (day, now) = (requests.day.to_string(), at.utc.timestamp_micros());
        let (Requests { daily, monthly, .. }, fired) = (*requests, requests.fired);
        update.execute(params![day, daily, monthly, fired.daily, fired.monthly, now, user.as_str()])?;
    }
    Ok(())
}

//! Request caps, in the table `tenant_quota`.

use async_trait::async_trait;
use rusqlite::{Transaction, params};

use crate::{
    biz::{
        limits::caps::{Caps, LimitStore, Requests},
        settlement::{keys::Keys, lock::LeftOut, rule::State},
        values::{calendar::BillingTime, error::StoreError, ids::UserId},
    },
    data::{
        rows::account::requests_of,
        sqlite::{
            SqliteStore,
            writer::{found, writer_error},
        },
    },
};

#[async_trait]
impl LimitStore for SqliteStore {
    async fn set_caps(&self, user: &UserId, caps: Caps, at: BillingTime) -> Result<(), StoreError> {
        let user = user.clone();
        let set = self.writer.run(move |connection| {
            if caps == Caps::default() {
                let gone = connection.execute("DELETE FROM tenant_quota WHERE user_id = ?", [user.as_str()]);
                return gone.map_err(writer_error);
            }
            connection
                .execute(
                    "INSERT INTO tenant_quota (user_id, daily_limit, monthly_limit, usage_date, created_at, updated_at) \
                     VALUES (?1, ?2, ?3, ?4, ?5, ?5) ON CONFLICT DO UPDATE SET daily_limit = excluded.daily_limit, \
                     monthly_limit = excluded.monthly_limit, version = version + 1, updated_at = excluded.updated_at",
                    params![user.as_str(), caps.daily, caps.monthly, at.day.to_string(), at.utc.timestamp_micros()],
                )
                .map_err(writer_error)
        });
        set.await.map(|_| ())
    }
}

/// Loads the caps of the batch's users.
pub fn load(
    transaction: &Transaction<'_>,
    keys: &Keys<'_>,
    (state, left_out): (&mut State, &mut LeftOut),
) -> Result<(), StoreError> {
    let mut find = transaction
        .prepare_cached(
            "SELECT usage_date, daily_limit, monthly_limit, daily_used, monthly_used, created_at FROM tenant_quota WHERE user_id = ?",
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
        "UPDATE tenant_quota SET usage_date = ?, daily_used = ?, monthly_used = ?, version = version + 1, \
         updated_at = ? WHERE user_id = ?",
    )?;
    for (user, requests) in requests {
        let (day, now) = (requests.day.to_string(), at.utc.timestamp_micros());
        update.execute(params![day, requests.daily, requests.monthly, now, user.as_str()])?;
    }
    Ok(())
}

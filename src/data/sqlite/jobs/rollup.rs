//! Compares the rollups with the records, and rebuilds the daily one.

use async_trait::async_trait;
use chrono::NaiveDate;
use rusqlite::{Connection, TransactionBehavior};
use sqlx::SqliteConnection;

use crate::{
    biz::{
        account::users::UserSpan,
        jobs::{
            audit::DifferingDay,
            rollup::{LackingUse, RollupStore},
            use_audit::{DifferingUse, UseAudit, UseRange},
        },
        values::{error::StoreError, ids::UserId},
    },
    data::{
        error::store_error,
        row::Columns,
        rows::{account::user_of, jobs::differing_day_of},
        sqlite::{SqliteStore, writer::writer_error},
        usage::{self, differing_use_of, lacking_use_of, size_at, times_of},
    },
};

/// The records of a table, in the columns of the rollup after as many zeros.
macro_rules! recorded {
    ($table:literal, $users:literal) => {
        concat!(
            "SELECT user_id, usage_date, service_name, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, iif(type = 1, count, 0), \
             iif(type = 2, count, 0), iif(type IN (3, 4), 0, amount), type = 1, type = 2, iif(type = 3, count, 0), \
             iif(type = 4, count, 0), iif(type IN (3, 4), amount, 0), type = 3, type = 4 FROM ",
            $table,
            " WHERE ",
            $users
        )
    };
}

/// The FROM clause of the days on which rollup and records of some users differ, grouped by user,
/// day and service.
macro_rules! differing {
    ($users:literal) => {
        concat!(
            " FROM (\
             SELECT user_id, usage_date, service_name, free_count, paid_count, amount, free_records, paid_records, \
             COALESCE(refunded_free, 0) AS refunded_free, COALESCE(refunded_paid, 0) AS refunded_paid, \
             COALESCE(refunded_amount, 0) AS refunded_amount, COALESCE(free_refunds, 0) AS free_refunds, \
             COALESCE(paid_refunds, 0) AS paid_refunds, \
             0 AS recorded_free_count, 0 AS recorded_paid_count, 0 AS recorded_amount, 0 AS recorded_free_records, \
             0 AS recorded_paid_records, 0 AS recorded_refunded_free, 0 AS recorded_refunded_paid, \
             0 AS recorded_refunded_amount, 0 AS recorded_free_refunds, 0 AS recorded_paid_refunds \
             FROM usage_daily WHERE ",
            $users,
            " UNION ALL ",
            recorded!("billing_record", $users),
            " UNION ALL ",
            recorded!("billing_record_archive", $users),
            ") GROUP BY user_id, usage_date, service_name \
             HAVING SUM(free_count) <> SUM(recorded_free_count) OR SUM(paid_count) <> SUM(recorded_paid_count) \
             OR SUM(amount) <> SUM(recorded_amount) OR SUM(free_records) <> SUM(recorded_free_records) \
             OR SUM(paid_records) <> SUM(recorded_paid_records) \
             OR SUM(refunded_free) <> SUM(recorded_refunded_free) \
             OR SUM(refunded_paid) <> SUM(recorded_refunded_paid) \
             OR SUM(refunded_amount) <> SUM(recorded_refunded_amount) \
             OR SUM(free_refunds) <> SUM(recorded_free_refunds) OR SUM(paid_refunds) <> SUM(recorded_paid_refunds)"
        )
    };
}

const DIFFERING_USERS: &str = concat!(
    "SELECT DISTINCT user_id FROM (SELECT user_id",
    differing!("user_id > ?1 AND user_id <= ?2"),
    ") ORDER BY user_id"
);
const DIFFERING_DAYS: &str = concat!(
    "SELECT user_id, service_name, usage_date, SUM(free_count), SUM(paid_count), SUM(amount), SUM(free_records), \
     SUM(paid_records), SUM(refunded_free), SUM(refunded_paid), SUM(refunded_amount), SUM(free_refunds), \
     SUM(paid_refunds), SUM(recorded_free_count), SUM(recorded_paid_count), SUM(recorded_amount), \
     SUM(recorded_free_records), SUM(recorded_paid_records), SUM(recorded_refunded_free), \
     SUM(recorded_refunded_paid), SUM(recorded_refunded_amount), SUM(recorded_free_refunds), \
     SUM(recorded_paid_refunds)",
    differing!("user_id BETWEEN ?1 AND ?2"),
    " ORDER BY user_id, usage_date, service_name LIMIT ?3"
);

const REBUILD: &str = "\
    INSERT INTO usage_daily \
    (user_id, usage_date, service_name, free_count, paid_count, amount, free_records, paid_records, \
    refunded_free, refunded_paid, refunded_amount, free_refunds, paid_refunds) \
    SELECT user_id, usage_date, service_name, SUM(iif(type = 1, count, 0)), SUM(iif(type = 2, count, 0)), \
    SUM(iif(type IN (3, 4), 0, amount)), SUM(type = 1), SUM(type = 2), SUM(iif(type = 3, count, 0)), \
    SUM(iif(type = 4, count, 0)), SUM(iif(type IN (3, 4), amount, 0)), SUM(type = 3), SUM(type = 4) FROM \
    (SELECT user_id, usage_date, service_name, type, count, amount FROM billing_record WHERE user_id = ?1 UNION ALL \
    SELECT user_id, usage_date, service_name, type, count, amount FROM billing_record_archive WHERE user_id = ?1) \
    GROUP BY user_id, usage_date, service_name";

#[async_trait]
impl RollupStore for SqliteStore {
    async fn differing(&self, users: &UserSpan) -> Result<Vec<UserId>, StoreError> {
        let query = sqlx::query(DIFFERING_USERS).bind(users.after()).bind(users.last.as_str());
        let rows = query.fetch_all(&self.reader).await.map_err(store_error)?;
        rows.iter().map(user_of).collect()
    }

    async fn rebuild(&self, user: &UserId) -> Result<(), StoreError> {
        let user = user.clone();
        self.writer.run_and_rest(move |connection| rebuild(connection, &user).map_err(writer_error)).await
    }

    async fn lacking_use(&self, users: &UserSpan) -> Result<Vec<LackingUse>, StoreError> {
        let mut query = sqlx::query(&**usage::LACKING);
        for _ in 0..2 {
            query = query.bind(users.after()).bind(users.last.as_str());
        }
        let rows = query.fetch_all(&self.reader).await.map_err(store_error)?;
        rows.iter().map(lacking_use_of).collect()
    }
}

#[async_trait]
impl UseAudit for SqliteStore {
    async fn use_sizes(&self, users: &UserSpan) -> Result<Vec<(UserId, u64)>, StoreError> {
        let mut query = sqlx::query(&**usage::SIZES);
        for _ in 0..2 {
            query = query.bind(users.after()).bind(users.last.as_str());
        }
        let rows = query.fetch_all(&self.reader).await.map_err(store_error)?;
        rows.iter().map(|row| Ok((user_of(row)?, size_at(row)?))).collect()
    }

    async fn use_day_sizes(&self, user: &UserId) -> Result<Vec<(NaiveDate, u64)>, StoreError> {
        let query = sqlx::query(&**usage::DAY_SIZES).bind(user.as_str()).bind(user.as_str());
        let rows = query.fetch_all(&self.reader).await.map_err(store_error)?;
        rows.iter().map(|row| Ok((row.day(0)?, size_at(row)?))).collect()
    }

    async fn differing_use(&self, range: &UseRange, limit: u32) -> Result<Vec<(UserId, DifferingUse)>, StoreError> {
        let mut query = match range {
            UseRange::Users { .. } => sqlx::query(&**usage::DIFFERING_OF_USERS),
            UseRange::Days { .. } => sqlx::query(&**usage::DIFFERING_OF_DAYS),
        };
        for has_times in usage::PLACES {
            match range {
                UseRange::Users { first, last } => query = query.bind(first.as_str()).bind(last.as_str()),
                UseRange::Days { user, days } => {
                    query = query.bind(user.as_str());
                    query = query.bind(days.first.to_string()).bind(days.last.to_string());
                    if has_times {
                        let (from, before) = times_of(*days);
                        query = query.bind(from.timestamp_micros()).bind(before.timestamp_micros());
                    }
                }
            }
        }
        let rows = query.bind(limit).fetch_all(&self.reader).await.map_err(store_error)?;
        rows.iter().map(differing_use_of).collect()
    }
}

fn rebuild(connection: &mut Connection, user: &UserId) -> rusqlite::Result<()> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    transaction.prepare_cached("DELETE FROM usage_daily WHERE user_id = ?")?.execute([user.as_str()])?;
    transaction.prepare_cached(REBUILD)?.execute([user.as_str()])?;
    transaction.commit()
}

/// The days on which rollup and records differ, for a range of users, in key order and with a limit.
pub async fn differing_days(
    connection: &mut SqliteConnection,
    first: &UserId,
    last: &UserId,
    limit: u32,
) -> Result<Vec<(UserId, DifferingDay)>, StoreError> {
    let query = sqlx::query(DIFFERING_DAYS).bind(first.as_str()).bind(last.as_str()).bind(limit);
    let rows = query.fetch_all(connection).await.map_err(store_error)?;
    rows.iter().map(differing_day_of).collect()
}

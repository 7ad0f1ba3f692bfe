//! Compares the rollups with the records, and rebuilds the daily one.

use async_trait::async_trait;
use chrono::NaiveDate;
use sqlx::MySqlConnection;

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
        mysql::{MySqlStore, statement::Statement},
        row::Columns,
        rows::{account::user_of, jobs::differing_day_of},
        usage::{self, differing_use_of, lacking_use_of, size_at, times_of},
    },
};

const TABLES: [&str; 2] = ["billing_record", "billing_record_archive"];

#[async_trait]
impl RollupStore for MySqlStore {
    async fn differing(&self, users: &UserSpan) -> Result<Vec<UserId>, StoreError> {
        let of_span = |statement: &mut Statement| {
            statement.push("user_id > ").texts([users.after()]).push(" AND user_id <= ").texts([users.last.as_str()]);
        };
        let mut statement = Statement::new("SELECT DISTINCT user_id FROM (SELECT user_id");
        differing(&mut statement, of_span);
        statement.push(") days ORDER BY user_id");
        let sets = self.reader.fetch(statement).await?;
        sets.iter().flatten().map(user_of).collect()
    }

    /// Locks the account first, so that nothing is settled for the user until the commit. Otherwise
    /// the commit would fail on the rows that settlements write.
    async fn rebuild(&self, user: &UserId) -> Result<(), StoreError> {
        self.waiter.run(Statement::transaction(|statement| rebuild(statement, user))).await
    }

    async fn lacking_use(&self, users: &UserSpan) -> Result<Vec<LackingUse>, StoreError> {
        let mut query = sqlx::query(&**usage::LACKING);
        for _ in 0..2 {
            query = query.bind(users.after()).bind(users.last.as_str());
        }
        let rows = self.reader.fetch_all(query).await?;
        rows.iter().map(lacking_use_of).collect()
    }
}

#[async_trait]
impl UseAudit for MySqlStore {
    async fn use_sizes(&self, users: &UserSpan) -> Result<Vec<(UserId, u64)>, StoreError> {
        let mut query = sqlx::query(&**usage::SIZES);
        for _ in 0..2 {
            query = query.bind(users.after()).bind(users.last.as_str());
        }
        let rows = self.reader.fetch_all(query).await?;
        rows.iter().map(|row| Ok((user_of(row)?, size_at(row)?))).collect()
    }

    async fn use_day_sizes(&self, user: &UserId) -> Result<Vec<(NaiveDate, u64)>, StoreError> {
        let query = sqlx::query(&**usage::DAY_SIZES).bind(user.as_str()).bind(user.as_str());
        let rows = self.reader.fetch_all(query).await?;
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
                    query = query.bind(days.first).bind(days.last);
                    if has_times {
                        let (from, before) = times_of(*days);
                        query = query.bind(from.naive_utc()).bind(before.naive_utc());
                    }
                }
            }
        }
        let rows = self.reader.fetch_all(query.bind(limit)).await?;
        rows.iter().map(differing_use_of).collect()
    }
}

fn rebuild(statement: &mut Statement, user: &UserId) {
    let this = |statement: &mut Statement| {
        statement.push("user_id = ").texts([user.as_str()]);
    };
    statement.push("SELECT user_id FROM user_balance WHERE ");
    this(statement);
    statement.push(" FOR UPDATE; DELETE FROM usage_daily WHERE ");
    this(statement);
    statement.push(
        "; INSERT INTO usage_daily \
             (user_id, usage_date, service_name",
    );
    for (column, ..) in COLUMNS {
        statement.push(", ").push(column);
    }
    statement.push(") SELECT user_id, usage_date, service_name");
    for (_, sum, _) in COLUMNS {
        statement.push(", ").push(sum);
    }
    statement.push(" FROM (");
    for (index, table) in TABLES.into_iter().enumerate() {
        statement.push(if index == 0 { "" } else { " UNION ALL " });
        statement.push("SELECT user_id, usage_date, service_name, type, count, amount FROM ").push(table);
        statement.push(" WHERE ");
        this(statement);
    }
    statement.push(") records GROUP BY user_id, usage_date, service_name; ");
}

/// The columns of the rollup, each with its aggregate over the records and the name of the aggregate.
const COLUMNS: [(&str, &str, &str); 10] = [
    ("free_count", "SUM(IF(type = 1, count, 0))", "recorded_free_count"),
    ("paid_count", "SUM(IF(type = 2, count, 0))", "recorded_paid_count"),
    ("amount", "SUM(IF(type IN (3, 4), 0, amount))", "recorded_amount"),
    ("free_records", "SUM(type = 1)", "recorded_free_records"),
    ("paid_records", "SUM(type = 2)", "recorded_paid_records"),
    ("refunded_free", "SUM(IF(type = 3, count, 0))", "recorded_refunded_free"),
    ("refunded_paid", "SUM(IF(type = 4, count, 0))", "recorded_refunded_paid"),
    ("refunded_amount", "SUM(IF(type IN (3, 4), amount, 0))", "recorded_refunded_amount"),
    ("free_refunds", "SUM(type = 3)", "recorded_free_refunds"),
    ("paid_refunds", "SUM(type = 4)", "recorded_paid_refunds"),
];

/// The days on which the rollup of the users in `of` differs from the records, in key order, at
/// most `limit`.
pub async fn differing_days(
    connection: &mut MySqlConnection,
    of: impl Fn(&mut Statement),
    limit: u32,
) -> Result<Vec<(UserId, DifferingDay)>, StoreError> {
    let mut statement = Statement::new("SELECT user_id, service_name, usage_date");
    for (column, ..) in COLUMNS {
        statement.push(", COALESCE(SUM(").push(column).push("), 0)");
    }
    for (.., recorded) in COLUMNS {
        statement.push(", SUM(").push(recorded).push(")");
    }
    differing(&mut statement, of);
    statement.push(" ORDER BY user_id, usage_date, service_name LIMIT ").number(limit);
    let sets = statement.fetch(connection).await?;
    sets.iter().flatten().map(differing_day_of).collect()
}

/// The FROM clause of the differing days, grouped by user, day and service.
fn differing(statement: &mut Statement, of: impl Fn(&mut Statement)) {
    statement.push(" FROM (SELECT user_id, usage_date, service_name");
    for (column, ..) in COLUMNS {
        statement.push(", ").push(column);
    }
    for (.., recorded) in COLUMNS {
        statement.push(", 0 AS ").push(recorded);
    }
    statement.push(" FROM usage_daily WHERE ");
    of(statement);
    for table in TABLES {
        statement.push(" UNION ALL SELECT user_id, usage_date, service_name");
        for _ in COLUMNS {
            statement.push(", 0");
        }
        for (_, sum, _) in COLUMNS {
            statement.push(", ").push(sum);
        }
        statement.push(" FROM ").push(table).push(" WHERE ");
        of(statement);
        statement.push(" GROUP BY user_id, usage_date, service_name");
    }
    statement.push(") books GROUP BY user_id, usage_date, service_name HAVING FALSE");
    for (column, _, recorded) in COLUMNS {
        // The columns of refunds are NULL without any.
        statement.push(" OR COALESCE(SUM(").push(column).push("), 0) <> SUM(").push(recorded).push(")");
    }
}

//! Moves old records to the archive, one chunk at a time.

use std::time::{Duration, Instant};

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use futures_util::FutureExt;
use sqlx::mysql::MySqlRow;

use crate::{
    biz::{
        account::users::UserSpan,
        jobs::archive::RecordArchive,
        values::{error::StoreError, ids::UserId},
    },
    data::{
        mysql::{
            MySqlStore,
            statement::{LockMode, OnNode, Statement},
        },
        row::Columns,
        rows::account::user_of,
    },
};

/// Longest pause after a transaction.
const LONGEST_REST: Duration = Duration::from_secs(1);
/// The columns of both tables.
const COLUMNS: &str = "billing_record_id, user_id, service_name, type, amount, count, created_at, usage_date, trace_id, \
    late_of";

#[async_trait]
impl RecordArchive for MySqlStore {
    async fn users_with_old(&self, users: &UserSpan, before: DateTime<Utc>) -> Result<Vec<UserId>, StoreError> {
        // The query reads only the first record of each user, by the key.
        let query = sqlx::query(
            "SELECT user_id FROM billing_record WHERE user_id > ? AND user_id <= ? \
             GROUP BY user_id HAVING MIN(created_at) < ?",
        );
        let query = query.bind(users.after()).bind(users.last.as_str()).bind(before.naive_utc());
        let rows = self.reader.fetch_all(query).await?;
        rows.iter().map(user_of).collect()
    }

    async fn archive(&self, users: &[UserId], before: DateTime<Utc>, limit: u32) -> Result<u64, StoreError> {
        let begun = Instant::now();
        let mut keys = Statement::new("SELECT user_id, created_at, billing_record_id FROM billing_record WHERE ");
        old_of(&mut keys, users, before);
        keys.push(" ORDER BY user_id, created_at, billing_record_id LIMIT ").number(limit);
        let rows: Vec<MySqlRow> = self.reader.fetch(keys).await?.into_iter().flatten().collect();
        let Some(last) = rows.last() else { return Ok(0) };
        let (mut connection, ()) = self
            .waiter
            .take_with(|connection| Statement::beginning(LockMode::Wait).execute(connection).boxed())
            .await?;
        let mut copy = Statement::new("INSERT INTO billing_record_archive (");
        copy.push(COLUMNS).push(") SELECT ").push(COLUMNS).push(" FROM billing_record WHERE ");
        let copied = moved(&mut connection, copy, (users, before), last).await?;
        let delete = Statement::new("DELETE FROM billing_record WHERE ");
        let deleted = moved(&mut connection, delete, (users, before), last).await?;
        // A late commit may write a record of an old day between the two statements. It must not be
        // deleted without a copy.
        if copied != deleted {
            return Err(StoreError::Conflict("old records were written meanwhile".into()));
        }
        Statement::committing(LockMode::Wait, |_| {}).execute(&mut connection).await?;
        connection.give_back();
        // The pause is as long as the work, so that half of the disk's time is free for others.
        tokio::time::sleep(begun.elapsed().min(LONGEST_REST)).await;
        // The number includes records that were written since the keys were read.
        Ok(copied)
    }

    async fn count_old(&self, users: &[UserId], before: DateTime<Utc>) -> Result<u64, StoreError> {
        let mut count = Statement::new("SELECT COUNT(*) FROM billing_record WHERE ");
        old_of(&mut count, users, before);
        let sets = self.reader.fetch(count).await?;
        sets.iter().flatten().next().map_or(Ok(0), |row| row.number(0))
    }
}

/// Old records of some users: a range of the key for each.
fn old_of(statement: &mut Statement, users: &[UserId], before: DateTime<Utc>) {
    statement.push("user_id IN (").texts(users.iter().map(UserId::as_str)).push(") AND created_at < ").instant(before);
}

/// Runs a statement on the old records up to the key of `last`. Returns their number.
async fn moved(
    connection: &mut impl OnNode,
    mut statement: Statement,
    (users, before): (&[UserId], DateTime<Utc>),
    last: &MySqlRow,
) -> Result<u64, StoreError> {
    let (user, at, id) = (last.text(0)?, last.time(1)?, last.text(2)?);
    old_of(&mut statement, users, before);
    statement.push(" AND (user_id < ").texts([user.as_str()]).push(" OR user_id = ").texts([user.as_str()]);
    statement.push(" AND (created_at < ").instant(at).push(" OR created_at = ").instant(at);
    statement.push(" AND billing_record_id <= ").texts([id.as_str()]).push("))");
    statement.execute_counting(connection).await
}

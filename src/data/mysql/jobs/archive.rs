//! Moves old records and their transactions to the archive, one chunk at a time.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use futures_util::FutureExt;
use sqlx::mysql::MySqlRow;

use crate::{
    biz::{
        account::users::UserSpan,
        jobs::archive::{LeftPage, Moved, RecordArchive},
        values::{error::StoreError, ids::UserId},
    },
    data::{
        mysql::{
            MySqlStore,
            connections::Lease,
            statement::{LockMode, OnNode, Statement},
        },
        row::Columns,
        rows::account::user_of,
        transaction_archive::{is_final, moved_columns, narrowed},
    },
};

/// Longest pause after a transaction.
const LONGEST_REST: Duration = Duration::from_secs(1);
/// The columns of both tables of records.
const COLUMNS: &str = "billing_record_id, user_id, service_name, type, amount, count, created_at, usage_date, trace_id, \
    late_of";
/// The columns of a main record that [`MainRecords`] reads. Only charges have one.
const MAIN: &str = "SELECT user_id, created_at, billing_record_id, \
    CASE WHEN type IN (1, 2) AND trace_id > '' THEN trace_id END FROM ";
const MOVED_COLUMNS: &str = concat!(moved_columns!(), ", free_remaining_large");
/// The key of a list is shorter than a scan, whatever the statistics say. A scan would wait for the locks of charges.
const BY_KEY: &str = "billing_transaction FORCE INDEX (PRIMARY)";

/// The contents in the archive with the key of `t`.
macro_rules! contents {
    () => {
        " LEFT JOIN billing_transaction_archive a \
         ON a.user_id = t.user_id AND a.created_at = t.created_at AND a.trace_id = t.trace_id"
    };
}

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

    async fn archive(&self, users: &[UserId], before: DateTime<Utc>, limit: u32) -> Result<Moved, StoreError> {
        let begun = Instant::now();
        let mut keys = Statement::new(MAIN);
        keys.push("billing_record WHERE ");
        old_of(&mut keys, users, before);
        keys.push(" ORDER BY user_id, created_at, billing_record_id LIMIT ").number(limit);
        let rows: Vec<MySqlRow> = self.reader.fetch(keys).await?.into_iter().flatten().collect();
        let Some(last) = rows.last() else { return Ok(Moved::default()) };
        let movable = self.movable(&MainRecords::of(&rows)?).await?;
        let mut connection = self.begin_move().await?;
        let mut copy = Statement::new("INSERT INTO billing_record_archive (");
        copy.push(COLUMNS).push(") SELECT ").push(COLUMNS).push(" FROM billing_record WHERE ");
        let copied = moved(&mut connection, copy, (users, before), last).await?;
        let delete = Statement::new("DELETE FROM billing_record WHERE ");
        let deleted = moved(&mut connection, delete, (users, before), last).await?;
        // A late commit may write a record of an old day in between. It must not be deleted without a copy, nor move
        // without its transaction.
        if copied != deleted || copied != rows.len() as u64 {
            return Err(StoreError::Conflict("old records were written meanwhile".into()));
        }
        // Last, so that their locks are short: a replay or a refund of an old charge waits for them.
        let transactions = move_transactions(&mut connection, &movable).await?;
        commit(connection, begun).await?;
        Ok(Moved { records: copied, transactions, contested: movable.contested })
    }

    async fn count_old(&self, users: &[UserId], before: DateTime<Utc>) -> Result<Moved, StoreError> {
        let mut count = Statement::new(COUNTS);
        count.push("billing_record WHERE ");
        old_of(&mut count, users, before);
        self.counts(count).await
    }

    async fn may_have_left(&self) -> Result<bool, StoreError> {
        let rows = self.reader.fetch_all(sqlx::query("SELECT 1 FROM transactions_archived")).await?;
        Ok(rows.is_empty())
    }

    async fn users_with_archived(&self, users: &UserSpan) -> Result<Vec<UserId>, StoreError> {
        let query = "SELECT user_id FROM billing_record_archive WHERE user_id > ? AND user_id <= ? \
            GROUP BY user_id ORDER BY user_id";
        let rows = self.reader.fetch_all(sqlx::query(query).bind(users.after()).bind(users.last.as_str())).await?;
        rows.iter().map(user_of).collect()
    }

    async fn archive_left(
        &self,
        user: &UserId,
        after: Option<&(DateTime<Utc>, String)>,
        limit: u32,
    ) -> Result<LeftPage, StoreError> {
        let begun = Instant::now();
        let mut keys = Statement::new(MAIN);
        keys.push("billing_record_archive WHERE user_id = ").texts([user.as_str()]);
        if let Some((at, id)) = after {
            keys.push(" AND created_at >= ").instant(*at).push(" AND (created_at > ").instant(*at);
            keys.push(" OR billing_record_id > ").texts([id.as_str()]).push(")");
        }
        keys.push(" ORDER BY user_id, created_at, billing_record_id LIMIT ").number(limit);
        let rows: Vec<MySqlRow> = self.reader.fetch(keys).await?.into_iter().flatten().collect();
        let last = rows.last().filter(|_| rows.len() as u64 >= u64::from(limit));
        let last = last.map(|last| Ok::<_, StoreError>((last.time(1)?, last.text(2)?))).transpose()?;
        let movable = self.movable(&MainRecords::of(&rows)?).await?;
        let mut moved = Moved { contested: movable.contested, ..Moved::default() };
        if !movable.traces.is_empty() {
            let mut connection = self.begin_move().await?;
            moved.transactions = move_transactions(&mut connection, &movable).await?;
            commit(connection, begun).await?;
        }
        Ok(LeftPage { moved, last })
    }

    async fn count_left(&self, user: &UserId) -> Result<Moved, StoreError> {
        let mut count = Statement::new(COUNTS);
        count.push("billing_record_archive WHERE user_id = ").texts([user.as_str()]);
        Ok(Moved { records: 0, ..self.counts(count).await? })
    }

    async fn note_none_left(&self, at: DateTime<Utc>) -> Result<(), StoreError> {
        let note =
            "INSERT INTO transactions_archived (done_at) VALUES (?) ON DUPLICATE KEY UPDATE done_at = VALUES(done_at)";
        self.reader.execute(sqlx::query(note).bind(at.naive_utc())).await.map(|_| ())
    }
}

/// The begin of a count of records, final transactions, and those of them with content in the archive. The columns of
/// [`MAIN`] have names.
const COUNTS: &str = "SELECT COUNT(*), COUNT(t.user_id), COUNT(a.user_id) FROM (SELECT user_id AS by_user, \
    billing_record_id AS main, CASE WHEN type IN (1, 2) AND trace_id > '' THEN trace_id END AS trace FROM ";

impl MySqlStore {
    async fn begin_move(&self) -> Result<Lease, StoreError> {
        let begun =
            self.waiter.take_with(|connection| Statement::beginning(LockMode::Wait).execute(connection).boxed());
        Ok(begun.await?.0)
    }

    /// The rows that would move of the records that `count` reads, which begins with [`COUNTS`].
    async fn counts(&self, mut count: Statement) -> Result<Moved, StoreError> {
        count.push(concat!(
            ") r LEFT JOIN billing_transaction t ON t.user_id = r.by_user AND t.trace_id = r.trace \
             AND t.record_id = r.main AND ",
            is_final!("t."),
            contents!()
        ));
        let sets = self.reader.fetch(count).await?;
        let Some(row) = sets.iter().flatten().next() else { return Ok(Moved::default()) };
        let (last, contested): (u64, u64) = (row.number(1)?, row.number(2)?);
        Ok(Moved { records: row.number(0)?, transactions: last.saturating_sub(contested), contested })
    }

    /// The transactions of some main records that move. Reads them and the places of their content without locks, so
    /// that the disk is read before the move holds locks, and so that it locks no row that stays.
    async fn movable(&self, main: &MainRecords) -> Result<Movable, StoreError> {
        let mut movable = Movable { traces: BTreeMap::new(), contested: 0 };
        if main.0.is_empty() {
            return Ok(movable);
        }
        let mut read = Statement::new(
            "SELECT t.user_id, t.trace_id, t.record_id, a.user_id IS NOT NULL FROM \
             (SELECT user_id, created_at, trace_id, record_id FROM ",
        );
        read.push(BY_KEY).push(concat!(" WHERE ", is_final!(), " AND ("));
        of_transactions(&mut read, &main.0.iter().map(|(user, traces)| (user.as_str(), traces.keys())).collect());
        read.push(concat!(")) t", contents!()));
        for row in self.reader.fetch(read).await?.iter().flatten() {
            let (user, trace) = (row.text(0)?, row.text(1)?);
            // Another record of the transaction may be the main one, and newer.
            if !main.has(&user, &trace, &row.text(2)?) {
                continue;
            }
            if row.number::<u8>(3)? == 0 {
                movable.traces.entry(user).or_default().push(trace);
            } else {
                tracing::warn!(trace_id = %trace, "old transaction not moved; the archive has content with its id already");
                movable.contested += 1;
            }
        }
        Ok(movable)
    }
}

/// The main records of transactions: their ids by trace id, of each user.
struct MainRecords(BTreeMap<String, BTreeMap<String, Vec<String>>>);

impl MainRecords {
    /// Those of the columns of [`MAIN`].
    fn of(rows: &[MySqlRow]) -> Result<Self, StoreError> {
        let mut records: BTreeMap<String, BTreeMap<String, Vec<String>>> = BTreeMap::new();
        for row in rows {
            if let Some(trace) = row.optional_text(3)? {
                records.entry(row.text(0)?).or_default().entry(trace).or_default().push(row.text(2)?);
            }
        }
        Ok(Self(records))
    }

    fn has(&self, user: &str, trace: &str, record: &str) -> bool {
        let of_trace = self.0.get(user).and_then(|traces| traces.get(trace));
        of_trace.is_some_and(|records| records.iter().any(|id| id == record))
    }
}

/// The final transactions to move: trace ids by user.
struct Movable {
    traces: BTreeMap<String, Vec<String>>,
    contested: u64,
}

/// Moves transactions, within a transaction of the database. Returns their number.
async fn move_transactions(connection: &mut impl OnNode, movable: &Movable) -> Result<u64, StoreError> {
    if movable.traces.is_empty() {
        return Ok(0);
    }
    let keys: BTreeMap<_, _> = movable.traces.iter().map(|(user, traces)| (user.as_str(), traces.iter())).collect();
    let expected: usize = movable.traces.values().map(Vec::len).sum();
    let mut lock = Statement::new("SELECT trace_id FROM ");
    lock.push(BY_KEY).push(concat!(" WHERE ", is_final!(), " AND ("));
    of_transactions(&mut lock, &keys);
    lock.push(") FOR UPDATE");
    // Nothing else changes the rows from here on.
    let locked = lock.fetch(connection).await?.iter().map(Vec::len).sum::<usize>();
    let mut copy = Statement::new("INSERT INTO billing_transaction_archive (");
    copy.push(MOVED_COLUMNS).push(") SELECT ").push(MOVED_COLUMNS).push(" FROM ").push(BY_KEY).push(" WHERE ");
    of_transactions(&mut copy, &keys);
    let copied = copy.execute_counting(connection).await?;
    let mut narrow = Statement::new("UPDATE ");
    narrow.push(BY_KEY).push(concat!(" SET ", narrowed!(), ", free_remaining_large = NULL WHERE "));
    of_transactions(&mut narrow, &keys);
    let narrowed = narrow.execute_counting(connection).await?;
    if locked != expected || copied != expected as u64 || narrowed != copied {
        return Err(StoreError::Conflict("old transactions were written meanwhile".into()));
    }
    Ok(copied)
}

/// Some transactions of some users: ranges of the key.
fn of_transactions<'t>(statement: &mut Statement, keys: &BTreeMap<&str, impl Iterator<Item = &'t String> + Clone>) {
    for (index, (user, traces)) in keys.iter().enumerate() {
        statement.push(if index == 0 { "(user_id = " } else { " OR (user_id = " }).texts([*user]);
        statement.push(" AND trace_id IN (").texts(traces.clone().map(String::as_str)).push("))");
    }
}

async fn commit(mut connection: Lease, begun: Instant) -> Result<(), StoreError> {
    Statement::committing(LockMode::Wait, |_| {}).execute(&mut connection).await?;
    connection.give_back();
    // The pause is as long as the work, so that half of the disk's time is free for others.
    tokio::time::sleep(begun.elapsed().min(LONGEST_REST)).await;
    Ok(())
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

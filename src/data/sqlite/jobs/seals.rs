//! Seals of closed months, and the reads of the nightly audit.

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use rusqlite::{Connection, TransactionBehavior, params};
use sqlx::{Sqlite, Transaction, sqlite::SqliteRow};

use super::scope::fetch;
use crate::{
    biz::{
        account::users::UserSpan,
        jobs::{
            audit::books::DifferingTransaction,
            seals::{
                content::{HistoryRow, Kind},
                store::{
                    Changed, HistoryPage, NewSeal, SealStore, Sealed, Since, StoredSeal, TimeSpan, TraceSpan, Unproven,
                    Unsealed,
                },
            },
        },
        values::{calendar::Month, error::StoreError, ids::UserId},
    },
    data::{
        error::store_error,
        history::{self, Scope},
        row::Columns,
        rows::{
            account::user_of,
            audit::{Books, differing_transaction_of},
        },
        sqlite::{SqliteStore, writer::writer_error},
        usage::size_at,
    },
};

#[async_trait]
impl SealStore for SqliteStore {
    async fn changed_accounts(&self, users: &UserSpan) -> Result<Vec<Changed>, StoreError> {
        let rows = self.rows(history::CHANGED, &Scope::of_span(users)).await?;
        rows.iter().map(history::changed_of).collect()
    }

    async fn seal_count(&self, users: &UserSpan) -> Result<u64, StoreError> {
        let rows = self.rows(history::SEAL_COUNT, &Scope::of_span(users)).await?;
        rows.first().map_or(Ok(0), |row| row.number(0))
    }

    async fn sealed_without_account(&self, users: &UserSpan) -> Result<Vec<UserId>, StoreError> {
        let rows = self.rows(history::SEALED_WITHOUT_ACCOUNT, &Scope::of_span(users)).await?;
        rows.iter().map(user_of).collect()
    }

    async fn quota_without_account(&self, users: &UserSpan, month: Month) -> Result<Vec<UserId>, StoreError> {
        let scope = Scope { day: month.first_day(), ..Scope::of_span(users) };
        self.rows(history::QUOTA_WITHOUT_ACCOUNT, &scope).await?.iter().map(user_of).collect()
    }

    async fn unsealed_sizes(&self, users: &[UserId], since: Since) -> Result<Vec<(UserId, u64)>, StoreError> {
        let rows = self.rows(history::UNSEALED_SIZES, &Scope::of_users(users, since)).await?;
        rows.iter().map(|row| Ok((user_of(row)?, size_at(row)?))).collect()
    }

    async fn unsealed(&self, users: &[UserId], since: Unproven) -> Result<Unsealed, StoreError> {
        // With a write-ahead log, a read transaction sees one snapshot.
        let mut snapshot: Transaction<'_, Sqlite> = self.reader.begin().await.map_err(store_error)?;
        let scope = Scope::of_users(users, since.sums);
        let records = Scope::of_users(users, since.records);
        let mut books = Books::of_list(users);
        for (sql, note) in history::unsealed_books::<SqliteRow>() {
            books.note(&fetch(&mut *snapshot, sql, &scope).await?, note)?;
        }
        let mut differing = Vec::new();
        for row in fetch(&mut *snapshot, &history::DIFFERING_DAYS, &records).await? {
            differing.push(user_of(&row)?);
        }
        snapshot.rollback().await.map_err(store_error)?;
        Ok(Unsealed { evidence: books.into_evidence(), differing })
    }

    async fn differing_use_since(&self, users: &[UserId], since: Since) -> Result<Vec<UserId>, StoreError> {
        self.rows(&history::DIFFERING_USE, &Scope::of_users(users, since)).await?.iter().map(user_of).collect()
    }

    async fn differing_charges(
        &self,
        users: &[UserId],
        times: &TimeSpan,
        limit: u32,
    ) -> Result<Vec<(UserId, DifferingTransaction)>, StoreError> {
        let scope = Scope { limit, ..Scope::of_times(users, times) };
        self.rows(history::DIFFERING_CHARGES, &scope).await?.iter().map(differing_transaction_of).collect()
    }

    async fn time_behind(
        &self,
        user: &UserId,
        from: DateTime<Utc>,
        count: u32,
    ) -> Result<Option<DateTime<Utc>>, StoreError> {
        let scope = Scope::of_users(&[], Since::BEGINNING);
        let scope = Scope { first: user.as_str(), from, limit: count, ..scope };
        let rows = self.rows(history::TIME_BEHIND, &scope).await?;
        let Some(row) = rows.first().filter(|row| row.number(1) == Ok(count)) else { return Ok(None) };
        row.optional_time(0)
    }

    async fn unrecorded(
        &self,
        users: &[UserId],
        since: Since,
        traces: &TraceSpan,
        limit: u32,
    ) -> Result<Vec<(UserId, DifferingTransaction)>, StoreError> {
        let scope = Scope { limit, ..Scope::of_users(users, since).with_traces(traces) };
        self.rows(history::UNRECORDED, &scope).await?.iter().map(differing_transaction_of).collect()
    }

    async fn recorded(
        &self,
        users: &[UserId],
        since: Since,
        traces: &[String],
    ) -> Result<Vec<(UserId, String)>, StoreError> {
        let scope = Scope { traces, ..Scope::of_users(users, since) };
        self.rows(history::RECORDED, &scope).await?.iter().map(|row| Ok((user_of(row)?, row.text(1)?))).collect()
    }

    async fn trace_behind(&self, user: &UserId, after: &str, count: u32) -> Result<Option<String>, StoreError> {
        let scope = Scope::of_users(&[], Since::BEGINNING);
        let scope = Scope { first: user.as_str(), after_trace: after, limit: count.saturating_sub(1), ..scope };
        self.rows(history::TRACE_BEHIND, &scope).await?.first().map(|row| row.text(0)).transpose()
    }

    async fn history(&self, kind: Kind, page: HistoryPage<'_>) -> Result<Vec<HistoryRow>, StoreError> {
        let rows = self.rows(history::rows(kind), &Scope::of_page(page)).await?;
        rows.iter().map(history::history_row_of).collect()
    }

    async fn seals(&self, users: &[UserId]) -> Result<(Vec<StoredSeal>, Vec<(UserId, Sealed)>), StoreError> {
        let mut snapshot: Transaction<'_, Sqlite> = self.reader.begin().await.map_err(store_error)?;
        let scope = Scope::of_users(users, Since::BEGINNING);
        let seals = fetch(&mut *snapshot, history::SEALS, &scope).await?;
        let last = fetch(&mut *snapshot, history::LAST_SEALS, &scope).await?;
        snapshot.rollback().await.map_err(store_error)?;
        let seals = seals.iter().map(history::stored_seal_of).collect::<Result<_, _>>()?;
        Ok((seals, last.iter().map(history::last_seal_of).collect::<Result<_, _>>()?))
    }

    async fn seal(&self, seals: Vec<NewSeal>, at: DateTime<Utc>) -> Result<(), StoreError> {
        self.writer.run_and_rest(move |connection| insert(connection, &seals, at).map_err(writer_error)).await
    }

    async fn lost_seals(&self, users: &UserSpan) -> Result<Vec<(UserId, Month)>, StoreError> {
        self.rows(history::LOST_SEALS, &Scope::of_span(users)).await?.iter().map(history::lost_seal_of).collect()
    }

    async fn all_sealed_up_to(&self) -> Result<Option<Month>, StoreError> {
        let rows = self.rows(history::ALL_SEALED, &Scope::of_users(&[], Since::BEGINNING)).await?;
        rows.first().map(history::all_sealed_of).transpose()
    }

    async fn note_all_sealed(&self, month: Month) -> Result<(), StoreError> {
        let note = "INSERT OR REPLACE INTO all_sealed (only_row, month) VALUES (1, ?)";
        let month = month.to_string();
        self.writer
            .run_and_rest(move |connection| connection.execute(note, [month]).map(|_| ()).map_err(writer_error))
            .await
    }
}

impl SqliteStore {
    pub(super) async fn rows(&self, sql: &'static str, scope: &Scope<'_>) -> Result<Vec<SqliteRow>, StoreError> {
        fetch(&self.reader, sql, scope).await
    }
}

fn insert(connection: &mut Connection, seals: &[NewSeal], at: DateTime<Utc>) -> rusqlite::Result<()> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    for NewSeal { user, sealed, content } in seals {
        let (month, figures) = (sealed.month.to_string(), &sealed.figures);
        // A plain insert, so that a seal of another process is a conflict.
        transaction
            .prepare_cached(
                "INSERT INTO sealed_month (user_id, month, content, balance, seal, sealed_at) VALUES (?, ?, ?, ?, ?, ?)",
            )?
            .execute(params![
                user.as_str(),
                month,
                content,
                figures.balance.micros(),
                sealed.seal,
                at.timestamp_micros()
            ])?;
        transaction
            .prepare_cached(
                "INSERT OR REPLACE INTO sealed_account (user_id, month, sealed_until, version, balance, charged, \
                 given_back, given_back_count, seal) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
            )?
            .execute(params![
                user.as_str(),
                month,
                sealed.since.at.timestamp_micros(),
                sealed.version,
                figures.balance.micros(),
                figures.charged.micros(),
                figures.given_back.micros(),
                figures.given_back_count,
                sealed.seal
            ])?;
    }
    transaction.commit()
}

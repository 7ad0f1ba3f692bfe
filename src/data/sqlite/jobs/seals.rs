//! Seals of closed months, and the reads of the nightly audit.

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use rusqlite::{Connection, TransactionBehavior, params};
use sqlx::{Sqlite, Transaction, sqlite::SqliteRow};

use super::{
    audit::UNREADABLE,
    scope::{fetch, fetch_text},
};
use crate::{
    biz::{
        account::users::UserSpan,
        jobs::seals::{
            content::{HistoryRow, Kind},
            store::{Changed, HistoryPage, NewSeal, SealStore, Sealed, Since, StoredSeal, Unsealed},
        },
        values::{error::StoreError, ids::UserId},
    },
    data::{
        error::store_error,
        history::{self, Scope},
        rows::{account::user_of, audit::Books},
        sqlite::{SqliteStore, writer::writer_error},
    },
};

#[async_trait]
impl SealStore for SqliteStore {
    async fn changed_accounts(&self, users: &UserSpan) -> Result<Vec<Changed>, StoreError> {
        let scope = Scope::between(users.after(), users.last.as_str(), 0);
        let rows = fetch(&self.reader, history::CHANGED, &scope).await?;
        rows.iter().map(history::changed_of).collect()
    }

    async fn unsealed(&self, users: &[UserId], since: Since) -> Result<Unsealed, StoreError> {
        // With a write-ahead log, a read transaction sees one snapshot.
        let mut snapshot: Transaction<'_, Sqlite> = self.reader.begin().await.map_err(store_error)?;
        let scope = Scope::of_users(users, since);
        let mut books = Books::of_list(users);
        for (sql, note) in history::unsealed_books::<SqliteRow>() {
            books.note(&fetch(&mut *snapshot, sql, &scope).await?, note)?;
        }
        for (sql, note) in UNREADABLE {
            let sql = sql.replace("user_id BETWEEN ? AND ?", "user_id IN (SELECT value FROM json_each(?1))");
            books.note(&fetch_text(&mut *snapshot, sql, &scope).await?, *note)?;
        }
        let mut differing = Vec::new();
        for sql in history::differing() {
            for row in fetch(&mut *snapshot, sql, &scope).await? {
                differing.push(user_of(&row)?);
            }
        }
        snapshot.rollback().await.map_err(store_error)?;
        Ok(Unsealed { evidence: books.into_evidence(), differing })
    }

    async fn history(&self, kind: Kind, page: HistoryPage<'_>) -> Result<Vec<HistoryRow>, StoreError> {
        let rows = fetch(&self.reader, history::rows(kind), &Scope::of_page(page)).await?;
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

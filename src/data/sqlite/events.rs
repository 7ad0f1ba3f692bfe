//! Events, in the table `event`. There is one writer, so the order of `seq` is that of the commits.

use std::collections::BTreeSet;

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use rusqlite::{Connection, OptionalExtension, Transaction, TransactionBehavior, params};
use sqlx::QueryBuilder;
use uuid::Uuid;

use super::{
    SqliteStore,
    writer::{commit, found, writer_error},
};
use crate::{
    biz::{
        events::{
            DELETED_AT_ONCE, EventFeed, EventFilter, EventPage, NewEvent, PLACED_AT_ONCE, Position,
            closing::{ClosedMonths, closed_month},
        },
        values::{calendar::Month, error::StoreError, ids::UserId},
    },
    data::{
        error::{corrupt, store_error},
        row::Columns,
        rows::event::event_of,
    },
};

#[async_trait]
impl EventFeed for SqliteStore {
    async fn place_events(&self) -> Result<u32, StoreError> {
        // A feed without news takes no lock.
        let query = sqlx::query("SELECT 1 FROM event WHERE position IS NULL LIMIT 1");
        if query.fetch_optional(&self.reader).await.map_err(store_error)?.is_none() {
            return Ok(0);
        }
        self.writer.run(place).await
    }

    async fn placed_events(&self, filter: &EventFilter, after: Position, limit: u32) -> Result<EventPage, StoreError> {
        let bounds =
            "SELECT position, COALESCE((SELECT MIN(position) FROM event), position + 1) FROM event_feed WHERE id = 1";
        let bounds = sqlx::query(bounds).fetch_one(&self.reader).await.map_err(store_error)?;
        let range = filter.range(after, bounds.number(1)?, bounds.number(0)?);
        let (first, until) = (number_of(range.after), number_of(range.until));
        let mut query =
            QueryBuilder::new("SELECT position, event_id, type, user_id, data, created_at FROM event WHERE ");
        if let Some(user) = &filter.user {
            query.push("user_id = ").push_bind(user.as_str()).push(" AND ");
        }
        query.push("position > ").push_bind(first).push(" AND position <= ").push_bind(until);
        if !filter.types.is_empty() {
            let mut types = query.push(" AND type IN (").separated(", ");
            for kind in &filter.types {
                types.push_bind(kind.name());
            }
            query.push(")");
        }
        query.push(" ORDER BY position LIMIT ").push_bind(limit);
        let rows = query.build().fetch_all(&self.reader).await.map_err(store_error)?;
        let events = rows.iter().map(event_of).collect::<Result<_, _>>()?;
        Ok(range.page(events, limit))
    }

    async fn delete_events(&self, before: DateTime<Utc>) -> Result<u32, StoreError> {
        let delete = move |connection: &mut Connection| {
            let delete = "DELETE FROM event WHERE created_at < ?1 \
                 AND seq IN (SELECT seq FROM event ORDER BY seq LIMIT ?2)";
            let deleted = connection.execute(delete, params![before.timestamp_micros(), DELETED_AT_ONCE]);
            Ok(u32::try_from(deleted.map_err(writer_error)?).unwrap_or(u32::MAX))
        };
        self.writer.run_and_rest(delete).await
    }

    async fn count_old_events(&self, before: DateTime<Utc>) -> Result<u64, StoreError> {
        let query = sqlx::query("SELECT COUNT(*) FROM event WHERE created_at < ?").bind(before.timestamp_micros());
        query.fetch_one(&self.reader).await.map_err(store_error)?.number(0)
    }
}

/// A position as SQLite stores it.
fn number_of(position: Position) -> i64 {
    i64::try_from(position).unwrap_or(i64::MAX)
}

fn place(connection: &mut Connection) -> Result<u32, StoreError> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate).map_err(writer_error)?;
    let placed = place_in(&transaction).map_err(writer_error)?;
    commit(transaction)?;
    Ok(placed)
}

fn place_in(transaction: &Transaction<'_>) -> rusqlite::Result<u32> {
    let mut find = transaction.prepare_cached("SELECT seq FROM event WHERE position IS NULL ORDER BY seq LIMIT ?")?;
    let seqs: Vec<i64> = find.query_map([PLACED_AT_ONCE], |row| row.get(0))?.collect::<Result<_, _>>()?;
    let mut position: i64 =
        transaction.query_row("SELECT position FROM event_feed WHERE id = 1", [], |row| row.get(0))?;
    let mut update = transaction.prepare_cached("UPDATE event SET position = ? WHERE seq = ?")?;
    for seq in &seqs {
        position += 1;
        update.execute([position, *seq])?;
    }
    transaction.execute("UPDATE event_feed SET position = ? WHERE id = 1", [position])?;
    Ok(u32::try_from(seqs.len()).unwrap_or(u32::MAX))
}

#[async_trait]
impl ClosedMonths for SqliteStore {
    async fn last_closed(&self) -> Result<Option<Month>, StoreError> {
        let query = sqlx::query("SELECT closed_month FROM event_feed WHERE id = 1");
        let row = query.fetch_one(&self.reader).await.map_err(store_error)?;
        row.optional_text(0)?.map(|month| month.parse().map_err(|_| corrupt("month"))).transpose()
    }

    async fn announce_closed(
        &self,
        before: Option<Month>,
        month: Month,
        at: DateTime<Utc>,
    ) -> Result<bool, StoreError> {
        let before = before.map(|month| month.to_string());
        let announce = move |connection: &mut Connection| {
            let transaction =
                connection.transaction_with_behavior(TransactionBehavior::Immediate).map_err(writer_error)?;
            let find = transaction.query_row("SELECT closed_month FROM event_feed WHERE id = 1", [], |row| row.get(0));
            let last: Option<String> = find.optional().map_err(writer_error)?.flatten();
            if last != before {
                return Ok(false);
            }
            let update = "UPDATE event_feed SET closed_month = ? WHERE id = 1";
            transaction.execute(update, [month.to_string()]).map_err(writer_error)?;
            if before.is_some() {
                insert(&transaction, &[closed_month(month, at)]).map_err(writer_error)?;
            }
            commit(transaction)?;
            Ok(before.is_some())
        };
        self.writer.run(announce).await
    }
}

/// Which of these events exist.
pub(super) fn stored(transaction: &Transaction<'_>, ids: &BTreeSet<Uuid>) -> Result<BTreeSet<Uuid>, StoreError> {
    let mut all = BTreeSet::new();
    for id in ids {
        let mut find = transaction.prepare_cached("SELECT 1 FROM event WHERE event_id = ?").map_err(writer_error)?;
        if found(&mut find, [id.to_string()], |_| Ok(()))?.is_some() {
            all.insert(*id);
        }
    }
    Ok(all)
}

/// Inserts events, in this order.
pub(super) fn insert(transaction: &Transaction<'_>, events: &[NewEvent]) -> rusqlite::Result<()> {
    for event in events {
        let mut insert = transaction
            .prepare_cached("INSERT INTO event (event_id, type, user_id, data, created_at) VALUES (?, ?, ?, ?, ?)")?;
        insert.execute(params![
            event.id().to_string(),
            event.kind.name(),
            event.user.as_ref().map(UserId::as_str),
            event.data(),
            event.at.timestamp_micros(),
        ])?;
    }
    Ok(())
}

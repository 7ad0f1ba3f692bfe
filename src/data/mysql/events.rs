//! Events, in the table `event`. Their positions are given under the lock of the row of `event_feed`.

use std::{
    collections::BTreeSet,
    sync::atomic::{AtomicU32, Ordering::Relaxed},
    time::{Duration, Instant},
};

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use sqlx::QueryBuilder;
use uuid::Uuid;

use super::{
    MySqlStore,
    statement::{LockMode, Row as StatementRow, Statement},
};
use crate::{
    biz::{
        events::{
            DELETED_AT_ONCE, EventFeed, EventFilter, EventPage, EventType, NewEvent, PLACED_AT_ONCE, Position,
            closing::{ClosedMonths, closed_month},
        },
        values::{calendar::Month, error::StoreError, ids::UserId},
    },
    data::{error::corrupt, row::Columns, rows::event::event_of},
};

/// Longest pause after a transaction that deletes.
const LONGEST_REST: Duration = Duration::from_secs(1);

#[async_trait]
impl EventFeed for MySqlStore {
    async fn place_events(&self) -> Result<u32, StoreError> {
        // A feed without news takes no lock.
        let query = sqlx::query("SELECT 1 FROM event WHERE position IS NULL LIMIT 1");
        if self.reader.fetch_all(query).await?.is_empty() {
            return Ok(0);
        }
        let mut read = Statement::beginning(LockMode::Wait);
        read.push("SELECT position FROM event_feed WHERE id = 1").push(LockMode::Wait.suffix());
        // A plain read, because a locking one would block the inserts of charges. It begins behind the lock, and
        // sees all that the last holder committed.
        read.push("SELECT seq FROM event WHERE position IS NULL ORDER BY seq LIMIT ").number(PLACED_AT_ONCE).push("; ");
        let placed = AtomicU32::new(0);
        let change = |sets: &[Vec<sqlx::mysql::MySqlRow>]| {
            let [.., counter, found] = sets else { return Err(StoreError::Failed("a statement had no result".into())) };
            let first: u64 = counter.first().ok_or_else(|| corrupt("event_feed"))?.number(0)?;
            let seqs: Vec<u64> = found.iter().map(|row| row.number(0)).collect::<Result<_, _>>()?;
            placed.store(u32::try_from(seqs.len()).unwrap_or(u32::MAX), Relaxed);
            if seqs.is_empty() {
                return Ok(None);
            }
            Ok(Some(Statement::committing(LockMode::Wait, |packet| place(packet, first, &seqs))))
        };
        self.change_sets(read, change).await?;
        Ok(placed.into_inner())
    }

    async fn placed_events(&self, filter: &EventFilter, after: Position, limit: u32) -> Result<EventPage, StoreError> {
        let bounds =
            "SELECT position, COALESCE((SELECT MIN(position) FROM event), position + 1) FROM event_feed WHERE id = 1";
        let rows = self.reader.fetch_all(sqlx::query(bounds)).await?;
        let bounds = rows.first().ok_or_else(|| corrupt("event_feed"))?;
        let range = filter.range(after, bounds.number(1)?, bounds.number(0)?);
        let mut query = QueryBuilder::new("SELECT position, event_id, type, user_id, data, created_at FROM event");
        if let Some(user) = &filter.user {
            query.push(" FORCE INDEX (idx_user) WHERE user_id = ").push_bind(user.as_str()).push(" AND ");
        } else {
            query.push(" FORCE INDEX (uk_position) WHERE ");
        }
        query.push("position > ").push_bind(range.after).push(" AND position <= ").push_bind(range.until);
        if !filter.types.is_empty() {
            let mut types = query.push(" AND type IN (").separated(", ");
            for kind in &filter.types {
                types.push_bind(kind.name());
            }
            query.push(")");
        }
        query.push(" ORDER BY position LIMIT ").push_bind(limit);
        let rows = self.reader.fetch_all(query.build()).await?;
        let events = rows.iter().map(event_of).collect::<Result<_, _>>()?;
        Ok(range.page(events, limit))
    }

    async fn delete_events(&self, before: DateTime<Utc>) -> Result<u32, StoreError> {
        let begun = Instant::now();
        let oldest = sqlx::query("SELECT seq, created_at FROM event ORDER BY seq LIMIT ?").bind(DELETED_AT_ONCE);
        let rows = self.reader.fetch_all(oldest).await?;
        let mut old: Vec<u64> = Vec::new();
        for row in &rows {
            if row.time(1)? < before {
                old.push(row.number(0)?);
            }
        }
        if old.is_empty() {
            return Ok(0);
        }
        // One statement a row: for a list the optimizer may choose a scan, which waits for inserts.
        let delete = Statement::transaction(|statement| {
            for seq in &old {
                statement.push("DELETE FROM event WHERE seq = ").number(*seq).push("; ");
            }
        });
        self.waiter.run(delete).await?;
        tokio::time::sleep(begun.elapsed().min(LONGEST_REST)).await;
        Ok(u32::try_from(old.len()).unwrap_or(u32::MAX))
    }

    async fn count_old_events(&self, before: DateTime<Utc>) -> Result<u64, StoreError> {
        let query = sqlx::query("SELECT COUNT(*) FROM event WHERE created_at < ?").bind(before.naive_utc());
        self.reader.fetch_all(query).await?.first().map_or(Ok(0), |row| row.number(0))
    }
}

fn place(packet: &mut Statement, last: Position, seqs: &[u64]) {
    let mut position = last;
    // One statement a row: for a list the optimizer may choose a scan, which waits for inserts.
    for seq in seqs {
        position += 1;
        packet.push("UPDATE event SET position = ").number(position).push(" WHERE seq = ").number(*seq);
        packet.push(" AND position IS NULL; ");
    }
    packet.push("UPDATE event_feed SET position = ").number(position).push(" WHERE id = 1; ");
}

#[async_trait]
impl ClosedMonths for MySqlStore {
    async fn last_closed(&self) -> Result<Option<Month>, StoreError> {
        let query = sqlx::query("SELECT closed_month FROM event_feed WHERE id = 1");
        let rows = self.reader.fetch_all(query).await?;
        month_of(rows.first().ok_or_else(|| corrupt("event_feed"))?)
    }

    async fn announce_closed(
        &self,
        before: Option<Month>,
        month: Month,
        at: DateTime<Utc>,
    ) -> Result<bool, StoreError> {
        let mut read = Statement::beginning(LockMode::Wait);
        read.push("SELECT closed_month FROM event_feed WHERE id = 1").push(LockMode::Wait.suffix());
        let announced = AtomicU32::new(0);
        let change = |rows: &[sqlx::mysql::MySqlRow]| {
            if month_of(rows.first().ok_or_else(|| corrupt("event_feed"))?)? != before {
                announced.store(0, Relaxed);
                return Ok(None);
            }
            announced.store(u32::from(before.is_some()), Relaxed);
            Ok(Some(Statement::committing(LockMode::Wait, |packet| {
                packet.push("UPDATE event_feed SET closed_month = ").texts([month.to_string().as_str()]);
                packet.push(" WHERE id = 1; ");
                if before.is_some() {
                    insert(packet, &[closed_month(month, at)]);
                }
            })))
        };
        self.change_rows(read, change).await?;
        Ok(announced.into_inner() > 0)
    }
}

fn month_of(row: &impl Columns) -> Result<Option<Month>, StoreError> {
    row.optional_text(0)?.map(|month| month.parse().map_err(|_| corrupt("month"))).transpose()
}

const INSERT: &str = "INSERT INTO event (event_id, type, user_id, data, created_at) ";

/// Inserts events, in this order.
pub(super) fn insert(statement: &mut Statement, events: &[NewEvent]) {
    statement.push(INSERT).push("VALUES ").rows(events, values).push("; ");
}

/// Reads which of these events exist.
pub(super) fn read_ids(statement: &mut Statement, ids: &BTreeSet<Uuid>) {
    let ids: Vec<String> = ids.iter().map(Uuid::to_string).collect();
    statement.push("SELECT event_id FROM event WHERE event_id IN (").texts(ids.iter().map(String::as_str)).push("); ");
}

/// Inserts the event of a report if it is the first one of its payment. The row of the payment is locked.
pub(super) fn insert_if_first_report(statement: &mut Statement, event: &NewEvent, payment: &str) {
    debug_assert_eq!(event.kind, EventType::PaymentUnapplied);
    statement.push(INSERT).push("SELECT ").row(|row| values(row, event));
    statement.push(" FROM unapplied_payment WHERE times_seen = 1 AND payment_order_id = ").texts([payment]).push("; ");
}

fn values(row: &mut StatementRow<'_>, event: &NewEvent) {
    row.text(&event.id().to_string())
        .text(event.kind.name())
        .optional(event.user.as_ref().map(UserId::as_str), StatementRow::text)
        .text(&event.data())
        .instant(event.at);
}

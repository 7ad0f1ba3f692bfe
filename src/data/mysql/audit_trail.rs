//! The audit trail, in the table `audit_event`. Rows are inserted in the transaction of their change,
//! and never updated or deleted.

use std::{
    collections::BTreeSet,
    sync::{Mutex, PoisonError},
};

use async_trait::async_trait;
use futures_util::FutureExt;
use sqlx::{QueryBuilder, mysql::MySqlRow};
use uuid::Uuid;

use super::{
    MySqlStore,
    reports::LAST,
    statement::{LockMode, Row as StatementRow, Statement},
    transaction::BEGINNING,
};
use crate::{
    biz::{
        audit_trail::{AuditEvent, AuditFilter, AuditTrail},
        values::{
            error::{self, StoreError},
            ids::UserId,
            paging::Cursor,
        },
    },
    data::rows::audit_trail::{COLUMNS, event_of},
};

#[async_trait]
impl AuditTrail for MySqlStore {
    async fn audit_events(
        &self,
        filter: &AuditFilter,
        after: Option<&Cursor>,
        limit: u32,
    ) -> Result<Vec<AuditEvent>, StoreError> {
        let mut query = QueryBuilder::new("SELECT ");
        let (after, after_id) = after.map_or((LAST, ""), |cursor| (cursor.created_at, cursor.id.as_str()));
        // The first condition limits the range of the key; the second one is exact.
        query.push(COLUMNS).push(" FROM audit_event WHERE created_at <= ").push_bind(after.naive_utc());
        query.push(" AND (created_at < ").push_bind(after.naive_utc());
        query.push(" OR event_id < ").push_bind(after_id).push(")");
        if let Some((from, before)) = filter.between {
            query.push(" AND created_at >= ").push_bind(from.naive_utc());
            query.push(" AND created_at < ").push_bind(before.naive_utc());
        }
        if let Some(user) = &filter.user {
            query.push(" AND user_id = ").push_bind(user.as_str());
        }
        if let Some(rpc) = filter.rpc {
            query.push(" AND rpc = ").push_bind(rpc);
        }
        if let Some(caller) = &filter.caller {
            query.push(" AND caller = ").push_bind(caller);
        }
        query.push(" ORDER BY created_at DESC, event_id DESC LIMIT ").push_bind(limit);
        self.reader.fetch_all(query.build()).await?.iter().map(event_of).collect()
    }

    async fn audit_event(&self, id: Uuid) -> Result<Option<AuditEvent>, StoreError> {
        let mut query = QueryBuilder::new("SELECT ");
        query.push(COLUMNS).push(" FROM audit_event WHERE event_id = ").push_bind(id.to_string().into_bytes());
        self.reader.fetch_all(query.build()).await?.first().map(event_of).transpose()
    }
}

/// Attempts to change a row. A missing row can't be locked, so another process may insert it first.
const ATTEMPTS: u32 = 3;

impl MySqlStore {
    /// Changes one row together with its event, in two round trips. `read` begins a transaction, and
    /// locks and reads the row. `change` returns the packet that writes and commits; `None` if
    /// nothing changes.
    pub(super) async fn change_row(
        &self,
        read: Statement,
        change: impl Fn(Option<&MySqlRow>) -> Result<Option<Statement>, StoreError>,
    ) -> Result<(), StoreError> {
        self.change_rows(read, |rows| change(rows.first())).await
    }

    /// As [`Self::change_row`], for a change that leaves an event. The row is the one of the last statement of `read`,
    /// which may write before. `decide` returns the event, `None` if nothing changes, or the refusal; `write` adds
    /// the rows of the change to the packet.
    pub(super) async fn change_audited<T>(
        &self,
        read: Statement,
        stored: impl Fn(&MySqlRow) -> Result<T, StoreError>,
        decide: impl Fn(Option<&T>) -> error::Result<Option<AuditEvent>>,
        write: impl Fn(&mut Statement, Option<&T>),
    ) -> Result<error::Result<()>, StoreError> {
        let refused = Mutex::new(None);
        self.change_last_rows(read, |rows| {
            let stored = rows.first().map(&stored).transpose()?;
            match decide(stored.as_ref()) {
                Ok(event) => Ok(event.map(|event| {
                    Statement::committing(LockMode::Wait, |packet| {
                        write(packet, stored.as_ref());
                        insert(packet, &[event]);
                    })
                })),
                Err(why) => {
                    *refused.lock().unwrap_or_else(PoisonError::into_inner) = Some(why);
                    Ok(None)
                }
            }
        })
        .await?;
        Ok(refused.into_inner().unwrap_or_else(PoisonError::into_inner).map_or(Ok(()), Err))
    }

    /// As [`Self::change_row`], for a change that depends on several rows.
    pub(super) async fn change_rows(
        &self,
        read: Statement,
        change: impl Fn(&[MySqlRow]) -> Result<Option<Statement>, StoreError>,
    ) -> Result<(), StoreError> {
        self.change_sets(read, move |sets| change(sets.get(BEGINNING).map_or(&[], Vec::as_slice))).await
    }

    /// As [`Self::change_rows`], with the rows of the last statement of `read`, which may write before.
    pub(super) async fn change_last_rows(
        &self,
        read: Statement,
        change: impl Fn(&[MySqlRow]) -> Result<Option<Statement>, StoreError>,
    ) -> Result<(), StoreError> {
        self.change_sets(read, move |sets| change(sets.last().map_or(&[], Vec::as_slice))).await
    }

    /// As [`Self::change_rows`], with the rows of each statement of `read`.
    pub(super) async fn change_sets(
        &self,
        read: Statement,
        change: impl Fn(&[Vec<MySqlRow>]) -> Result<Option<Statement>, StoreError>,
    ) -> Result<(), StoreError> {
        for _ in 0..ATTEMPTS {
            let begun = self.waiter.take_with(|connection| read.clone().fetch(connection).boxed());
            let (mut connection, sets) = begun.await?;
            let packet = change(&sets)?;
            let (is_change, is_committed) = match packet {
                Some(packet) => (true, packet.execute_unless_taken(&mut connection).await?),
                None => (false, false),
            };
            if !is_committed {
                Statement::rolling_back().execute(&mut connection).await?;
            }
            connection.give_back();
            if is_committed || !is_change {
                return Ok(());
            }
        }
        Err(StoreError::Conflict("another process inserts the same row".into()))
    }
}

/// Inserts events.
pub(super) fn insert(statement: &mut Statement, events: &[AuditEvent]) {
    statement.push("INSERT INTO audit_event (").push(COLUMNS).push(") VALUES ").rows(events, values).push("; ");
}

/// Inserts the event of a new account, if `account` is the id of the row of the account. It is not if
/// another transaction opened the account first.
pub(super) fn insert_with_account(statement: &mut Statement, event: &AuditEvent, user: &UserId, account: Uuid) {
    statement.push("INSERT INTO audit_event (").push(COLUMNS).push(") SELECT ").row(|row| values(row, event));
    statement.push(" FROM user_balance WHERE user_id = ").texts([user.as_str()]);
    statement.push(" AND user_balance_id = ").texts([account.to_string().as_str()]).push("; ");
}

fn values(row: &mut StatementRow<'_>, event: &AuditEvent) {
    row.text(&event.id.to_string())
        .instant(event.at)
        .text(&event.actor.caller)
        .text(&event.actor.role)
        .text(&event.actor.request_id)
        .text(&event.rpc)
        .optional(event.user.as_ref().map(UserId::as_str), StatementRow::text)
        .optional(event.before.as_deref(), StatementRow::text)
        .optional(event.after.as_deref(), StatementRow::text)
        .text(&event.reason);
}

/// Finds the stored ones of some events.
pub(super) fn read_ids(statement: &mut Statement, ids: &BTreeSet<Uuid>) {
    let ids: Vec<String> = ids.iter().map(Uuid::to_string).collect();
    statement
        .push("SELECT event_id FROM audit_event WHERE event_id IN (")
        .texts(ids.iter().map(String::as_str))
        .push("); ");
}

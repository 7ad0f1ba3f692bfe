//! The audit trail, in the table `audit_event`. Rows are inserted in the transaction of their change,
//! and never updated or deleted.

use std::collections::BTreeSet;

use async_trait::async_trait;
use rusqlite::{Transaction, params};
use sqlx::QueryBuilder;
use uuid::Uuid;

use super::{
    SqliteStore,
    writer::{found, writer_error},
};
use crate::{
    biz::{
        audit_trail::{AuditEvent, AuditFilter, AuditTrail},
        values::{error::StoreError, ids::UserId, paging::Cursor},
    },
    data::{
        error::store_error,
        rows::audit_trail::{COLUMNS, event_of},
    },
};

#[async_trait]
impl AuditTrail for SqliteStore {
    async fn audit_events(
        &self,
        filter: &AuditFilter,
        after: Option<&Cursor>,
        limit: u32,
    ) -> Result<Vec<AuditEvent>, StoreError> {
        let (after, after_id) =
            after.map_or((i64::MAX, ""), |cursor| (cursor.created_at.timestamp_micros(), cursor.id.as_str()));
        let mut query = QueryBuilder::new("SELECT ");
        query.push(COLUMNS).push(" FROM audit_event WHERE (created_at, event_id) < (");
        query.push_bind(after).push(", ").push_bind(after_id).push(")");
        if let Some((from, before)) = filter.between {
            query.push(" AND created_at >= ").push_bind(from.timestamp_micros());
            query.push(" AND created_at < ").push_bind(before.timestamp_micros());
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
        let rows = query.build().fetch_all(&self.reader).await.map_err(store_error)?;
        rows.iter().map(event_of).collect()
    }

    async fn audit_event(&self, id: Uuid) -> Result<Option<AuditEvent>, StoreError> {
        let mut query = QueryBuilder::new("SELECT ");
        query.push(COLUMNS).push(" FROM audit_event WHERE event_id = ").push_bind(id.to_string());
        let row = query.build().fetch_optional(&self.reader).await.map_err(store_error)?;
        row.as_ref().map(event_of).transpose()
    }
}

pub(super) fn insert(transaction: &Transaction<'_>, events: &[AuditEvent]) -> rusqlite::Result<()> {
    for event in events {
        let mut insert = transaction.prepare_cached(
            "INSERT INTO audit_event \
             (event_id, created_at, caller, role, request_id, rpc, user_id, state_before, state_after, reason) \
             VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        )?;
        insert.execute(params![
            event.id.to_string(),
            event.at.timestamp_micros(),
            &*event.actor.caller,
            &*event.actor.role,
            &*event.actor.request_id,
            &*event.rpc,
            event.user.as_ref().map(UserId::as_str),
            event.before,
            event.after,
            event.reason,
        ])?;
    }
    Ok(())
}

/// The stored ones of some events.
pub(super) fn stored(transaction: &Transaction<'_>, ids: &BTreeSet<Uuid>) -> Result<BTreeSet<Uuid>, StoreError> {
    let mut all = BTreeSet::new();
    for id in ids {
        let mut find =
            transaction.prepare_cached("SELECT 1 FROM audit_event WHERE event_id = ?").map_err(writer_error)?;
        if found(&mut find, [id.to_string()], |_| Ok(()))?.is_some() {
            all.insert(*id);
        }
    }
    Ok(all)
}

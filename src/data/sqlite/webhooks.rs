//! Webhooks, in the table `webhook`, as operators change and read them.

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use rusqlite::{Connection, Transaction, TransactionBehavior, params};
use sqlx::QueryBuilder;
use uuid::Uuid;

use super::{
    SqliteStore, audit_trail,
    writer::{commit, found, writer_error},
};
use crate::{
    biz::{
        audit_trail::AuditedCall,
        events::{Event, Position},
        jobs::ops_stats::MAX_UNPLACED,
        values::{error::StoreError, ids::WebhookId, invalid::Invalid},
        webhooks::{
            Webhook,
            changes::{self, Change, Expected, PutWebhook, Written},
            delivery::{Attempt, Resend},
            store::{MAX_RESENDS, Put, RetrySum, Unplaced, WebhookStore, Webhooks},
        },
    },
    data::{
        error::{corrupt, store_error},
        row::Columns,
        rows::{
            event::event_of,
            webhook::{
                ATTEMPT, FAILED_USERS, RESEND, RETRY_SUMS, UNPLACED, WEBHOOK, attempt_of, failed_users_of,
                retry_sum_of, stored_secrets, unplaced_of, webhook_of,
            },
        },
    },
};

#[async_trait]
impl WebhookStore for SqliteStore {
    async fn put_webhook(
        &self,
        put: &PutWebhook,
        call: &AuditedCall,
        now: DateTime<Utc>,
    ) -> Result<Result<Put, Invalid>, StoreError> {
        let (put, call) = (put.clone(), call.clone());
        let change = move |connection: &mut Connection| {
            let transaction = begin(connection)?;
            let stored = stored(&transaction, &put.id)?;
            let others: usize = transaction
                .query_row("SELECT COUNT(*) FROM webhook WHERE webhook_id <> ?", [put.id.as_str()], |row| row.get(0))
                .map_err(writer_error)?;
            match put.decide(stored.as_ref(), others, &call, now) {
                Change::Refused(why) => Ok(Err(why)),
                Change::Unchanged => {
                    let webhook = stored.ok_or_else(|| corrupt("webhook"))?;
                    Ok(Ok(Put { webhook, changed: false, uses_fresh: false }))
                }
                Change::Write(written) => {
                    write(&transaction, &written, stored.is_some(), now).map_err(writer_error)?;
                    commit(transaction)?;
                    Ok(Ok(Put { webhook: written.webhook, changed: true, uses_fresh: written.uses_fresh }))
                }
            }
        };
        self.writer.run(change).await
    }

    async fn delete_webhook(
        &self,
        (id, expected): (&WebhookId, Expected),
        call: &AuditedCall,
        now: DateTime<Utc>,
    ) -> Result<Result<bool, Invalid>, StoreError> {
        let (id, call) = (id.clone(), call.clone());
        let delete = move |connection: &mut Connection| {
            let transaction = begin(connection)?;
            let Some(webhook) = stored(&transaction, &id)? else { return Ok(Ok(false)) };
            if let Err(refused) = expected.check(Some(&webhook)) {
                return Ok(Err(refused));
            }
            for table in ["webhook", "webhook_retry", "webhook_attempt", "webhook_resend"] {
                let delete = format!("DELETE FROM {table} WHERE webhook_id = ?");
                transaction.execute(&delete, [id.as_str()]).map_err(writer_error)?;
            }
            let event = call.event(now, None, Some(changes::state(&webhook)), None);
            audit_trail::insert(&transaction, &[event]).map_err(writer_error)?;
            commit(transaction)?;
            Ok(Ok(true))
        };
        self.writer.run(delete).await
    }

    async fn restart_webhook(
        &self,
        id: &WebhookId,
        call: &AuditedCall,
        now: DateTime<Utc>,
    ) -> Result<bool, StoreError> {
        let (id, call) = (id.clone(), call.clone());
        let restart = move |connection: &mut Connection| {
            let transaction = begin(connection)?;
            let Some(old) = stored(&transaction, &id)? else { return Ok(false) };
            let mut webhook = old.clone();
            changes::restart(&mut webhook);
            let event = call.event(now, None, Some(changes::state(&old)), Some(changes::state(&webhook)));
            let written = Written { webhook, event, uses_fresh: false, restarts: true };
            write(&transaction, &written, true, now).map_err(writer_error)?;
            commit(transaction)?;
            Ok(true)
        };
        self.writer.run(restart).await
    }

    async fn add_resend(
        &self,
        resend: &Resend,
        call: &AuditedCall,
        now: DateTime<Utc>,
    ) -> Result<Result<(), Invalid>, StoreError> {
        let (resend, call) = (resend.clone(), call.clone());
        let add = move |connection: &mut Connection| {
            let transaction = begin(connection)?;
            let is_there = stored(&transaction, &resend.webhook)?.is_some();
            let count = "SELECT COUNT(*) FROM webhook_resend WHERE webhook_id = ?";
            let waiting: u32 =
                transaction.query_row(count, [resend.webhook.as_str()], |row| row.get(0)).map_err(writer_error)?;
            if let Err(refused) = changes::may_resend(is_there, waiting, MAX_RESENDS) {
                return Ok(Err(refused));
            }
            insert_resend(&transaction, &resend).map_err(writer_error)?;
            let event = changes::resent(&resend, &call, now);
            audit_trail::insert(&transaction, &[event]).map_err(writer_error)?;
            commit(transaction)?;
            Ok(Ok(()))
        };
        self.writer.run(add).await
    }

    async fn event_by_id(&self, id: Uuid) -> Result<Option<Event>, StoreError> {
        let find = "SELECT COALESCE(position, 0), event_id, type, user_id, data, created_at FROM event \
             WHERE event_id = ?";
        let row = sqlx::query(find).bind(id.to_string()).fetch_optional(&self.reader).await.map_err(store_error)?;
        row.as_ref().map(event_of).transpose()
    }

    async fn webhooks(&self) -> Result<Webhooks, StoreError> {
        let mut query = QueryBuilder::new("SELECT ");
        query.push(WEBHOOK).push(" FROM webhook ORDER BY webhook_id");
        let rows = query.build().fetch_all(&self.reader).await.map_err(store_error)?;
        let last = sqlx::query("SELECT position FROM event_feed WHERE id = 1").fetch_one(&self.reader);
        Ok(Webhooks {
            webhooks: rows.iter().map(webhook_of).collect::<Result<_, _>>()?,
            last: last.await.map_err(store_error)?.number(0)?,
        })
    }

    async fn attempts(
        &self,
        id: &WebhookId,
        is_accepted: Option<bool>,
        limit: u32,
    ) -> Result<Vec<Attempt>, StoreError> {
        let mut query = QueryBuilder::new("SELECT ");
        query.push(ATTEMPT).push(" FROM webhook_attempt WHERE webhook_id = ").push_bind(id.as_str());
        if let Some(is_accepted) = is_accepted {
            query.push(" AND is_accepted = ").push_bind(is_accepted);
        }
        query.push(" ORDER BY number DESC LIMIT ").push_bind(limit);
        let rows = query.build().fetch_all(&self.reader).await.map_err(store_error)?;
        rows.iter().map(attempt_of).collect()
    }

    async fn retry_sums(&self) -> Result<Vec<RetrySum>, StoreError> {
        let rows = sqlx::query(RETRY_SUMS).fetch_all(&self.reader).await.map_err(store_error)?;
        rows.iter().map(retry_sum_of).collect()
    }

    async fn failed_users(&self) -> Result<Vec<(WebhookId, u64)>, StoreError> {
        let rows = sqlx::query(FAILED_USERS).fetch_all(&self.reader).await.map_err(store_error)?;
        rows.iter().map(failed_users_of).collect()
    }

    async fn time_behind(&self, position: Position) -> Result<Option<DateTime<Utc>>, StoreError> {
        let first = "SELECT created_at FROM event WHERE position > ? ORDER BY position LIMIT 1";
        let position = i64::try_from(position).unwrap_or(i64::MAX);
        let row = sqlx::query(first).bind(position).fetch_optional(&self.reader).await.map_err(store_error)?;
        row.as_ref().map(|row| row.time(0)).transpose()
    }

    async fn unplaced(&self) -> Result<Unplaced, StoreError> {
        unplaced_of(&sqlx::query(UNPLACED).bind(MAX_UNPLACED).fetch_one(&self.reader).await.map_err(store_error)?)
    }
}

pub(super) fn begin(connection: &mut Connection) -> Result<Transaction<'_>, StoreError> {
    connection.transaction_with_behavior(TransactionBehavior::Immediate).map_err(writer_error)
}

fn stored(transaction: &Transaction<'_>, id: &WebhookId) -> Result<Option<Webhook>, StoreError> {
    let select = format!("SELECT {WEBHOOK} FROM webhook WHERE webhook_id = ?");
    let mut find = transaction.prepare(&select).map_err(writer_error)?;
    found(&mut find, [id.as_str()], |row| webhook_of(row))
}

/// Writes a webhook and its event. It leaves the progress to the deliverer, but for a restart.
fn write(transaction: &Transaction<'_>, written: &Written, exists: bool, now: DateTime<Utc>) -> rusqlite::Result<()> {
    let Written { webhook, event, restarts, .. } = written;
    let (id, secrets) = (webhook.id.as_str(), stored_secrets(&webhook.secrets));
    let (types, updated_at) = (webhook.types.stored(), webhook.updated_at.timestamp_micros());
    if exists {
        transaction.execute(
            "UPDATE webhook SET url = ?, types = ?, is_active = ?, secrets = ?, restarts = ?, updated_at = ? \
             WHERE webhook_id = ?",
            params![webhook.url.as_str(), types, webhook.is_active, secrets, webhook.restarts, updated_at, id],
        )?;
    } else {
        // It begins behind the last position of the feed.
        transaction.execute(
            "INSERT INTO webhook (webhook_id, url, types, is_active, secrets, created_at, updated_at, position) \
             SELECT ?, ?, ?, ?, ?, ?, ?, position FROM event_feed WHERE id = 1",
            params![
                id,
                webhook.url.as_str(),
                types,
                webhook.is_active,
                secrets,
                webhook.created_at.timestamp_micros(),
                updated_at
            ],
        )?;
    }
    if *restarts {
        let end = "UPDATE webhook SET failures = 0, failing_since = NULL, failed_at = NULL, reason = NULL \
             WHERE webhook_id = ?";
        transaction.execute(end, [id])?;
        let retries = "UPDATE webhook_retry SET attempts = 0, first_at = NULL, failed_at = NULL, next_at = ? \
             WHERE webhook_id = ?";
        transaction.execute(retries, params![now.timestamp_micros(), id])?;
    }
    audit_trail::insert(transaction, std::slice::from_ref(event))
}

fn insert_resend(transaction: &Transaction<'_>, resend: &Resend) -> rusqlite::Result<usize> {
    let message = &resend.message;
    transaction.execute(
        &format!("INSERT INTO webhook_resend ({RESEND}) VALUES (?, ?, ?, ?, ?, ?, ?, ?)"),
        params![
            resend.webhook.as_str(),
            resend.id.to_string(),
            message.id.to_string(),
            &*message.kind,
            message.data,
            message.at.timestamp_micros(),
            message.trace.as_ref().map(|trace| &trace.parent),
            message.trace.as_ref().and_then(|trace| trace.state.as_ref()),
        ],
    )
}

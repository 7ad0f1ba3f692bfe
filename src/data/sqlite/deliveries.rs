//! The progress of webhooks: `webhook_retry`, `webhook_attempt`, `webhook_resend`, and columns of `webhook`.

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use rusqlite::{Connection, OptionalExtension, Transaction, params};
use sqlx::QueryBuilder;

use super::{
    SqliteStore,
    jobs::runs::NOW,
    webhooks::begin,
    writer::{commit, writer_error},
};
use crate::{
    biz::{
        events::{Event, Position},
        jobs::runs::LEASE,
        values::{
            error::StoreError,
            ids::{UserId, WebhookId},
        },
        webhooks::{
            Types, Webhook,
            delivery::{OrderKey, Resend, StoredRetry},
            secret::SealedSecret,
            store::{ALL_RESENDS, DeliveryStore, Holder, SavedWebhook},
        },
    },
    data::{
        error::store_error,
        rows::{
            event::event_of,
            webhook::{RESEND, RETRY, resend_of, retry_of, stored_key, stored_secrets},
        },
    },
};

#[async_trait]
impl DeliveryStore for SqliteStore {
    async fn resends(&self) -> Result<Vec<Resend>, StoreError> {
        let mut query = QueryBuilder::new("SELECT ");
        query.push(RESEND).push(" FROM webhook_resend ORDER BY webhook_id, resend_id LIMIT ").push_bind(ALL_RESENDS);
        let rows = query.build().fetch_all(&self.reader).await.map_err(store_error)?;
        rows.iter().map(resend_of).collect()
    }

    async fn retries(&self, id: &WebhookId) -> Result<Vec<StoredRetry>, StoreError> {
        let mut query = QueryBuilder::new("SELECT ");
        query.push(RETRY).push(" FROM webhook_retry WHERE webhook_id = ").push_bind(id.as_str());
        let rows = query.build().fetch_all(&self.reader).await.map_err(store_error)?;
        rows.iter().map(retry_of).collect()
    }

    async fn events_of(
        &self,
        key: &OrderKey,
        types: &Types,
        (after, until): (Position, Position),
        limit: u32,
    ) -> Result<Vec<Event>, StoreError> {
        let stored = |position| i64::try_from(position).unwrap_or(i64::MAX);
        let mut query = QueryBuilder::new(
            "SELECT position, event_id, type, user_id, data, created_at FROM event WHERE user_id IS ",
        );
        query.push_bind(key.as_ref().map(UserId::as_str));
        query.push(" AND position > ").push_bind(stored(after)).push(" AND position <= ").push_bind(stored(until));
        if let Types::Some(types) = types {
            let mut names = query.push(" AND type IN (").separated(", ");
            for kind in types {
                names.push_bind(kind.name());
            }
            query.push(")");
        }
        query.push(" ORDER BY position LIMIT ").push_bind(limit);
        let rows = query.build().fetch_all(&self.reader).await.map_err(store_error)?;
        rows.iter().map(event_of).collect()
    }

    async fn seal_again(&self, webhook: &Webhook, secrets: &[SealedSecret]) -> Result<bool, StoreError> {
        let (id, old, new) = (webhook.id.clone(), stored_secrets(&webhook.secrets), stored_secrets(secrets));
        let seal = move |connection: &mut Connection| {
            let seal = "UPDATE webhook SET secrets = ? WHERE webhook_id = ? AND secrets = ?";
            Ok(connection.execute(seal, params![new, id.as_str(), old]).map_err(writer_error)? > 0)
        };
        self.writer.run(seal).await
    }

    async fn save_deliveries(&self, holder: &Holder, changes: &[SavedWebhook]) -> Result<bool, StoreError> {
        let (holder, changes) = (holder.clone(), changes.to_vec());
        let save = move |connection: &mut Connection| {
            let transaction = begin(connection)?;
            let renew =
                format!("UPDATE job_lease SET ends_at = {NOW} + ? WHERE job = ? AND owner = ? AND ends_at > {NOW}");
            let renewed = transaction
                .execute(&renew, params![LEASE.as_micros() as i64, holder.job, holder.owner])
                .map_err(writer_error)?;
            if renewed == 0 {
                return Ok(false);
            }
            for change in &changes {
                save(&transaction, change).map_err(writer_error)?;
            }
            commit(transaction)?;
            Ok(true)
        };
        self.writer.run(save).await
    }
}

fn micros(at: Option<DateTime<Utc>>) -> Option<i64> {
    at.map(|at| at.timestamp_micros())
}

/// Saves the changes of a webhook, if it is there.
fn save(transaction: &Transaction<'_>, change: &SavedWebhook) -> rusqlite::Result<()> {
    let id = change.id.as_str();
    let find = "SELECT restarts FROM webhook WHERE webhook_id = ? AND created_at = ?";
    let made_at = change.made_at.timestamp_micros();
    let restarts: Option<u32> = transaction.query_row(find, params![id, made_at], |row| row.get(0)).optional()?;
    let Some(restarts) = restarts else { return Ok(()) };
    let (position, attempts, accepted) = (change.position, change.attempts, change.accepted);
    transaction
        .prepare_cached("UPDATE webhook SET position = ?, attempts = ?, accepted = ? WHERE webhook_id = ?")?
        .execute(params![position, attempts, accepted, id])?;
    // A restart has set these anew, and the deliverer has not seen it yet.
    if restarts == change.restarts {
        let failed = change.failed.as_ref();
        transaction
            .prepare_cached(
                "UPDATE webhook SET failures = ?, failing_since = ?, failed_at = ?, reason = ? WHERE webhook_id = ?",
            )?
            .execute(params![
                change.failures,
                micros(change.failing_since),
                micros(failed.map(|failed| failed.at)),
                failed.map(|failed| &*failed.reason),
                id
            ])?;
    }
    save_retries(transaction, change, restarts)?;
    for resend in &change.resent {
        transaction
            .prepare_cached("DELETE FROM webhook_resend WHERE webhook_id = ? AND resend_id = ?")?
            .execute(params![id, resend.to_string()])?;
    }
    save_log(transaction, change)
}

fn save_retries(transaction: &Transaction<'_>, change: &SavedWebhook, restarts: u32) -> rusqlite::Result<()> {
    let id = change.id.as_str();
    for key in &change.ended {
        transaction
            .prepare_cached("DELETE FROM webhook_retry WHERE webhook_id = ? AND user_id = ?")?
            .execute(params![id, stored_key(key)])?;
    }
    for retry in change.retries_after(restarts) {
        transaction
            .prepare_cached(
                "INSERT OR REPLACE INTO webhook_retry \
                 (webhook_id, user_id, next_position, attempts, first_at, next_at, failed_at) \
                 VALUES (?, ?, ?, ?, ?, ?, ?)",
            )?
            .execute(params![
                id,
                stored_key(&retry.key),
                retry.next,
                retry.attempts,
                micros(retry.first_at),
                retry.next_at.timestamp_micros(),
                micros(retry.failed_at),
            ])?;
    }
    Ok(())
}

fn save_log(transaction: &Transaction<'_>, change: &SavedWebhook) -> rusqlite::Result<()> {
    for attempt in &change.log {
        transaction
            .prepare_cached(
                "INSERT OR REPLACE INTO webhook_attempt (webhook_id, is_accepted, slot, number, event_id, type, user_id, \
                 began_at, took_ms, status, failure, next_at) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            )?
            .execute(params![
                change.id.as_str(),
                attempt.is_accepted(),
                attempt.slot,
                attempt.number,
                attempt.event.to_string(),
                &*attempt.kind,
                attempt.user.as_ref().map(UserId::as_str),
                attempt.began_at.timestamp_micros(),
                attempt.took_ms,
                attempt.outcome.status,
                attempt.outcome.failure.map(|failure| failure.name()),
                micros(attempt.next_at),
            ])?;
    }
    Ok(())
}

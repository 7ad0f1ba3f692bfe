//! The progress of webhooks: `webhook_retry`, `webhook_attempt`, `webhook_resend`, and columns of `webhook`.

use std::{
    collections::BTreeMap,
    sync::atomic::{AtomicBool, Ordering::Relaxed},
};

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use sqlx::{QueryBuilder, mysql::MySqlRow};

use super::{
    MySqlStore,
    statement::{LockMode, Row as StatementRow, Statement},
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
            delivery::{Attempt, OrderKey, Resend, StoredRetry},
            secret::SealedSecret,
            store::{ALL_RESENDS, DeliveryStore, Holder, SavedWebhook},
        },
    },
    data::{
        row::Columns,
        rows::{
            event::event_of,
            webhook::{RESEND, RETRY, resend_of, retry_of, stored_key, stored_secrets},
        },
    },
};

#[async_trait]
impl DeliveryStore for MySqlStore {
    async fn resends(&self) -> Result<Vec<Resend>, StoreError> {
        let mut query = QueryBuilder::new("SELECT ");
        query.push(RESEND).push(" FROM webhook_resend ORDER BY webhook_id, resend_id LIMIT ").push_bind(ALL_RESENDS);
        self.reader.fetch_all(query.build()).await?.iter().map(resend_of).collect()
    }

    async fn retries(&self, id: &WebhookId) -> Result<Vec<StoredRetry>, StoreError> {
        let mut query = QueryBuilder::new("SELECT ");
        query.push(RETRY).push(" FROM webhook_retry WHERE webhook_id = ").push_bind(id.as_str());
        self.reader.fetch_all(query.build()).await?.iter().map(retry_of).collect()
    }

    async fn events_of(
        &self,
        key: &OrderKey,
        types: &Types,
        (after, until): (Position, Position),
        limit: u32,
    ) -> Result<Vec<Event>, StoreError> {
        let mut query = QueryBuilder::new(
            "SELECT position, event_id, type, user_id, data, created_at FROM event FORCE INDEX (idx_user) WHERE ",
        );
        match key {
            Some(user) => query.push("user_id = ").push_bind(user.as_str()),
            None => query.push("user_id IS NULL"),
        };
        query.push(" AND position > ").push_bind(after).push(" AND position <= ").push_bind(until);
        if let Types::Some(types) = types {
            // An empty list is no SQL, and no type has an empty name.
            query.push(" AND type IN (''");
            for kind in types {
                query.push(", ").push_bind(kind.name());
            }
            query.push(")");
        }
        query.push(" ORDER BY position LIMIT ").push_bind(limit);
        self.reader.fetch_all(query.build()).await?.iter().map(event_of).collect()
    }

    async fn seal_again(&self, webhook: &Webhook, secrets: &[SealedSecret]) -> Result<bool, StoreError> {
        let seal = "UPDATE webhook SET secrets = ? WHERE webhook_id = ? AND secrets = ?";
        let seal = sqlx::query(seal).bind(stored_secrets(secrets)).bind(webhook.id.as_str());
        Ok(self.reader.execute(seal.bind(stored_secrets(&webhook.secrets))).await? > 0)
    }

    async fn save_deliveries(&self, holder: &Holder, changes: &[SavedWebhook]) -> Result<bool, StoreError> {
        let mut read = Statement::beginning(LockMode::Wait);
        read.push("SELECT 1 FROM job_lease WHERE job = ").texts([holder.job]);
        read.push(" AND owner = ").texts([holder.owner.as_str()]).push(" AND ends_at > UTC_TIMESTAMP(6)");
        read.push(LockMode::Wait.suffix());
        read.push("SELECT webhook_id, restarts, created_at FROM webhook WHERE webhook_id IN (''");
        for change in changes {
            read.push(", ").texts([change.id.as_str()]);
        }
        read.push(")").push(LockMode::Wait.suffix());
        let is_held = AtomicBool::new(false);
        let change = |sets: &[Vec<MySqlRow>]| {
            let [.., lease, stored] = sets else { return Err(StoreError::Failed("a statement had no result".into())) };
            is_held.store(!lease.is_empty(), Relaxed);
            if lease.is_empty() {
                return Ok(None);
            }
            let of = |row: &MySqlRow| Ok((row.text(0)?, (row.number(1)?, row.time(2)?)));
            let stored: Stored = stored.iter().map(of).collect::<Result<_, StoreError>>()?;
            Ok(Some(Statement::committing(LockMode::Wait, |packet| save(packet, holder, changes, &stored))))
        };
        self.change_sets(read, change).await?;
        Ok(is_held.into_inner())
    }
}

/// The restarts of the stored webhooks, and when they were made.
type Stored = BTreeMap<String, (u32, DateTime<Utc>)>;

/// Saves the changes of the webhooks that are `stored`, and renews the lease.
fn save<'c>(packet: &mut Statement, holder: &Holder, changes: &'c [SavedWebhook], stored: &Stored) {
    packet.push("UPDATE job_lease SET ends_at = UTC_TIMESTAMP(6) + INTERVAL ").number(LEASE.as_secs());
    packet.push(" SECOND WHERE job = ").texts([holder.job]).push(" AND owner = ").texts([holder.owner.as_str()]);
    packet.push("; ");
    let restarts = |change: &SavedWebhook| {
        let (restarts, made_at) = stored.get(change.id.as_str())?;
        (*made_at == change.made_at).then_some(*restarts)
    };
    let there: Vec<(&SavedWebhook, u32)> =
        changes.iter().filter_map(|change| Some((change, restarts(change)?))).collect();
    for (change, restarts) in &there {
        update(packet, change, *restarts);
        // One statement a row: for a list the optimizer may choose a scan.
        for key in &change.ended {
            packet.push("DELETE FROM webhook_retry WHERE webhook_id = ").texts([change.id.as_str()]);
            packet.push(" AND user_id = ").texts([stored_key(key)]).push("; ");
        }
        for resend in &change.resent {
            packet.push("DELETE FROM webhook_resend WHERE webhook_id = ").texts([change.id.as_str()]);
            packet.push(" AND resend_id = ").texts([resend.to_string().as_str()]).push("; ");
        }
    }
    let of = |(change, restarts): &(&'c SavedWebhook, u32)| {
        let id = &change.id;
        change.retries_after(*restarts).map(move |retry| (id, retry))
    };
    let retries: Vec<(&WebhookId, StoredRetry)> = there.iter().flat_map(of).collect();
    if !retries.is_empty() {
        packet.push("REPLACE INTO webhook_retry (webhook_id, ").push(RETRY).push(") VALUES ");
        packet.rows(retries, retry_values).push("; ");
    }
    let log: Vec<&Attempt> = there.iter().flat_map(|(change, _)| &change.log).collect();
    if !log.is_empty() {
        packet.push(
            "REPLACE INTO webhook_attempt (is_accepted, slot, webhook_id, number, event_id, type, user_id, began_at, \
             took_ms, status, failure, next_at) VALUES ",
        );
        packet.rows(log, attempt_values).push("; ");
    }
}

fn update(packet: &mut Statement, change: &SavedWebhook, restarts: u32) {
    packet.push("UPDATE webhook SET position = ").number(change.position);
    packet.push(", attempts = ").number(change.attempts).push(", accepted = ").number(change.accepted);
    // A restart has set these anew, and the deliverer has not seen it yet.
    if restarts == change.restarts {
        packet.push(", failures = ").number(change.failures).push(", failing_since = ").row(|row| {
            row.optional(change.failing_since, StatementRow::instant);
        });
        packet.push(", failed_at = ").row(|row| {
            row.optional(change.failed.as_ref().map(|failed| failed.at), StatementRow::instant);
        });
        packet.push(", reason = ").optional_text(change.failed.as_ref().map(|failed| failed.reason.as_str()));
    }
    packet.push(" WHERE webhook_id = ").texts([change.id.as_str()]).push("; ");
}

fn retry_values(row: &mut StatementRow<'_>, (webhook, retry): (&WebhookId, StoredRetry)) {
    row.text(webhook.as_str())
        .text(stored_key(&retry.key))
        .number(retry.next)
        .number(retry.attempts)
        .optional(retry.first_at, StatementRow::instant)
        .instant(retry.next_at)
        .optional(retry.failed_at, StatementRow::instant);
}

fn attempt_values(row: &mut StatementRow<'_>, attempt: &Attempt) {
    row.number(attempt.is_accepted())
        .number(attempt.slot)
        .text(attempt.webhook.as_str())
        .number(attempt.number)
        .text(&attempt.event.to_string())
        .text(&attempt.kind)
        .optional(attempt.user.as_ref().map(UserId::as_str), StatementRow::text)
        .instant(attempt.began_at)
        .number(attempt.took_ms.min(i32::MAX.unsigned_abs()))
        .optional(attempt.outcome.status, StatementRow::number)
        .optional(attempt.outcome.failure.map(|failure| failure.name()), StatementRow::text)
        .optional(attempt.next_at, StatementRow::instant);
}

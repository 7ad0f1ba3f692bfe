//! Webhooks, in the table `webhook`, as operators change and read them.

use std::sync::{Mutex, PoisonError};

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use sqlx::{QueryBuilder, mysql::MySqlRow};
use uuid::Uuid;

use super::{
    MySqlStore, audit_trail,
    statement::{LockMode, Row as StatementRow, Statement},
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
        error::corrupt,
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
impl WebhookStore for MySqlStore {
    async fn put_webhook(
        &self,
        put: &PutWebhook,
        call: &AuditedCall,
        now: DateTime<Utc>,
    ) -> Result<Result<Put, Invalid>, StoreError> {
        let mut read = Statement::beginning(LockMode::Wait);
        read.push("SELECT ").push(WEBHOOK).push(" FROM webhook ORDER BY webhook_id").push(LockMode::Wait.suffix());
        let outcome = Mutex::new(None);
        let change = |rows: &[MySqlRow]| {
            let all: Vec<Webhook> = rows.iter().map(webhook_of).collect::<Result<_, _>>()?;
            let stored = all.iter().find(|webhook| webhook.id == put.id);
            let (done, packet) = match put.decide(stored, all.len() - usize::from(stored.is_some()), call, now) {
                Change::Refused(why) => (Err(why), None),
                Change::Unchanged => {
                    let webhook = stored.cloned().ok_or_else(|| corrupt("webhook"))?;
                    (Ok(Put { webhook, changed: false, uses_fresh: false }), None)
                }
                Change::Write(written) => {
                    let packet = writing(&written, stored.is_some(), now);
                    (Ok(Put { webhook: written.webhook, changed: true, uses_fresh: written.uses_fresh }), Some(packet))
                }
            };
            *outcome.lock().unwrap_or_else(PoisonError::into_inner) = Some(done);
            Ok(packet)
        };
        self.change_rows(read, change).await?;
        let outcome = outcome.into_inner().unwrap_or_else(PoisonError::into_inner);
        outcome.ok_or_else(|| StoreError::Failed("the change was not decided".into()))
    }

    async fn delete_webhook(
        &self,
        (id, expected): (&WebhookId, Expected),
        call: &AuditedCall,
        now: DateTime<Utc>,
    ) -> Result<Result<bool, Invalid>, StoreError> {
        self.change_webhook(id, |webhook| {
            expected.check(Some(webhook))?;
            let event = call.event(now, None, Some(changes::state(webhook)), None);
            Ok(Statement::committing(LockMode::Wait, |packet| {
                for delete in [
                    "DELETE FROM webhook WHERE webhook_id = ",
                    "DELETE FROM webhook_retry WHERE webhook_id = ",
                    "DELETE FROM webhook_attempt WHERE webhook_id = ",
                    "DELETE FROM webhook_resend WHERE webhook_id = ",
                ] {
                    packet.push(delete).texts([id.as_str()]).push("; ");
                }
                audit_trail::insert(packet, &[event]);
            }))
        })
        .await
    }

    async fn restart_webhook(
        &self,
        id: &WebhookId,
        call: &AuditedCall,
        now: DateTime<Utc>,
    ) -> Result<bool, StoreError> {
        let restarted = self.change_webhook(id, |old| {
            let mut webhook = old.clone();
            changes::restart(&mut webhook);
            let event = call.event(now, None, Some(changes::state(old)), Some(changes::state(&webhook)));
            Ok(writing(&Written { webhook, event, uses_fresh: false, restarts: true }, true, now))
        });
        // A restart is never refused.
        Ok(restarted.await?.unwrap_or_default())
    }

    async fn add_resend(
        &self,
        resend: &Resend,
        call: &AuditedCall,
        now: DateTime<Utc>,
    ) -> Result<Result<(), Invalid>, StoreError> {
        let id = &resend.webhook;
        let mut read = Statement::beginning(LockMode::Wait);
        // The count is read behind the lock, and sees what its last holder has added.
        read.push("SELECT 1 FROM webhook WHERE webhook_id = ").texts([id.as_str()]).push(LockMode::Wait.suffix());
        read.push("SELECT COUNT(*) FROM webhook_resend WHERE webhook_id = ").texts([id.as_str()]).push("; ");
        let outcome = Mutex::new(Ok(()));
        let change = |sets: &[Vec<MySqlRow>]| {
            let [.., found, waiting] = sets else { return Err(StoreError::Failed("a statement had no result".into())) };
            let waiting: u32 = waiting.first().ok_or_else(|| corrupt("webhook_resend"))?.number(0)?;
            let decided = changes::may_resend(!found.is_empty(), waiting, MAX_RESENDS);
            let packet = decided.is_ok().then(|| {
                Statement::committing(LockMode::Wait, |packet| {
                    packet.push("INSERT INTO webhook_resend (").push(RESEND).push(") VALUES ");
                    packet.rows([resend], resend_values).push("; ");
                    audit_trail::insert(packet, &[changes::resent(resend, call, now)]);
                })
            });
            *outcome.lock().unwrap_or_else(PoisonError::into_inner) = decided;
            Ok(packet)
        };
        self.change_sets(read, change).await?;
        Ok(outcome.into_inner().unwrap_or_else(PoisonError::into_inner))
    }

    async fn event_by_id(&self, id: Uuid) -> Result<Option<Event>, StoreError> {
        let find = "SELECT COALESCE(position, 0), event_id, type, user_id, data, created_at FROM event \
             WHERE event_id = ?";
        let rows = self.reader.fetch_all(sqlx::query(find).bind(id.to_string())).await?;
        rows.first().map(event_of).transpose()
    }

    async fn webhooks(&self) -> Result<Webhooks, StoreError> {
        let mut read = Statement::new("SELECT position FROM event_feed WHERE id = 1; SELECT ");
        read.push(WEBHOOK).push(" FROM webhook ORDER BY webhook_id");
        let sets = self.reader.fetch(read).await?;
        let [feed, webhooks] = &sets[..] else { return Err(StoreError::Failed("a statement had no result".into())) };
        Ok(Webhooks {
            webhooks: webhooks.iter().map(webhook_of).collect::<Result<_, _>>()?,
            last: feed.first().ok_or_else(|| corrupt("event_feed"))?.number(0)?,
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
        self.reader.fetch_all(query.build()).await?.iter().map(attempt_of).collect()
    }

    async fn retry_sums(&self) -> Result<Vec<RetrySum>, StoreError> {
        self.reader.fetch_all(sqlx::query(RETRY_SUMS)).await?.iter().map(retry_sum_of).collect()
    }

    async fn failed_users(&self) -> Result<Vec<(WebhookId, u64)>, StoreError> {
        self.reader.fetch_all(sqlx::query(FAILED_USERS)).await?.iter().map(failed_users_of).collect()
    }

    async fn time_behind(&self, position: Position) -> Result<Option<DateTime<Utc>>, StoreError> {
        let first = "SELECT created_at FROM event FORCE INDEX (uk_position) WHERE position > ? \
             ORDER BY position LIMIT 1";
        let rows = self.reader.fetch_all(sqlx::query(first).bind(position)).await?;
        rows.first().map(|row| row.time(0)).transpose()
    }

    async fn unplaced(&self) -> Result<Unplaced, StoreError> {
        let rows = self.reader.fetch_all(sqlx::query(UNPLACED).bind(MAX_UNPLACED)).await?;
        unplaced_of(rows.first().ok_or_else(|| corrupt("event"))?)
    }
}

impl MySqlStore {
    /// Runs the packet that `write` makes of a stored webhook, unless it refuses. False if there is none.
    async fn change_webhook(
        &self,
        id: &WebhookId,
        write: impl Fn(&Webhook) -> Result<Statement, Invalid> + Send + Sync,
    ) -> Result<Result<bool, Invalid>, StoreError> {
        let mut read = Statement::beginning(LockMode::Wait);
        read.push("SELECT ").push(WEBHOOK).push(" FROM webhook WHERE webhook_id = ").texts([id.as_str()]);
        read.push(LockMode::Wait.suffix());
        let done = Mutex::new(Ok(false));
        self.change_row(read, |row| {
            let webhook = row.map(webhook_of).transpose()?;
            let (decided, packet) = match webhook.as_ref().map(&write).transpose() {
                Ok(packet) => (Ok(packet.is_some()), packet),
                Err(refused) => (Err(refused), None),
            };
            *done.lock().unwrap_or_else(PoisonError::into_inner) = decided;
            Ok(packet)
        })
        .await?;
        Ok(done.into_inner().unwrap_or_else(PoisonError::into_inner))
    }
}

/// The packet that writes a webhook and its event. It leaves the progress to the deliverer, but for a restart.
fn writing(written: &Written, exists: bool, now: DateTime<Utc>) -> Statement {
    let Written { webhook, event, restarts, .. } = written;
    Statement::committing(LockMode::Wait, |packet| {
        if exists {
            update(packet, webhook, *restarts);
        } else {
            insert(packet, webhook);
        }
        if *restarts {
            packet
                .push("UPDATE webhook_retry SET attempts = 0, first_at = NULL, failed_at = NULL, next_at = ")
                .instant(now);
            packet.push(" WHERE webhook_id = ").texts([webhook.id.as_str()]).push("; ");
        }
        audit_trail::insert(packet, std::slice::from_ref(event));
    })
}

fn update(packet: &mut Statement, webhook: &Webhook, restarts: bool) {
    packet.push("UPDATE webhook SET url = ").texts([webhook.url.as_str()]);
    packet.push(", types = ").texts([webhook.types.stored().as_str()]);
    packet.push(", is_active = ").number(webhook.is_active);
    packet.push(", secrets = ").texts([stored_secrets(&webhook.secrets).as_str()]);
    packet.push(", restarts = ").number(webhook.restarts).push(", updated_at = ").instant(webhook.updated_at);
    if restarts {
        packet.push(", failures = 0, failing_since = NULL, failed_at = NULL, reason = NULL");
    }
    packet.push(" WHERE webhook_id = ").texts([webhook.id.as_str()]).push("; ");
}

/// Inserts a webhook, which begins behind the last position of the feed.
fn insert(packet: &mut Statement, webhook: &Webhook) {
    packet.push(
        "INSERT INTO webhook (webhook_id, url, types, is_active, secrets, created_at, updated_at, position) SELECT ",
    );
    packet.row(|row| {
        row.text(webhook.id.as_str())
            .text(webhook.url.as_str())
            .text(&webhook.types.stored())
            .number(webhook.is_active)
            .text(&stored_secrets(&webhook.secrets))
            .instant(webhook.created_at)
            .instant(webhook.updated_at);
    });
    packet.push(", position FROM event_feed WHERE id = 1; ");
}

fn resend_values(row: &mut StatementRow<'_>, resend: &Resend) {
    let message = &resend.message;
    row.text(resend.webhook.as_str())
        .text(&resend.id.to_string())
        .text(&message.id.to_string())
        .text(&message.kind)
        .text(&message.data)
        .instant(message.at)
        .optional(message.trace.as_ref().map(|trace| trace.parent.as_str()), StatementRow::text)
        .optional(message.trace.as_ref().and_then(|trace| trace.state.as_deref()), StatementRow::text);
}

//! Webhooks and their deliveries: `webhook`, `webhook_retry`, `webhook_attempt`, `webhook_resend`.

use chrono::{DateTime, Utc};

use crate::{
    biz::{
        values::{
            error::StoreError,
            ids::{UserId, WebhookId},
        },
        webhooks::{
            Failed, Progress, Types, Webhook,
            delivery::{Attempt, Failure, Message, OrderKey, Outcome, Resend, StoredRetry, TraceContext},
            secret::SealedSecret,
            store::{RetrySum, Unplaced},
            url::WebhookUrl,
        },
    },
    data::{error::corrupt, row::Columns},
};

/// The row of [`unplaced_of`], with the most events to count as its parameter.
pub const UNPLACED: &str = "SELECT (SELECT COUNT(*) FROM (SELECT 1 FROM event WHERE position IS NULL LIMIT ?) unplaced), \
    (SELECT created_at FROM event WHERE position IS NULL ORDER BY seq LIMIT 1)";
/// The columns of [`webhook_of`].
pub const WEBHOOK: &str = "webhook_id, url, types, is_active, secrets, position, attempts, failures, failing_since, \
    failed_at, reason, restarts, created_at, updated_at, accepted";
/// The columns of [`retry_of`].
pub const RETRY: &str = "user_id, next_position, attempts, first_at, next_at, failed_at";
/// The sums of [`retry_sum_of`] for each webhook that is served. The deliverer bounds their rows; those of a webhook that
/// has failed stay, and are not counted.
pub const RETRY_SUMS: &str = "SELECT webhook_id, COUNT(*) - COUNT(failed_at), COUNT(failed_at), \
    MIN(CASE WHEN failed_at IS NULL THEN COALESCE(first_at, next_at) END) FROM webhook_retry \
    WHERE webhook_id IN (SELECT w.webhook_id FROM webhook w WHERE w.is_active = 1 AND w.failed_at IS NULL) \
    GROUP BY webhook_id";
/// The rows of [`failed_users_of`].
pub const FAILED_USERS: &str =
    "SELECT webhook_id, COUNT(*) FROM webhook_retry WHERE failed_at IS NOT NULL GROUP BY webhook_id";
/// The columns of [`attempt_of`].
pub const ATTEMPT: &str =
    "webhook_id, number, event_id, type, user_id, began_at, took_ms, status, failure, next_at, slot";
/// The columns of [`resend_of`].
pub const RESEND: &str = "webhook_id, resend_id, event_id, type, data, created_at, traceparent, tracestate";

pub fn webhook_of(row: &impl Columns) -> Result<Webhook, StoreError> {
    let failed = match row.optional_time(9)? {
        Some(at) => Some(Failed { at, reason: row.optional_text(10)?.unwrap_or_default() }),
        None => None,
    };
    Ok(Webhook {
        id: WebhookId::from_stored(row.text(0)?),
        url: WebhookUrl::from_stored(row.text(1)?),
        types: Types::from_stored(&row.text(2)?),
        is_active: row.number::<i64>(3)? != 0,
        secrets: secrets_of(&row.text(4)?)?,
        progress: Progress {
            position: row.number(5)?,
            attempts: row.number(6)?,
            accepted: row.number(14)?,
            failures: row.number(7)?,
            failing_since: row.optional_time(8)?,
            failed,
        },
        restarts: row.number(11)?,
        created_at: row.time(12)?,
        updated_at: row.time(13)?,
    })
}

/// The stored form of the secrets: pairs of the sealed text, and the end of its validity in microseconds.
pub fn stored_secrets(secrets: &[SealedSecret]) -> String {
    let pairs: Vec<_> =
        secrets.iter().map(|secret| (&secret.sealed, secret.until.map(|until| until.timestamp_micros()))).collect();
    serde_json::to_string(&pairs).unwrap_or_default()
}

fn secrets_of(text: &str) -> Result<Vec<SealedSecret>, StoreError> {
    let pairs: Vec<(String, Option<i64>)> = serde_json::from_str(text).map_err(|_| corrupt("secrets"))?;
    let secret = |(sealed, until): (String, Option<i64>)| {
        let instant = |micros| DateTime::<Utc>::from_timestamp_micros(micros).ok_or_else(|| corrupt("secrets"));
        Ok(SealedSecret { sealed, until: until.map(instant).transpose()? })
    };
    pairs.into_iter().map(secret).collect()
}

/// The stored form of the order of a retry.
pub fn stored_key(key: &OrderKey) -> &str {
    key.as_ref().map_or("", UserId::as_str)
}

pub fn retry_of(row: &impl Columns) -> Result<StoredRetry, StoreError> {
    Ok(StoredRetry {
        key: Some(row.text(0)?).filter(|user| !user.is_empty()).map(UserId::from_stored),
        next: row.number(1)?,
        attempts: row.number(2)?,
        first_at: row.optional_time(3)?,
        next_at: row.time(4)?,
        failed_at: row.optional_time(5)?,
    })
}

/// A row of [`RETRY_SUMS`].
pub fn retry_sum_of(row: &impl Columns) -> Result<RetrySum, StoreError> {
    Ok(RetrySum {
        webhook: WebhookId::from_stored(row.text(0)?),
        retries: row.number(1)?,
        failed: row.number(2)?,
        oldest: row.optional_time(3)?,
    })
}

/// A row of [`FAILED_USERS`].
pub fn failed_users_of(row: &impl Columns) -> Result<(WebhookId, u64), StoreError> {
    Ok((WebhookId::from_stored(row.text(0)?), row.number(1)?))
}

pub fn unplaced_of(row: &impl Columns) -> Result<Unplaced, StoreError> {
    Ok(Unplaced { events: row.number(0)?, first_at: row.optional_time(1)? })
}

pub fn attempt_of(row: &impl Columns) -> Result<Attempt, StoreError> {
    let failure = row.optional_text(8)?;
    let failure = failure.map(|name| Failure::from_name(&name).ok_or_else(|| corrupt("failure"))).transpose()?;
    Ok(Attempt {
        webhook: WebhookId::from_stored(row.text(0)?),
        number: row.number(1)?,
        slot: row.number(10)?,
        event: row.uuid(2)?,
        kind: row.text(3)?.into(),
        user: row.optional_text(4)?.map(UserId::from_stored),
        began_at: row.time(5)?,
        took_ms: row.number(6)?,
        outcome: Outcome { status: row.optional_number(7)?, failure },
        next_at: row.optional_time(9)?,
    })
}

pub fn resend_of(row: &impl Columns) -> Result<Resend, StoreError> {
    let trace = match row.optional_text(6)? {
        Some(parent) => Some(TraceContext { parent, state: row.optional_text(7)? }),
        None => None,
    };
    Ok(Resend {
        webhook: WebhookId::from_stored(row.text(0)?),
        id: row.uuid(1)?,
        message: Message { id: row.uuid(2)?, kind: row.text(3)?.into(), data: row.text(4)?, at: row.time(5)?, trace },
    })
}

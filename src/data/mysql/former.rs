//! Records of the service this one replaces have no billing day. The migrations
//! can't give them one, because SQL does not know the billing zone.

use chrono::{DateTime, Days, Duration, NaiveDateTime, Utc};
use sqlx::{Connection, MySqlConnection, Row};

use super::{connections::Connections, store_error};
use crate::biz::{calendar::Calendar, error::StoreError};

/// How long another process that does the same is waited for, before the caller
/// decides whether to try again.
const LOCK_SECONDS: u32 = 5;

pub(super) async fn date_records(connections: &Connections, calendar: &Calendar) -> Result<(), StoreError> {
    let mut connection = connections.take().await?;
    if !is_pending(&mut connection).await? {
        connection.give_back();
        return Ok(());
    }
    let locked = sqlx::query("SELECT COALESCE(GET_LOCK(CONCAT('billing.former.', MD5(DATABASE())), ?), 0)")
        .bind(LOCK_SECONDS)
        .fetch_one(&mut *connection)
        .await
        .map_err(store_error)?;
    if locked.try_get::<i64, _>(0).map_err(store_error)? != 1 {
        return Err(StoreError::Unavailable("another process is dating the former records".into()));
    }
    let done = date_and_roll_up(&mut connection, calendar).await;
    sqlx::raw_sql("DO RELEASE_LOCK(CONCAT('billing.former.', MD5(DATABASE())))")
        .execute(&mut *connection)
        .await
        .map_err(store_error)?;
    done?;
    connection.give_back();
    Ok(())
}

/// Once every record has its day, the column no longer takes NULL.
async fn is_pending(connection: &mut MySqlConnection) -> Result<bool, StoreError> {
    let row = sqlx::query(
        "SELECT COUNT(*) FROM information_schema.columns WHERE table_schema = DATABASE() \
         AND table_name = 'billing_record' AND column_name = 'usage_date' AND is_nullable = 'YES'",
    )
    .fetch_one(connection)
    .await
    .map_err(store_error)?;
    Ok(row.try_get::<i64, _>(0).map_err(store_error)? > 0)
}

async fn date_and_roll_up(connection: &mut MySqlConnection, calendar: &Calendar) -> Result<(), StoreError> {
    if !is_pending(connection).await? {
        return Ok(());
    }
    let mut transaction = connection.begin().await.map_err(store_error)?;
    let bounds = sqlx::query("SELECT MIN(created_at), MAX(created_at) FROM billing_record WHERE usage_date IS NULL")
        .fetch_one(&mut *transaction)
        .await
        .map_err(store_error)?;
    let first: Option<NaiveDateTime> = bounds.try_get(0).map_err(store_error)?;
    let last: Option<NaiveDateTime> = bounds.try_get(1).map_err(store_error)?;
    if let (Some(first), Some(last)) = (first, last) {
        tracing::info!(%first, %last, "giving the former records their days");
        for (from, before, offset) in offsets(calendar, first.and_utc(), last.and_utc()) {
            sqlx::query(
                "UPDATE billing_record SET usage_date = DATE(created_at + INTERVAL ? SECOND) \
                 WHERE usage_date IS NULL AND created_at >= ? AND created_at < ?",
            )
            .bind(offset)
            .bind(from.naive_utc())
            .bind(before.naive_utc())
            .execute(&mut *transaction)
            .await
            .map_err(store_error)?;
        }
        // Absolute values, so that a second run after a lost reply changes nothing.
        sqlx::raw_sql(
            "INSERT INTO usage_daily \
             (user_id, usage_date, service_name, free_count, paid_count, amount, free_records, paid_records) \
             SELECT user_id, usage_date, service_name, SUM(IF(type = 1, count, 0)), SUM(IF(type = 2, count, 0)), \
             SUM(amount), SUM(type = 1), SUM(type = 2) FROM billing_record GROUP BY user_id, usage_date, service_name \
             ON DUPLICATE KEY UPDATE free_count = VALUES(free_count), paid_count = VALUES(paid_count), \
             amount = VALUES(amount), free_records = VALUES(free_records), paid_records = VALUES(paid_records)",
        )
        .execute(&mut *transaction)
        .await
        .map_err(store_error)?;
    }
    transaction.commit().await.map_err(store_error)?;
    sqlx::raw_sql("ALTER TABLE billing_record MODIFY usage_date DATE NOT NULL")
        .execute(connection)
        .await
        .map(|_| ())
        .map_err(store_error)
}

/// The spans of one offset from UTC between two instants: from, before, seconds. A
/// span ends where a day does, or where the clocks change within a day.
fn offsets(calendar: &Calendar, first: DateTime<Utc>, last: DateTime<Utc>) -> Vec<(DateTime<Utc>, DateTime<Utc>, i64)> {
    let mut spans: Vec<(DateTime<Utc>, DateTime<Utc>, i64)> = Vec::new();
    let mut day = calendar.at(first).day;
    let end = calendar.at(last).day;
    while day <= end {
        // Any offset that puts an instant of this day on this day will do: the one
        // at its beginning does until the clocks go forward, and no later instant
        // of the day is then past the next midnight by the clock.
        let (from, next) = (calendar.start_of(day), calendar.start_of(day + Days::new(1)));
        let offset = (NaiveDateTime::from(day) - from.naive_utc()).num_seconds();
        let length = (next - from).num_seconds();
        let before = if length > 86_400 { from + Duration::days(1) } else { next };
        push(&mut spans, (from, before, offset));
        if before < next {
            // The clocks went back: the rest of the day at the offset that ends it.
            push(&mut spans, (before, next, offset - (length - 86_400)));
        }
        day = day + Days::new(1);
    }
    spans
}

/// Joins a span to the one before it where both have the same offset.
fn push(spans: &mut Vec<(DateTime<Utc>, DateTime<Utc>, i64)>, span: (DateTime<Utc>, DateTime<Utc>, i64)) {
    match spans.last_mut() {
        Some(last) if last.1 == span.0 && last.2 == span.2 => last.1 = span.1,
        _ => spans.push(span),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::biz::calendar::SystemClock;

    #[test]
    fn every_instant_falls_on_its_billing_day() {
        for zone in ["Asia/Shanghai", "Europe/Berlin", "America/Santiago", "Australia/Lord_Howe", "Asia/Kathmandu"] {
            let calendar = Calendar::new(zone.parse().unwrap(), SystemClock);
            let start: DateTime<Utc> = "2024-01-01T12:34:56Z".parse().unwrap();
            let end = start + Duration::days(730);
            let spans = offsets(&calendar, start, end);
            assert!(spans.len() < 20, "{zone}: {}", spans.len());
            let mut instant = start;
            while instant <= end {
                let (_, _, offset) =
                    spans.iter().find(|(from, before, _)| *from <= instant && instant < *before).unwrap();
                let day = (instant + Duration::seconds(*offset)).date_naive();
                assert_eq!(day, calendar.at(instant).day, "{zone} {instant}");
                instant += Duration::minutes(7);
            }
        }
    }
}

//! The rollup by service, model and API key.

use std::sync::LazyLock;

use async_trait::async_trait;
use chrono::{DateTime, NaiveDate, Utc};
use rusqlite::{Connection, TransactionBehavior, types::Value};
use serde_json::json;
use sqlx::{
    Sqlite,
    query::Query,
    sqlite::{SqliteArguments, SqliteRow},
};

use super::{SqliteStore, writer::writer_error};
use crate::{
    biz::{
        reports::{
            statistics::DailyUse,
            usage::{DayChange, GroupBy, ModelUse, UseDay, UseFilter, UseGroup, UseStore, UseSums, missing_in},
        },
        values::{
            calendar::DaySpan,
            error::StoreError,
            ids::{ApiKeyId, ModelName, ServiceName, UserId},
        },
    },
    data::{
        error::store_error,
        row::Columns,
        rows::report::daily_use_of,
        usage::{self, day_of, group_of, grouped_of, model_of, use_of_model},
    },
};

type Bound<'q> = Query<'q, Sqlite, SqliteArguments>;

/// A statement over both tables of records.
fn between<'q>(sql: &'static str, user: &'q UserId, (from, before): (DateTime<Utc>, DateTime<Utc>)) -> Bound<'q> {
    let mut query = sqlx::query(sql);
    for _ in 0..2 {
        query = query.bind(user.as_str()).bind(from.timestamp_micros()).bind(before.timestamp_micros());
    }
    query
}

fn days(user: &UserId, span: DaySpan) -> Bound<'_> {
    let mut query = sqlx::query(&**usage::DAYS);
    for _ in 0..2 {
        query = query.bind(user.as_str()).bind(span.first.to_string()).bind(span.last.to_string());
    }
    query
}

fn filtered<'q>(query: Bound<'q>, filter: &'q UseFilter) -> Bound<'q> {
    let (service, model) = (filter.service.as_ref().map(ServiceName::as_str), filter.model.as_ref());
    let (model, key) = (model.map(ModelName::as_str), filter.api_key.as_ref().map(ApiKeyId::as_str));
    let query = query.bind(filter.user.as_str()).bind(filter.span.first.to_string()).bind(filter.span.last.to_string());
    query.bind(service).bind(service).bind(model).bind(model).bind(key).bind(key)
}

#[async_trait]
impl UseStore for SqliteStore {
    async fn days(&self, user: &UserId, span: DaySpan) -> Result<Vec<UseDay>, StoreError> {
        let rows = days(user, span).fetch_all(&self.reader).await.map_err(store_error)?;
        rows.iter().map(day_of).collect()
    }

    async fn count_between(&self, user: &UserId, instants: (DateTime<Utc>, DateTime<Utc>)) -> Result<u64, StoreError> {
        let query = between(&usage::COUNT, user, instants);
        query.fetch_one(&self.reader).await.map_err(store_error)?.number(0)
    }

    async fn newest_between(
        &self,
        user: &UserId,
        instants: (DateTime<Utc>, DateTime<Utc>),
    ) -> Result<Option<DateTime<Utc>>, StoreError> {
        let query = between(&usage::NEWEST, user, instants);
        query.fetch_one(&self.reader).await.map_err(store_error)?.optional_time(0)
    }

    async fn sums_between(
        &self,
        user: &UserId,
        instants: (DateTime<Utc>, DateTime<Utc>),
    ) -> Result<Vec<(UseGroup, UseSums)>, StoreError> {
        let query = between(&usage::SUMS, user, instants);
        let rows = query.fetch_all(&self.reader).await.map_err(store_error)?;
        rows.iter().map(group_of).collect()
    }

    async fn change(&self, user: &UserId, change: DayChange) -> Result<(), StoreError> {
        let user = user.clone();
        self.writer.run_and_rest(move |connection| write(connection, &user, &change).map_err(writer_error)).await
    }

    async fn part_sums(
        &self,
        user: &UserId,
        day: NaiveDate,
        part: u64,
    ) -> Result<Vec<(UseGroup, UseSums)>, StoreError> {
        let query = sqlx::query(&**usage::PART).bind(user.as_str()).bind(day.to_string()).bind(integer(part));
        let rows = query.fetch_all(&self.reader).await.map_err(store_error)?;
        rows.iter().map(group_of).collect()
    }

    async fn part_ids(&self, user: &UserId, day: NaiveDate, limit: u32) -> Result<Vec<u64>, StoreError> {
        let query = sqlx::query(usage::PART_IDS).bind(user.as_str()).bind(day.to_string()).bind(limit);
        query.fetch_all(&self.reader).await.map_err(store_error)?.iter().map(|row| row.number(0)).collect()
    }

    async fn grouped(
        &self,
        filter: &UseFilter,
        by: GroupBy,
        after: Option<&str>,
        limit: u32,
    ) -> Result<(Vec<(String, UseSums)>, u64), StoreError> {
        let query = filtered(sqlx::query(usage::grouped(by)), filter).bind(after).bind(after).bind(limit);
        let (rows, missing) = self.with_missing(filter, query).await?;
        Ok((rows.iter().map(grouped_of).collect::<Result<_, _>>()?, missing))
    }

    async fn use_of_models(
        &self,
        models: &[ModelName],
        day: NaiveDate,
        limit: u32,
    ) -> Result<Vec<ModelUse>, StoreError> {
        let Some((first, others)) = models.split_first() else { return Ok(Vec::new()) };
        let query = sqlx::query(&**USE_OF_MODELS).bind(day.to_string()).bind(first.as_str());
        let rows = query.bind(json_of(others)).bind(limit).fetch_all(&self.reader).await;
        rows.map_err(store_error)?.iter().map(use_of_model).collect()
    }

    async fn entries_of_models(&self, models: &[ModelName], day: NaiveDate, limit: u32) -> Result<u64, StoreError> {
        let query = sqlx::query(ENTRIES_OF_MODELS).bind(day.to_string()).bind(json_of(models)).bind(limit);
        query.fetch_one(&self.reader).await.map_err(store_error)?.number(0)
    }

    async fn models_of(&self, day: NaiveDate, limit: u32) -> Result<Vec<ModelName>, StoreError> {
        let rows = sqlx::query(MODELS_OF).bind(day.to_string()).bind(limit).fetch_all(&self.reader).await;
        rows.map_err(store_error)?.iter().map(model_of).collect()
    }

    async fn daily_of(&self, filter: &UseFilter) -> Result<(Vec<DailyUse>, u64), StoreError> {
        let (rows, missing) = self.with_missing(filter, filtered(sqlx::query(&**usage::DAILY), filter)).await?;
        Ok((rows.iter().map(daily_use_of).collect::<Result<_, _>>()?, missing))
    }
}

/// The models of a day, by the index: from one to the next. Takes the day and the limit.
const MODELS_OF: &str = "\
    WITH RECURSIVE models (model) AS (\
    SELECT MIN(model) FROM usage_by WHERE usage_date = ?1 UNION ALL \
    SELECT (SELECT MIN(model) FROM usage_by WHERE usage_date = ?1 AND model > models.model) \
    FROM models WHERE model IS NOT NULL) \
    SELECT model FROM models WHERE model IS NOT NULL LIMIT ?2";

/// The use of models, in the columns of [`use_of_model`]. Takes the day, the first model, the others as a JSON list, and
/// the limit.
static USE_OF_MODELS: LazyLock<String> = LazyLock::new(|| {
    let (columns, of_model) = (&*usage::COLUMNS, &*usage::OF_MODEL);
    format!(
        "SELECT model, {of_model} FROM (\
         SELECT * FROM (SELECT model, {columns} FROM usage_by WHERE usage_date = ?1 AND model = ?2 LIMIT ?4) UNION ALL \
         SELECT * FROM (SELECT model, {columns} FROM usage_by WHERE usage_date = ?1 \
         AND model IN (SELECT value FROM json_each(?3)) ORDER BY model LIMIT ?4)) GROUP BY model ORDER BY model"
    )
});

/// Takes the day, the models as a JSON list, and the limit.
const ENTRIES_OF_MODELS: &str = "\
    SELECT COUNT(*) FROM (SELECT 1 FROM usage_by WHERE usage_date = ?1 \
    AND model IN (SELECT value FROM json_each(?2)) LIMIT ?3)";

fn json_of(models: &[ModelName]) -> String {
    json!(models.iter().map(ModelName::as_str).collect::<Vec<_>>()).to_string()
}

impl SqliteStore {
    /// The rows of a query, and the number of records that the days of the filter lack, in one snapshot: with
    /// a write-ahead log, a read transaction sees one.
    async fn with_missing(&self, filter: &UseFilter, query: Bound<'_>) -> Result<(Vec<SqliteRow>, u64), StoreError> {
        let mut snapshot = self.reader.begin().await.map_err(store_error)?;
        let days = days(&filter.user, filter.span).fetch_all(&mut *snapshot).await.map_err(store_error)?;
        let rows = query.fetch_all(&mut *snapshot).await.map_err(store_error)?;
        snapshot.rollback().await.map_err(store_error)?;
        let days = days.iter().map(day_of).collect::<Result<Vec<_>, _>>()?;
        Ok((rows, missing_in(&days)))
    }
}

fn integer(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// Inserts the day again with the next version. If it has another version than the change was made from, it
/// is still there, and the INSERT is refused.
fn write(connection: &mut Connection, user: &UserId, change: &DayChange) -> rusqlite::Result<()> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let (user, day, next) = (user.as_str(), change.day.to_string(), integer(change.next()));
    let delete = "DELETE FROM usage_parts WHERE user_id = ? AND usage_date = ? AND version = ?";
    transaction.prepare_cached(delete)?.execute((user, &day, integer(change.version)))?;
    let insert = "INSERT INTO usage_parts (user_id, usage_date, version, records, parts) VALUES (?, ?, ?, ?, ?)";
    let (records, parts) = (change.records().map_or(-1, integer), change.parts.as_deref().unwrap_or_default());
    transaction.prepare_cached(insert)?.execute((user, &day, next, records, usage::stored(parts)))?;

    if change.version == 0 {
        let delete = "DELETE FROM usage_by WHERE user_id = ? AND usage_date = ?";
        transaction.prepare_cached(delete)?.execute((user, &day))?;
    }
    let mut delete =
        transaction.prepare_cached("DELETE FROM usage_by WHERE user_id = ? AND usage_date = ? AND part = ?")?;
    for part in &change.removed {
        delete.execute((user, &day, integer(*part)))?;
    }
    drop(delete);
    if let Some((_, sums)) = change.added.first() {
        let places = ", ?".repeat(sums.counts().len() + 2);
        let insert = format!(
            "INSERT INTO usage_by (user_id, usage_date, part, service_name, model, api_key_id, {}) \
             VALUES (?, ?, ?, ?, ?, ?{places})",
            *usage::COLUMNS
        );
        let mut insert = transaction.prepare_cached(&insert)?;
        for (group, sums) in &change.added {
            let text = |text: &str| Value::Text(text.to_owned());
            let key = [group.service.as_str(), &group.model, &group.api_key].map(text);
            let amounts = [sums.amount.micros(), sums.refunded_amount.micros()];
            let numbers = sums.counts().into_iter().chain(amounts).map(Value::Integer);
            let values = [text(user), text(&day), Value::Integer(next)].into_iter().chain(key).chain(numbers);
            insert.execute(rusqlite::params_from_iter(values))?;
        }
    }
    transaction.commit()
}

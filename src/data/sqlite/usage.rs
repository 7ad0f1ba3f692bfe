//! The rollup by service, model and API key.

use std::collections::BTreeMap;

use async_trait::async_trait;
use chrono::{DateTime, NaiveDate, Utc};
use rusqlite::{Connection, TransactionBehavior, types::Value};
use sqlx::{Sqlite, query::Query, sqlite::SqliteArguments};

use super::{SqliteStore, writer::writer_error};
use crate::{
    biz::{
        reports::{
            statistics::DailyUse,
            usage::{DayPart, GroupBy, StaleDay, UseCount, UseFilter, UseGroup, UseStore, UseSums},
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
        usage::{self, group_of, grouped_of, stale_days_of},
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

fn filtered<'q>(query: Bound<'q>, filter: &'q UseFilter) -> Bound<'q> {
    let (service, model) = (filter.service.as_ref().map(ServiceName::as_str), filter.model.as_ref());
    let (model, key) = (model.map(ModelName::as_str), filter.api_key.as_ref().map(ApiKeyId::as_str));
    let query = query.bind(filter.user.as_str()).bind(filter.span.first.to_string()).bind(filter.span.last.to_string());
    query.bind(service).bind(service).bind(model).bind(model).bind(key).bind(key)
}

#[async_trait]
impl UseStore for SqliteStore {
    async fn stale_days(&self, user: &UserId, span: DaySpan) -> Result<Vec<StaleDay>, StoreError> {
        let mut query = sqlx::query(&**usage::PARTS);
        for _ in 0..2 {
            query = query.bind(user.as_str()).bind(span.first.to_string()).bind(span.last.to_string());
        }
        stale_days_of(&query.fetch_all(&self.reader).await.map_err(store_error)?)
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

    async fn replace(
        &self,
        user: &UserId,
        place: (NaiveDate, DayPart),
        groups: &[(UseGroup, UseSums)],
    ) -> Result<(), StoreError> {
        let (user, groups) = (user.clone(), groups.to_vec());
        let writing =
            move |connection: &mut Connection| replace(connection, &user, place, &groups).map_err(writer_error);
        self.writer.run_and_rest(writing).await
    }

    async fn fold(&self, user: &UserId, day: NaiveDate) -> Result<(), StoreError> {
        let user = user.clone();
        self.writer.run_and_rest(move |connection| fold(connection, &user, day).map_err(writer_error)).await
    }

    async fn grouped(
        &self,
        filter: &UseFilter,
        by: GroupBy,
        after: Option<&str>,
        limit: u32,
    ) -> Result<Vec<(String, UseSums)>, StoreError> {
        let query = filtered(sqlx::query(usage::grouped(by)), filter).bind(after).bind(after).bind(limit);
        let rows = query.fetch_all(&self.reader).await.map_err(store_error)?;
        rows.iter().map(grouped_of).collect()
    }

    async fn daily_of(&self, filter: &UseFilter) -> Result<Vec<DailyUse>, StoreError> {
        let query = filtered(sqlx::query(&**usage::DAILY), filter);
        query.fetch_all(&self.reader).await.map_err(store_error)?.iter().map(daily_use_of).collect()
    }
}

fn fold(connection: &mut Connection, user: &UserId, day: NaiveDate) -> rusqlite::Result<()> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    for sql in &*usage::FOLD {
        transaction.prepare_cached(sql)?.execute((user.as_str(), day.to_string()))?;
    }
    transaction.commit()
}

/// The number of counts and amounts.
const SUMS: usize = UseCount::ALL.len() + 2;

/// The counts and amounts of a group.
fn numbers(sums: &UseSums) -> [i64; SUMS] {
    let mut numbers = [0; SUMS];
    let amounts = [sums.amount.micros(), sums.refunded_amount.micros()];
    for (number, value) in numbers.iter_mut().zip(sums.counts().into_iter().chain(amounts)) {
        *number = value;
    }
    numbers
}

/// Writes the groups that changed only: a user that is polled may have a thousand, and all charges wait for
/// this writer.
fn replace(
    connection: &mut Connection,
    user: &UserId,
    (day, part): (NaiveDate, DayPart),
    groups: &[(UseGroup, UseSums)],
) -> rusqlite::Result<()> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let (day, number) = (day.to_string(), part.number());
    let others = match part {
        DayPart::Whole => "DELETE FROM usage_by WHERE user_id = ? AND usage_date = ? AND part > 0",
        DayPart::Slice(_) => "DELETE FROM usage_by WHERE user_id = ? AND usage_date = ? AND part = 0",
    };
    transaction.prepare_cached(others)?.execute((user.as_str(), &day))?;

    let mut stored: BTreeMap<[String; 3], [i64; SUMS]> = BTreeMap::new();
    let of_part = "user_id = ? AND usage_date = ? AND part = ?";
    let select = format!("SELECT service_name, model, api_key_id, {} FROM usage_by WHERE {of_part}", *usage::COLUMNS);
    let mut select = transaction.prepare_cached(&select)?;
    let mut rows = select.query((user.as_str(), &day, number))?;
    while let Some(row) = rows.next()? {
        let mut sums = [0; SUMS];
        for (index, sum) in sums.iter_mut().enumerate() {
            *sum = row.get(GROUP + index)?;
        }
        stored.insert([row.get(0)?, row.get(1)?, row.get(2)?], sums);
    }
    drop(rows);
    drop(select);

    let places = ", ?".repeat(GROUP + SUMS);
    let insert = format!(
        "INSERT OR REPLACE INTO usage_by (user_id, usage_date, part, service_name, model, api_key_id, {}) \
         VALUES (?, ?, ?{places})",
        *usage::COLUMNS
    );
    let mut insert = transaction.prepare_cached(&insert)?;
    for (group, sums) in groups {
        let key = [group.service.to_string(), group.model.clone(), group.api_key.clone()];
        let numbers = numbers(sums);
        if stored.remove(&key) == Some(numbers) {
            continue;
        }
        let text = |text: &str| Value::Text(text.to_owned());
        let place = [text(user.as_str()), text(&day), Value::Integer(number.into())];
        let values = place.into_iter().chain(key.map(Value::Text)).chain(numbers.map(Value::Integer));
        insert.execute(rusqlite::params_from_iter(values))?;
    }
    drop(insert);
    let delete = format!("DELETE FROM usage_by WHERE {of_part} AND service_name = ? AND model = ? AND api_key_id = ?");
    let mut delete = transaction.prepare_cached(&delete)?;
    for [service, model, key] in stored.into_keys() {
        delete.execute((user.as_str(), &day, number, service, model, key))?;
    }
    drop(delete);
    transaction.commit()
}

/// The number of columns of a group.
const GROUP: usize = 3;

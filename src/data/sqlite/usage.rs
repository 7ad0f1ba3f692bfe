//! The rollup by service, model and API key.

use std::fmt::Write as _;

use async_trait::async_trait;
use chrono::{DateTime, NaiveDate, Utc};
use rusqlite::{Connection, TransactionBehavior, types::Value};
use sqlx::{Sqlite, query::Query, sqlite::SqliteArguments};

use super::{SqliteStore, writer::writer_error};
use crate::{
    biz::{
        reports::{
            record::{Counted, RecordType},
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
        rows::report::{counted_of, daily_use_of},
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
        self.writer.run(writing).await
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

    async fn count_matching(&self, filter: &UseFilter, kind: Option<RecordType>) -> Result<Counted, StoreError> {
        let query = sqlx::query(&**usage::MATCHING).bind(kind.map_or(0, |kind| kind as i32));
        counted_of(&filtered(query, filter).fetch_one(&self.reader).await.map_err(store_error)?)
    }
}

/// The columns of the key.
const KEYS: usize = 6;

fn replace(
    connection: &mut Connection,
    user: &UserId,
    (day, part): (NaiveDate, DayPart),
    groups: &[(UseGroup, UseSums)],
) -> rusqlite::Result<()> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let day = day.to_string();
    match part {
        DayPart::Whole => {
            let delete = "DELETE FROM usage_by WHERE user_id = ? AND usage_date = ?";
            transaction.prepare_cached(delete)?.execute((user.as_str(), &day))?
        }
        DayPart::Slice(number) => {
            let delete = "DELETE FROM usage_by WHERE user_id = ? AND usage_date = ? AND part IN (0, ?)";
            transaction.prepare_cached(delete)?.execute((user.as_str(), &day, number))?
        }
    };
    let mut insert = format!(
        "INSERT INTO usage_by (user_id, usage_date, part, service_name, model, api_key_id, {}) VALUES (?",
        *usage::COLUMNS
    );
    for _ in 1..KEYS + UseCount::ALL.len() + 2 {
        // A write to a String can't fail.
        let _ = write!(insert, ", ?");
    }
    insert.push(')');
    let mut insert = transaction.prepare_cached(&insert)?;
    for (group, sums) in groups {
        let text = |text: &str| Value::Text(text.to_owned());
        let key = [
            text(user.as_str()),
            text(&day),
            Value::Integer(part.number().into()),
            text(group.service.as_str()),
            text(&group.model),
            text(&group.api_key),
        ];
        let amounts = [sums.amount.micros(), sums.refunded_amount.micros()];
        let numbers = sums.counts().into_iter().chain(amounts).map(Value::Integer);
        insert.execute(rusqlite::params_from_iter(key.into_iter().chain(numbers)))?;
    }
    drop(insert);
    transaction.commit()
}

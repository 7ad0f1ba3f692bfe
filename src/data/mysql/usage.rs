//! The rollup by service, model and API key.

use std::slice;

use async_trait::async_trait;
use chrono::{DateTime, NaiveDate, Utc};
use futures_util::FutureExt;
use sqlx::{
    Connection, MySql,
    mysql::{MySqlArguments, MySqlRow},
    query::Query,
};

use super::{
    MySqlStore,
    statement::{Statement, round_trip},
};
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
            spans,
        },
    },
    data::{
        error::store_error,
        row::Columns,
        rows::report::daily_use_of,
        usage::{self, day_of, group_of, grouped_of, model_of, use_of_model},
    },
};

/// Rows of one INSERT.
const ROWS_AT_ONCE: usize = 1_000;

type Bound<'q> = Query<'q, MySql, MySqlArguments>;

/// A statement over both tables of records.
fn between<'q>(sql: &'static str, user: &'q UserId, (from, before): (DateTime<Utc>, DateTime<Utc>)) -> Bound<'q> {
    let mut query = sqlx::query(sql);
    for _ in 0..2 {
        query = query.bind(user.as_str()).bind(from.naive_utc()).bind(before.naive_utc());
    }
    query
}

fn days(user: &UserId, span: DaySpan) -> Bound<'_> {
    let mut query = sqlx::query(&**usage::DAYS);
    for _ in 0..2 {
        query = query.bind(user.as_str()).bind(span.first).bind(span.last);
    }
    query
}

fn filtered<'q>(query: Bound<'q>, filter: &'q UseFilter) -> Bound<'q> {
    let (service, model) = (filter.service.as_ref().map(ServiceName::as_str), filter.model.as_ref());
    let (model, key) = (model.map(ModelName::as_str), filter.api_key.as_ref().map(ApiKeyId::as_str));
    let query = query.bind(filter.user.as_str()).bind(filter.span.first).bind(filter.span.last);
    query.bind(service).bind(service).bind(model).bind(model).bind(key).bind(key)
}

#[async_trait]
impl UseStore for MySqlStore {
    async fn days(&self, user: &UserId, span: DaySpan) -> Result<Vec<UseDay>, StoreError> {
        self.reader.fetch_all(days(user, span)).await?.iter().map(day_of).collect()
    }

    async fn count_between(&self, user: &UserId, instants: (DateTime<Utc>, DateTime<Utc>)) -> Result<u64, StoreError> {
        let rows = self.reader.fetch_all(between(&usage::COUNT, user, instants)).await?;
        rows.first().map_or(Ok(0), |row| row.number(0))
    }

    async fn newest_between(
        &self,
        user: &UserId,
        instants: (DateTime<Utc>, DateTime<Utc>),
    ) -> Result<Option<DateTime<Utc>>, StoreError> {
        let rows = self.reader.fetch_all(between(&usage::NEWEST, user, instants)).await?;
        rows.first().map_or(Ok(None), |row| row.optional_time(0))
    }

    async fn sums_between(
        &self,
        user: &UserId,
        instants: (DateTime<Utc>, DateTime<Utc>),
    ) -> Result<Vec<(UseGroup, UseSums)>, StoreError> {
        let rows = self.reader.fetch_all(between(&usage::SUMS, user, instants)).await?;
        rows.iter().map(group_of).collect()
    }

    async fn change(&self, user: &UserId, change: DayChange) -> Result<(), StoreError> {
        self.summer.run(Statement::transaction(|statement| push_change(statement, user, &change))).await
    }

    async fn part_sums(
        &self,
        user: &UserId,
        day: NaiveDate,
        part: u64,
    ) -> Result<Vec<(UseGroup, UseSums)>, StoreError> {
        let query = sqlx::query(&**usage::PART).bind(user.as_str()).bind(day).bind(part);
        self.reader.fetch_all(query).await?.iter().map(group_of).collect()
    }

    async fn part_ids(&self, user: &UserId, day: NaiveDate, limit: u32) -> Result<Vec<u64>, StoreError> {
        let query = sqlx::query(usage::PART_IDS).bind(user.as_str()).bind(day).bind(limit);
        self.reader.fetch_all(query).await?.iter().map(|row| row.number(0)).collect()
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
        // The first model alone, so that its entries are read whichever others there are.
        let mut statement = Statement::new("SELECT model, ");
        statement.push(&usage::OF_MODEL).push(" FROM (SELECT * FROM (SELECT model, ").push(&usage::COLUMNS);
        of_models(&mut statement, slice::from_ref(first), day).push(" LIMIT ").number(limit).push(") of_first");
        if !others.is_empty() {
            statement.push(" UNION ALL SELECT * FROM (SELECT model, ").push(&usage::COLUMNS);
            of_models(&mut statement, others, day).push(" ORDER BY model LIMIT ").number(limit).push(") of_others");
        }
        statement.push(") read_entries GROUP BY model ORDER BY model");
        let sets = self.reader.fetch(statement).await?;
        sets.first().map_or(Ok(Vec::new()), |rows| rows.iter().map(use_of_model).collect())
    }

    async fn entries_of_models(&self, models: &[ModelName], day: NaiveDate, limit: u32) -> Result<u64, StoreError> {
        if models.is_empty() {
            return Ok(0);
        }
        let mut statement = Statement::new("SELECT COUNT(*) FROM (SELECT 1 AS one");
        of_models(&mut statement, models, day).push(" LIMIT ").number(limit).push(") counted");
        let sets = self.reader.fetch(statement).await?;
        sets.first().and_then(|rows| rows.first()).map_or(Ok(0), |row| row.number(0))
    }

    async fn models_of(&self, day: NaiveDate, limit: u32) -> Result<Vec<ModelName>, StoreError> {
        // MariaDB skips from one model to the next only if both columns of the index are grouped, and not in a prepared
        // statement.
        let mut statement = Statement::new("SELECT model FROM usage_by WHERE usage_date = ");
        statement.row(|row| {
            row.day(day);
        });
        statement.push(" GROUP BY usage_date, model ORDER BY usage_date, model LIMIT ").number(limit);
        let sets = self.reader.fetch(statement).await?;
        sets.first().map_or(Ok(Vec::new()), |rows| rows.iter().map(model_of).collect())
    }

    async fn daily_of(&self, filter: &UseFilter) -> Result<(Vec<DailyUse>, u64), StoreError> {
        let (rows, missing) = self.with_missing(filter, filtered(sqlx::query(&**usage::DAILY), filter)).await?;
        Ok((rows.iter().map(daily_use_of).collect::<Result<_, _>>()?, missing))
    }
}

impl MySqlStore {
    /// The rows of a query, and the number of records that the days of the filter lack, in one snapshot.
    async fn with_missing(&self, filter: &UseFilter, query: Bound<'_>) -> Result<(Vec<MySqlRow>, u64), StoreError> {
        // Applies to the next transaction only.
        let level = Statement::new("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ");
        let (mut connection, ()) =
            self.reader.take_with(|connection| level.clone().execute(connection).boxed()).await?;
        let mut snapshot =
            connection.begin_with("START TRANSACTION WITH CONSISTENT SNAPSHOT").await.map_err(store_error)?;
        let reads = async {
            let days = days(&filter.user, filter.span).fetch_all(&mut *snapshot).await.map_err(store_error)?;
            Ok((days, query.fetch_all(&mut *snapshot).await.map_err(store_error)?))
        };
        let (days, rows) = spans::traced(round_trip("use in one snapshot", "SELECT", None), reads).await?;
        snapshot.rollback().await.map_err(store_error)?;
        connection.give_back();
        let days = days.iter().map(day_of).collect::<Result<Vec<_>, _>>()?;
        Ok((rows, missing_in(&days)))
    }
}

/// The table and the condition of a statement over the entries of models on a day.
fn of_models<'s>(statement: &'s mut Statement, models: &[ModelName], day: NaiveDate) -> &'s mut Statement {
    statement.push(" FROM usage_by WHERE usage_date = ");
    statement.row(|row| {
        row.day(day);
    });
    statement.push(" AND model IN (").texts(models.iter().map(ModelName::as_str)).push(")")
}

/// Inserts the day again with the next version. If it has another version than the change was made from, it
/// is still there, and the INSERT is refused. So a change that is sent twice is refused too.
fn push_change(statement: &mut Statement, user: &UserId, change: &DayChange) {
    let of_day = |statement: &mut Statement, sql| {
        statement.push(sql).push(" WHERE user_id = ").texts([user.as_str()]).push(" AND usage_date = ");
        statement.row(|row| {
            row.day(change.day);
        });
    };
    of_day(statement, "DELETE FROM usage_parts");
    statement.push(" AND version = ").number(change.version);
    statement.push("; INSERT INTO usage_parts (user_id, usage_date, version, records, parts) VALUES ");
    statement.rows([()], |row, ()| {
        row.text(user.as_str()).day(change.day).number(change.next());
        row.number(change.records().map_or(-1, i128::from));
        row.text(&usage::stored(change.parts.as_deref().unwrap_or_default()));
    });
    if change.version == 0 {
        statement.push("; ");
        of_day(statement, "DELETE FROM usage_by");
    }
    for part in &change.removed {
        statement.push("; ");
        of_day(statement, "DELETE FROM usage_by");
        statement.push(" AND part = ").number(*part);
    }
    for groups in change.added.chunks(ROWS_AT_ONCE) {
        statement.push("; INSERT INTO usage_by (user_id, usage_date, part, service_name, model, api_key_id, ");
        statement.push(&usage::COLUMNS).push(") VALUES ");
        statement.rows(groups, |row, (group, sums)| {
            row.text(user.as_str()).day(change.day).number(change.next());
            row.text(group.service.as_str()).text(&group.model).text(&group.api_key);
            for count in sums.counts() {
                row.number(count);
            }
            row.money(sums.amount).money(sums.refunded_amount);
        });
    }
    statement.push("; ");
}

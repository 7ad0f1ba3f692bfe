//! The rollup by service, model and API key.

use async_trait::async_trait;
use chrono::{DateTime, NaiveDate, Utc};
use sqlx::{MySql, mysql::MySqlArguments, query::Query};

use super::{MySqlStore, statement::Statement};
use crate::{
    biz::{
        reports::{
            statistics::DailyUse,
            usage::{DayPart, GroupBy, StaleDay, UseFilter, UseGroup, UseStore, UseSums},
        },
        values::{
            calendar::DaySpan,
            error::StoreError,
            ids::{ApiKeyId, ModelName, ServiceName, UserId},
        },
    },
    data::{
        row::Columns,
        rows::report::daily_use_of,
        usage::{self, group_of, grouped_of, stale_days_of},
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

fn filtered<'q>(query: Bound<'q>, filter: &'q UseFilter) -> Bound<'q> {
    let (service, model) = (filter.service.as_ref().map(ServiceName::as_str), filter.model.as_ref());
    let (model, key) = (model.map(ModelName::as_str), filter.api_key.as_ref().map(ApiKeyId::as_str));
    let query = query.bind(filter.user.as_str()).bind(filter.span.first).bind(filter.span.last);
    query.bind(service).bind(service).bind(model).bind(model).bind(key).bind(key)
}

#[async_trait]
impl UseStore for MySqlStore {
    async fn stale_days(&self, user: &UserId, span: DaySpan) -> Result<Vec<StaleDay>, StoreError> {
        let mut query = sqlx::query(&**usage::PARTS);
        for _ in 0..2 {
            query = query.bind(user.as_str()).bind(span.first).bind(span.last);
        }
        stale_days_of(&self.reader.fetch_all(query).await?)
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

    async fn replace(
        &self,
        user: &UserId,
        place: (NaiveDate, DayPart),
        groups: &[(UseGroup, UseSums)],
    ) -> Result<(), StoreError> {
        self.summer.run(Statement::transaction(|statement| replace(statement, user, place, groups))).await
    }

    async fn fold(&self, user: &UserId, day: NaiveDate) -> Result<(), StoreError> {
        self.summer.run(Statement::transaction(|statement| fold(statement, user, day))).await
    }

    async fn grouped(
        &self,
        filter: &UseFilter,
        by: GroupBy,
        after: Option<&str>,
        limit: u32,
    ) -> Result<Vec<(String, UseSums)>, StoreError> {
        let query = filtered(sqlx::query(usage::grouped(by)), filter).bind(after).bind(after).bind(limit);
        self.reader.fetch_all(query).await?.iter().map(grouped_of).collect()
    }

    async fn daily_of(&self, filter: &UseFilter) -> Result<Vec<DailyUse>, StoreError> {
        let rows = self.reader.fetch_all(filtered(sqlx::query(&**usage::DAILY), filter)).await?;
        rows.iter().map(daily_use_of).collect()
    }
}

/// The statements of [`usage::FOLD`] with their values.
fn fold(statement: &mut Statement, user: &UserId, day: NaiveDate) {
    for sql in &*usage::FOLD {
        let mut parts = sql.splitn(3, '?');
        statement.push(parts.next().unwrap_or_default()).texts([user.as_str()]).push(parts.next().unwrap_or_default());
        statement.row(|row| {
            row.day(day);
        });
        statement.push(parts.next().unwrap_or_default()).push("; ");
    }
}

fn replace(
    statement: &mut Statement,
    user: &UserId,
    (day, part): (NaiveDate, DayPart),
    groups: &[(UseGroup, UseSums)],
) {
    statement.push("DELETE FROM usage_by WHERE user_id = ").texts([user.as_str()]).push(" AND usage_date = ");
    statement.row(|row| {
        row.day(day);
    });
    if let DayPart::Slice(number) = part {
        statement.push(" AND part IN (0, ").number(number).push(")");
    }
    statement.push("; ");
    for groups in groups.chunks(ROWS_AT_ONCE) {
        statement.push("INSERT INTO usage_by (user_id, usage_date, part, service_name, model, api_key_id, ");
        statement.push(&usage::COLUMNS).push(") VALUES ");
        statement.rows(groups, |row, (group, sums)| {
            row.text(user.as_str()).day(day).number(part.number());
            row.text(group.service.as_str()).text(&group.model).text(&group.api_key);
            for count in sums.counts() {
                row.number(count);
            }
            row.money(sums.amount).money(sums.refunded_amount);
        });
        statement.push("; ");
    }
}

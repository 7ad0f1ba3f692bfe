//! The plan of a conversion, in lines for people.

use chrono::NaiveDateTime;
use rust_decimal::Decimal;
use sqlx::{AssertSqlSafe, MySqlConnection, Row, mysql::MySqlRow};

use super::{
    columns::changes,
    inspect::{Shape, TABLES, Table},
    reading::Reading,
};
use crate::{
    biz::values::error::StoreError,
    data::{error::store_error, plan::UpgradePlan, row::Columns},
};

/// The content of the legacy tables, and its differences from the history.
pub(super) struct Books {
    rows: Vec<(&'static str, i64)>,
    /// Id and time of one record.
    example: Option<(String, NaiveDateTime)>,
    balances: Differences,
    quotas: Differences,
    /// Number and sum of the pending top-ups.
    pending: (i64, Decimal),
}

/// The number of accounts (`of`), the number that differ (`found`), and the sums of positive and
/// negative differences.
#[derive(Default)]
struct Differences {
    of: i64,
    found: i64,
    above: Decimal,
    below: Decimal,
}

impl Books {
    /// Counts and adds up the rows of the legacy tables.
    pub(super) async fn read(
        connection: &mut MySqlConnection,
        shape: &Shape,
        reading: &Reading,
    ) -> Result<Self, StoreError> {
        let mut rows = Vec::new();
        for name in TABLES.into_iter().filter(|name| shape.tables.contains_key(name)) {
            let count = sqlx::query(AssertSqlSafe(format!("SELECT COUNT(*) FROM {name}")));
            let row = count.fetch_one(&mut *connection).await.map_err(store_error)?;
            rows.push((name, row.try_get(0).map_err(store_error)?));
        }
        let remaining = Remaining { shape, reading };
        Ok(Self {
            rows,
            example: example(connection, &remaining).await?,
            balances: differences(connection, remaining.balances(), "user_id", reading).await?,
            quotas: differences(connection, remaining.quotas(), "user_id, reset_month, service_name", reading).await?,
            pending: pending(connection, &remaining).await?,
        })
    }
}

/// The rows of the users that are not converted yet.
struct Remaining<'a> {
    shape: &'a Shape,
    reading: &'a Reading,
}

/// SQL of a text as it compares after the conversion.
fn key(column: &str) -> String {
    format!("CONVERT(RTRIM({column}) USING utf8mb4) COLLATE utf8mb4_bin")
}

impl Remaining<'_> {
    fn table(&self, name: &str) -> Option<(&Table, String, String)> {
        let table = self.shape.tables.get(name)?;
        let user = key(table.user());
        let has_last = self.reading.begun.as_ref().is_some_and(|begun| begun.last_user.is_some());
        let rows = if has_last { format!("FROM {name} WHERE {user} > ?") } else { format!("FROM {name} WHERE TRUE") };
        Some((table, user, rows))
    }

    fn balances(&self) -> Vec<String> {
        let mut parts = Vec::new();
        if let Some((_, user, rows)) = self.table("user_balance") {
            parts.push(format!("SELECT {user} AS user_id, COALESCE(balance, 0) AS part {rows}"));
        }
        if let Some((_, user, rows)) = self.table("recharge_order") {
            parts.push(format!(
                "SELECT SQL_BIG_RESULT {user} AS user_id, -SUM(amount) AS part {rows} \
                 AND LOWER(TRIM(COALESCE(status, 'pending'))) = 'success' GROUP BY {user}"
            ));
        }
        if let Some((_, user, rows)) = self.table("billing_record") {
            parts.push(format!(
                "SELECT SQL_BIG_RESULT {user} AS user_id, SUM(COALESCE(amount, 0)) AS part {rows} GROUP BY {user}"
            ));
        }
        parts
    }

    fn quotas(&self) -> Vec<String> {
        let mut parts = Vec::new();
        if let Some((_, user, rows)) = self.table("free_quota") {
            parts.push(format!(
                "SELECT {user} AS user_id, {} AS reset_month, {} AS service_name, COALESCE(used_quota, 0) AS part {rows}",
                key("reset_month"),
                key("service_name")
            ));
        }
        if let Some((table, user, rows)) = self.table("billing_record") {
            let is_text = table.columns.get("type").is_some_and(|column| column.is_text());
            let is_free = if is_text { "LOWER(RTRIM(CAST(type AS CHAR))) = 'free'" } else { "type = 1" };
            let month = format!("DATE_FORMAT({}, '%Y-%m')", self.reading.times.billing_sql("time"));
            parts.push(format!(
                "SELECT SQL_BIG_RESULT user_id, {} AS reset_month, service_name, -SUM(units) AS part FROM ( \
                 SELECT {user} AS user_id, {} AS service_name, COALESCE(count, 0) AS units, \
                 IF(created_at IS NULL OR created_at < '1970-01-02', TIMESTAMP'1970-01-02 00:00:00', created_at) AS time \
                 {rows} AND {is_free}) free_records GROUP BY 1, 2, 3",
                key(&month),
                key("service_name")
            ));
        }
        parts
    }
}

/// Adds up the parts of each account. There may be as many accounts as records, so the query asks
/// for sorting (SQL_BIG_RESULT), which takes a third of the time of a temporary table on disk.
async fn differences(
    connection: &mut MySqlConnection,
    parts: Vec<String>,
    account: &str,
    reading: &Reading,
) -> Result<Differences, StoreError> {
    if parts.is_empty() {
        return Ok(Differences::default());
    }
    let sql = format!(
        "SELECT COUNT(*), COUNT(IF(difference <> 0, 1, NULL)), \
         CAST(COALESCE(SUM(IF(difference > 0, difference, 0)), 0) AS DECIMAL(26,6)), \
         CAST(COALESCE(SUM(IF(difference < 0, difference, 0)), 0) AS DECIMAL(26,6)) \
         FROM (SELECT SQL_BIG_RESULT SUM(part) AS difference FROM ({}) parts GROUP BY {account}) accounts",
        parts.join(" UNION ALL ")
    );
    let row = fetch(connection, sql, parts.len(), reading).await?;
    let count = |at: usize| row.try_get(at).map_err(store_error);
    let sum = |at: usize| row.try_get::<Decimal, _>(at).map(|sum| sum.normalize()).map_err(store_error);
    Ok(Differences { of: count(0)?, found: count(1)?, above: sum(2)?, below: sum(3)? })
}

/// Runs a query. Binds the last converted user, if any, to each of the parts.
async fn fetch(
    connection: &mut MySqlConnection,
    sql: String,
    parts: usize,
    reading: &Reading,
) -> Result<MySqlRow, StoreError> {
    let mut query = sqlx::query(AssertSqlSafe(sql)).persistent(false);
    if let Some(last) = reading.begun.as_ref().and_then(|begun| begun.last_user.as_ref()) {
        for _ in 0..parts {
            query = query.bind(last);
        }
    }
    query.fetch_one(connection).await.map_err(store_error)
}

async fn example(
    connection: &mut MySqlConnection,
    remaining: &Remaining<'_>,
) -> Result<Option<(String, NaiveDateTime)>, StoreError> {
    let Some((_, _, rows)) = remaining.table("billing_record") else { return Ok(None) };
    let sql = format!(
        "SELECT CAST(MAX(billing_record_id) AS CHAR), CAST(MAX(created_at) AS DATETIME(6)), COUNT(*) FROM (SELECT billing_record_id, created_at \
         {rows} AND created_at IS NOT NULL AND created_at > '1970-01-02' LIMIT 1) one"
    );
    let row = fetch(connection, sql, 1, remaining.reading).await?;
    if row.try_get::<i64, _>(2).map_err(store_error)? == 0 {
        return Ok(None);
    }
    Ok(Some((row.text(0)?, row.try_get(1).map_err(store_error)?)))
}

async fn pending(connection: &mut MySqlConnection, remaining: &Remaining<'_>) -> Result<(i64, Decimal), StoreError> {
    let Some((_, _, rows)) = remaining.table("recharge_order") else { return Ok((0, Decimal::ZERO)) };
    let sql = format!(
        "SELECT COUNT(*), CAST(COALESCE(SUM(amount), 0) AS DECIMAL(26,6)) {rows} \
         AND LOWER(TRIM(COALESCE(status, 'pending'))) = 'pending'"
    );
    let row = fetch(connection, sql, 1, remaining.reading).await?;
    let sum: Decimal = row.try_get(1).map_err(store_error)?;
    Ok((row.try_get(0).map_err(store_error)?, sum.normalize()))
}

/// Adds the lines of the conversion to the plan.
pub(super) fn describe(plan: &mut UpgradePlan, shape: &Shape, reading: &Reading, found: &str, books: &Books) {
    plan.has_work = true;
    let lines = &mut plan.lines;
    let last = match &reading.begun {
        Some(begun) => {
            lines.push("the database is the legacy service's; its conversion has begun, and continues".into());
            begun.last_user.as_ref()
        }
        None => {
            lines.push("the database is the legacy service's; it is converted in place, and every row is kept".into());
            None
        }
    };
    for (name, rows) in &books.rows {
        let changes = shape.tables.get(name).map(|table| changes(name, table)).unwrap_or_default();
        let changes: Vec<_> = changes.into_iter().map(|change| change.what).collect();
        let changes = if changes.is_empty() { "no column changes".to_owned() } else { changes.join("; ") };
        lines.push(format!("{name}: {rows} rows; {changes}"));
    }
    let (zone, billing) = (reading.zone, reading.billing_zone);
    let why = if reading.begun.is_some() { "set when the conversion began" } else { found };
    lines.push(format!("times: wall-clock times of {zone} ({why}) become UTC; billing days are those of {billing}"));
    if let Some((id, wall)) = &books.example {
        let utc = reading.times.instant(*wall);
        let utc = utc.naive_utc();
        lines.push(format!("for example, created_at of billing_record {id}: {wall} becomes {utc} UTC"));
    }
    let remaining = if last.is_some() { "remaining " } else { "" };
    describe_differences(lines, &format!("{remaining}balances"), "recharges and records", &books.balances);
    describe_differences(lines, &format!("{remaining}used quotas"), "free records of the month", &books.quotas);
    let (count, sum) = books.pending;
    if count > 0 {
        lines.push(format!(
            "{remaining}pending top-ups: {count}, {sum} in total; a top-up that an opening entry of its user covers \
            expires, because it may have been credited by hand; the others are looked up at payment-service"
        ));
    }
}

fn describe_differences(lines: &mut Vec<String>, what: &str, history: &str, differences: &Differences) {
    let Differences { of, found, above, below } = differences;
    lines.push(if *found == 0 {
        format!("{what}: {of}; all match their {history}")
    } else {
        let below = below.abs();
        format!(
            "{what}: {of}; {found} do not match their {history} and get opening entries, \
            +{above} and -{below} in total"
        )
    });
}

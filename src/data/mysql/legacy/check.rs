//! Finds the reasons against a conversion, before anything is changed.

use sqlx::{AssertSqlSafe, MySqlConnection, Row, mysql::MySqlRow};

use super::{
    inspect::{Shape, TABLES, Table},
    session::refused,
};
use crate::{
    biz::values::error::StoreError,
    data::{error::store_error, row::Columns},
};

/// Required columns of each table, besides the user, whose column has two names.
const NEEDED: [(&str, &[&str]); 4] = [
    ("user_balance", &["balance"]),
    ("free_quota", &["service_name", "total_quota", "used_quota", "reset_month"]),
    ("billing_record", &["billing_record_id", "service_name", "type", "amount", "count", "created_at"]),
    ("recharge_order", &["order_id", "amount", "status"]),
];
/// Columns that may not be NULL after the conversion, with the longest text.
const FILLED: [(&str, &str, Option<i64>); 13] = [
    ("user_balance", "user_id", Some(36)),
    ("free_quota", "user_id", Some(36)),
    ("free_quota", "service_name", Some(32)),
    ("free_quota", "reset_month", Some(7)),
    ("billing_record", "billing_record_id", Some(64)),
    ("billing_record", "user_id", Some(36)),
    ("billing_record", "service_name", Some(32)),
    ("billing_record", "type", None),
    ("recharge_order", "user_id", Some(36)),
    ("recharge_order", "order_id", Some(64)),
    ("recharge_order", "amount", None),
    ("user_balance", "balance", None),
    ("billing_record", "amount", None),
];
/// Columns that may be NULL, with the longest text.
const SHORT: [(&str, &str, i64); 3] = [
    ("recharge_order", "payment_order_id", 64),
    ("recharge_order", "payment_id", 64),
    ("recharge_order", "status", 20),
];
/// The largest value of the columns that have 32 bits after the conversion.
const LARGEST: i64 = i32::MAX as i64;
/// Columns that the migrations add. A legacy table that has one already is refused.
const ADDED: [(&str, &str); 6] = [
    ("user_balance", "held"),
    ("free_quota", "held_quota"),
    ("billing_record", "usage_date"),
    ("billing_record", "trace_id"),
    ("recharge_order", "payment_method"),
    ("recharge_order", "payment_url"),
];
/// Columns in which NULL means zero.
const NULL_IS_ZERO: [(&str, &str); 2] = [("user_balance", "balance"), ("billing_record", "amount")];
/// Columns that may not be negative, with the advice for a negative value.
const NOT_NEGATIVE: [(&str, &str, &str); 4] = [
    ("free_quota", "used_quota", "raise total_quota by as much and set used_quota to 0"),
    ("free_quota", "total_quota", "set it to 0"),
    ("billing_record", "count", "a refund is a balance and not a record: delete it, or set its count to 0"),
    ("user_balance", "version", "set it to 0"),
];
/// Keys that must be unique, because two rows with one key would become one.
const UNIQUE: [(&str, &[&str]); 3] = [
    ("user_balance", &["user_id"]),
    ("free_quota", &["user_id", "service_name", "reset_month"]),
    ("recharge_order", &["order_id"]),
];
const AMOUNTS: [(&str, &str); 3] =
    [("user_balance", "balance"), ("billing_record", "amount"), ("recharge_order", "amount")];
const PLACES: i64 = 6;

/// Returns an error with all reasons against the conversion. Names and types are checked first,
/// because rows of other types can't be read.
pub(super) async fn refusals(
    connection: &mut MySqlConnection,
    shape: &Shape,
    is_begun: bool,
) -> Result<(), StoreError> {
    let mut reasons = of_columns(shape);
    if !is_begun {
        reasons.extend(of_keys(shape));
    }
    if reasons.is_empty() {
        reasons = of_rows(connection, shape).await?;
        reasons.extend(of_dependants(connection).await?);
    }
    if reasons.is_empty() { Ok(()) } else { Err(refused(&reasons)) }
}

fn of_columns(shape: &Shape) -> Vec<String> {
    let mut reasons = Vec::new();
    for (name, table) in &shape.tables {
        for [legacy, ours] in [["uid", "user_id"], ["payment_id", "payment_order_id"]] {
            if table.has(legacy) && table.has(ours) {
                reasons.push(format!("{name} has both {legacy} and {ours}: drop the unused one"));
            }
        }
        if !table.has("user_id") && !table.has("uid") {
            reasons.push(format!("{name} has neither user_id nor uid: add user_id"));
        }
        let needed = NEEDED.iter().filter(|(of, _)| of == name).flat_map(|(_, columns)| *columns);
        reasons
            .extend(needed.filter(|column| !table.has(column)).map(|column| format!("{name} has no {column}: add it")));
        for (column, found) in &table.columns {
            if matches!(column.as_str(), "created_at" | "updated_at")
                && !matches!(found.data_type.as_str(), "datetime" | "timestamp")
            {
                reasons.push(format!("{name}.{column} is {}: make it a DATETIME", found.full_type));
            }
            let is_amount = AMOUNTS.contains(&(name, column.as_str()));
            let is_exact = found.is_whole_number() || found.data_type == "decimal";
            if is_amount && (!is_exact || found.scale.unwrap_or(0) > PLACES) {
                let kind = &found.full_type;
                reasons.push(format!("{name}.{column} is {kind}: make it a DECIMAL with at most {PLACES} places"));
            }
            if column == "type" && !found.is_whole_number() && !found.is_text() {
                reasons.push(format!(
                    "{name}.type is {}: make it a TINYINT, 1 for free quota and 2 for balance",
                    found.full_type
                ));
            }
            if !found.has_default && !is_ours(name, column) {
                reasons.push(format!(
                    "{name}.{column} is unknown to this service, which can't fill it: make it nullable, or give it a default"
                ));
            }
        }
    }
    reasons
}

/// Reasons that count only before the conversion begins.
fn of_keys(shape: &Shape) -> Vec<String> {
    let mut reasons = Vec::new();
    for (name, table) in &shape.tables {
        for (_, column) in ADDED.iter().filter(|(of, column)| of == name && table.has(column)) {
            reasons.push(format!(
                "{name} has a {column}, which this service adds: rename it; if a backup was restored over a \
                conversion, restore it into an empty database"
            ));
        }
        for (column, _) in table.columns.iter().filter(|(column, found)| found.is_counted && !is_ours(name, column)) {
            reasons.push(format!("{name}.{column} is AUTO_INCREMENT, but this service uses other row keys: drop it"));
        }
        if !table.columns.values().any(|column| column.is_in_primary_key) {
            reasons
                .push(format!("{name} has no primary key: add the one of migrations/mysql/0001_existing_tables.sql"));
        }
    }
    reasons
}

/// Whether this service fills a column, or gives it a default.
fn is_ours(table: &str, column: &str) -> bool {
    let id = match table {
        "user_balance" => "user_balance_id",
        "free_quota" => "free_quota_id",
        "billing_record" => "billing_record_id",
        _ => "order_id",
    };
    let needed = NEEDED.iter().any(|(of, columns)| *of == table && columns.contains(&column));
    let others = ["uid", "user_id", "version", "created_at", "updated_at", "payment_id", "payment_order_id"];
    needed || column == id || others.contains(&column)
}

async fn of_rows(connection: &mut MySqlConnection, shape: &Shape) -> Result<Vec<String>, StoreError> {
    let mut reasons = Vec::new();
    for (name, table) in &shape.tables {
        for (_, column, longest) in FILLED.iter().filter(|(of, ..)| of == name) {
            let here = here(table, column);
            let Some(found) = table.columns.get(here) else { continue };
            let rows = format!("FROM {name} WHERE {here} IS NULL");
            if found.is_nullable && !NULL_IS_ZERO.contains(&(name, column)) {
                refuse_any(
                    connection,
                    &mut reasons,
                    &rows,
                    &format!("rows of {name} have no {here}: complete or delete them"),
                )
                .await?;
            }
            if let (Some(longest), Some(length)) = (longest, found.length)
                && length > *longest
            {
                let rows = format!("FROM {name} WHERE CHAR_LENGTH(RTRIM({here})) > {longest}");
                let why = format!("rows of {name} have a {here} of more than {longest} characters: shorten them");
                refuse_any(connection, &mut reasons, &rows, &why).await?;
            }
        }
        for (_, column, longest) in SHORT.iter().filter(|(of, column, _)| of == name && table.has(column)) {
            let rows = format!("FROM {name} WHERE CHAR_LENGTH(RTRIM({column})) > {longest}");
            let why = format!("rows of {name} have a {column} of more than {longest} characters: shorten them");
            refuse_any(connection, &mut reasons, &rows, &why).await?;
        }
        for (_, column, _) in NOT_NEGATIVE.iter().filter(|(of, column, _)| of == name && *column != "version") {
            if table.has(column) {
                let why = format!("rows of {name} have a {column} above {LARGEST}: lower it");
                refuse_any(connection, &mut reasons, &format!("FROM {name} WHERE {column} > {LARGEST}"), &why).await?;
            }
        }
        if table.has("deleted_at") {
            let why =
                format!("rows of {name} are marked as deleted by deleted_at, which this service ignores: delete them");
            refuse_any(connection, &mut reasons, &format!("FROM {name} WHERE deleted_at IS NOT NULL"), &why).await?;
        }
        for (_, column, advice) in NOT_NEGATIVE.iter().filter(|(of, ..)| of == name) {
            if table.has(column) {
                let why = format!("rows of {name} have a {column} below zero: {advice}");
                refuse_any(connection, &mut reasons, &format!("FROM {name} WHERE {column} < 0"), &why).await?;
            }
        }
        for (_, columns) in UNIQUE.iter().filter(|(of, _)| of == name) {
            if !is_unique(connection, name, table, columns).await? {
                // Compared as after the conversion: byte by byte, without spaces at the end.
                let keys: Vec<_> =
                    columns.iter().map(|column| format!("CAST(RTRIM({}) AS BINARY)", here(table, column))).collect();
                let keys = keys.join(", ");
                let rows = format!("FROM (SELECT 1 FROM {name} GROUP BY {keys} HAVING COUNT(*) > 1) twice");
                let why =
                    format!("values of {} are in {name} more than once: keep one row of each", columns.join(", "));
                refuse_any(connection, &mut reasons, &rows, &why).await?;
            }
        }
    }
    if let Some(table) = shape.tables.get("billing_record") {
        reasons.extend(of_types(connection, table).await?);
    }
    if let Some(table) = shape.tables.get("recharge_order") {
        reasons.extend(of_orders(connection, table).await?);
    }
    Ok(reasons)
}

/// The name of a column of this service in the legacy table.
fn here<'a>(table: &Table, column: &'a str) -> &'a str {
    if column == "user_id" { table.user() } else { column }
}

async fn refuse_any(
    connection: &mut MySqlConnection,
    reasons: &mut Vec<String>,
    rows: &str,
    why: &str,
) -> Result<(), StoreError> {
    let found = sqlx::query(AssertSqlSafe(format!("SELECT COUNT(*) {rows}")));
    let found: i64 = found.fetch_one(connection).await.and_then(|row| row.try_get(0)).map_err(store_error)?;
    if found > 0 {
        reasons.push(format!("{found} {why}"));
    }
    Ok(())
}

/// Whether a unique key of the table has exactly these columns.
async fn is_unique(
    connection: &mut MySqlConnection,
    name: &str,
    table: &Table,
    columns: &[&str],
) -> Result<bool, StoreError> {
    let rows = sqlx::query(
        "SELECT LOWER(GROUP_CONCAT(column_name ORDER BY column_name)) FROM information_schema.statistics \
         WHERE table_schema = DATABASE() AND table_name = ? AND non_unique = 0 GROUP BY index_name",
    )
    .bind(name)
    .fetch_all(connection)
    .await
    .map_err(store_error)?;
    let mut expected: Vec<_> = columns.iter().map(|column| here(table, column)).collect();
    expected.sort_unstable();
    // A key of expressions has no columns.
    let keys: Result<Vec<_>, _> = rows.iter().map(|row: &MySqlRow| row.optional_text(0)).collect();
    Ok(keys?.contains(&Some(expected.join(","))))
}

/// Records whose type is neither free quota nor balance.
async fn of_types(connection: &mut MySqlConnection, table: &Table) -> Result<Vec<String>, StoreError> {
    let Some(column) = table.columns.get("type") else { return Ok(Vec::new()) };
    let known = if column.is_text() { "'free', 'balance'" } else { "'1', '2'" };
    let rows = sqlx::query(AssertSqlSafe(format!(
        "SELECT value, COUNT(*) FROM (SELECT CAST(type AS CHAR) AS value FROM billing_record) types \
         WHERE LOWER(RTRIM(value)) NOT IN ({known}) GROUP BY value ORDER BY value"
    )))
    .fetch_all(connection)
    .await
    .map_err(store_error)?;
    let reason = |row: &MySqlRow| {
        let (value, count) = (row.text(0)?, row.number::<i64>(1)?);
        Ok(format!("{count} rows of billing_record have type {value:?}: set it to one of {known}"))
    };
    rows.iter().map(reason).collect()
}

/// Orders with an unknown status, and payments of more than one order.
async fn of_orders(connection: &mut MySqlConnection, table: &Table) -> Result<Vec<String>, StoreError> {
    let mut reasons = Vec::new();
    let known = "'pending', 'success', 'failed'";
    let rows = format!(
        "FROM recharge_order WHERE LOWER(TRIM(COALESCE(CAST(status AS CHAR), 'pending'))) NOT IN ({known}, 'expired')"
    );
    let why = format!("rows of recharge_order have a status other than {known}: set the one that it means");
    refuse_any(connection, &mut reasons, &rows, &why).await?;
    let payment = if table.has("payment_id") { "payment_id" } else { "payment_order_id" };
    if table.has(payment) {
        let rows = format!(
            "FROM (SELECT 1 FROM recharge_order WHERE RTRIM(COALESCE({payment}, '')) <> '' \
             GROUP BY CAST(RTRIM({payment}) AS BINARY) HAVING COUNT(*) > 1) twice"
        );
        let why = format!(
            "values of {payment} are in more than one recharge_order: keep each with the order that it paid for"
        );
        refuse_any(connection, &mut reasons, &rows, &why).await?;
    }
    Ok(reasons)
}

/// Foreign keys and triggers of the tables: a key blocks changes of its columns, and a trigger
/// runs at each change of a row.
async fn of_dependants(connection: &mut MySqlConnection) -> Result<Vec<String>, StoreError> {
    let tables = TABLES.map(|table| format!("'{table}'")).join(", ");
    let rows = sqlx::query(AssertSqlSafe(format!(
        "SELECT CONCAT('foreign key ', constraint_name, ' of ', table_name) FROM information_schema.key_column_usage \
         WHERE table_schema = DATABASE() AND referenced_table_name IS NOT NULL \
         AND (table_name IN ({tables}) OR referenced_table_name IN ({tables})) \
         UNION SELECT CONCAT('trigger ', trigger_name, ' of ', event_object_table) FROM information_schema.triggers \
         WHERE trigger_schema = DATABASE() AND event_object_table IN ({tables})"
    )))
    .fetch_all(connection)
    .await
    .map_err(store_error)?;
    rows.iter().map(|row| Ok(format!("drop {}: it interferes with the conversion", row.text(0)?))).collect()
}

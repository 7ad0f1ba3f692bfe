//! What can't be taken over, found before anything is changed.

use sqlx::{AssertSqlSafe, MySqlConnection, Row};

use super::{
    super::{optional_text, store_error, text},
    inspect::{Shape, TABLES, Table},
    refused,
};
use crate::biz::values::error::StoreError;

/// Columns without which a table says nothing; users have two names.
const NEEDED: [(&str, &[&str]); 4] = [
    ("user_balance", &["balance"]),
    ("free_quota", &["service_name", "total_quota", "used_quota", "reset_month"]),
    ("billing_record", &["billing_record_id", "service_name", "type", "amount", "count", "created_at"]),
    ("recharge_order", &["order_id", "amount", "status"]),
];
/// Columns that may not be empty afterwards, and how long their texts may be.
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
/// Columns that may be empty, and how long their texts may be.
const SHORT: [(&str, &str, i64); 3] = [
    ("recharge_order", "payment_order_id", 64),
    ("recharge_order", "payment_id", 64),
    ("recharge_order", "status", 20),
];
/// Numbers of 32 bits here.
const LARGEST: i64 = i32::MAX as i64;
/// Columns that the migrations add; one that is there is somebody else's.
const ADDED: [(&str, &str); 6] = [
    ("user_balance", "held"),
    ("free_quota", "held_quota"),
    ("billing_record", "usage_date"),
    ("billing_record", "trace_id"),
    ("recharge_order", "payment_method"),
    ("recharge_order", "payment_url"),
];
/// Columns that NULL means zero in.
const NULL_IS_ZERO: [(&str, &str); 2] = [("user_balance", "balance"), ("billing_record", "amount")];
/// Numbers that this service counts upwards only, and what to do about others.
const NOT_NEGATIVE: [(&str, &str, &str); 4] = [
    ("free_quota", "used_quota", "raise total_quota by as much and set used_quota to 0"),
    ("free_quota", "total_quota", "set it to 0"),
    ("billing_record", "count", "a refund is a balance and not a record: delete it, or set its count to 0"),
    ("user_balance", "version", "set it to 0"),
];
/// What one row stands for; two would be one afterwards.
const UNIQUE: [(&str, &[&str]); 3] = [
    ("user_balance", &["user_id"]),
    ("free_quota", &["user_id", "service_name", "reset_month"]),
    ("recharge_order", &["order_id"]),
];
const AMOUNTS: [(&str, &str); 3] =
    [("user_balance", "balance"), ("billing_record", "amount"), ("recharge_order", "amount")];
const PLACES: i64 = 6;

/// Names and types first, because the rows can't be read with others.
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
                reasons.push(format!("{name} has both {legacy} and {ours}: drop the one that is not in use"));
            }
        }
        if !table.has("user_id") && !table.has("uid") {
            reasons.push(format!("{name} has neither user_id nor uid"));
        }
        let needed = NEEDED.iter().filter(|(of, _)| of == name).flat_map(|(_, columns)| *columns);
        reasons.extend(needed.filter(|column| !table.has(column)).map(|column| format!("{name} has no {column}")));
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
                reasons.push(format!("{name}.{column} is {kind}: make it a DECIMAL of {PLACES} places at most"));
            }
            if column == "type" && !found.is_whole_number() && !found.is_text() {
                reasons.push(format!("{name}.type is {}: make it a TINYINT, 1 free quota, 2 balance", found.full_type));
            }
            if !found.has_default && !is_ours(name, column) {
                reasons.push(format!(
                    "{name}.{column} is not known to this service, which can't fill it: let it be NULL or have a default"
                ));
            }
        }
    }
    reasons
}

/// What an upgrade that was not begun yet must not meet.
fn of_keys(shape: &Shape) -> Vec<String> {
    let mut reasons = Vec::new();
    for (name, table) in &shape.tables {
        for (_, column) in ADDED.iter().filter(|(of, column)| of == name && table.has(column)) {
            reasons.push(format!(
                "{name} has a {column}, which this service adds: rename it, or, if a backup was restored over an \
                 upgrade, restore it into an empty database"
            ));
        }
        for (column, _) in table.columns.iter().filter(|(column, found)| found.is_counted && !is_ours(name, column)) {
            reasons.push(format!("{name}.{column} is AUTO_INCREMENT, and keys of rows are others here: drop it"));
        }
        if !table.columns.values().any(|column| column.is_in_primary_key) {
            reasons.push(format!("{name} has no primary key: give it that of the contract"));
        }
    }
    reasons
}

/// Whether this service fills the column of that name, or gives it a default.
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
                refuse_any(connection, &mut reasons, &rows, &format!("{name} have no {here}: complete or delete them"))
                    .await?;
            }
            if let (Some(longest), Some(length)) = (longest, found.length)
                && length > *longest
            {
                let rows = format!("FROM {name} WHERE CHAR_LENGTH(RTRIM({here})) > {longest}");
                let why = format!("{name} have a {here} of more than {longest} characters: shorten them");
                refuse_any(connection, &mut reasons, &rows, &why).await?;
            }
        }
        for (_, column, longest) in SHORT.iter().filter(|(of, column, _)| of == name && table.has(column)) {
            let rows = format!("FROM {name} WHERE CHAR_LENGTH(RTRIM({column})) > {longest}");
            let why = format!("{name} have a {column} of more than {longest} characters: shorten them");
            refuse_any(connection, &mut reasons, &rows, &why).await?;
        }
        for (_, column, _) in NOT_NEGATIVE.iter().filter(|(of, column, _)| of == name && *column != "version") {
            if table.has(column) {
                let why = format!("{name} have a {column} above {LARGEST}: lower it");
                refuse_any(connection, &mut reasons, &format!("FROM {name} WHERE {column} > {LARGEST}"), &why).await?;
            }
        }
        if table.has("deleted_at") {
            let why =
                format!("{name} are marked as deleted by deleted_at, which this service does not know: delete them");
            refuse_any(connection, &mut reasons, &format!("FROM {name} WHERE deleted_at IS NOT NULL"), &why).await?;
        }
        for (_, column, advice) in NOT_NEGATIVE.iter().filter(|(of, ..)| of == name) {
            if table.has(column) {
                let why = format!("{name} have a {column} below zero: {advice}");
                refuse_any(connection, &mut reasons, &format!("FROM {name} WHERE {column} < 0"), &why).await?;
            }
        }
        for (_, columns) in UNIQUE.iter().filter(|(of, _)| of == name) {
            if !is_unique(connection, name, table, columns).await? {
                // As they are afterwards: byte by byte, but for spaces at the end.
                let keys: Vec<_> =
                    columns.iter().map(|column| format!("CAST(RTRIM({}) AS BINARY)", here(table, column))).collect();
                let keys = keys.join(", ");
                let rows = format!("FROM (SELECT 1 FROM {name} GROUP BY {keys} HAVING COUNT(*) > 1) twice");
                let why = format!("{} are in {name} more than once: keep one row of each", columns.join(", "));
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

/// The name that one of our columns has in `table`.
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
        reasons.push(format!("{found} of {why}"));
    }
    Ok(())
}

/// Whether a key of the table says that no two rows have the same values in `columns`.
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
    let mut wanted: Vec<_> = columns.iter().map(|column| here(table, column)).collect();
    wanted.sort_unstable();
    // A key of expressions has no columns.
    let keys: Result<Vec<_>, _> = rows.iter().map(|row| optional_text(row, 0)).collect();
    Ok(keys?.contains(&Some(wanted.join(","))))
}

/// Values of the records' type that are neither of the two, by name or by number.
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
    let reason = |row| {
        let count: i64 = sqlx::Row::try_get(row, 1).map_err(store_error)?;
        let value = text(row, 0)?;
        Ok(format!("{count} of billing_record have type {value:?}: known are {known}; set them to one of these"))
    };
    rows.iter().map(reason).collect()
}

/// States that no order has here, and payments that two orders share.
async fn of_orders(connection: &mut MySqlConnection, table: &Table) -> Result<Vec<String>, StoreError> {
    let mut reasons = Vec::new();
    let known = "'pending', 'success', 'failed'";
    let rows = format!(
        "FROM recharge_order WHERE LOWER(TRIM(COALESCE(CAST(status AS CHAR), 'pending'))) NOT IN ({known}, 'expired')"
    );
    let why = format!("recharge_order have another status than {known}: set it to the one it means");
    refuse_any(connection, &mut reasons, &rows, &why).await?;
    let payment = if table.has("payment_id") { "payment_id" } else { "payment_order_id" };
    if table.has(payment) {
        let rows = format!(
            "FROM (SELECT 1 FROM recharge_order WHERE RTRIM(COALESCE({payment}, '')) <> '' \
             GROUP BY CAST(RTRIM({payment}) AS BINARY) HAVING COUNT(*) > 1) twice"
        );
        let why =
            format!("{payment} of recharge_order pay for more than one order: keep each with the one it paid for");
        refuse_any(connection, &mut reasons, &rows, &why).await?;
    }
    Ok(reasons)
}

/// What hangs on the old keys and columns, or would run at each change.
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
    rows.iter().map(|row| Ok(format!("there is the {}: drop it", text(row, 0)?))).collect()
}

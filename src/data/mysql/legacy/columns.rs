//! Gives the legacy columns the names and types of this service. The numbered migrations, which
//! run afterwards, rely on both.
//!
//! Each change follows from the current state of the columns, so a second run changes nothing.
//! Missing times are filled in as wall-clock times of the legacy service, because all times are
//! converted later.

use chrono::{NaiveDateTime, TimeZone, Utc};
use chrono_tz::Tz;
use sqlx::MySqlConnection;

use super::{
    inspect::{Column, Shape, Table},
    reading::Reading,
    session::{OUR_ZONE, execute, in_zone},
};
use crate::{biz::values::error::StoreError, data::error::store_error};

/// A change of a legacy table.
pub(super) struct ColumnChange {
    /// Description for the plan.
    pub(super) what: String,
    /// Clauses of ALTER TABLE, one statement each.
    alter: Vec<String>,
}

impl ColumnChange {
    fn new(what: String, alter: String) -> Self {
        Self { what, alter: vec![alter] }
    }
}

/// The type names in the order of their numbers, so that a change to TINYINT turns them into 1
/// and 2.
const TYPES: &str = "enum('free','balance')";
const UTF8: &str = "CHARACTER SET utf8mb4";

/// The changes that a table needs.
pub(super) fn changes(name: &str, table: &Table) -> Vec<ColumnChange> {
    let mut changes = Vec::new();
    if !table.engine.eq_ignore_ascii_case("InnoDB") {
        changes.push(ColumnChange::new(format!("{} becomes InnoDB", table.engine), "ENGINE = InnoDB".into()));
    }
    for (column, found) in &table.columns {
        changes.extend(of_column(column, found));
    }
    for (of, column, kind) in [
        ("user_balance", "user_balance_id", "VARCHAR(36) NOT NULL DEFAULT ''"),
        ("user_balance", "version", "INT NOT NULL DEFAULT 0"),
        ("user_balance", "created_at", "DATETIME(6) NULL"),
        ("user_balance", "updated_at", "DATETIME(6) NULL"),
        ("free_quota", "free_quota_id", "VARCHAR(36) NOT NULL DEFAULT ''"),
        ("free_quota", "created_at", "DATETIME(6) NULL"),
        ("free_quota", "updated_at", "DATETIME(6) NULL"),
        ("recharge_order", "payment_order_id", "VARCHAR(64) NULL"),
        ("recharge_order", "created_at", "DATETIME(6) NULL"),
        ("recharge_order", "updated_at", "DATETIME(6) NULL"),
    ] {
        let has_it = table.has(column) || column == "payment_order_id" && table.has("payment_id");
        if of == name && !has_it {
            changes.push(ColumnChange::new(format!("{column} is added"), format!("ADD COLUMN {column} {kind}")));
        }
    }
    changes
}

fn of_column(column: &str, found: &Column) -> Option<ColumnChange> {
    let was = &found.full_type;
    let rename = |to| ColumnChange::new(format!("{column} becomes {to}"), format!("RENAME COLUMN {column} TO {to}"));
    match column {
        "uid" => Some(rename("user_id")),
        "payment_id" => {
            let mut change = rename("payment_order_id");
            change.alter.extend((!found.is_nullable).then(payments_may_lack));
            Some(change)
        }
        "payment_order_id" if !found.is_nullable => {
            Some(ColumnChange::new(format!("{column} may be NULL"), payments_may_lack()))
        }
        // Reordered by name first, because the numbers of an ENUM follow its own order.
        "type" if found.is_text() => {
            let by_name = format!("MODIFY type ENUM('free','balance') {UTF8} NOT NULL");
            let by_number = "MODIFY type TINYINT NOT NULL".to_owned();
            let alter = if *was == TYPES { vec![by_number] } else { vec![by_name, by_number] };
            Some(ColumnChange { what: format!("type {was} becomes TINYINT, free 1, balance 2"), alter })
        }
        // Ids of AUTO_INCREMENT columns become texts, as all other ids.
        "user_balance_id" | "free_quota_id" | "billing_record_id" if found.is_whole_number() => {
            let text = format!("MODIFY {column} VARCHAR(36) {UTF8} NOT NULL");
            Some(ColumnChange::new(format!("{column} {was} becomes VARCHAR(36)"), text))
        }
        "created_at" | "updated_at" if found.data_type == "timestamp" => {
            let plain = format!("MODIFY {column} DATETIME(6) NULL");
            Some(ColumnChange::new(format!("{column} {was} becomes DATETIME"), plain))
        }
        _ => None,
    }
}

fn payments_may_lack() -> String {
    format!("MODIFY payment_order_id VARCHAR(64) {UTF8} NULL")
}

/// Changes all tables, and fills in missing times.
pub(super) async fn normalise(
    connection: &mut MySqlConnection,
    shape: &Shape,
    reading: &Reading,
) -> Result<(), StoreError> {
    in_zone(connection, &reading.session).await?;
    for (name, table) in &shape.tables {
        for change in changes(name, table) {
            for alter in &change.alter {
                tracing::info!(table = name, change = change.what, "legacy table changing");
                execute(connection, format!("ALTER TABLE {name} {alter}")).await?;
            }
        }
    }
    in_zone(connection, OUR_ZONE).await?;
    let now = wall_clock(reading.zone);
    for name in shape.tables.keys() {
        trim(connection, name).await?;
        fill_times(connection, name, now).await?;
    }
    Ok(())
}

/// Adds a unique key, so that a payment pays for one order. The legacy service may have ensured
/// that in its code only.
pub(super) async fn ensure_one_order_a_payment(connection: &mut MySqlConnection) -> Result<(), StoreError> {
    let unique = sqlx::query(
        "SELECT 1 FROM information_schema.statistics WHERE table_schema = DATABASE() \
         AND table_name = 'recharge_order' AND non_unique = 0 GROUP BY index_name \
         HAVING COUNT(*) = 1 AND LOWER(MAX(column_name)) = 'payment_order_id'",
    );
    if unique.fetch_optional(&mut *connection).await.map_err(store_error)?.is_none() {
        execute(connection, "ALTER TABLE recharge_order ADD UNIQUE KEY uk_payment_order_id (payment_order_id)").await?;
    }
    Ok(())
}

fn wall_clock(zone: Tz) -> NaiveDateTime {
    zone.from_utc_datetime(&Utc::now().naive_utc()).naive_local()
}

/// Removes spaces at the end of keys. The legacy service ignored them; in this service two texts
/// that differ in them may count as two.
async fn trim(connection: &mut MySqlConnection, name: &str) -> Result<(), StoreError> {
    let columns: &[&str] = match name {
        "free_quota" => &["user_id", "service_name", "reset_month"],
        "billing_record" => &["user_id", "service_name"],
        _ => &["user_id"],
    };
    let set: Vec<_> = columns.iter().map(|column| format!("{column} = RTRIM({column})")).collect();
    let matches: Vec<_> = columns.iter().map(|column| format!("{column} LIKE '% '")).collect();
    // Otherwise MySQL sets updated_at to the current time.
    let kept = if name == "billing_record" { "" } else { ", updated_at = updated_at" };
    execute(connection, format!("UPDATE {name} SET {}{kept} WHERE {}", set.join(", "), matches.join(" OR "))).await
}

/// Fills in missing times: a row gets the time of the conversion, and a record gets 1970-01-02.
async fn fill_times(connection: &mut MySqlConnection, name: &str, now: NaiveDateTime) -> Result<(), StoreError> {
    // Go stores its zero time as zeros.
    let is_missing = |column| format!("({column} IS NULL OR {column} < '1970-01-02 00:00:00')");
    let [created, updated] = ["created_at", "updated_at"].map(is_missing);
    let sql = if name == "billing_record" {
        format!("UPDATE {name} SET created_at = '1970-01-02 00:00:00' WHERE {created}")
    } else {
        format!(
            "UPDATE {name} SET created_at = IF({created}, '{now}', created_at), \
             updated_at = IF({updated}, '{now}', updated_at) WHERE {created} OR {updated}"
        )
    };
    execute(connection, sql).await
}

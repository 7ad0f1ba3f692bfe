//! The legacy service's columns under our names and with our types, before the numbered
//! migrations run, which take both for granted.
//!
//! Each change follows from what is there, so that it is made once however often this
//! runs. What is to be filled in is filled in the legacy service's own terms: times by its
//! clocks, because all of them are converted later.

use chrono::{NaiveDateTime, TimeZone, Utc};
use chrono_tz::Tz;
use sqlx::MySqlConnection;

use super::{
    super::store_error,
    OUR_ZONE, Reading, execute, in_zone,
    inspect::{Column, Shape, Table},
};
use crate::biz::values::error::StoreError;

/// A change of one table.
pub(super) struct Change {
    /// For people.
    pub(super) what: String,
    /// Clauses of ALTER TABLE, one statement each.
    alter: Vec<String>,
}

impl Change {
    fn new(what: String, alter: String) -> Self {
        Self { what, alter: vec![alter] }
    }
}

/// The names of free quota and balance in the order of their numbers. From here a change
/// to TINYINT makes 1 and 2 of them.
const TYPES: &str = "enum('free','balance')";
const UTF8: &str = "CHARACTER SET utf8mb4";

/// What is to be changed of a table.
pub(super) fn changes(name: &str, table: &Table) -> Vec<Change> {
    let mut changes = Vec::new();
    if !table.engine.eq_ignore_ascii_case("InnoDB") {
        changes.push(Change::new(format!("{} becomes InnoDB", table.engine), "ENGINE = InnoDB".into()));
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
            changes.push(Change::new(format!("{column} is added"), format!("ADD COLUMN {column} {kind}")));
        }
    }
    changes
}

fn of_column(column: &str, found: &Column) -> Option<Change> {
    let was = &found.full_type;
    let rename = |to| Change::new(format!("{column} becomes {to}"), format!("RENAME COLUMN {column} TO {to}"));
    match column {
        "uid" => Some(rename("user_id")),
        "payment_id" => {
            let mut change = rename("payment_order_id");
            change.alter.extend((!found.is_nullable).then(payments_may_lack));
            Some(change)
        }
        "payment_order_id" if !found.is_nullable => {
            Some(Change::new(format!("{column} may be NULL"), payments_may_lack()))
        }
        // By name first: the numbers of an enum are those of its own order.
        "type" if found.is_text() => {
            let by_name = format!("MODIFY type ENUM('free','balance') {UTF8} NOT NULL");
            let by_number = "MODIFY type TINYINT NOT NULL".to_owned();
            let alter = if *was == TYPES { vec![by_number] } else { vec![by_name, by_number] };
            Some(Change { what: format!("type {was} becomes TINYINT, free 1, balance 2"), alter })
        }
        // Ids that the database counted are texts like all others.
        "user_balance_id" | "free_quota_id" | "billing_record_id" if found.is_whole_number() => {
            let text = format!("MODIFY {column} VARCHAR(36) {UTF8} NOT NULL");
            Some(Change::new(format!("{column} {was} becomes VARCHAR(36)"), text))
        }
        "created_at" | "updated_at" if found.data_type == "timestamp" => {
            let plain = format!("MODIFY {column} DATETIME(6) NULL");
            Some(Change::new(format!("{column} {was} becomes DATETIME"), plain))
        }
        _ => None,
    }
}

fn payments_may_lack() -> String {
    format!("MODIFY payment_order_id VARCHAR(64) {UTF8} NULL")
}

/// Makes the changes of every table, and fills what is empty.
pub(super) async fn normalise(
    connection: &mut MySqlConnection,
    shape: &Shape,
    reading: &Reading,
) -> Result<(), StoreError> {
    in_zone(connection, &reading.session).await?;
    for (name, table) in &shape.tables {
        for change in changes(name, table) {
            for alter in &change.alter {
                tracing::info!(table = name, change = change.what, "changing a table of the legacy service");
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

/// One payment pays for one order, which the legacy service's tables may have left to its code.
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

/// The legacy service ignored spaces at the end, and keys of ours do too; elsewhere two
/// texts that differ in them are two.
async fn trim(connection: &mut MySqlConnection, name: &str) -> Result<(), StoreError> {
    let columns: &[&str] = match name {
        "free_quota" => &["user_id", "service_name", "reset_month"],
        "billing_record" => &["user_id", "service_name"],
        _ => &["user_id"],
    };
    let set: Vec<_> = columns.iter().map(|column| format!("{column} = RTRIM({column})")).collect();
    let wanted: Vec<_> = columns.iter().map(|column| format!("{column} LIKE '% '")).collect();
    // Or the database would say that the row was changed just now.
    let kept = if name == "billing_record" { "" } else { ", updated_at = updated_at" };
    execute(connection, format!("UPDATE {name} SET {}{kept} WHERE {}", set.join(", "), wanted.join(" OR "))).await
}

/// A row without a time gets that of the upgrade; a record the first day of all.
async fn fill_times(connection: &mut MySqlConnection, name: &str, now: NaiveDateTime) -> Result<(), StoreError> {
    // Go's zero time is stored as zeros.
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

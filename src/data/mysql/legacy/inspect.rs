//! Inspects a database: its owner, and the columns of its tables.

use std::collections::BTreeMap;

use sqlx::{MySqlConnection, Row};

use crate::{
    biz::values::error::StoreError,
    data::{error::store_error, row::Columns},
};

/// The tables that the legacy service also has.
pub(super) const TABLES: [&str; 4] = ["user_balance", "free_quota", "billing_record", "recharge_order"];

/// The owner of the database.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// None of the tables exists.
    Empty,
    /// The legacy service; the conversion may have begun.
    Legacy,
    /// This service.
    Ours,
}

/// The current state of the four tables.
pub(super) struct Shape {
    pub(super) kind: Kind,
    /// Whether the progress table of a conversion exists.
    pub(super) has_progress: bool,
    pub(super) tables: BTreeMap<&'static str, Table>,
}

pub(super) struct Table {
    /// The storage engine. Only InnoDB has transactions.
    pub(super) engine: String,
    /// Columns by lower-case name, because MySQL ignores the case of column names.
    pub(super) columns: BTreeMap<String, Column>,
}

#[derive(Debug)]
pub(super) struct Column {
    /// Such as `enum`.
    pub(super) data_type: String,
    /// Such as `enum('free','balance')`.
    pub(super) full_type: String,
    pub(super) is_nullable: bool,
    /// Whether an insert may leave it out.
    pub(super) has_default: bool,
    /// Whether the column is AUTO_INCREMENT.
    pub(super) is_counted: bool,
    pub(super) is_in_primary_key: bool,
    /// Length of a text in characters.
    pub(super) length: Option<i64>,
    /// Decimal places of a number.
    pub(super) scale: Option<i64>,
}

impl Table {
    pub(super) fn has(&self, column: &str) -> bool {
        self.columns.contains_key(column)
    }

    /// The column of user ids, which is `uid` or `user_id`.
    pub(super) fn user(&self) -> &'static str {
        if self.has("uid") { "uid" } else { "user_id" }
    }
}

impl Column {
    pub(super) fn is_text(&self) -> bool {
        matches!(self.data_type.as_str(), "char" | "varchar" | "tinytext" | "text" | "mediumtext" | "enum")
    }

    pub(super) fn is_whole_number(&self) -> bool {
        matches!(self.data_type.as_str(), "tinyint" | "smallint" | "mediumint" | "int" | "bigint")
    }
}

/// The condition of the tables that are inspected.
macro_rules! inspected {
    () => {
        "table_schema = DATABASE() AND table_name IN \
         ('user_balance', 'free_quota', 'billing_record', 'recharge_order', 'former_upgrade')"
    };
}

/// Reads the state of the tables.
pub(super) async fn shape(connection: &mut MySqlConnection) -> Result<Shape, StoreError> {
    // In a join with the columns, MariaDB would read the tables of all databases of the server.
    let tables = sqlx::query(concat!(
        "SELECT table_name, COALESCE(engine, '') FROM information_schema.tables WHERE table_type = 'BASE TABLE' AND ",
        inspected!()
    ))
    .fetch_all(&mut *connection)
    .await
    .map_err(store_error)?;
    let engines = tables.iter().map(|row| Ok((row.text(0)?, row.text(1)?)));
    let engines: BTreeMap<String, String> = engines.collect::<Result<_, StoreError>>()?;
    let rows = sqlx::query(concat!(
        "SELECT table_name, LOWER(column_name), LOWER(data_type), column_type, is_nullable = 'YES', \
         column_default IS NOT NULL OR is_nullable = 'YES' OR extra LIKE '%auto_increment%' \
         OR extra LIKE '%GENERATED%', \
         CAST(character_maximum_length AS SIGNED), CAST(numeric_scale AS SIGNED), \
         extra LIKE '%auto_increment%', column_key = 'PRI' \
         FROM information_schema.columns WHERE ",
        inspected!()
    ))
    .fetch_all(connection)
    .await
    .map_err(store_error)?;
    let mut shape = Shape { kind: Kind::Empty, has_progress: false, tables: BTreeMap::new() };
    for row in &rows {
        let name = row.text(0)?;
        let Some(engine) = engines.get(&name) else { continue };
        let Some(table) = TABLES.into_iter().find(|table| *table == name) else {
            shape.has_progress = true;
            continue;
        };
        let is_true = |at: usize| row.try_get::<i64, _>(at).map(|flag| flag != 0).map_err(store_error);
        let column = Column {
            data_type: row.text(2)?,
            full_type: row.text(3)?,
            is_nullable: is_true(4)?,
            has_default: is_true(5)?,
            is_counted: is_true(8)?,
            is_in_primary_key: is_true(9)?,
            length: row.try_get(6).map_err(store_error)?,
            scale: row.try_get(7).map_err(store_error)?,
        };
        let name = row.optional_text(1)?.unwrap_or_default();
        let new = || Table { engine: engine.clone(), columns: BTreeMap::new() };
        let table = shape.tables.entry(table).or_insert_with(new);
        table.columns.insert(name, column);
    }
    // The NOT NULL day is the last step of a conversion, and of creating the tables; see
    // `users::forbid_records_without_a_day`.
    let day = shape.tables.get("billing_record").and_then(|table| table.columns.get("usage_date"));
    shape.kind = match day {
        Some(day) if !day.is_nullable => Kind::Ours,
        _ if shape.tables.is_empty() => Kind::Empty,
        _ => Kind::Legacy,
    };
    Ok(shape)
}

//! Databases of the legacy service, in each of their known shapes.

use std::process::Output;

use crate::harness::{
    Database, MySql,
    process::{SERVER, run},
};

/// The differences between deployments.
#[derive(Debug, Clone, Copy)]
pub struct Shape {
    pub user: &'static str,
    pub kind: &'static str,
    pub payment: &'static str,
}

pub const PLAIN: Shape = Shape { user: "user_id", kind: "TINYINT", payment: "payment_order_id" };

impl Shape {
    /// The tables of the contract.
    pub fn tables(self) -> String {
        let Self { user, kind, payment } = self;
        format!(
            "CREATE TABLE user_balance (user_balance_id VARCHAR(36) PRIMARY KEY, {user} VARCHAR(36) UNIQUE,
                balance DECIMAL(10,2) NOT NULL DEFAULT 0, version INT DEFAULT 0, created_at DATETIME DEFAULT CURRENT_TIMESTAMP,
                updated_at DATETIME DEFAULT CURRENT_TIMESTAMP ON UPDATE CURRENT_TIMESTAMP);
            CREATE TABLE free_quota (free_quota_id VARCHAR(36) PRIMARY KEY, {user} VARCHAR(36), service_name VARCHAR(32),
                total_quota INT, used_quota INT, reset_month VARCHAR(7), created_at DATETIME DEFAULT CURRENT_TIMESTAMP,
                updated_at DATETIME DEFAULT CURRENT_TIMESTAMP ON UPDATE CURRENT_TIMESTAMP,
                UNIQUE KEY uk_user_service_month ({user}, service_name, reset_month));
            CREATE TABLE billing_record (billing_record_id VARCHAR(36) PRIMARY KEY, {user} VARCHAR(36),
                service_name VARCHAR(32), type {kind}, amount DECIMAL(10,4), count INT,
                created_at DATETIME DEFAULT CURRENT_TIMESTAMP, INDEX idx_user_date ({user}, created_at));
            CREATE TABLE recharge_order (order_id VARCHAR(64) PRIMARY KEY, {user} VARCHAR(36), amount DECIMAL(10,2),
                {payment} VARCHAR(64) NOT NULL DEFAULT '', status VARCHAR(20), created_at DATETIME DEFAULT CURRENT_TIMESTAMP,
                updated_at DATETIME DEFAULT CURRENT_TIMESTAMP ON UPDATE CURRENT_TIMESTAMP, INDEX idx_user_id ({user}));"
        )
    }

    /// The value of a free record's type in this shape.
    pub fn free(self) -> &'static str {
        if self.kind.contains("INT") { "1" } else { "'free'" }
    }

    pub fn paid(self) -> &'static str {
        if self.kind.contains("INT") { "2" } else { "'balance'" }
    }
}

/// A database whose source has `loc`.
pub async fn database(loc: &str) -> Database {
    let mut database = Database::empty(MySql).await;
    set_loc(&mut database, loc);
    database
}

pub fn set_loc(database: &mut Database, loc: &str) {
    let (address, _) = database.source.rsplit_once("&loc=").unwrap();
    database.source = format!("{address}&loc={}", loc.replace('/', "%2F"));
}

/// `server --migrate-only` with more arguments.
pub fn migrate(database: &Database, more: &[&str]) -> Output {
    let conf = database.config_file(&[]);
    run(SERVER, &[&["-conf", conf.to_str().unwrap(), "--migrate-only"], more].concat(), &[])
}

/// Like [`migrate`], and returns the output.
pub fn migrated(database: &Database, more: &[&str]) -> String {
    let done = migrate(database, more);
    assert_eq!(done.status.code(), Some(0), "{}", errors(&done));
    String::from_utf8(done.stdout).unwrap()
}

pub fn errors(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// All rows of all tables. Current times are replaced by `now`.
pub async fn contents(database: &Database) -> Vec<Vec<String>> {
    let mut all = Vec::new();
    for (table, columns, key) in [
        ("user_balance", "user_balance_id user_id balance version held created_at updated_at", "user_id"),
        (
            "free_quota",
            "free_quota_id user_id service_name total_quota used_quota reset_month held_quota created_at updated_at",
            "user_id, reset_month, service_name",
        ),
        (
            "billing_record",
            "billing_record_id user_id service_name type amount count created_at usage_date trace_id",
            "billing_record_id",
        ),
        ("recharge_order", "order_id user_id amount payment_order_id status created_at updated_at", "order_id"),
        (
            "usage_daily",
            "user_id usage_date service_name free_count paid_count amount free_records paid_records",
            "user_id, usage_date, service_name",
        ),
        ("balance_adjustment", "user_id adjustment_id amount reason operator balance_after created_at", "user_id"),
        ("quota_opening", "user_id reset_month service_name units created_at", "user_id, reset_month, service_name"),
        ("_sqlx_migrations", "version success", "version"),
    ] {
        let value = |column: &str| match column {
            "created_at" | "updated_at" => {
                format!("IF({column} > UTC_TIMESTAMP() - INTERVAL 1 HOUR, 'now', CAST({column} AS CHAR))")
            }
            _ => format!("COALESCE({column}, 'NULL')"),
        };
        let columns: Vec<_> = columns.split(' ').map(value).collect();
        let columns: Vec<&str> = columns.iter().map(String::as_str).collect();
        for mut row in database.rows(&columns, &format!("FROM {table} ORDER BY {key}")).await {
            row.insert(0, table.into());
            all.push(row);
        }
    }
    all
}

/// Fails with the differences from an earlier [`fingerprint`].
pub async fn assert_untouched(database: &Database, before: &[Vec<String>]) {
    let after = fingerprint(database).await;
    let gone = before.iter().filter(|row| !after.contains(row));
    let new = after.iter().filter(|row| !before.contains(row));
    let (gone, new): (Vec<_>, Vec<_>) = (gone.take(5).collect(), new.take(5).collect());
    assert!(gone.is_empty() && new.is_empty() && after.len() == before.len(), "gone: {gone:?}, new: {new:?}");
}

/// The columns, keys and row checksums of all tables.
pub async fn fingerprint(database: &Database) -> Vec<Vec<String>> {
    let mut all = database
        .rows(
            &["table_name", "column_name", "column_type", "is_nullable", "COALESCE(column_default, '-')"],
            "FROM information_schema.columns WHERE table_schema = DATABASE() ORDER BY table_name, ordinal_position",
        )
        .await;
    let keys = "FROM information_schema.statistics WHERE table_schema = DATABASE() ORDER BY 1, 2, 3";
    all.extend(database.rows(&["table_name", "index_name", "column_name"], keys).await);
    let mut tables: Vec<String> = all.iter().map(|row| row[0].clone()).collect();
    tables.dedup();
    // A start takes over the lock of a killed process before it refuses the database.
    tables.retain(|table| table != "schema_lease");
    for table in tables {
        use sqlx::Row;
        let sql = sqlx::AssertSqlSafe(format!("CHECKSUM TABLE {table}"));
        let row = sqlx::query(sql).fetch_one(&mut database.mysql().await).await.unwrap();
        // A view has none.
        let checksum: Option<i64> = row.get(1);
        all.push(vec![table, checksum.map_or_else(String::new, |sum| sum.to_string())]);
    }
    all
}

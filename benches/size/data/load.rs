//! Fills the tables of a database with LOAD DATA, from files with rows in key order.

use std::path::Path;

use anyhow::Context;
use sqlx::{AssertSqlSafe, Connection, MySqlConnection};
use tokio::task::{JoinSet, spawn_blocking};

use super::{
    Size,
    books::{self, Rows},
};
use crate::mariadb::MariaDb;

/// Users per set of files.
const CHUNK: u64 = 50_000;

/// Table, columns of the file, and a SET clause for all rows.
const TABLES: [(&str, &str, &str); 6] = [
    ("user_balance", "user_id, balance, created_at, updated_at", ""),
    ("free_quota", "user_id, service_name, total_quota, used_quota, reset_month", ""),
    (
        "billing_record",
        "billing_record_id, user_id, service_name, type, amount, count, created_at, usage_date, trace_id",
        "",
    ),
    (
        "billing_transaction",
        "user_id, trace_id, service_name, count, free_count, paid_count, amount, record_id, balance_after, \
         free_remaining_after, created_at",
        "",
    ),
    (
        "usage_daily",
        "user_id, usage_date, service_name, free_count, paid_count, amount, free_records, paid_records",
        "",
    ),
    (
        "recharge_order",
        "order_id, user_id, amount, payment_order_id, status, created_at, updated_at",
        "SET payment_method = 'alipay'",
    ),
];

/// Fills a database whose tables are empty.
///
/// # Errors
/// The database refuses, or the disk is full.
pub async fn fill(mariadb: &MariaDb, database: &str, size: &Size, scratch: &Path) -> anyhow::Result<()> {
    let mut created = 0;
    while created < size.users {
        let (first, last) = (created, (created + CHUNK).min(size.users));
        let for_rows = size.clone();
        let rows = spawn_blocking(move || {
            let mut rows = Rows::default();
            (first..last).try_for_each(|number| books::write(&mut rows, number, &for_rows)).map(|()| rows)
        });
        let Rows { user_balance, free_quota, billing_record, billing_transaction, usage_daily, recharge_order } =
            rows.await??;
        let texts = [user_balance, free_quota, billing_record, billing_transaction, usage_daily, recharge_order];
        let mut loading = JoinSet::new();
        for ((table, columns, set), text) in TABLES.into_iter().zip(texts) {
            let file = scratch.join(table);
            let connecting = MySqlConnection::connect(&mariadb.url(database));
            let mut connection = connecting.await?;
            loading.spawn(async move {
                tokio::fs::write(&file, text).await?;
                sqlx::raw_sql("SET unique_checks = 0, foreign_key_checks = 0, sql_log_bin = 0")
                    .execute(&mut connection)
                    .await?;
                let load = format!("LOAD DATA INFILE '{}' INTO TABLE {table} ({columns}) {set}", file.display());
                sqlx::raw_sql(AssertSqlSafe(load)).execute(&mut connection).await.context(table)?;
                tokio::fs::remove_file(&file).await?;
                anyhow::Ok(connection.close().await?)
            });
        }
        loading.join_all().await.into_iter().collect::<anyhow::Result<Vec<()>>>()?;
        created = last;
        eprint!("\r{created} of {} users ", size.users);
    }
    eprintln!();
    let mut connection = MySqlConnection::connect(&mariadb.url(database)).await?;
    let keep = "CREATE TABLE made_free_quota LIKE free_quota; \
        INSERT INTO made_free_quota SELECT * FROM free_quota; \
        ANALYZE TABLE user_balance, free_quota, billing_record, billing_transaction, usage_daily, recharge_order";
    sqlx::raw_sql(keep).execute(&mut connection).await?;
    Ok(connection.close().await?)
}

/// Restores the quota rows of the created data, and removes rows that were opened since.
///
/// # Errors
/// The database refuses.
pub async fn restore_quotas(mariadb: &MariaDb, database: &str) -> anyhow::Result<()> {
    let mut connection = MySqlConnection::connect(&mariadb.url(database)).await?;
    let restore = "TRUNCATE TABLE free_quota; INSERT INTO free_quota SELECT * FROM made_free_quota; \
        ANALYZE TABLE free_quota";
    sqlx::raw_sql(restore).execute(&mut connection).await?;
    Ok(connection.close().await?)
}

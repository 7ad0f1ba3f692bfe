//! Checks that commits go to disk: the settings of MariaDB, and the time of a sync.

use std::{fs::File, io::Write, path::Path, time::Instant};

use anyhow::{anyhow, ensure};
use billing_service::data::dsn;
use serde::Serialize;
use sqlx::{Connection, MySqlConnection};

use crate::measure::median;

/// The version and the durability settings that MariaDB reports.
#[derive(Debug, Clone, Serialize)]
pub struct MariaDbSettings {
    pub version: String,
    pub flush_log_at_trx_commit: i64,
    pub flush_method: String,
    pub doublewrite: String,
    pub buffer_pool_bytes: i64,
}

const SETTINGS: &str = "SELECT VERSION(), CAST(@@innodb_flush_log_at_trx_commit AS SIGNED), \
    CAST(@@innodb_flush_method AS CHAR), CAST(@@innodb_doublewrite AS CHAR), CAST(@@innodb_buffer_pool_size AS SIGNED)";

/// Reads the settings.
///
/// # Errors
/// MariaDB does not sync every commit.
pub async fn mariadb_settings(source: &str) -> anyhow::Result<MariaDbSettings> {
    let mut connection = connect(source).await?;
    let (version, flush_log_at_trx_commit, flush_method, doublewrite, buffer_pool_bytes) =
        sqlx::query_as(SETTINGS).fetch_one(&mut connection).await?;
    ensure!(flush_log_at_trx_commit == 1, "innodb_flush_log_at_trx_commit is {flush_log_at_trx_commit}; it must be 1");
    Ok(MariaDbSettings { version, flush_log_at_trx_commit, flush_method, doublewrite, buffer_pool_bytes })
}

/// A connection to `data.database.source`.
///
/// # Errors
/// The database does not answer.
pub async fn connect(source: &str) -> anyhow::Result<MySqlConnection> {
    let options = dsn::mysql(source).map_err(|why| anyhow!(why))?;
    Ok(MySqlConnection::connect_with(&options).await?)
}

/// The median time of an append with a sync in `folder`, in microseconds.
///
/// # Errors
/// The folder can't be written.
pub fn sync_micros(folder: &Path) -> std::io::Result<f64> {
    let mut file = File::create(folder.join("sync"))?;
    let mut times = Vec::new();
    for _ in 0..50 {
        let begun = Instant::now();
        file.write_all(&[0; 512])?;
        file.sync_data()?;
        times.push(begun.elapsed().as_secs_f64() * 1e6);
    }
    Ok(median(&times))
}

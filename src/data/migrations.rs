//! The numbered migrations of both databases, embedded in the binary.

use std::{
    fs::{File, TryLockError},
    path::Path,
    time::{Duration, Instant},
};

use sqlx::{
    AssertSqlSafe, MySqlConnection, Row, SqlSafeStr, SqliteConnection,
    migrate::{Migrate, MigrateError, Migration, MigrationType, Migrator},
};

use super::{
    error::{is_lock_timeout, locked, store_error},
    mysql::Server,
};
use crate::biz::values::error::StoreError;

/// Longest wait for another process that migrates a SQLite file. The caller decides whether to retry.
const LOCK_WAIT: Duration = Duration::from_secs(5);

/// Name, MySQL text, SQLite text.
macro_rules! pair {
    ($name:literal) => {
        (
            $name,
            include_str!(concat!("../../migrations/mysql/", $name, ".sql")),
            include_str!(concat!("../../migrations/sqlite/", $name, ".sql")),
        )
    };
}

const PAIRS: &[(&str, &str, &str)] = &[
    pair!("0001_existing_tables"),
    pair!("0002_exact_amounts_clustered_keys"),
    pair!("0003_transactions_and_rollup"),
    pair!("0004_reservations"),
    pair!("0005_defaults_of_settlement"),
    pair!("0006_recharge_orders"),
    pair!("0007_request_caps"),
    pair!("0008_api_key_quotas"),
    pair!("0009_job_runs"),
    pair!("0010_record_archive"),
    pair!("0011_quota_openings"),
    pair!("0012_price_versions"),
    pair!("0013_shortfalls"),
    pair!("0014_recharge_keys"),
    pair!("0015_database_identity"),
    pair!("0016_large_counts"),
    pair!("0017_key_quota_periods"),
    pair!("0018_account_status_and_audit_events"),
    pair!("0019_refunds"),
    pair!("0020_refunds_of_top_ups"),
    pair!("0021_model_prices_and_plans"),
    pair!("0022_statements"),
    pair!("0024_returns_of_unapplied_payments"),
    pair!("0025_usage_by"),
    pair!("0026_events"),
    pair!("0027_webhooks"),
    pair!("0028_use_of_models"),
    pair!("0030_refunds_of_a_charge"),
    pair!("0032_price_changes"),
    pair!("0033_reports_of_streams"),
    pair!("0034_seals"),
    pair!("0035_transaction_archive"),
];

/// The tables of the first [`TIDB_BASE`] migrations, which TiDB can't run. It runs those after them.
const TIDB_SCHEMA: &str = include_str!("../../migrations/tidb/0017_schema.sql");
const TIDB_BASE: i64 = 17;
/// A collation of migrations that TiDB lacks, and the one that it gets in its place.
const COLLATIONS: (&str, &str) = ("ascii_general_ci", "ascii_bin");

/// The first migration that changes the legacy tables.
pub(super) const FIRST_OWN: &str = "0002_exact_amounts_clustered_keys";

/// The versions of all migrations, in order.
pub(super) fn versions() -> impl Iterator<Item = i64> {
    PAIRS.iter().map(|(name, ..)| version_of(name))
}

/// The number before the name. A number that is left out may belong to a branch.
fn version_of(name: &str) -> i64 {
    name.split('_').next().and_then(|number| number.parse().ok()).unwrap_or(i64::MAX)
}

/// Runs the numbered migrations up to `version` that a MySQL schema lacks; the caller holds the
/// lock.
///
/// MySQL commits at every change of a table, so a migration can stop half-way. Every migration
/// can be run again. The row of an unfinished one in `_sqlx_migrations` is deleted first,
/// because sqlx refuses to go on with it.
pub(super) async fn run_mysql(connection: &mut MySqlConnection, version: i64) -> Result<(), StoreError> {
    if has_history_mysql(connection).await? {
        sqlx::raw_sql("DELETE FROM _sqlx_migrations WHERE success = FALSE")
            .execute(&mut *connection)
            .await
            .map_err(store_error)?;
    }
    run(mysql_migrations(connection).await?, connection, Some(version)).await
}

/// Checks that the migrations of an up-to-date MySQL schema are those of this release.
pub(super) async fn check_mysql(connection: &mut MySqlConnection) -> Result<(), StoreError> {
    run(mysql_migrations(connection).await?, connection, None).await
}

async fn mysql_migrations(connection: &mut MySqlConnection) -> Result<Vec<Migration>, StoreError> {
    let mut migrations = numbered(|(_, mysql, _)| mysql);
    if Server::of(connection).await? == Server::TiDb {
        migrations.retain(|migration| migration.version > TIDB_BASE);
        migrations.iter_mut().for_each(collate_for_tidb);
        migrations.insert(0, migration(TIDB_BASE, "schema", TIDB_SCHEMA));
    }
    Ok(migrations)
}

fn collate_for_tidb(migration: &mut Migration) {
    let (lacking, other) = COLLATIONS;
    if migration.sql.as_str().contains(lacking) {
        let sql = AssertSqlSafe(migration.sql.as_str().replace(lacking, other)).into_sql_str();
        *migration =
            Migration::new(migration.version, migration.description.clone(), MigrationType::Simple, sql, false);
    }
}

/// The migrations that a MySQL schema lacks. Changes nothing.
pub(super) async fn pending_mysql(connection: &mut MySqlConnection) -> Result<Vec<&'static str>, StoreError> {
    if !has_history_mysql(connection).await? {
        return Ok(pending(&[]));
    }
    let rows = sqlx::query("SELECT version FROM _sqlx_migrations WHERE success = TRUE").fetch_all(connection).await;
    let rows = rows.map_err(store_error)?;
    let done: Result<Vec<i64>, _> = rows.iter().map(|row| row.try_get(0)).collect();
    pending_after(&done.map_err(store_error)?)
}

async fn has_history_mysql(connection: &mut MySqlConnection) -> Result<bool, StoreError> {
    let history = sqlx::query(
        "SELECT COUNT(*) FROM information_schema.tables \
         WHERE table_schema = DATABASE() AND table_name = '_sqlx_migrations'",
    )
    .fetch_one(connection)
    .await
    .map_err(store_error)?;
    Ok(history.try_get::<i64, _>(0).map_err(store_error)? > 0)
}

/// Brings a SQLite schema up to date, one process at a time: `lock` is a lock file next to the
/// database file. Each migration is one transaction.
pub(super) async fn run_sqlite(connection: &mut SqliteConnection, lock: &Path) -> Result<(), StoreError> {
    let file =
        File::create(lock).map_err(|error| StoreError::Failed(format!("can't write {}: {error}", lock.display())))?;
    let deadline = Instant::now() + LOCK_WAIT;
    while let Err(error) = file.try_lock() {
        if Instant::now() >= deadline || matches!(error, TryLockError::Error(_)) {
            return Err(StoreError::Unavailable(format!("{}: {error}", lock.display()).into()));
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    run(numbered(|(_, _, sqlite)| sqlite), connection, None).await
    // Dropping the file handle releases the lock.
}

/// The migrations that a SQLite schema lacks. Changes nothing.
pub(super) async fn pending_sqlite(connection: &mut SqliteConnection) -> Result<Vec<&'static str>, StoreError> {
    let history = sqlx::query("SELECT COUNT(*) FROM sqlite_schema WHERE name = '_sqlx_migrations'")
        .fetch_one(&mut *connection)
        .await
        .map_err(store_error)?;
    if history.try_get::<i64, _>(0).map_err(store_error)? == 0 {
        return Ok(pending(&[]));
    }
    let rows = sqlx::query("SELECT version FROM _sqlx_migrations WHERE success = TRUE").fetch_all(connection).await;
    let rows = rows.map_err(store_error)?;
    let done: Result<Vec<i64>, _> = rows.iter().map(|row| row.try_get(0)).collect();
    pending_after(&done.map_err(store_error)?)
}

/// As [`pending`], for a schema that an older or the same release left.
fn pending_after(done: &[i64]) -> Result<Vec<&'static str>, StoreError> {
    let newest = versions().max().unwrap_or(0);
    match done.iter().max() {
        Some(version) if *version > newest => Err(StoreError::Failed(format!(
            "the database is of a newer release: it has migration {version}, and this release knows {newest}; \
             run the newer release"
        ))),
        _ => Ok(pending(done)),
    }
}

/// The names of the migrations after those in `done`.
pub(super) fn pending(done: &[i64]) -> Vec<&'static str> {
    let newest = done.iter().max().copied().unwrap_or(0);
    PAIRS.iter().map(|pair| pair.0).filter(|name| version_of(name) > newest).collect()
}

fn numbered(pick: fn(&(&'static str, &'static str, &'static str)) -> &'static str) -> Vec<Migration> {
    PAIRS.iter().map(|pair| migration(version_of(pair.0), pair.0, pick(pair))).collect()
}

fn migration(version: i64, name: &'static str, sql: &'static str) -> Migration {
    Migration::new(version, name.into(), MigrationType::Simple, sql.into_sql_str(), false)
}

/// Runs the migrations up to `target`, or all of them.
async fn run<C: Migrate>(
    migrations: Vec<Migration>,
    connection: &mut C,
    target: Option<i64>,
) -> Result<(), StoreError> {
    let mut migrator = Migrator::with_migrations(migrations);
    // sqlx's own lock has no time limit.
    migrator.set_locking(false);
    migrator.run_direct(target, connection, false).await.map_err(|error| {
        let text = format!("migration: {error}");
        match error {
            MigrateError::Execute(cause) | MigrateError::ExecuteMigration(cause, _) if is_lock_timeout(&cause) => {
                StoreError::Unavailable(locked(&text).into())
            }
            MigrateError::Execute(cause) | MigrateError::ExecuteMigration(cause, _) => match store_error(cause) {
                StoreError::Failed(_) => StoreError::Failed(text),
                _ => StoreError::Unavailable(text.into()),
            },
            _ => StoreError::Failed(text),
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_migration_file_is_in_the_list() {
        for folder in ["mysql", "sqlite"] {
            let path = format!("{}/migrations/{folder}", env!("CARGO_MANIFEST_DIR"));
            let mut files: Vec<_> =
                std::fs::read_dir(path).unwrap().map(|file| file.unwrap().file_name().into_string().unwrap()).collect();
            files.sort();
            let listed: Vec<_> = PAIRS.iter().map(|pair| format!("{}.sql", pair.0)).collect();
            assert_eq!(files, listed, "{folder}");
        }
    }
}

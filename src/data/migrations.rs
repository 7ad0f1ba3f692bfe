//! The numbered migrations of both databases, embedded in the binary.

use std::time::Duration;

use sqlx::{
    SqlSafeStr,
    migrate::{Migrate, Migration, MigrationType, Migrator},
};

use crate::biz::error::StoreError;

/// Longer than the longest table rebuild, shorter than waiting for ever behind
/// another process's migration lock.
const DEADLINE: Duration = Duration::from_secs(3600);

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

const PAIRS: &[(&str, &str, &str)] =
    &[pair!("0001_existing_tables"), pair!("0002_exact_amounts_clustered_keys"), pair!("0003_transactions_and_rollup")];

pub(super) fn mysql() -> Migrator {
    migrator(|(_, mysql, _)| mysql)
}

pub(super) fn sqlite() -> Migrator {
    migrator(|(_, _, sqlite)| sqlite)
}

fn migrator(pick: fn(&(&'static str, &'static str, &'static str)) -> &'static str) -> Migrator {
    let migrations = PAIRS
        .iter()
        .zip(1..)
        .map(|(pair, version)| {
            Migration::new(version, pair.0.into(), MigrationType::Simple, pick(pair).into_sql_str(), false)
        })
        .collect();
    Migrator::with_migrations(migrations)
}

/// Brings the schema up to date.
pub(super) async fn run<C>(migrator: &Migrator, connection: &mut C) -> Result<(), StoreError>
where
    C: Migrate,
{
    match tokio::time::timeout(DEADLINE, migrator.run_direct(None, connection, false)).await {
        Ok(done) => done.map_err(|error| StoreError::Failed(format!("migration: {error}"))),
        Err(_) => Err(StoreError::Failed("migration: another process holds the migration lock".into())),
    }
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

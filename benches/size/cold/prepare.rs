//! The databases: made once or for each run, with the months of all users open.

use anyhow::ensure;
use sqlx::{Connection, MySqlConnection};

use super::{Context, start};
use crate::{
    data::Size,
    make,
    mariadb::MariaDb,
    measure::LARGE,
    process::{configure, migrate, run_job},
};

/// Buffer pool while data are made, in MiB.
const POOL_MIB: u64 = 4_096;

/// Loading in key order fills pages. Charges at random split full pages, which leaves them 70% full on average. Without
/// these statements, each charge of a run would split two pages.
const LOOSEN: &str = "SET GLOBAL innodb_fill_factor = 70; ALTER TABLE billing_record FORCE; \
    ALTER TABLE billing_transaction FORCE; ALTER TABLE usage_daily FORCE; SET GLOBAL innodb_fill_factor = 100";

/// Makes the large database, if it is missing.
///
/// # Errors
/// The folder has data of another size or measurement, a process fails, or the disk is full.
pub async fn large(context: &Context<'_>, size: &Size) -> anyhow::Result<()> {
    let mariadb = start(context, POOL_MIB).await?;
    let wanted = std::slice::from_ref(size);
    if Size::are_in(context.folder, wanted) {
        migrate(&configure(&mariadb, LARGE, context.folder)?).await?;
    } else {
        ensure!(
            !Size::has_any(context.folder),
            "{} has other data: remove it, or name another folder with --folder",
            context.folder.display()
        );
        make(&mariadb, context.folder, LARGE, size).await?;
        eprintln!("leaving room in the pages");
        execute(&mariadb, LARGE, LOOSEN).await?;
        finish(context, &mariadb, LARGE).await?;
        Size::note(context.folder, wanted)?;
    }
    mariadb.stop().await
}

/// Makes databases without history again.
///
/// # Errors
/// A process fails, or the disk is full.
pub async fn without_history(context: &Context<'_>, databases: &[(&str, &Size)]) -> anyhow::Result<()> {
    let mariadb = start(context, POOL_MIB).await?;
    for (database, size) in databases {
        make(&mariadb, context.folder, database, size).await?;
        finish(context, &mariadb, database).await?;
    }
    mariadb.stop().await
}

/// Opens the months, as the job does in production. Otherwise the first charge of each user would.
async fn finish(context: &Context<'_>, mariadb: &MariaDb, database: &str) -> anyhow::Result<()> {
    eprintln!("opening the months of {database}");
    execute(mariadb, database, "DROP TABLE made_free_quota").await?;
    let took = run_job("reset-quotas", &configure(mariadb, database, context.folder)?, &[]).await?;
    ensure!(took.last_line.contains(" 0 failed"), "{}", took.last_line);
    Ok(())
}

async fn execute(mariadb: &MariaDb, database: &str, statements: &'static str) -> anyhow::Result<()> {
    let mut connection = MySqlConnection::connect(&mariadb.url(database)).await?;
    sqlx::raw_sql(statements).execute(&mut connection).await?;
    Ok(connection.close().await?)
}

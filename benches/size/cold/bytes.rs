//! The bytes that charges leave on the disk, by table.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    time::{Duration, Instant},
};

use anyhow::ensure;
use sqlx::{AssertSqlSafe, Connection, MySqlConnection};

use super::{
    Context,
    callers::{CALLERS, Callers, Until},
    counters::{Counters, Level},
    start,
};
use crate::{
    process::{Server, configure},
    report::{Bound, Report},
    usage::Processes,
};

/// Buffer pool in MiB. Pages are written late, and once.
const POOL_MIB: u64 = 4_096;
const PAGE_BYTES: f64 = 16_384.0;
/// Undo logs that may be left, and the time limit of their purge and of the write of all pages.
const LEFT_HISTORY: f64 = 100.0;
const LEFT_PAGES: f64 = 100.0;
const SETTLE_TIMEOUT: Duration = Duration::from_secs(600);

/// The rate and the time for which the growth is told.
const CHARGES_A_SECOND: f64 = 1_000.0;
const SECONDS_A_YEAR: f64 = 365.0 * 86_400.0;
const TERABYTE: f64 = 1e12;

/// The bytes of a table: clustered index, and other indexes.
type Sizes = BTreeMap<String, (f64, f64)>;

/// Bytes by charge.
struct Growth {
    tables: Sizes,
    /// The file with the undo logs.
    system: f64,
    redo: f64,
    doublewrite: f64,
}

/// Charges the users of each database, and reports the growth.
///
/// # Errors
/// A process does not start, a charge fails or is missing in the database, or the database does not settle.
pub async fn measure(context: &mut Context<'_>, databases: &[(&str, u64)]) -> anyhow::Result<()> {
    let mut growths = Vec::new();
    for (database, users) in databases {
        growths.push(grow(context, database, *users).await?);
    }
    for ((_, users), growth) in databases.iter().zip(&growths) {
        growth.report(&mut context.report, &format!("{users} users"));
    }
    Ok(())
}

async fn grow(context: &Context<'_>, database: &str, users: u64) -> anyhow::Result<Growth> {
    let mariadb = start(context, POOL_MIB).await?;
    let mut connection = MySqlConnection::connect(&mariadb.url(database)).await?;
    let processes = Processes { servers: Vec::new(), database: Some(mariadb.pid()), redis: None };
    let system_file = context.folder.join("mariadb/ibdata1");
    let charges = context.arguments.cold.charges / CALLERS;

    let before = settled(&mut connection, &processes, context).await?;
    let (sizes, system) = (sizes(&mut connection, database).await?, fs::metadata(&system_file)?.len());
    let server = Server::start(&configure(&mariadb, database, context.folder)?).await?;
    let callers = Callers::start(&server.grpc, users, context.arguments.seed, Until::Charges(charges)).await?;
    let charges = callers.end().await?.done.len() as f64;
    drop(server);
    let after = settled(&mut connection, &processes, context).await?;
    let written = after - before;
    let mut tables = self::sizes(&mut connection, database).await?;
    let rows: i64 = sqlx::query_scalar("SELECT COUNT(*) FROM billing_transaction").fetch_one(&mut connection).await?;
    ensure!(rows as f64 == charges, "{rows} transactions after {charges} charges");
    connection.close().await?;
    mariadb.stop().await?;

    for (table, (data, indexes)) in &mut tables {
        let (data_before, indexes_before) = sizes.get(table).copied().unwrap_or_default();
        (*data, *indexes) = ((*data - data_before) / charges, (*indexes - indexes_before) / charges);
    }
    Ok(Growth {
        tables,
        system: (fs::metadata(&system_file)?.len() - system) as f64 / charges,
        redo: written.redo_bytes / charges,
        doublewrite: written.doublewrite_pages * PAGE_BYTES / charges,
    })
}

impl Growth {
    fn report(&self, report: &mut Report, name: &str) {
        let mut add = |what: &str, value: f64, unit, bound| report.add(format!("{name}: {what}"), value, unit, bound);
        let mut sum = 0.0;
        for (table, (data, indexes)) in &self.tables {
            sum += data + indexes;
            // Below, a table grew for another reason.
            if data + indexes >= 0.5 {
                add(&format!("{table}, a charge"), *data, "bytes", Bound::None);
            }
            if *indexes >= 0.5 {
                add(&format!("{table}, further indexes, a charge"), *indexes, "bytes", Bound::None);
            }
        }
        add("all tables, a charge", sum, "bytes", Bound::None);
        add("redo, a charge", self.redo, "bytes", Bound::None);
        add("all tables and redo, a charge", sum + self.redo, "bytes", Bound::None);
        add("doublewrite, a charge", self.doublewrite, "bytes", Bound::None);
        add("system tablespace, a charge", self.system, "bytes", Bound::None);
        let year = sum * CHARGES_A_SECOND * SECONDS_A_YEAR / TERABYTE;
        add("all tables, a year of 1,000 charges/s", year, "TB", Bound::None);
    }
}

/// The counters after the purge, with all pages on the disk.
async fn settled(
    connection: &mut MySqlConnection,
    processes: &Processes,
    context: &Context<'_>,
) -> anyhow::Result<Counters> {
    let flush = "SET GLOBAL innodb_io_capacity_max = 20000, GLOBAL innodb_io_capacity = 20000, \
        GLOBAL innodb_max_dirty_pages_pct_lwm = 0, GLOBAL innodb_max_dirty_pages_pct = 0";
    let as_before = "SET GLOBAL innodb_io_capacity = DEFAULT, GLOBAL innodb_io_capacity_max = DEFAULT, \
        GLOBAL innodb_max_dirty_pages_pct = DEFAULT";
    sqlx::raw_sql(flush).execute(&mut *connection).await?;
    let deadline = Instant::now() + SETTLE_TIMEOUT;
    loop {
        let (counters, Level { history, dirty_pages }) = Counters::read(connection, processes, context.folder).await?;
        if history <= LEFT_HISTORY && dirty_pages <= LEFT_PAGES {
            sqlx::raw_sql(as_before).execute(&mut *connection).await?;
            return Ok(counters);
        }
        ensure!(Instant::now() < deadline, "{history} undo logs and {dirty_pages} changed pages are left");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

async fn sizes(connection: &mut MySqlConnection, database: &str) -> anyhow::Result<Sizes> {
    const SIZES: &str = "SELECT table_name, CAST(data_length AS DOUBLE), CAST(index_length AS DOUBLE) \
        FROM information_schema.tables WHERE table_schema = ? AND table_type = 'BASE TABLE'";
    let read = |rows: Vec<(String, f64, f64)>| -> Sizes {
        rows.into_iter().map(|(table, data, indexes)| (table, (data, indexes))).collect()
    };
    let tables = read(sqlx::query_as(SIZES).bind(database).fetch_all(&mut *connection).await?);
    let names: BTreeSet<String> = tables.keys().map(|table| format!("`{table}`")).collect();
    let names: Vec<String> = names.into_iter().collect();
    // Otherwise the sizes are those of the last statistics.
    sqlx::raw_sql(AssertSqlSafe(format!("ANALYZE TABLE {}", names.join(", ")))).execute(&mut *connection).await?;
    Ok(read(sqlx::query_as(SIZES).bind(database).fetch_all(&mut *connection).await?))
}

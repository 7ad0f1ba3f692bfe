//! Benchmark of size: what years of data and a million users cost, beside what little data
//! costs. Real processes on a private MariaDB, whose data are made once and kept.
//!
//! `make bench-data` makes the data, `make bench-size` measures.

mod arguments;
mod data;
mod mariadb;
mod measure;
#[path = "../../tests/it/harness/private_server.rs"]
#[allow(
    dead_code,
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "shared with the tests, which need more of it and fail by panicking"
)]
mod private_server;
mod process;
mod report;
#[path = "../load/supervised.rs"]
mod supervised;

use std::{path::Path, process::ExitCode};

use anyhow::{bail, ensure};
use billing_service::command;
use clap::Parser;
use sqlx::{AssertSqlSafe, Connection, MySqlConnection};

use self::{
    arguments::Arguments,
    data::Size,
    mariadb::MariaDb,
    measure::{Context, LARGE, SMALL},
    report::Report,
};

const SMALL_USERS: u64 = 1_000;
const SMALL_RECORDS: u64 = 10_000;

fn main() -> ExitCode {
    command::exit_code(execute(&Arguments::parse()))
}

#[tokio::main]
async fn execute(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    if !arguments.bench {
        // Such as `cargo test --all-targets`, which runs every benchmark for a moment.
        println!("nothing measured: run `make bench-size`");
        return Ok(ExitCode::SUCCESS);
    }
    let interrupted = command::stop_signal()?;
    let folder = std::path::absolute(&arguments.folder)?;
    let mariadb = MariaDb::start(&folder).await?;
    let result = tokio::select! {
        result = run(arguments, &mariadb, &folder) => result,
        () = interrupted => bail!("interrupted"),
    };
    mariadb.stop().await?;
    result.map(|()| ExitCode::SUCCESS)
}

async fn run(arguments: &Arguments, mariadb: &MariaDb, folder: &Path) -> anyhow::Result<()> {
    let large = Size::new(arguments.users, arguments.records, arguments.seed);
    let small = Size::new(SMALL_USERS, SMALL_RECORDS, arguments.seed);
    let wanted = [large, small];
    if !Size::are_in(folder, &wanted) {
        make(mariadb, folder, &wanted).await?;
        Size::note(folder, &wanted)?;
    }
    if arguments.data_only {
        return Ok(());
    }
    for database in [LARGE, SMALL] {
        process::migrate(&process::configure(mariadb, database, folder)?).await?;
    }
    let [large, small] = &wanted;
    let mut context = Context { mariadb, folder, large, small, report: Report::default() };
    let is_wanted = |name: &str| arguments.only.is_empty() || arguments.only.iter().any(|part| name.contains(part));
    measure::put_back(&context).await?;
    if is_wanted("reset") {
        measure::reset_quotas(&mut context).await?;
    }
    if is_wanted("archive") {
        measure::archive(&mut context).await?;
    }
    if is_wanted("reads") {
        measure::reads(&mut context).await?;
    }
    if is_wanted("pages") {
        measure::pages(&mut context).await?;
    }
    if is_wanted("export") {
        measure::export(&mut context).await?;
    }
    measure::put_back(&context).await?;
    if is_wanted("audit") {
        measure::audit(&mut context).await?;
    }
    if is_wanted("rollup") {
        measure::rebuild_rollup(&mut context).await?;
    }
    context.report.write(&arguments.json)?;
    ensure!(context.report.is_good(), "some numbers are not what they should be");
    Ok(())
}

/// Makes the databases anew.
async fn make(mariadb: &MariaDb, folder: &Path, sizes: &[Size; 2]) -> anyhow::Result<()> {
    for (database, size) in [LARGE, SMALL].into_iter().zip(sizes) {
        eprintln!("making {} users with {} records", size.users, size.records);
        let mut connection = MySqlConnection::connect(&mariadb.url("")).await?;
        let create = format!("DROP DATABASE IF EXISTS {database}; CREATE DATABASE {database} CHARACTER SET utf8mb4");
        sqlx::raw_sql(AssertSqlSafe(create)).execute(&mut connection).await?;
        let conf = process::configure(mariadb, database, folder)?;
        process::migrate(&conf).await?;
        // What is lost in a crash is made again.
        sqlx::raw_sql("SET GLOBAL innodb_flush_log_at_trx_commit = 0").execute(&mut connection).await?;
        data::fill(mariadb, database, size, folder).await?;
        sqlx::raw_sql("SET GLOBAL innodb_flush_log_at_trx_commit = 1").execute(&mut connection).await?;
        connection.close().await?;
    }
    Ok(())
}

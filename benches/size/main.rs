//! Benchmark of size: the cost of a million users and ten million records, compared with little
//! data. It uses real processes on a private MariaDB, whose data are created once and kept.
//!
//! `make bench-data` creates the data, and `make bench-size` measures.

mod arguments;
mod cold;
mod data;
mod mariadb;
mod measure;
#[path = "../../tests/it/harness/private_server.rs"]
#[allow(
    dead_code,
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "shared with the tests, which use more of it and panic on errors"
)]
mod private_server;
mod process;
mod report;
#[path = "../load/supervised.rs"]
mod supervised;
#[path = "../load/usage.rs"]
#[allow(dead_code, reason = "shared with the benchmark of load, which uses more of it")]
mod usage;

use std::{path::Path, process::ExitCode};

use anyhow::{bail, ensure};
use billing_service::command;
use clap::Parser;
use sqlx::{AssertSqlSafe, Connection, MySqlConnection};

use self::{
    arguments::Arguments,
    data::Size,
    mariadb::{MariaDb, Options},
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
        // `cargo test --all-targets` runs every benchmark without --bench.
        println!("nothing measured: run `make bench-size`");
        return Ok(ExitCode::SUCCESS);
    }
    let interrupted = command::stop_signal(command::Hangup::Stops)?;
    let folder = arguments.folder()?;
    if arguments.is_cold() {
        return tokio::select! {
            result = cold::run(arguments, &folder) => result.map(|()| ExitCode::SUCCESS),
            () = interrupted => bail!("interrupted"),
        };
    }
    let mariadb = MariaDb::start(&folder, &Options::default()).await?;
    let result = tokio::select! {
        result = run(arguments, &mariadb, &folder) => result,
        () = interrupted => bail!("interrupted"),
    };
    mariadb.stop().await?;
    result.map(|()| ExitCode::SUCCESS)
}

async fn run(arguments: &Arguments, mariadb: &MariaDb, folder: &Path) -> anyhow::Result<()> {
    let size = |users, records| Size::new(users, records, arguments.seed, arguments.months_ago);
    let (large, small) = (size(arguments.users, arguments.records), size(SMALL_USERS, SMALL_RECORDS));
    let sizes = [large, small];
    if !Size::are_in(folder, &sizes) {
        for (database, size) in [LARGE, SMALL].into_iter().zip(&sizes) {
            make(mariadb, folder, database, size).await?;
        }
        Size::note(folder, &sizes)?;
    }
    if arguments.data_only {
        return Ok(());
    }
    for database in [LARGE, SMALL] {
        process::migrate(&process::configure(mariadb, database, folder)?).await?;
    }
    let [large, small] = &sizes;
    let mut context = Context { mariadb, folder, large, small, report: Report::default() };
    let is_selected = |name: &str| arguments.only.is_empty() || arguments.only.iter().any(|part| name.contains(part));
    measure::put_back(&context).await?;
    if is_selected("reset") {
        measure::reset_quotas(&mut context).await?;
    }
    if is_selected("archive") {
        measure::archive(&mut context).await?;
    }
    if is_selected("reads") {
        measure::reads(&mut context).await?;
    }
    if is_selected("pages") {
        measure::pages(&mut context).await?;
    }
    if is_selected("console") {
        measure::console(&mut context).await?;
    }
    if is_selected("export") {
        measure::export(&mut context).await?;
    }
    measure::put_back(&context).await?;
    if is_selected("audit") {
        measure::audit(&mut context).await?;
    }
    if is_selected("rollup") {
        measure::rebuild_rollup(&mut context).await?;
    }
    // It changes the data, so it only runs by name.
    if arguments.only.iter().any(|name| name == "sealed") {
        measure::sealed(&mut context).await?;
    }
    context.report.write(&arguments.json)?;
    ensure!(context.report.is_good(), "some results are out of bounds; see the lines with NOT");
    Ok(())
}

/// Creates a database again.
async fn make(mariadb: &MariaDb, folder: &Path, database: &str, size: &Size) -> anyhow::Result<()> {
    eprintln!("creating {} users with {} records", size.users, size.records);
    let mut connection = MySqlConnection::connect(&mariadb.url("")).await?;
    let create = format!("DROP DATABASE IF EXISTS {database}; CREATE DATABASE {database} CHARACTER SET utf8mb4");
    sqlx::raw_sql(AssertSqlSafe(create)).execute(&mut connection).await?;
    let conf = process::configure(mariadb, database, folder)?;
    process::migrate(&conf).await?;
    // No sync per commit, because data lost in a crash are created again.
    sqlx::raw_sql("SET GLOBAL innodb_flush_log_at_trx_commit = 0").execute(&mut connection).await?;
    data::fill(mariadb, database, size, folder).await?;
    sqlx::raw_sql("SET GLOBAL innodb_flush_log_at_trx_commit = 1").execute(&mut connection).await?;
    Ok(connection.close().await?)
}

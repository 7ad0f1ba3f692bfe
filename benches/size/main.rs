//! Benchmark of size: what years of data and a million users cost, beside what little data
//! costs. Real processes on a private MariaDB, whose data are made once and kept.
//!
//! `make bench-data` makes the data, `make bench-size` measures.

mod arguments;
mod data;
mod mariadb;
#[path = "../../tests/it/harness/private_server.rs"]
#[allow(
    dead_code,
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "shared with the tests, which need more of it and fail by panicking"
)]
mod private_server;
mod process;
#[path = "../load/supervised.rs"]
mod supervised;

use std::{path::Path, process::ExitCode};

use anyhow::bail;
use billing_service::command;
use clap::Parser;
use sqlx::{AssertSqlSafe, Connection, MySqlConnection};

use self::{arguments::Arguments, data::Size, mariadb::MariaDb};

/// The database of the size that is asked for, and that of little data.
const LARGE: &str = "large";
const SMALL: &str = "small";
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
    let sizes = [(LARGE, large), (SMALL, small)];
    let wanted: Vec<Size> = sizes.iter().map(|(_, size)| size.clone()).collect();
    if !Size::are_in(folder, &wanted) {
        make(mariadb, folder, &sizes).await?;
        Size::note(folder, &wanted)?;
    }
    Ok(())
}

/// Makes the databases anew.
async fn make(mariadb: &MariaDb, folder: &Path, sizes: &[(&str, Size)]) -> anyhow::Result<()> {
    for (database, size) in sizes {
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

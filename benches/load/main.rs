//! Load benchmark of the service, next to the design that it replaces. It uses real processes, real
//! gRPC on loopback, and private databases that sync every commit to disk.
//!
//! Every round runs every scenario for some seconds, so that other work of the machine affects all
//! scenarios alike. `make bench BENCH=--help` lists the options.

mod arguments;
mod baseline;
mod closed;
mod collector;
mod context;
mod durability;
mod fleet;
mod locked;
#[path = "../../tests/it/harness/mariadb.rs"]
#[allow(
    dead_code,
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "shared with the tests, which use more of it and panic on errors"
)]
mod mariadb;
mod measure;
mod open;
mod operation;
#[path = "../../tests/it/harness/private_server.rs"]
#[allow(
    dead_code,
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "shared with the tests, which use more of it and panic on errors"
)]
mod private_server;
mod redis;
mod report;
mod run;
mod scenario;
mod scratch;
mod secured;
mod stream;
mod supervised;
mod table;
mod usage;
mod world;

use std::{process::ExitCode, time::Duration};

use anyhow::bail;
use billing_service::command;
use clap::Parser;

use self::{arguments::Arguments, scratch::Scratch};

/// Time that blocking threads have to end after an interrupt.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(5);

fn main() -> ExitCode {
    command::exit_code(execute(&Arguments::parse()))
}

fn execute(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    if let Some(redis) = &arguments.baseline_redis {
        return runtime.block_on(baseline::serve(arguments.baseline_server.as_deref(), redis));
    }
    if !arguments.bench {
        // `cargo test --all-targets` runs every benchmark without --bench.
        println!("nothing measured: run `make bench`");
        return Ok(ExitCode::SUCCESS);
    }
    arguments.check()?;
    let scratch = Scratch::create(arguments.folder.as_deref())?;
    let result = runtime.block_on(async {
        let interrupted = command::stop_signal(command::Hangup::Stops)?;
        tokio::select! {
            result = run::run(arguments, &scratch) => result,
            () = interrupted => bail!("interrupted"),
        }
    });
    runtime.shutdown_timeout(SHUTDOWN_TIMEOUT);
    drop(scratch);
    result
}

//! The bytes that charges leave in a SQLite database, and the bytes written for them.

use std::{collections::BTreeMap, fs, path::Path};

use anyhow::Context as _;

use super::{
    Context,
    callers::{CALLERS, Callers, Until},
};
use crate::{
    process::{Server, write_configuration},
    report::Bound,
};

/// Charges of each caller before the measurement. They open the accounts of nearly all of a thousand users.
const OPENING: u64 = 100;

/// Charges `users` users, and reports the growth.
///
/// # Errors
/// The server does not start, or a charge fails.
pub async fn measure(context: &mut Context<'_>, users: u64) -> anyhow::Result<()> {
    let folder = tempfile::Builder::new().prefix("sqlite").tempdir_in(context.folder)?;
    let file = folder.path().join("billing.db");
    let conf = write_configuration(&folder.path().join("sqlite.yaml"), "sqlite", &file.display().to_string())?;
    let (charges, seed) = (context.arguments.cold.charges / CALLERS, context.arguments.seed);

    charge(&conf, users, (seed, OPENING)).await?;
    let before = sizes(&file)?;
    let written = charge(&conf, users, (seed + 1, charges)).await?;
    let after = sizes(&file)?;

    let charges = (charges * CALLERS) as f64;
    let mut add =
        |what: &str, bytes: f64| context.report.add(format!("SQLite: {what}"), bytes / charges, "bytes", Bound::None);
    let mut sum = 0.0;
    for (name, bytes) in after {
        let grown = bytes - before.get(&name).copied().unwrap_or_default();
        sum += grown;
        if grown / charges >= 0.5 {
            add(&format!("{name}, a charge"), grown);
        }
    }
    add("all tables, a charge", sum);
    add("written to the disk, a charge", written);
    Ok(())
}

/// Makes `charges` charges of each caller, and returns the bytes that the server wrote to the disk.
async fn charge(conf: &Path, users: u64, (seed, charges): (u64, u64)) -> anyhow::Result<f64> {
    let server = Server::start(conf).await?;
    let before = written(server.pid())?;
    Callers::start(&server.grpc, users, seed, Until::Charges(charges)).await?.end().await?;
    Ok(written(server.pid())? - before)
}

fn written(pid: u32) -> anyhow::Result<f64> {
    let counts = fs::read_to_string(format!("/proc/{pid}/io"))?;
    let line = counts.lines().find_map(|line| line.strip_prefix("write_bytes:")).context("no write_bytes")?;
    Ok(line.trim().parse()?)
}

/// The bytes of the pages of each table and index. No server may be running.
fn sizes(file: &Path) -> anyhow::Result<BTreeMap<String, f64>> {
    let database = rusqlite::Connection::open(file)?;
    // The server ended without a checkpoint.
    database.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()))?;
    let mut pages = database.prepare("SELECT name, SUM(pgsize) FROM dbstat GROUP BY name")?;
    let rows = pages.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?;
    Ok(rows.collect::<Result<_, _>>()?)
}

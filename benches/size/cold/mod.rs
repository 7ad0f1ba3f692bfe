//! Charges of users at random where the data are much larger than the memory of the database, beside the same charges
//! with all data in memory, with much history and with none. And the bytes that a charge leaves on the disk.
//!
//! Each slice has a MariaDB of its own, because its buffer pool is set at the start. The charges stay in the data.

mod bytes;
mod callers;
mod counters;
mod prepare;
mod slice;
mod sqlite;

use std::path::Path;

use anyhow::ensure;

use self::slice::{Kind, Slice};
use crate::{
    arguments::Arguments,
    data::Size,
    mariadb::{MariaDb, Options},
    report::{Bound, Report},
};

/// The database without history. The million users of the large database have charged nothing here.
const FIRST: &str = "first";
/// The database of a thousand users without history.
const FEW: &str = "few";
const FEW_USERS: u64 = 1_000;

/// The state that the parts share.
struct Context<'c> {
    arguments: &'c Arguments,
    folder: &'c Path,
    report: Report,
}

/// Creates the data if they are missing, and measures.
///
/// # Errors
/// A process does not start, a charge fails, the memory is too small, or a result is out of bounds.
pub async fn run(arguments: &Arguments, folder: &Path) -> anyhow::Result<()> {
    let size = |users, records| Size::new(users, records, arguments.seed, arguments.months_ago);
    let mut context = Context { arguments, folder, report: Report::default() };
    prepare::large(&context, &size(arguments.users, arguments.records)).await?;
    if arguments.data_only {
        return Ok(());
    }
    prepare::without_history(&context, &[(FIRST, &size(arguments.users, 0)), (FEW, &size(FEW_USERS, 0))]).await?;
    if arguments.cold.charges > 0 {
        bytes::measure(&mut context, &[(FEW, FEW_USERS), (FIRST, arguments.users)]).await?;
        sqlite::measure(&mut context, FEW_USERS).await?;
    }
    rates(&mut context).await?;
    context.report.write(&arguments.json)?;
    ensure!(context.report.is_good(), "some results are out of bounds; see the lines with NOT");
    Ok(())
}

/// Measures all kinds of slices in turn, so that other work of the machine affects them alike.
async fn rates(context: &mut Context<'_>) -> anyhow::Result<()> {
    let mut slices: [Slice; 4] = Default::default();
    for round in 1..=context.arguments.cold.rounds {
        for (kind, slice) in Kind::ALL.into_iter().zip(&mut slices) {
            slice.add(kind.measure(context, round).await?);
        }
    }
    let report = &mut context.report;
    for (kind, slice) in Kind::ALL.into_iter().zip(&mut slices) {
        slice.report(report, &kind.name());
    }
    let [cold, warm, first_cold, first_warm] = slices.map(|slice| slice.rate());
    report.add("with history: rate from the disk to rate in memory", cold / warm, "", Bound::Above(0.5));
    report.add("from the disk: rate with history to rate without", cold / first_cold, "", Bound::Above(0.9));
    report.add("in memory: rate with history to rate without", warm / first_warm, "", Bound::Above(0.9));
    Ok(())
}

/// Starts MariaDB with an empty buffer pool.
async fn start(context: &Context<'_>, pool_mib: u64) -> anyhow::Result<MariaDb> {
    let mut further = vec!["--skip-innodb-buffer-pool-load-at-startup".to_owned()];
    further.extend_from_slice(&context.arguments.cold.mariadb);
    MariaDb::start(context.folder, &Options { pool_mib, further: &further }).await
}

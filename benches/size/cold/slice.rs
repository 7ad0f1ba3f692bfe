//! One slice: charges for some seconds, and the work of the database for them.

use std::{
    fs,
    path::Path,
    time::{Duration, Instant},
};

use anyhow::{Context as _, ensure};
use sqlx::{AssertSqlSafe, Connection, MySqlConnection};
use tokio::time::sleep_until;

use super::{
    Context, FIRST,
    callers::{Callers, Charged, Until},
    counters::Counters,
    start,
};
use crate::{
    measure::LARGE,
    process::{Server, configure},
    report::{Bound, Report, quantile},
    usage::Processes,
};

const MIB: u64 = 1 << 20;
/// Memory that is left to everything but the buffer pool, in MiB.
const LEFT_MIB: u64 = 1_024;

/// A database, and whether all of it is in memory.
#[derive(Clone, Copy)]
pub struct Kind {
    database: &'static str,
    is_in_memory: bool,
}

/// The sum of some slices of a kind.
#[derive(Default)]
pub struct Slice {
    seconds: f64,
    /// Latencies in milliseconds.
    times: Vec<f64>,
    /// The counters of each slice.
    counters: Vec<Counters>,
    /// Refused attempts in the slice, and in its warm-up.
    refused: [usize; 2],
    pool_mib: u64,
    data_mib: u64,
}

impl Kind {
    pub const ALL: [Self; 4] = [
        Self { database: LARGE, is_in_memory: false },
        Self { database: LARGE, is_in_memory: true },
        Self { database: FIRST, is_in_memory: false },
        Self { database: FIRST, is_in_memory: true },
    ];

    pub fn name(self) -> String {
        let history = if self.database == LARGE { "with history" } else { "without history" };
        let place = if self.is_in_memory { "in memory" } else { "from the disk" };
        format!("{history}, {place}")
    }

    /// Starts MariaDB and a server, charges, and stops both.
    ///
    /// # Errors
    /// A process does not start, a charge fails, or the memory is too small.
    pub async fn measure(self, context: &Context<'_>, round: u64) -> anyhow::Result<Slice> {
        let (arguments, options) = (context.arguments, &context.arguments.cold);
        let data_mib = data_mib(context.folder, self.database)?;
        // Room for the rows of the slice, and for undo logs.
        let pool_mib = if self.is_in_memory { data_mib + data_mib / 5 + LEFT_MIB } else { options.pool };
        ensure_memory(pool_mib)?;
        let mariadb = start(context, pool_mib).await?;
        let mut connection = MySqlConnection::connect(&mariadb.url(self.database)).await?;
        if self.is_in_memory {
            read_all(&mut connection, self.database).await?;
        }
        let server = Server::start(&configure(&mariadb, self.database, context.folder)?).await?;
        let processes = Processes { servers: vec![server.pid()], database: Some(mariadb.pid()), redis: None };
        let from = Instant::now() + Duration::from_secs_f64(options.warm_up);
        let until = from + Duration::from_secs_f64(options.seconds);
        // Another order of users in each slice.
        let seed = arguments.seed.wrapping_add(round * 4 + u64::from(self.is_in_memory));
        let callers = Callers::start(&server.grpc, arguments.users, seed, Until::Time(until)).await?;
        sleep_until(from.into()).await;
        let (before, _) = Counters::read(&mut connection, &processes, context.folder).await?;
        sleep_until(until.into()).await;
        let (after, _) = Counters::read(&mut connection, &processes, context.folder).await?;
        let Charged { done, refused } = callers.end().await?;
        drop(server);
        connection.close().await?;
        mariadb.stop().await?;
        let times = done.iter().filter(|done| (from..until).contains(&done.at)).map(|done| done.ms).collect();
        let within = refused.iter().filter(|at| (from..until).contains(at)).count();
        let before_it = refused.iter().filter(|at| **at < from).count();
        let refused = [within, before_it];
        let slice =
            Slice { seconds: options.seconds, times, counters: vec![after - before], refused, pool_mib, data_mib };
        eprintln!("round {round}  {:<28} {:>9.0}/s", self.name(), slice.rate());
        Ok(slice)
    }
}

impl Slice {
    pub fn add(&mut self, other: Self) {
        self.seconds += other.seconds;
        self.times.extend(other.times);
        self.counters.extend(other.counters);
        self.refused = [self.refused[0] + other.refused[0], self.refused[1] + other.refused[1]];
        (self.pool_mib, self.data_mib) = (other.pool_mib, other.data_mib);
    }

    /// Charges per second.
    pub fn rate(&self) -> f64 {
        self.times.len() as f64 / self.seconds
    }

    pub fn report(&mut self, report: &mut Report, name: &str) {
        let sum = |part: fn(&Counters) -> f64| self.counters.iter().map(part).sum::<f64>();
        let charges = self.times.len().max(1) as f64;
        let a_charge = |part| sum(part) / charges;
        let (pages_read, pages_written) = (a_charge(|one| one.pages_read), a_charge(|one| one.pages_written));
        let redo = a_charge(|one| one.redo_bytes);
        let (of_database, of_server) = (a_charge(|one| one.cpu.database), a_charge(|one| one.cpu.server));
        let disk_read = sum(|one| one.disk.milliseconds) / sum(|one| one.disk.reads).max(1.0);
        let mut add = |what: &str, value: f64, unit, bound| report.add(format!("{name}: {what}"), value, unit, bound);
        add("files of the database", self.data_mib as f64, "MiB", Bound::None);
        add("buffer pool", self.pool_mib as f64, "MiB", Bound::None);
        add("rate", self.rate(), "/s", Bound::None);
        add("p50", quantile(&mut self.times, 0.5), "ms", Bound::None);
        add("p99", quantile(&mut self.times, 0.99), "ms", Bound::None);
        add("refused attempts", self.refused[0] as f64, "", Bound::Below(1.0));
        add("refused attempts in warm-ups", self.refused[1] as f64, "", Bound::None);
        let is_in_memory = self.pool_mib > self.data_mib;
        let reads = if is_in_memory { Bound::Below(0.1) } else { Bound::None };
        add("pages read, a charge", pages_read, "", reads);
        add("pages written, a charge", pages_written, "", Bound::None);
        add("redo, a charge", redo, "bytes", Bound::None);
        if !is_in_memory {
            add("a read of the disk", disk_read, "ms", Bound::None);
        }
        add("CPU of MariaDB, a charge", of_database, "us", Bound::None);
        add("CPU of the server, a charge", of_server, "us", Bound::None);
    }
}

/// Reads all indexes of a database into memory.
async fn read_all(connection: &mut MySqlConnection, database: &str) -> anyhow::Result<()> {
    let indexes: Vec<(String, String)> = sqlx::query_as(
        "SELECT DISTINCT table_name, index_name FROM information_schema.statistics WHERE table_schema = ?",
    )
    .bind(database)
    .fetch_all(&mut *connection)
    .await?;
    for (table, index) in indexes {
        let count = format!("SELECT COUNT(*) FROM `{table}` FORCE INDEX (`{index}`)");
        sqlx::raw_sql(AssertSqlSafe(count)).execute(&mut *connection).await?;
    }
    Ok(())
}

/// The size of the files of a database in MiB.
fn data_mib(folder: &Path, database: &str) -> anyhow::Result<u64> {
    let mut bytes = 0;
    for file in fs::read_dir(folder.join("mariadb").join(database))? {
        bytes += file?.metadata()?.len();
    }
    Ok(bytes / MIB)
}

fn ensure_memory(pool_mib: u64) -> anyhow::Result<()> {
    let memory = fs::read_to_string("/proc/meminfo")?;
    let line = memory.lines().find_map(|line| line.strip_prefix("MemAvailable:")).context("no MemAvailable")?;
    let free_mib = line.split_whitespace().next().context("no number")?.parse::<u64>()? / 1_024;
    ensure!(
        pool_mib + LEFT_MIB <= free_mib,
        "{free_mib} MiB of memory are free; a buffer pool of {pool_mib} MiB needs more"
    );
    Ok(())
}

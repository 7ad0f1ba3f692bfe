//! The options of the benchmark.

use std::{path::PathBuf, time::Duration};

use anyhow::ensure;
use clap::Parser;

/// Measures the service under load, next to the design that it replaces.
#[derive(Debug, Parser)]
#[command(name = "load")]
pub struct Arguments {
    /// Number of rounds. Each round runs every scenario; rates are medians over the rounds.
    #[arg(long, default_value_t = 3)]
    pub rounds: usize,
    /// Measured seconds per scenario and round, after half a second of warm-up.
    #[arg(long, default_value_t = 4.0)]
    pub seconds: f64,
    /// Scenarios to run, by parts of their names, such as `mysql.deduct` or `hot`.
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    pub only: Vec<String>,
    /// Skip the scenarios on SQLite.
    #[arg(long)]
    pub skip_sqlite: bool,
    /// Skip the scenarios on MariaDB, including the baseline.
    #[arg(long)]
    pub skip_mysql: bool,
    /// Open loop: send this many calls per second, independent of the answers, and measure from
    /// the time at which each call is due. Needs --only.
    #[arg(long, value_name = "RATE", requires = "only")]
    pub open: Option<f64>,
    /// Seed of the order in which callers pick users.
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// File for the results as JSON.
    #[arg(long, value_name = "FILE", default_value = "target/bench/load.json")]
    pub json: PathBuf,
    /// Folder of the databases; by default the temporary folder.
    #[arg(long, value_name = "FOLDER")]
    pub folder: Option<PathBuf>,

    /// Passed by `cargo bench`.
    #[arg(long, hide = true)]
    pub bench: bool,
    /// Serve another design with this Redis: the baseline, or without its database the rate limiter. The benchmark
    /// starts itself with it.
    #[arg(long, hide = true)]
    pub baseline_redis: Option<String>,
    /// The database of the baseline design.
    #[arg(long, hide = true)]
    pub baseline_server: Option<String>,
}

impl Arguments {
    /// Checks the bounds of the options.
    ///
    /// # Errors
    /// A value is out of bounds.
    pub fn check(&self) -> anyhow::Result<()> {
        ensure!((1..=1_000).contains(&self.rounds), "--rounds must be 1 to 1,000");
        ensure!((0.1..=3_600.0).contains(&self.seconds), "--seconds must be 0.1 to 3,600");
        ensure!(self.open.is_none_or(|rate| (1.0..=1_000_000.0).contains(&rate)), "--open must be 1 to 1,000,000");
        ensure!(!(self.skip_mysql && self.skip_sqlite), "--skip-mysql and --skip-sqlite leave nothing to run");
        Ok(())
    }

    pub fn slice(&self) -> Duration {
        Duration::from_secs_f64(self.seconds)
    }
}

//! The options of the benchmark.

use std::path::{Path, PathBuf};

use anyhow::ensure;
use clap::{Args, Parser};

/// Measures the service with a million users and ten million records, and with a thousand users
/// and ten thousand records for comparison.
#[derive(Debug, Parser)]
#[command(name = "size")]
pub struct Arguments {
    /// Number of users.
    #[arg(long, default_value_t = 1_000_000)]
    pub users: u64,
    /// Number of records.
    #[arg(long, default_value_t = 10_000_000)]
    pub records: u64,
    /// Seed of the data. The same seed gives the same data in the same month.
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// Full months since the last charge of the data.
    #[arg(long, default_value_t = 0)]
    pub months_ago: u32,
    /// Folder of the data, about 8 GB; by default target/bench/size, and target/bench/cold for cold.
    #[arg(long, value_name = "FOLDER")]
    pub folder: Option<PathBuf>,
    /// Create the data if they are missing, and measure nothing.
    #[arg(long)]
    pub data_only: bool,
    /// Measurements to run: reset, reads, pages, console, export, audit, rollup, archive. All of these by default.
    /// And sealed, which changes the data, and needs --months-ago 1 and a folder of its own.
    /// And cold, which runs alone.
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    pub only: Vec<String>,
    #[command(flatten)]
    pub cold: Cold,
    /// File for the results as JSON.
    #[arg(long, value_name = "FILE", default_value = "target/bench/size.json")]
    pub json: PathBuf,

    /// Passed by `cargo bench`.
    #[arg(long, hide = true)]
    pub bench: bool,
}

/// The options of cold.
#[derive(Debug, Args)]
pub struct Cold {
    /// Of cold: buffer pool of the slices that read the disk, in MiB.
    #[arg(long, value_name = "MIB", default_value_t = 512)]
    pub pool: u64,
    /// Of cold: rounds. Each has a slice of each kind.
    #[arg(long, default_value_t = 2)]
    pub rounds: u64,
    /// Of cold: seconds of charges before each slice.
    #[arg(long, value_name = "SECONDS", default_value_t = 20.0)]
    pub warm_up: f64,
    /// Of cold: seconds of each slice.
    #[arg(long, default_value_t = 30.0)]
    pub seconds: f64,
    /// Of cold: charges whose bytes are counted. 0 skips the count.
    #[arg(long, default_value_t = 200_000)]
    pub charges: u64,
    /// Of cold: a further option of mariadbd, such as --innodb-io-capacity=2000.
    #[arg(long, value_name = "OPTION", allow_hyphen_values = true)]
    pub mariadb: Vec<String>,
}

impl Arguments {
    /// Whether cold was chosen.
    pub fn is_cold(&self) -> bool {
        self.only.iter().any(|name| name == "cold")
    }

    /// The folder of the data.
    ///
    /// # Errors
    /// The current folder is unknown, an option is out of bounds, or cold was chosen with another measurement.
    pub fn folder(&self) -> anyhow::Result<PathBuf> {
        ensure!(!self.is_cold() || self.only.len() == 1, "cold restarts MariaDB, so it runs alone");
        let Cold { pool, rounds, warm_up, seconds, charges, .. } = &self.cold;
        ensure!((32..=1_048_576).contains(pool), "--pool must be 32 to 1,048,576");
        ensure!((1..=100).contains(rounds), "--rounds must be 1 to 100");
        ensure!((0.1..=3_600.0).contains(warm_up), "--warm-up must be 0.1 to 3,600");
        ensure!((0.1..=3_600.0).contains(seconds), "--seconds must be 0.1 to 3,600");
        ensure!(*charges <= 100_000_000, "--charges must be at most 100,000,000");
        let default = if self.is_cold() { "target/bench/cold" } else { "target/bench/size" };
        Ok(std::path::absolute(self.folder.as_deref().unwrap_or(Path::new(default)))?)
    }
}

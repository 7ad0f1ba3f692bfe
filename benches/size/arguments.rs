//! The options of the benchmark.

use std::path::PathBuf;

use clap::Parser;

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
    /// Folder of the data, about 8 GB.
    #[arg(long, value_name = "FOLDER", default_value = "target/bench/size")]
    pub folder: PathBuf,
    /// Create the data if they are missing, and measure nothing.
    #[arg(long)]
    pub data_only: bool,
    /// Measurements to run: reset, reads, pages, console, export, audit, rollup, archive. All of these by default.
    /// And sealed, which changes the data, and needs --months-ago 1 and a folder of its own.
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    pub only: Vec<String>,
    /// File for the results as JSON.
    #[arg(long, value_name = "FILE", default_value = "target/bench/size.json")]
    pub json: PathBuf,

    /// Passed by `cargo bench`.
    #[arg(long, hide = true)]
    pub bench: bool,
}

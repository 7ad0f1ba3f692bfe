//! The options of the benchmark.

use std::path::PathBuf;

use clap::Parser;

/// Measures the service with a million users and ten million records, and with ten
/// thousand records beside it.
#[derive(Debug, Parser)]
#[command(name = "size")]
pub struct Arguments {
    #[arg(long, default_value_t = 1_000_000)]
    pub users: u64,
    #[arg(long, default_value_t = 10_000_000)]
    pub records: u64,
    /// Of the data; the same seed makes the same data in the same month.
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// Where the data are kept, about 8 GB.
    #[arg(long, value_name = "FOLDER", default_value = "target/bench/size")]
    pub folder: PathBuf,
    /// Make the data, if they are not there, and measure nothing.
    #[arg(long)]
    pub data_only: bool,
    /// What to measure: reset, reads, pages, export, audit, rollup, archive; all when absent.
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    pub only: Vec<String>,
    /// Where the numbers go for machines to read.
    #[arg(long, value_name = "FILE", default_value = "target/bench/size.json")]
    pub json: PathBuf,

    /// Passed by `cargo bench`.
    #[arg(long, hide = true)]
    pub bench: bool,
}

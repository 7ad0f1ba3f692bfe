//! The data of the benchmark: created once from a seed, and kept for later runs.

mod books;
mod load;
mod seeded;

use std::path::{Path, PathBuf};

use anyhow::Context;
use chrono::{Datelike, Months, NaiveDate, TimeDelta, Utc};

pub use self::{
    books::{charges_of, user_id},
    load::{fill, restore_quotas},
    seeded::Seeded,
};

/// Version of the generator. A new version creates the data again.
const GENERATOR: u32 = 2;

/// The parameters that determine the data.
#[derive(Debug, Clone)]
pub struct Size {
    pub users: u64,
    pub records: u64,
    pub seed: u64,
    /// The first day of the month in which the data were created. Charges end on this day.
    pub month: NaiveDate,
    /// The version of the generator.
    #[expect(dead_code, reason = "compared as text")]
    generator: u32,
}

impl Size {
    pub fn new(users: u64, records: u64, seed: u64, months_ago: u32) -> Self {
        // Today in the billing zone, Asia/Shanghai.
        let today = (Utc::now() + TimeDelta::hours(8)).date_naive();
        let month = today.with_day(1).unwrap_or(today) - Months::new(months_ago);
        Self { users, records, seed, month, generator: GENERATOR }
    }

    /// Whether a folder holds complete data of these sizes.
    pub fn are_in(folder: &Path, sizes: &[Self]) -> bool {
        std::fs::read_to_string(Self::file(folder)).is_ok_and(|noted| noted == format!("{sizes:?}"))
    }

    /// Whether a folder holds complete data of any sizes.
    pub fn has_any(folder: &Path) -> bool {
        Self::file(folder).exists()
    }

    /// Marks a folder as filled with data of these sizes.
    ///
    /// # Errors
    /// The file can't be written.
    pub fn note(folder: &Path, sizes: &[Self]) -> anyhow::Result<()> {
        let file = Self::file(folder);
        std::fs::write(&file, format!("{sizes:?}")).with_context(|| file.display().to_string())
    }

    fn file(folder: &Path) -> PathBuf {
        folder.join("sizes")
    }
}

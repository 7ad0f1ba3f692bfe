//! Counters of InnoDB, of the disk and of processes.

use std::{collections::BTreeMap, fs, ops::Sub, os::unix::fs::MetadataExt, path::Path};

use sqlx::MySqlConnection;

use crate::usage::{Cpu, Processes};

const STATUS: &str = "SELECT LOWER(variable_name), CAST(variable_value AS SIGNED) FROM information_schema.global_status \
    WHERE variable_name IN ('innodb_pages_read', 'innodb_pages_written', 'innodb_dblwr_pages_written', \
    'innodb_os_log_written', 'innodb_history_list_length', 'innodb_buffer_pool_pages_dirty')";

/// Counters since the start, or the differences of two of them.
#[derive(Debug, Clone, Copy, Default)]
pub struct Counters {
    /// Pages of 16 KiB.
    pub pages_read: f64,
    pub pages_written: f64,
    pub doublewrite_pages: f64,
    pub redo_bytes: f64,
    pub cpu: Cpu,
    pub disk: Disk,
}

/// The state of InnoDB at one moment.
pub struct Level {
    /// Undo logs that are not purged.
    pub history: f64,
    pub dirty_pages: f64,
}

/// Reads of a disk.
#[derive(Debug, Clone, Copy, Default)]
pub struct Disk {
    pub reads: f64,
    /// The sum of the times of all reads.
    pub milliseconds: f64,
}

impl Counters {
    /// # Errors
    /// The database does not answer, or a process has ended.
    pub async fn read(
        connection: &mut MySqlConnection,
        processes: &Processes,
        folder: &Path,
    ) -> anyhow::Result<(Self, Level)> {
        let status: BTreeMap<String, i64> = sqlx::query_as(STATUS).fetch_all(connection).await?.into_iter().collect();
        let value = |name: &str| status.get(name).copied().unwrap_or_default() as f64;
        let counters = Self {
            pages_read: value("innodb_pages_read"),
            pages_written: value("innodb_pages_written"),
            doublewrite_pages: value("innodb_dblwr_pages_written"),
            redo_bytes: value("innodb_os_log_written"),
            cpu: processes.cpu()?,
            disk: Disk::of(folder).unwrap_or_default(),
        };
        let level = Level {
            history: value("innodb_history_list_length"),
            dirty_pages: value("innodb_buffer_pool_pages_dirty"),
        };
        Ok((counters, level))
    }
}

impl Sub for Counters {
    type Output = Self;

    fn sub(self, earlier: Self) -> Self {
        Self {
            pages_read: self.pages_read - earlier.pages_read,
            pages_written: self.pages_written - earlier.pages_written,
            doublewrite_pages: self.doublewrite_pages - earlier.doublewrite_pages,
            redo_bytes: self.redo_bytes - earlier.redo_bytes,
            cpu: self.cpu - earlier.cpu,
            disk: Disk {
                reads: self.disk.reads - earlier.disk.reads,
                milliseconds: self.disk.milliseconds - earlier.disk.milliseconds,
            },
        }
    }
}

impl Disk {
    /// The disk of a folder. `None` if the file system is on no single disk.
    fn of(folder: &Path) -> Option<Self> {
        let device = fs::metadata(folder).ok()?.dev();
        let (major, minor) = (device >> 8 & 0xfff, device & 0xff | device >> 12 & 0xf_ff00);
        let stat = fs::read_to_string(format!("/sys/dev/block/{major}:{minor}/stat")).ok()?;
        let fields: Vec<f64> = stat.split_whitespace().filter_map(|field| field.parse().ok()).collect();
        Some(Self { reads: *fields.first()?, milliseconds: *fields.get(3)? })
    }
}

//! The context of the results: time, commit, machine and settings.

use std::{path::Path, process::Command};

use anyhow::Context as _;
use serde::Serialize;

use crate::{
    arguments::Arguments,
    durability::{MariaDbSettings, sync_micros},
};

#[derive(Serialize)]
pub struct Context {
    pub date: String,
    /// With `-dirty` if the work tree has changes.
    pub commit: String,
    pub cores: usize,
    pub processor: String,
    pub kernel: String,
    /// The folder of the databases.
    pub folder: String,
    pub filesystem: String,
    /// Time of one append with a sync to disk in that folder, in microseconds.
    pub sync_micros: f64,
    pub mariadb: Option<MariaDbSettings>,
    pub rounds: usize,
    pub seconds: f64,
    pub seed: u64,
}

impl Context {
    /// # Errors
    /// `folder` can't be written.
    pub fn read(arguments: &Arguments, folder: &Path, mariadb: Option<MariaDbSettings>) -> anyhow::Result<Self> {
        let folder_text = folder.display().to_string();
        let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
        let processors = read("/proc/cpuinfo");
        let processor = processors.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
        Ok(Self {
            date: chrono::Utc::now().format("%Y-%m-%dT%H:%M:%SZ").to_string(),
            commit: output("git", &["describe", "--always", "--dirty", "--exclude=*"]),
            cores: std::thread::available_parallelism()?.get(),
            processor: processor.map_or_else(|| "unknown".to_owned(), |(_, name)| name.to_owned()),
            kernel: read("/proc/sys/kernel/osrelease").trim().to_owned(),
            filesystem: output("stat", &["-f", "-c", "%T", &folder_text]),
            folder: folder_text,
            sync_micros: sync_micros(folder).context("the folder of the databases")?,
            mariadb,
            rounds: arguments.rounds,
            seconds: arguments.seconds,
            seed: arguments.seed,
        })
    }

    pub fn describe(&self) -> String {
        let mut text = format!(
            "{}, commit {}\n{} cores, {}, Linux {}\ndata in {} on {}, {:.0} us a sync\n",
            self.date,
            self.commit,
            self.cores,
            self.processor,
            self.kernel,
            self.folder,
            self.filesystem,
            self.sync_micros
        );
        if self.filesystem == "tmpfs" {
            text.push_str("WARNING: tmpfs is memory; use --folder with a folder on a disk\n");
        }
        if let Some(mariadb) = &self.mariadb {
            text.push_str(&format!(
                "MariaDB {}: innodb_flush_log_at_trx_commit={} innodb_flush_method={} innodb_doublewrite={} \
                 innodb_buffer_pool_size={}M\n",
                mariadb.version,
                mariadb.flush_log_at_trx_commit,
                mariadb.flush_method,
                mariadb.doublewrite,
                mariadb.buffer_pool_bytes >> 20
            ));
        }
        text.push_str(&format!("{} rounds of {} s a scenario, seed {}\n", self.rounds, self.seconds, self.seed));
        text
    }
}

/// The output of `program`; `unknown` if it fails.
fn output(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output().ok().filter(|output| output.status.success());
    output.map_or_else(|| "unknown".to_owned(), |output| String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

//! The processes of the service: a server on a database, and runs of jobs.

use std::{
    ffi::OsStr,
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, ensure};
use serde_json::Value;
use tokio::task::spawn_blocking;

use crate::{mariadb::MariaDb, supervised::Supervised};

/// Interval at which the memory of a run is read.
const WATCH: Duration = Duration::from_millis(20);

/// Writes the configuration of the service for a database.
///
/// # Errors
/// The file can't be written.
pub fn configure(mariadb: &MariaDb, database: &str, folder: &Path) -> anyhow::Result<PathBuf> {
    write_configuration(&folder.join(format!("{database}.yaml")), "mysql", &mariadb.source(database))
}

/// Writes a configuration of the service.
///
/// # Errors
/// The file can't be written.
pub fn write_configuration(conf: &Path, driver: &str, source: &str) -> anyhow::Result<PathBuf> {
    let text = format!(
        r#"server:
  http: {{addr: '127.0.0.1:0', timeout: 30s}}
  grpc: {{addr: '127.0.0.1:0', timeout: 30s}}
data:
  database: {{driver: {driver}, source: '{source}'}}
billing:
  prices: {{passport: 0.01, payment: 0.10, asset: 0.05}}
  free_quotas: {{passport: 10000, payment: 1000, asset: 1000}}
console: {{enabled: true}}
log: {{level: info, format: json}}
"#
    );
    fs::write(conf, text)?;
    Ok(conf.to_owned())
}

/// A server with its addresses.
pub struct Server {
    pub http: String,
    pub grpc: String,
    process: Supervised,
}

impl Server {
    /// Starts a server.
    ///
    /// # Errors
    /// The server does not start.
    pub async fn start(conf: &Path) -> anyhow::Result<Self> {
        let conf = conf.to_owned();
        let start = move || {
            let command = [OsStr::new(env!("CARGO_BIN_EXE_server")), OsStr::new("-conf"), conf.as_os_str()];
            Supervised::start(&command, |line| {
                let line: Value = serde_json::from_str(line).ok()?;
                let fields = line.get("fields").filter(|fields| fields["message"] == "serving")?;
                let url = |name: &str| Some(format!("http://{}", fields[name].as_str()?));
                Some((url("http_addr")?, url("grpc_addr")?))
            })
        };
        let (process, (http, grpc)) = spawn_blocking(start).await??;
        Ok(Self { http, grpc, process })
    }

    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// Peak memory since [`Self::forget_peak`], in MiB; right after it, the current memory.
    ///
    /// # Errors
    /// The server has ended.
    pub fn peak(&self) -> anyhow::Result<f64> {
        peak_of(self.process.pid()).context("the server has ended")
    }

    /// Resets the peak memory.
    ///
    /// # Errors
    /// The server has ended.
    pub fn forget_peak(&self) -> anyhow::Result<()> {
        /// Resets the peak of the resident set; see proc(5).
        const RESET_PEAK: &str = "5";
        Ok(fs::write(format!("/proc/{}/clear_refs", self.process.pid()), RESET_PEAK)?)
    }
}

/// The result of a finished run.
pub struct Took {
    pub time: Duration,
    /// Peak memory in MiB.
    pub peak: f64,
    /// The last line of its output.
    pub last_line: String,
}

/// Runs a job by hand. Its name may be followed by options.
///
/// # Errors
/// The job fails.
pub async fn run_job(job: &str, conf: &Path, settings: &[(&str, &str)]) -> anyhow::Result<Took> {
    let mut command = Command::new(env!("CARGO_BIN_EXE_cron"));
    command.arg("--once").args(job.split(' ')).arg("-conf").arg(conf).envs(settings.iter().copied());
    run(command).await.with_context(|| job.to_owned())
}

/// Brings the schema of a database up to date.
///
/// # Errors
/// The migration fails.
pub async fn migrate(conf: &Path) -> anyhow::Result<()> {
    let mut command = Command::new(env!("CARGO_BIN_EXE_server"));
    command.args(["--migrate-only", "-conf"]).arg(conf);
    run(command).await.map(drop)
}

async fn run(mut command: Command) -> anyhow::Result<Took> {
    let run = move || {
        let begun = Instant::now();
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn()?;
        let mut peak: f64 = 0.0;
        while child.try_wait()?.is_none() {
            peak = peak.max(peak_of(child.id()).unwrap_or(0.0));
            std::thread::sleep(WATCH);
        }
        let time = begun.elapsed();
        let output = child.wait_with_output()?;
        let printed = String::from_utf8_lossy(&output.stdout);
        ensure!(output.status.success(), "{}: {printed}", output.status);
        Ok(Took { time, peak, last_line: printed.lines().last().unwrap_or_default().to_owned() })
    };
    spawn_blocking(run).await?
}

fn peak_of(pid: u32) -> Option<f64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    Some(line.split_whitespace().next()?.parse::<f64>().ok()? / 1_024.0)
}

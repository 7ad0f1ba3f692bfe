//! A private MariaDB whose data are kept.

use std::{
    fs::{self, File},
    path::Path,
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Context, bail, ensure};
use sqlx::Connection;

use crate::private_server::{PrivateServer, free_port};

/// Time limits of start, including recovery, and of stop.
const START_TIMEOUT: Duration = Duration::from_secs(300);
const STOP_TIMEOUT: Duration = Duration::from_secs(300);

/// The options of a start.
pub struct Options<'o> {
    pub pool_mib: u64,
    /// Further options of mariadbd.
    pub further: &'o [String],
}

impl Default for Options<'_> {
    fn default() -> Self {
        Self { pool_mib: 4_096, further: &[] }
    }
}

pub struct MariaDb {
    port: u16,
    process: PrivateServer,
    _lock: File,
}

impl MariaDb {
    /// Starts MariaDB on the data in `folder`, which are created if they are missing.
    ///
    /// # Errors
    /// Another run uses the folder, or the server does not start.
    pub async fn start(folder: &Path, options: &Options<'_>) -> anyhow::Result<Self> {
        fs::create_dir_all(folder)?;
        let lock = File::create(folder.join("lock"))?;
        lock.try_lock().with_context(|| format!("{} is in use by another run", folder.display()))?;
        let (data, own) = (folder.join("mariadb"), PrivateServer::folder_for("size"));
        let tmp = folder.join("tmp");
        fs::create_dir_all(&tmp)?;
        if !data.exists() {
            install(&data, &tmp)?;
        }
        let port = free_port();
        let mut command = vec![
            "mariadbd".to_owned(),
            "--no-defaults".to_owned(),
            "--user=root".to_owned(),
            "--skip-log-bin".to_owned(),
            format!("--datadir={}", data.display()),
            format!("--tmpdir={}", tmp.display()),
            format!("--socket={}", own.join("socket").display()),
            format!("--pid-file={}", own.join("pid").display()),
            format!("--port={port}"),
            "--bind-address=127.0.0.1".to_owned(),
            format!("--innodb-buffer-pool-size={}M", options.pool_mib),
            "--innodb-log-file-size=1G".to_owned(),
        ];
        command.extend_from_slice(options.further);
        let mariadb = Self { port, process: PrivateServer::start(own, &command), _lock: lock };
        let deadline = Instant::now() + START_TIMEOUT;
        while sqlx::MySqlConnection::connect(&mariadb.url("")).await.is_err() {
            if Instant::now() > deadline || mariadb.process.has_ended() {
                bail!("mariadbd did not start: {}", mariadb.process.log());
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        Ok(mariadb)
    }

    /// The process id of mariadbd.
    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// The URL of a database for the benchmark's own connections.
    pub fn url(&self, database: &str) -> String {
        format!("mysql://root@127.0.0.1:{}/{database}", self.port)
    }

    /// `data.database.source` of a database.
    pub fn source(&self, database: &str) -> String {
        format!("root@tcp(127.0.0.1:{})/{database}", self.port)
    }

    /// Shuts MariaDB down cleanly, so that the next run needs no recovery.
    ///
    /// # Errors
    /// MariaDB does not end in time.
    pub async fn stop(self) -> anyhow::Result<()> {
        self.process.signal("TERM");
        let deadline = Instant::now() + STOP_TIMEOUT;
        while !self.process.has_ended() {
            ensure!(Instant::now() < deadline, "mariadbd did not end in time");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        Ok(())
    }
}

fn install(data: &Path, tmp: &Path) -> anyhow::Result<()> {
    let installed = Command::new("mariadb-install-db")
        .args(["--no-defaults", "--auth-root-authentication-method=normal", "--skip-test-db"])
        .arg(format!("--datadir={}", data.display()))
        .env("TMPDIR", tmp)
        .output()
        .context("mariadb-install-db did not run; install it with `make deps`")?;
    ensure!(installed.status.success(), "{}", String::from_utf8_lossy(&installed.stderr));
    Ok(())
}

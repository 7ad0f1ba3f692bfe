//! A private redis-server of one test, which the test may stop, kill and restart.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use redis::{InfoDict, aio::MultiplexedConnection, cmd};
use tokio::time::{Instant, sleep};

use super::database::{Hashes, RedisDatabase};
use crate::harness::private_server::{PrivateServer, free_port};

/// Attempts to start, because another process may take a free port first.
const ATTEMPTS: usize = 5;
const START_TIMEOUT: Duration = Duration::from_secs(30);

/// The server never saves by itself. After a kill, it starts with the data of the last
/// [`Self::save`].
pub struct OwnRedis {
    process: PrivateServer,
    port: u16,
}

/// The saved data of a server.
pub struct Snapshot(Vec<u8>);

impl OwnRedis {
    pub async fn start() -> Self {
        Self::start_with(&[]).await
    }

    /// With more arguments, such as `--maxmemory 3mb`.
    pub async fn start_with(arguments: &[&str]) -> Self {
        Self::start_on(free_port, arguments).await
    }

    /// Starts on a port from `choose`.
    pub(super) async fn start_on(choose: fn() -> u16, arguments: &[&str]) -> Self {
        let command = |folder: &Path, port: u16| {
            let (port, folder) = (port.to_string(), folder.display().to_string());
            let own = ["redis-server", "--port", &port, "--dir", &folder, "--bind", "127.0.0.1"];
            let forgetful = ["--save", "", "--appendonly", "no"];
            [&own[..], &forgetful, arguments].concat().into_iter().map(str::to_owned).collect()
        };
        Self::start_as(choose, command).await
    }

    /// Starts with the command that `command` makes from the folder and the port.
    pub async fn start_as(choose: fn() -> u16, command: impl Fn(&Path, u16) -> Vec<String>) -> Self {
        let mut log = String::new();
        for _ in 0..ATTEMPTS {
            let (folder, port) = (PrivateServer::folder_for("redis"), choose());
            let command = command(&folder, port);
            let started = Self { process: PrivateServer::start(folder, &command), port };
            if started.answers().await {
                return started;
            }
            log = started.process.log();
        }
        panic!("redis-server does not start: {log}");
    }

    pub fn addr(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// The process id of the server, not of its shell.
    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// Its first logical database.
    pub fn database(&self) -> RedisDatabase {
        RedisDatabase { addr: self.addr(), db: 0 }
    }

    /// Sends a signal to the server, such as STOP, CONT or KILL.
    pub fn signal(&self, name: &str) {
        self.process.signal(name);
    }

    /// Kills the server. Returns when it has ended.
    pub fn kill(&self) {
        self.process.kill();
    }

    /// Whether the server has ended and was not started again.
    pub fn has_ended(&self) -> bool {
        self.process.has_ended()
    }

    /// Starts the killed server on its port and with its last saved data. Returns when it
    /// answers.
    pub async fn start_again(&mut self) {
        self.process.start_again();
        assert!(self.answers().await, "redis-server does not start again: {}", self.process.log());
    }

    pub async fn kill_and_start_again(&mut self) {
        self.kill();
        self.start_again().await;
    }

    /// Saves its data to the file that it reads at its next start.
    pub async fn save(&self) {
        let () = cmd("SAVE").query_async(&mut self.connection().await).await.unwrap();
    }

    /// Saves its data, and returns a copy of the file.
    pub async fn keep_snapshot(&self) -> Snapshot {
        self.save().await;
        Snapshot(std::fs::read(self.saved()).unwrap())
    }

    /// Kills the server, and starts it again with the data of `snapshot`.
    pub async fn restart_with_snapshot(&mut self, snapshot: &Snapshot) {
        self.kill();
        std::fs::write(self.saved(), &snapshot.0).unwrap();
        self.start_again().await;
    }

    /// A connection for the test.
    pub async fn connection(&self) -> MultiplexedConnection {
        self.database().connection().await
    }

    /// All hashes whose keys match the pattern.
    pub async fn hashes(&self, pattern: &str) -> Hashes {
        self.database().hashes(pattern).await
    }

    pub async fn flushall(&self) {
        let () = cmd("FLUSHALL").query_async(&mut self.connection().await).await.unwrap();
    }

    pub async fn script_flush(&self) {
        let () = cmd("SCRIPT").arg("FLUSH").query_async(&mut self.connection().await).await.unwrap();
    }

    fn saved(&self) -> PathBuf {
        self.process.folder().join("dump.rdb")
    }

    /// Waits until this process answers on its port, because another process may have taken the port.
    async fn answers(&self) -> bool {
        let deadline = Instant::now() + START_TIMEOUT;
        while Instant::now() < deadline && !self.process.has_ended() {
            if let Some(info) = self.info().await
                && info.get("process_id") == Some(self.pid())
                // A sentinel has no data to load, and no field `loading`.
                && info.get("loading").is_none_or(|loading: u8| loading == 0)
            {
                return true;
            }
            sleep(Duration::from_millis(10)).await;
        }
        false
    }

    async fn info(&self) -> Option<InfoDict> {
        let mut connection = self.database().try_connection().await.ok()?;
        cmd("INFO").query_async(&mut connection).await.ok()
    }
}

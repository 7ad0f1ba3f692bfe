//! A redis-server of one test's own, to be stopped, killed and started again.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use redis::{InfoDict, aio::MultiplexedConnection, cmd};
use tokio::time::{Instant, sleep};

use super::place::{Hashes, Place};
use crate::harness::private_server::{PrivateServer, free_port};

/// Other processes look for free ports too.
const ATTEMPTS: usize = 5;
const START_TIMEOUT: Duration = Duration::from_secs(30);

/// It keeps nothing by itself: what a killed one knows when it starts again is what was
/// saved.
pub struct OwnRedis {
    process: PrivateServer,
    port: u16,
}

/// What a server had in memory once.
pub struct Snapshot(Vec<u8>);

impl OwnRedis {
    pub async fn start() -> Self {
        Self::start_with(&[]).await
    }

    /// With more arguments, such as `--maxmemory 3mb`.
    pub async fn start_with(arguments: &[&str]) -> Self {
        Self::start_on(free_port, arguments).await
    }

    /// On one of the ports that `choose` gives.
    pub(super) async fn start_on(choose: fn() -> u16, arguments: &[&str]) -> Self {
        let command = |folder: &Path, port: u16| {
            let (port, folder) = (port.to_string(), folder.display().to_string());
            let own = ["redis-server", "--port", &port, "--dir", &folder, "--bind", "127.0.0.1"];
            let forgetful = ["--save", "", "--appendonly", "no"];
            [&own[..], &forgetful, arguments].concat().into_iter().map(str::to_owned).collect()
        };
        Self::start_as(choose, command).await
    }

    /// By the command that `command` makes of the folder and the port.
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

    /// The process id of the server itself.
    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// Its first logical database.
    pub fn place(&self) -> Place {
        Place { addr: self.addr(), db: 0 }
    }

    /// Sends a signal to the server itself, such as STOP, CONT or KILL.
    pub fn signal(&self, name: &str) {
        self.process.signal(name);
    }

    /// Kills the server, which stays dead; returns when it has ended.
    pub fn kill(&self) {
        self.process.kill();
    }

    /// Whether the server was killed and not started again.
    pub fn has_ended(&self) -> bool {
        self.process.has_ended()
    }

    /// Starts the server, which was killed, on its port and with what was last saved;
    /// returns once it answers.
    pub async fn start_again(&mut self) {
        self.process.start_again();
        assert!(self.answers().await, "redis-server does not start again: {}", self.process.log());
    }

    pub async fn kill_and_start_again(&mut self) {
        self.kill();
        self.start_again().await;
    }

    /// Writes what it has in memory to the file that it reads when it starts again.
    pub async fn save(&self) {
        let () = cmd("SAVE").query_async(&mut self.connection().await).await.unwrap();
    }

    /// Saves, and keeps what was saved beside the server.
    pub async fn keep_snapshot(&self) -> Snapshot {
        self.save().await;
        Snapshot(std::fs::read(self.saved()).unwrap())
    }

    /// Kills the server and starts it again with what it had when `snapshot` was kept.
    pub async fn restart_with_snapshot(&mut self, snapshot: &Snapshot) {
        self.kill();
        std::fs::write(self.saved(), &snapshot.0).unwrap();
        self.start_again().await;
    }

    /// A connection of the test's own, beside those of the service.
    pub async fn connection(&self) -> MultiplexedConnection {
        self.place().connection().await
    }

    /// All hashes whose keys match the pattern.
    pub async fn hashes(&self, pattern: &str) -> Hashes {
        self.place().hashes(pattern).await
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

    /// Waits until this very process answers on its port: another one may have taken it.
    async fn answers(&self) -> bool {
        let deadline = Instant::now() + START_TIMEOUT;
        while Instant::now() < deadline && !self.process.has_ended() {
            if let Some(info) = self.info().await
                && info.get("process_id") == Some(self.pid())
                // A sentinel loads nothing and does not say so.
                && info.get("loading").is_none_or(|loading: u8| loading == 0)
            {
                return true;
            }
            sleep(Duration::from_millis(10)).await;
        }
        false
    }

    async fn info(&self) -> Option<InfoDict> {
        let mut connection = self.place().try_connection().await.ok()?;
        cmd("INFO").query_async(&mut connection).await.ok()
    }
}

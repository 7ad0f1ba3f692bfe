//! One private MariaDB for the test process, with its own port and temporary data. If
//! BILLING_TEST_TIDB names the TiDB program that `make tidb` builds, the server is TiDB.

use std::{
    ffi::OsString,
    path::{Path, PathBuf},
    process::Command,
    sync::{
        OnceLock,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use sqlx::{AssertSqlSafe, Connection};

use super::private_server::{PrivateServer, free_port, needs_installed};

const ATTEMPTS: usize = 5;
/// Names the program of the TiDB server.
const TIDB: &str = "BILLING_TEST_TIDB";

struct Server {
    port: u16,
    process: PrivateServer,
}

static SERVER: OnceLock<Server> = OnceLock::new();

/// A private server of one test, which the test may stop, kill and restart.
pub struct OwnServer {
    server: Server,
}

impl OwnServer {
    pub async fn start() -> Self {
        Self { server: tokio::task::spawn_blocking(|| start(&[])).await.unwrap() }
    }

    /// With further options.
    #[allow(dead_code, reason = "the benchmark shares this file and needs no options")]
    pub async fn start_with(options: &'static [&'static str]) -> Self {
        Self { server: tokio::task::spawn_blocking(|| start(options)).await.unwrap() }
    }

    /// `data.database.source` of a new database.
    pub async fn create_database(&self) -> String {
        create_database_on(self.server.port).await
    }

    /// The process id of the server, not of its shell.
    #[allow(dead_code, reason = "only the benchmark, which shares this file, uses it")]
    pub fn pid(&self) -> u32 {
        self.server.process.pid()
    }

    /// A server with the files of a backup by mariabackup.
    #[allow(dead_code, reason = "the benchmark shares this file and restores nothing")]
    pub async fn restore(backup: PathBuf) -> Self {
        let restored = move || {
            let (port, folder) = (free_port(), PrivateServer::folder_for("mariadb"));
            let command = command(&folder, port, &[]);
            let copied = Command::new("mariabackup")
                .args(["--no-defaults", "--copy-back"])
                .arg(format!("--target-dir={}", backup.display()))
                .arg(format!("--datadir={}", folder.join("data").display()))
                .output()
                .expect("mariabackup runs; `make deps` installs it");
            assert!(copied.status.success(), "{}", String::from_utf8_lossy(&copied.stderr));
            let server = Server { port, process: PrivateServer::start(folder, &command) };
            assert!(answers(&server), "{}", server.process.log());
            server
        };
        Self { server: tokio::task::spawn_blocking(restored).await.unwrap() }
    }

    #[allow(dead_code, reason = "the benchmark shares this file and makes no backup")]
    pub fn port(&self) -> u16 {
        self.server.port
    }

    /// The folder with the data of the server.
    #[allow(dead_code, reason = "the benchmark shares this file and makes no backup")]
    pub fn data(&self) -> PathBuf {
        self.server.process.folder().join("data")
    }

    /// Sends a signal to the server, such as STOP, CONT or KILL.
    pub fn signal(&self, name: &str) {
        self.server.process.signal(name);
    }

    /// Kills the server, and starts it again with its data and port. Returns when it has recovered and
    /// answers.
    pub async fn kill_and_start_again(&mut self) {
        self.server.process.kill();
        self.server.process.start_again();
        let url = format!("mysql://root@127.0.0.1:{}/", self.server.port);
        let answers = async {
            while sqlx::MySqlConnection::connect(&url).await.is_err() {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        let answered = tokio::time::timeout(Duration::from_secs(60), answers).await;
        assert!(answered.is_ok(), "{}", self.server.process.log());
    }
}

/// Whether the server is TiDB.
#[allow(dead_code, reason = "the benchmark shares this file and always uses MariaDB")]
pub fn is_tidb() -> bool {
    std::env::var_os(TIDB).is_some()
}

/// Creates a database on the shared server. Returns its source.
pub async fn create_database() -> String {
    let port = tokio::task::spawn_blocking(|| SERVER.get_or_init(|| start(&[])).port).await.unwrap();
    create_database_on(port).await
}

/// Creates a database on the server at a port. Returns its source.
pub async fn create_database_on(port: u16) -> String {
    static DATABASES: AtomicU64 = AtomicU64::new(0);
    let name = format!("billing_{}", DATABASES.fetch_add(1, Ordering::Relaxed));
    let mut connection = sqlx::MySqlConnection::connect(&format!("mysql://root@127.0.0.1:{port}/")).await.unwrap();
    sqlx::raw_sql(AssertSqlSafe(format!("CREATE DATABASE {name} CHARACTER SET utf8mb4")))
        .execute(&mut connection)
        .await
        .unwrap();
    format!("root@tcp(127.0.0.1:{port})/{name}?charset=utf8mb4&parseTime=True&loc=Local")
}

fn start(options: &[&str]) -> Server {
    let mut log = String::new();
    for _ in 0..ATTEMPTS {
        let server = start_on(free_port(), options);
        if answers(&server) {
            return server;
        }
        log = server.process.log();
    }
    panic!("mariadbd does not start: {log}");
}

fn start_on(port: u16, options: &[&str]) -> Server {
    let folder = PrivateServer::folder_for("mariadb");
    let command = match std::env::var_os(TIDB) {
        Some(program) => tidb(program, &folder, port),
        None => mariadb(&folder, port, options),
    };
    Server { port, process: PrivateServer::start(folder, &command) }
}

/// The options of tests are for MariaDB, so TiDB gets none. The data is on disk, so that it survives a kill.
fn tidb(program: OsString, folder: &Path, port: u16) -> Vec<OsString> {
    let options = [
        format!("-port={port}"),
        format!("-data={}", folder.join("data").display()),
        format!("-temp={}", folder.display()),
    ];
    std::iter::once(program).chain(options.map(OsString::from)).collect()
}

fn mariadb(folder: &Path, port: u16, options: &[&str]) -> Vec<OsString> {
    needs_installed("mariadb-install-db");
    let command = command(folder, port, options);
    let (data, tmp) = (folder.join("data"), folder.join("tmp"));
    let installed = Command::new("mariadb-install-db")
        .args(["--no-defaults", "--auth-root-authentication-method=normal", "--skip-test-db"])
        .arg(format!("--datadir={}", data.display()))
        // Each server needs its own folder: a server that starts removes the temporary tables in it.
        .env("TMPDIR", &tmp)
        .output()
        .expect("mariadb-install-db runs; `make deps` installs it");
    assert!(installed.status.success(), "{}", String::from_utf8_lossy(&installed.stderr));
    command
}

/// Runs MariaDB in a folder, and makes its folder for temporary files.
fn command(folder: &Path, port: u16, options: &[&str]) -> Vec<OsString> {
    let (data, tmp) = (folder.join("data"), folder.join("tmp"));
    std::fs::create_dir(&tmp).unwrap();
    let mut command = vec![
        "mariadbd".to_owned(),
        "--no-defaults".to_owned(),
        "--user=root".to_owned(),
        "--skip-log-bin".to_owned(),
        format!("--datadir={}", data.display()),
        format!("--socket={}", folder.join("socket").display()),
        format!("--tmpdir={}", tmp.display()),
        format!("--pid-file={}", folder.join("pid").display()),
        format!("--port={port}"),
        "--bind-address=127.0.0.1".to_owned(),
        "--max-connections=1000".to_owned(),
        "--innodb-buffer-pool-size=256M".to_owned(),
    ];
    command.extend(options.iter().map(|option| (*option).to_owned()));
    command.into_iter().map(OsString::from).collect()
}

/// Waits for the port until a time limit. False if it does not answer.
fn answers(server: &Server) -> bool {
    let deadline = Instant::now() + Duration::from_secs(30);
    while Instant::now() < deadline && !server.process.has_ended() {
        if std::net::TcpStream::connect(("127.0.0.1", server.port)).is_ok() {
            return true;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    false
}

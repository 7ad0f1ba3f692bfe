//! One private MariaDB for the test process: its own port, its own temporary data.

use std::{
    io::Write,
    net::TcpListener,
    path::PathBuf,
    process::{Child, Command, Stdio},
    sync::{
        OnceLock,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use sqlx::{AssertSqlSafe, Connection};

/// Runs the server under a shell that ends it, and removes its data, when the test
/// process has gone, however it went: the pipe to its input breaks. Every line that
/// comes through the pipe before has it wait for the end of the server, which the test
/// killed, and start it again as it was. Signals that end a whole group of processes,
/// such as Ctrl-C, are left to the others, or nobody would clean up.
const SUPERVISED: &str = r#"
trap '' HUP INT TERM
"$@" &
server=$!
while read -r again; do
    wait "$server" 2> /dev/null
    "$@" &
    server=$!
done
kill -9 "$server" 2> /dev/null
wait "$server" 2> /dev/null
rm -rf "$FOLDER"
"#;

struct Server {
    port: u16,
    folder: PathBuf,
    supervisor: Child,
}

static SERVER: OnceLock<Server> = OnceLock::new();

/// A server of one test's own, to be stopped, killed and started again.
pub struct OwnServer {
    server: Server,
}

impl OwnServer {
    pub async fn start() -> Self {
        Self { server: tokio::task::spawn_blocking(start).await.unwrap() }
    }

    /// `data.database.source` of a fresh database.
    pub async fn create_database(&self) -> String {
        create_database_on(self.server.port).await
    }

    /// The process id of the server itself.
    pub fn pid(&self) -> u32 {
        std::fs::read_to_string(self.server.folder.join("pid")).unwrap().trim().parse().unwrap()
    }

    /// Sends a signal to the server itself, such as STOP, CONT or KILL.
    pub fn signal(&self, name: &str) {
        let sent = Command::new("kill").args([format!("-{name}"), self.pid().to_string()]).status().unwrap();
        assert!(sent.success());
    }

    /// Kills the server and starts it again on its data and its port; returns once it
    /// has recovered and answers.
    pub async fn kill_and_start_again(&mut self) {
        self.signal("KILL");
        // The next one writes its own; till then no signal must go to whoever got the number.
        std::fs::remove_file(self.server.folder.join("pid")).unwrap();
        self.server.supervisor.stdin.as_mut().unwrap().write_all(b"again\n").unwrap();
        let url = format!("mysql://root@127.0.0.1:{}/", self.server.port);
        let answers = async {
            while sqlx::MySqlConnection::connect(&url).await.is_err() {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        let log = || std::fs::read_to_string(self.server.folder.join("log")).unwrap_or_default();
        assert!(tokio::time::timeout(Duration::from_secs(60), answers).await.is_ok(), "{}", log());
    }
}

/// A fresh database; the source that names it.
pub async fn create_database() -> String {
    let port = tokio::task::spawn_blocking(|| SERVER.get_or_init(start).port).await.unwrap();
    create_database_on(port).await
}

async fn create_database_on(port: u16) -> String {
    static DATABASES: AtomicU64 = AtomicU64::new(0);
    let name = format!("billing_{}", DATABASES.fetch_add(1, Ordering::Relaxed));
    let mut connection = sqlx::MySqlConnection::connect(&format!("mysql://root@127.0.0.1:{port}/")).await.unwrap();
    sqlx::raw_sql(AssertSqlSafe(format!("CREATE DATABASE {name} CHARACTER SET utf8mb4")))
        .execute(&mut connection)
        .await
        .unwrap();
    format!("root@tcp(127.0.0.1:{port})/{name}?charset=utf8mb4&parseTime=True&loc=Local")
}

fn start() -> Server {
    let folder = tempfile::Builder::new().prefix("billing-mariadb-").tempdir().unwrap().keep();
    let (data, tmp) = (folder.join("data"), folder.join("tmp"));
    std::fs::create_dir(&tmp).unwrap();
    let installed = Command::new("mariadb-install-db")
        .args(["--no-defaults", "--auth-root-authentication-method=normal", "--skip-test-db"])
        .arg(format!("--datadir={}", data.display()))
        // Of its own: a server that starts removes the temporary tables it finds there.
        .env("TMPDIR", &tmp)
        .output()
        .expect("mariadb-install-db runs; `make deps` installs it");
    assert!(installed.status.success(), "{}", String::from_utf8_lossy(&installed.stderr));
    for _ in 0..5 {
        let port = free_port();
        let mut supervisor = Command::new("sh")
            .args(["-c", SUPERVISED, "sh", "mariadbd", "--no-defaults", "--user=root", "--skip-log-bin"])
            .arg(format!("--datadir={}", data.display()))
            .arg(format!("--socket={}", folder.join("socket").display()))
            .arg(format!("--tmpdir={}", tmp.display()))
            .arg(format!("--pid-file={}", folder.join("pid").display()))
            .arg(format!("--port={port}"))
            .args(["--bind-address=127.0.0.1", "--max-connections=1000", "--innodb-buffer-pool-size=256M"])
            .env("FOLDER", &folder)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(std::fs::File::create(folder.join("log")).unwrap())
            .spawn()
            .unwrap();
        if answers(port, &mut supervisor) {
            return Server { port, folder, supervisor };
        }
    }
    panic!("mariadbd does not start: {}", std::fs::read_to_string(folder.join("log")).unwrap_or_default());
}

/// Waits for the port, for a bounded time.
fn answers(port: u16, supervisor: &mut Child) -> bool {
    let deadline = Instant::now() + Duration::from_secs(30);
    while Instant::now() < deadline {
        if let Ok(mut stream) = std::net::TcpStream::connect(("127.0.0.1", port)) {
            let _ = stream.flush();
            return true;
        }
        if supervisor.try_wait().unwrap().is_some() {
            return false;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    false
}

/// A port that was free a moment ago.
pub fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

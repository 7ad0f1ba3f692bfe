//! A private server process with a temporary folder and a port. It ends with the test process.

use std::{
    ffi::OsStr,
    hash::{BuildHasher, RandomState},
    io::{BufRead, BufReader, Write},
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
    sync::{
        OnceLock,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

/// A shell script that runs the server. When the test process ends for any reason, the pipe to the
/// script's input closes. Then the script kills the server and removes its folder. Each line in the
/// pipe restarts the server after the test has killed it. The script ignores signals to the process
/// group, such as Ctrl-C, because it must clean up. It also ignores SIGPIPE of a test that no longer
/// reads.
const SUPERVISED: &str = r#"
trap '' HUP INT TERM PIPE
start() {
    "$@" >> "$FOLDER/log" 2>&1 &
    server=$!
    echo "$server"
}
start "$@"
while read -r again; do
    wait "$server"
    start "$@"
done
kill -9 "$server"
wait "$server"
rm -rf "$FOLDER"
"#;

/// Time limit for a killed process to end.
const END_TIMEOUT: Duration = Duration::from_secs(30);

/// Fails a test of `make test-fast`, which must run without installed servers.
pub fn needs_installed(program: &str) {
    let is_fast = std::env::var_os("BILLING_TEST_FAST").is_some();
    assert!(!is_fast, "the test needs {program}: add its name to tests/it/needs-servers");
}

pub struct PrivateServer {
    folder: PathBuf,
    /// The shell reaps an ended server only before it starts the next one. Until then, no other process
    /// can get this id, so no signal goes to a wrong process.
    pid: u32,
    orders: ChildStdin,
    pids: BufReader<ChildStdout>,
    _supervisor: Child,
}

impl PrivateServer {
    /// A temporary folder for a server. It is removed with the server.
    pub fn folder_for(name: &str) -> PathBuf {
        tempfile::Builder::new().prefix(&format!("billing-{name}-")).tempdir().unwrap().keep()
    }

    /// Runs a command, and takes over the folder.
    pub fn start<T: AsRef<OsStr>>(folder: PathBuf, command: &[T]) -> Self {
        needs_installed(&command[0].as_ref().to_string_lossy());
        let mut supervisor = Command::new("sh")
            .args(["-c", SUPERVISED, "sh"])
            .args(command)
            .env("FOLDER", &folder)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let (orders, pids) = (supervisor.stdin.take().unwrap(), supervisor.stdout.take().unwrap());
        let mut server = Self { folder, pid: 0, orders, pids: BufReader::new(pids), _supervisor: supervisor };
        server.pid = server.next_pid();
        server
    }

    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The process id of the server, not of its shell.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// The log of the server so far.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.folder.join("log")).unwrap_or_default()
    }

    /// Sends a signal to the server, such as STOP, CONT or KILL.
    pub fn signal(&self, name: &str) {
        send(self.pid, name);
    }

    /// Kills the server, if it runs. Returns when it has ended.
    pub fn kill(&self) {
        self.signal("KILL");
        let deadline = Instant::now() + END_TIMEOUT;
        while !self.has_ended() {
            assert!(Instant::now() < deadline, "process {} does not end", self.pid);
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// Starts the ended server again with the same command.
    pub fn start_again(&mut self) {
        assert!(self.has_ended(), "process {} still runs", self.pid);
        self.orders.write_all(b"again\n").unwrap();
        self.pid = self.next_pid();
    }

    /// Whether the process has ended.
    pub fn has_ended(&self) -> bool {
        // The state follows the name. The name is in parentheses, and may contain any character.
        let status = std::fs::read_to_string(format!("/proc/{}/stat", self.pid)).unwrap_or_default();
        status.rsplit_once(") ").is_none_or(|(_, state)| state.starts_with(['Z', 'X']))
    }

    /// The process id that the shell prints after every start.
    fn next_pid(&mut self) -> u32 {
        let mut line = String::new();
        self.pids.read_line(&mut line).unwrap();
        line.trim().parse().unwrap()
    }
}

/// The first port of servers. The range is below the ports of outgoing connections, so that a killed
/// server finds its port free when it starts again.
const FIRST_PORT: u64 = 10_000;
/// Number of ports. As many above them are left for the second ports of servers that need two.
pub const PORTS: u16 = 10_000;

/// A free port that no other caller in this process gets.
pub fn free_port() -> u16 {
    free_port_where(|_| true)
}

/// Like [`free_port`], for ports that are `suitable`.
pub fn free_port_where(suitable: impl Fn(u16) -> bool) -> u16 {
    static NEXT: OnceLock<AtomicU64> = OnceLock::new();
    // Several test processes may run at once, so each begins at another port.
    let next = NEXT.get_or_init(|| AtomicU64::new(RandomState::new().hash_one(0) / 2));
    (0..PORTS)
        .map(|_| FIRST_PORT + next.fetch_add(1, Ordering::Relaxed) % u64::from(PORTS))
        .map(|port| u16::try_from(port).unwrap())
        .find(|port| is_free(*port) && suitable(*port))
        .expect("no port is free")
}

pub fn is_free(port: u16) -> bool {
    TcpListener::bind(("127.0.0.1", port)).is_ok()
}

/// Sends a signal to a process. After STOP, waits until all threads have stopped. Otherwise a server with
/// several threads could still answer for a moment.
pub fn send(pid: u32, name: &str) {
    let sent = Command::new("kill").args(["-s", name, &pid.to_string()]).status().unwrap();
    assert!(sent.success());
    let deadline = Instant::now() + END_TIMEOUT;
    while name == "STOP" && !is_stopped(pid) {
        assert!(Instant::now() < deadline, "process {pid} does not stop");
        std::thread::sleep(Duration::from_millis(1));
    }
}

fn is_stopped(pid: u32) -> bool {
    let threads = std::fs::read_dir(format!("/proc/{pid}/task")).unwrap();
    threads.flatten().all(|thread| {
        // The state follows the name in parentheses. A thread may end meanwhile.
        let stat = std::fs::read_to_string(thread.path().join("stat")).unwrap_or_default();
        stat.rsplit(')').next().is_none_or(|rest| rest.is_empty() || rest.trim_start().starts_with('T'))
    })
}

//! A server in a process of its own, which ends with the test process: its process, its
//! temporary folder, its port.

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

/// Runs the server under a shell that ends it, and removes its folder, when the test
/// process has gone, however it went: the pipe to its input breaks. Every line that
/// comes through the pipe before has it wait for the end of the server, which the test
/// killed, and start it again as it was. Signals that end a whole group of processes,
/// such as Ctrl-C, are left to the others, or nobody would clean up; so is the signal of
/// a test process that no longer listens.
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

/// How long a killed process may take to end.
const END_TIMEOUT: Duration = Duration::from_secs(30);

/// Fails a test of `make test-fast`, which has to run where nothing is installed.
pub fn needs_installed(program: &str) {
    let is_fast = std::env::var_os("BILLING_TEST_FAST").is_some();
    assert!(!is_fast, "the test needs {program}: add its name to tests/it/needs-servers");
}

pub struct PrivateServer {
    folder: PathBuf,
    /// Nothing reaps a server that has ended before the next one starts: the number stays
    /// its own, and no signal can go to whoever would get it next.
    pid: u32,
    orders: ChildStdin,
    pids: BufReader<ChildStdout>,
    _supervisor: Child,
}

impl PrivateServer {
    /// A temporary folder for a server, which goes when the server does.
    pub fn folder_for(name: &str) -> PathBuf {
        tempfile::Builder::new().prefix(&format!("billing-{name}-")).tempdir().unwrap().keep()
    }

    /// Runs a command, and owns the folder from now on.
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

    /// The process id of the server itself.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// What the server has said so far.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.folder.join("log")).unwrap_or_default()
    }

    /// Sends a signal to the server itself, such as STOP, CONT or KILL.
    pub fn signal(&self, name: &str) {
        send(self.pid, name);
    }

    /// Kills the server, if it still runs, and returns when it has ended.
    pub fn kill(&self) {
        self.signal("KILL");
        let deadline = Instant::now() + END_TIMEOUT;
        while !self.has_ended() {
            assert!(Instant::now() < deadline, "process {} does not end", self.pid);
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// Starts the server, which has ended, as it was started first.
    pub fn start_again(&mut self) {
        assert!(self.has_ended(), "process {} still runs", self.pid);
        self.orders.write_all(b"again\n").unwrap();
        self.pid = self.next_pid();
    }

    /// Whether the process has ended, by itself or not.
    pub fn has_ended(&self) -> bool {
        // The state comes after the name, which stands in brackets and may hold any letter.
        let status = std::fs::read_to_string(format!("/proc/{}/stat", self.pid)).unwrap_or_default();
        status.rsplit_once(") ").is_none_or(|(_, state)| state.starts_with(['Z', 'X']))
    }

    /// What the shell says at once after every start.
    fn next_pid(&mut self) -> u32 {
        let mut line = String::new();
        self.pids.read_line(&mut line).unwrap();
        line.trim().parse().unwrap()
    }
}

/// Ports of servers, below those from which systems take the ports of outgoing connections:
/// a server that was killed must find its own free when it starts again.
const FIRST_PORT: u64 = 10_000;
/// As many above them are left to the second ports of servers that need two.
pub const PORTS: u16 = 10_000;

/// A port that was free a moment ago, and that nobody else in this process was given.
pub fn free_port() -> u16 {
    free_port_where(|_| true)
}

/// A free port that is also `suitable`.
pub fn free_port_where(suitable: impl Fn(u16) -> bool) -> u16 {
    static NEXT: OnceLock<AtomicU64> = OnceLock::new();
    // Several test processes may run at a time: each begins somewhere else.
    let next = NEXT.get_or_init(|| AtomicU64::new(RandomState::new().hash_one(0) / 2));
    (0..PORTS)
        .map(|_| FIRST_PORT + next.fetch_add(1, Ordering::Relaxed) % u64::from(PORTS))
        .map(|port| u16::try_from(port).unwrap())
        .find(|port| is_free(*port) && suitable(*port))
        .expect("some port is free")
}

pub fn is_free(port: u16) -> bool {
    TcpListener::bind(("127.0.0.1", port)).is_ok()
}

/// Sends a signal to a process. After STOP, returns when none of its threads runs any more: a server of
/// several threads may otherwise still answer for a moment.
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
        // The state follows the name, which stands in parentheses. A thread may end meanwhile.
        let stat = std::fs::read_to_string(thread.path().join("stat")).unwrap_or_default();
        stat.rsplit(')').next().is_none_or(|rest| rest.is_empty() || rest.trim_start().starts_with('T'))
    })
}

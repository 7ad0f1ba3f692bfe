//! Runs the binaries as processes.

use std::{
    io::{BufRead, BufReader},
    path::Path,
    process::{Child, Command, Output, Stdio},
    sync::mpsc,
    time::Duration,
};

use serde_json::Value;

/// A running server. It is killed when dropped.
pub struct ServerProcess {
    child: Child,
    /// The URL of its gRPC port.
    pub grpc: String,
}

impl ServerProcess {
    /// Starts `server -conf FILE`, and waits until it logs that it serves.
    pub fn start(conf: &Path) -> Self {
        Self::start_binary(SERVER, &["-conf", conf.to_str().unwrap()], "serving", "grpc_addr")
    }

    /// Like [`Self::start`], and returns its log lines.
    pub fn start_logged(conf: &Path) -> (Self, Log) {
        let (sender, lines) = mpsc::channel();
        let arguments = ["-conf", conf.to_str().unwrap()];
        let server = Self::start_reading(SERVER, &arguments, "serving", "grpc_addr", move |line| {
            // Fails if the test has ended.
            let _ = sender.send(line);
        });
        (server, Log { lines, read: Vec::new() })
    }

    /// Like [`Self::start_logged`], with a limit of open files.
    pub fn start_logged_with_files(conf: &Path, files: u32) -> (Self, Log) {
        Self::start_logged_by(conf, &format!("ulimit -n {files}"))
    }

    /// Like [`Self::start_logged`]. The shell that starts the server runs a command before.
    pub fn start_logged_by(conf: &Path, before: &str) -> (Self, Log) {
        let (sender, lines) = mpsc::channel();
        let arguments = ["-c", &format!("{before}; exec \"$@\""), "sh", SERVER, "-conf", conf.to_str().unwrap()];
        let server = Self::start_reading("sh", &arguments, "serving", "grpc_addr", move |line| {
            // Fails if the test has ended.
            let _ = sender.send(line);
        });
        (server, Log { lines, read: Vec::new() })
    }

    /// Starts a binary, and waits until it logs the message `says` with its address in the field
    /// `addr`.
    pub fn start_binary(binary: &str, arguments: &[&str], says: &str, addr: &str) -> Self {
        Self::start_reading(binary, arguments, says, addr, drop)
    }

    fn start_reading(
        binary: &str,
        arguments: &[&str],
        says: &str,
        addr: &str,
        on_line: impl Fn(Value) + Send + 'static,
    ) -> Self {
        // Ignores SIGXFSZ, so that a write beyond the size limit of a file fails with an
        // error.
        let mut child = Command::new("sh")
            .args(["-c", "trap '' XFSZ; exec \"$@\"", "sh", binary])
            .args(arguments)
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let serving = loop {
            let line = lines.next().expect("the server logs that it serves").unwrap();
            match serde_json::from_str::<Value>(&line) {
                Ok(line) if line["fields"]["message"] == says => break line,
                Ok(line) => on_line(line),
                Err(_) => {
                    let rest: Vec<String> = lines.map_while(Result::ok).collect();
                    panic!("{binary} says: {line}\n{}", rest.join("\n"));
                }
            }
        };
        let grpc = format!("http://{}", serving["fields"][addr].as_str().unwrap());
        // Reads to the end, because the process would block on a full pipe.
        std::thread::spawn(move || {
            on_line(serving);
            let lines = lines.map_while(Result::ok);
            lines.filter_map(|line| serde_json::from_str(&line).ok()).for_each(on_line);
        });
        Self { child, grpc }
    }

    /// Like [`Self::start`], without blocking the other tasks of the test.
    pub async fn start_beside(conf: &Path) -> Self {
        let conf = conf.to_owned();
        let starting = tokio::task::spawn_blocking(move || Self::start(&conf));
        tokio::time::timeout(Duration::from_secs(60), starting).await.expect("the server starts").unwrap()
    }

    /// Sends SIGKILL. Returns when the process has ended.
    pub fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Sends SIGTERM.
    pub fn terminate(&self) {
        self.signal("TERM");
    }

    /// Sends a signal.
    pub fn signal(&self, name: &str) {
        super::private_server::send(self.child.id(), name);
    }

    /// Limits the size of the files of the process, in bytes.
    pub fn limit_files(&self, size: &str) {
        let pid = self.child.id().to_string();
        let limit = format!("--fsize={size}:unlimited");
        let limited = Command::new("prlimit").args(["--pid", &pid, &limit]).status().unwrap();
        assert!(limited.success());
    }

    /// Waits for the end of the process. Returns the exit code.
    pub fn wait(mut self) -> Option<i32> {
        self.child.wait().unwrap().code()
    }
}

impl Drop for ServerProcess {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The log lines of a server.
pub struct Log {
    lines: mpsc::Receiver<Value>,
    read: Vec<Value>,
}

impl Log {
    /// Waits for the first line that is `wanted`.
    pub fn line(&mut self, wanted: impl Fn(&Value) -> bool) -> Value {
        if let Some(line) = self.read.iter().find(|line| wanted(line)) {
            return line.clone();
        }
        loop {
            let line = self.lines.recv_timeout(Duration::from_secs(30));
            let line = line.unwrap_or_else(|_| panic!("no such line in {:#?}", self.read));
            self.read.push(line.clone());
            if wanted(&line) {
                return line;
            }
        }
    }
}

impl Log {
    /// Waits until more than `known` lines are `wanted`.
    pub fn next(&mut self, wanted: impl Fn(&Value) -> bool, known: usize) {
        while self.count(&wanted) <= known {
            let line = self.lines.recv_timeout(Duration::from_secs(30));
            self.read.push(line.unwrap_or_else(|_| panic!("no such line in {:#?}", self.read)));
        }
    }

    /// The sum of a field of the `wanted` lines that were read.
    pub fn sum(&self, wanted: impl Fn(&Value) -> bool, field: &str) -> u64 {
        self.read.iter().filter(|line| wanted(line)).filter_map(|line| line["fields"][field].as_u64()).sum()
    }

    /// The number of `wanted` lines among those that [`Self::line`] has read.
    pub fn count(&self, wanted: impl Fn(&Value) -> bool) -> usize {
        self.read.iter().filter(|line| wanted(line)).count()
    }
}

/// Runs a binary to its end.
pub fn run(binary: &str, arguments: &[&str], environment: &[(&str, &str)]) -> Output {
    Command::new(binary).args(arguments).envs(environment.iter().copied()).output().unwrap()
}

pub const SERVER: &str = env!("CARGO_BIN_EXE_server");
pub const CRON: &str = env!("CARGO_BIN_EXE_cron");

/// Most repetitions. On a busy machine, the killing process may come too late, and the work is
/// repeated.
const MAX_ATTEMPTS: usize = 10;

/// Calls `kill`, on a new database each time, until there were enough kills. `kill` returns the
/// number of its kills.
pub async fn until_killed(enough: usize, mut kill: impl AsyncFnMut() -> usize) {
    let mut kills = 0;
    for _ in 0..MAX_ATTEMPTS {
        kills += kill().await;
        if kills >= enough {
            return;
        }
    }
    panic!("only {kills} kills");
}

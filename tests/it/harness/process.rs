//! The binaries as processes.

use std::{
    io::{BufRead, BufReader},
    path::Path,
    process::{Child, Command, Output, Stdio},
    sync::mpsc,
    time::Duration,
};

use serde_json::Value;

/// A running process that serves; killed when dropped.
pub struct ServerProcess {
    child: Child,
    /// The URL of its port that speaks gRPC.
    pub grpc: String,
}

impl ServerProcess {
    /// Starts `server -conf FILE` and waits until it says that it serves.
    pub fn start(conf: &Path) -> Self {
        Self::start_binary(SERVER, &["-conf", conf.to_str().unwrap()], "serving", "grpc_addr")
    }

    /// As [`Self::start`]; its log lines from the first that says that it serves.
    pub fn start_logged(conf: &Path) -> (Self, Log) {
        let (sender, lines) = mpsc::channel();
        let arguments = ["-conf", conf.to_str().unwrap()];
        let server = Self::start_reading(SERVER, &arguments, "serving", "grpc_addr", move |line| {
            // The test may have ended.
            let _ = sender.send(line);
        });
        (server, Log { lines, read: Vec::new() })
    }

    /// Starts a binary and waits until it logs the message `says`, with the address of its
    /// port in the field `addr`.
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
        // The signal of a file that would grow beyond its limit is ignored, so that the
        // write fails instead.
        let mut child = Command::new("sh")
            .args(["-c", "trap '' XFSZ; exec \"$@\"", "sh", binary])
            .args(arguments)
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let serving = loop {
            let line = lines.next().expect("it says that it serves").unwrap();
            match serde_json::from_str::<Value>(&line) {
                Ok(line) if line["fields"]["message"] == says => break line,
                Ok(_) => {}
                Err(_) => {
                    let rest: Vec<String> = lines.map_while(Result::ok).collect();
                    panic!("{binary} says: {line}\n{}", rest.join("\n"));
                }
            }
        };
        let grpc = format!("http://{}", serving["fields"][addr].as_str().unwrap());
        // Goes on reading, or the process would stop at a full pipe.
        std::thread::spawn(move || {
            on_line(serving);
            let lines = lines.map_while(Result::ok);
            lines.filter_map(|line| serde_json::from_str(&line).ok()).for_each(on_line);
        });
        Self { child, grpc }
    }

    /// As [`Self::start`], without holding up the other tasks of the test.
    pub async fn start_beside(conf: &Path) -> Self {
        let conf = conf.to_owned();
        let starting = tokio::task::spawn_blocking(move || Self::start(&conf));
        tokio::time::timeout(Duration::from_secs(60), starting).await.expect("the server starts").unwrap()
    }

    /// Sends SIGKILL, and returns when the process is gone.
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

    /// Limits how large the files of the process may grow, in bytes.
    pub fn limit_files(&self, size: &str) {
        let pid = self.child.id().to_string();
        let limit = format!("--fsize={size}:unlimited");
        let limited = Command::new("prlimit").args(["--pid", &pid, &limit]).status().unwrap();
        assert!(limited.success());
    }

    /// The exit code.
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
    /// The first line that is `wanted`; waits for it.
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
    /// The number of lines that are `wanted`, among those that were read for [`Self::line`].
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

/// Where the process that kills has to wait for the machine, another gets far at once: then
/// all is done once more.
const MAX_ATTEMPTS: usize = 10;

/// Kills on fresh databases until there were enough kills; `kill` says how many there were.
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

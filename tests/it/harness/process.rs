//! The binaries as processes.

use std::{
    io::{BufRead, BufReader},
    path::Path,
    process::{Child, Command, Output, Stdio},
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

    /// Starts a binary and waits until it logs the message `says`, with the address of its
    /// port in the field `addr`.
    pub fn start_binary(binary: &str, arguments: &[&str], says: &str, addr: &str) -> Self {
        // The signal of a file that would grow beyond its limit is ignored, so that the
        // write fails instead.
        let mut child = Command::new("sh")
            .args(["-c", "trap '' XFSZ; exec \"$@\"", "sh", binary])
            .args(arguments)
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let serving = lines
            .by_ref()
            .map(Result::unwrap)
            .map(|line| serde_json::from_str::<Value>(&line).unwrap_or_else(|_| panic!("{binary} says: {line}")))
            .find(|line| line["fields"]["message"] == says)
            .expect("it says that it serves");
        // Goes on reading, or the process would stop at a full pipe.
        std::thread::spawn(move || lines.for_each(drop));
        let grpc = format!("http://{}", serving["fields"][addr].as_str().unwrap());
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
        let sent = Command::new("kill").args(["-s", name, &self.child.id().to_string()]).status().unwrap();
        assert!(sent.success());
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

//! The binaries as processes.

use std::{
    io::{BufRead, BufReader},
    path::Path,
    process::{Child, Command, Output, Stdio},
    time::Duration,
};

use serde_json::Value;

/// A running server process; killed when dropped.
pub struct ServerProcess {
    child: Child,
    pub grpc: String,
}

impl ServerProcess {
    /// Starts `server -conf FILE` and waits until it says that it serves.
    pub fn start(conf: &Path) -> Self {
        // The signal of a file that would grow beyond its limit is ignored, so that the
        // write fails instead.
        let mut child = Command::new("sh")
            .args(["-c", "trap '' XFSZ; exec \"$@\"", "sh", SERVER, "-conf"])
            .arg(conf)
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let serving = lines
            .by_ref()
            .map(|line| serde_json::from_str::<Value>(&line.unwrap()).unwrap())
            .find(|line| line["fields"]["message"] == "serving")
            .expect("the server says that it serves");
        // Goes on reading, or the server would stop at a full pipe.
        std::thread::spawn(move || lines.for_each(drop));
        let addr = |name: &str| format!("http://{}", serving["fields"][name].as_str().unwrap());
        Self { grpc: addr("grpc_addr"), child }
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
        let sent = Command::new("kill").arg(self.child.id().to_string()).status().unwrap();
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

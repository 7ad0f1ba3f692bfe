//! A process that ends when this process ends, also if this one is killed.

use std::{
    collections::VecDeque,
    ffi::OsStr,
    io::{BufRead, BufReader, Read},
    os::unix::process::CommandExt,
    process::{Child, ChildStderr, Command, Stdio},
    sync::{Arc, Mutex, PoisonError, mpsc},
    time::{Duration, Instant},
};

use anyhow::{Context, anyhow};

/// A shell script that runs a command, prints its process id, and kills the command when the pipe to the
/// shell's standard input closes.
const SUPERVISED: &str = r#"
"$@" >&2 &
process=$!
exec 2> /dev/null
echo "$process"
exec >&-
cat > /dev/null
kill -9 "$process"
wait "$process"
"#;

/// Time limit for a process to become ready.
const START_TIMEOUT: Duration = Duration::from_secs(30);
/// Lines of the log that an error shows.
const KEPT_LINES: usize = 20;

pub struct Supervised {
    supervisor: Child,
    pid: u32,
}

impl Supervised {
    /// Starts `command` and waits for the first line of its standard error for which `ready`
    /// returns a value.
    ///
    /// # Errors
    /// The process ends or takes too long. The error shows its last lines.
    pub fn start<T>(command: &[&OsStr], ready: impl Fn(&str) -> Option<T>) -> anyhow::Result<(Self, T)> {
        let mut supervisor = Command::new("sh")
            .args(["-c", SUPERVISED, "sh"])
            .args(command)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            // A process group of its own, because the terminal's Ctrl-C would end the shell first.
            .process_group(0)
            .spawn()
            .context("starting sh")?;
        let (output, errors) = (supervisor.stdout.take(), supervisor.stderr.take());
        let mut started = Self { supervisor, pid: 0 };
        let mut pid = String::new();
        BufReader::new(output.context("no output")?).take(20).read_line(&mut pid)?;
        started.pid = pid.trim().parse().with_context(|| format!("sh printed {pid:?} in place of a process id"))?;
        let answer = wait_ready(errors.context("no output")?, ready)
            .with_context(|| format!("{} did not start", command[0].display()))?;
        Ok((started, answer))
    }

    pub fn pid(&self) -> u32 {
        self.pid
    }
}

impl Drop for Supervised {
    fn drop(&mut self) {
        drop(self.supervisor.stdin.take());
        let _ = self.supervisor.wait();
    }
}

fn wait_ready<T>(errors: ChildStderr, ready: impl Fn(&str) -> Option<T>) -> anyhow::Result<T> {
    let (sender, lines) = mpsc::sync_channel(KEPT_LINES);
    let log = Arc::new(Mutex::new(VecDeque::new()));
    let kept = log.clone();
    // Reads to the end, because the process would block on a full pipe.
    std::thread::spawn(move || {
        for line in BufReader::new(errors).lines().map_while(Result::ok) {
            let mut kept = kept.lock().unwrap_or_else(PoisonError::into_inner);
            kept.truncate(KEPT_LINES - 1);
            kept.push_front(line.clone());
            drop(kept);
            // Fails once the process is ready and the receiver is gone.
            let _ = sender.send(line);
        }
    });
    let deadline = Instant::now() + START_TIMEOUT;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let Ok(line) = lines.recv_timeout(left) else {
            let log = log.lock().unwrap_or_else(PoisonError::into_inner);
            let last_lines: Vec<&str> = log.iter().rev().map(String::as_str).collect();
            return Err(anyhow!("its last lines:\n{}", last_lines.join("\n")));
        };
        if let Some(answer) = ready(&line) {
            return Ok(answer);
        }
    }
}

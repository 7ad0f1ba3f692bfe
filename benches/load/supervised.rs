//! A process that ends when this one does, however it goes.

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

/// Runs a command under a shell that says its process id, and ends it when the pipe to
/// the shell's input breaks.
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

/// How long a process may take to say that it is ready.
const START_TIMEOUT: Duration = Duration::from_secs(30);
/// Lines of a log that are kept to explain a failure.
const KEPT_LINES: usize = 20;

pub struct Supervised {
    supervisor: Child,
    pid: u32,
}

impl Supervised {
    /// Starts `command` and waits for the line of its output that `ready` understands.
    ///
    /// # Errors
    /// It ends, or takes too long; with what it said last.
    pub fn start<T>(command: &[&OsStr], ready: impl Fn(&str) -> Option<T>) -> anyhow::Result<(Self, T)> {
        let mut supervisor = Command::new("sh")
            .args(["-c", SUPERVISED, "sh"])
            .args(command)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            // Out of reach of the terminal's Ctrl-C, which would end the shell first.
            .process_group(0)
            .spawn()
            .context("sh does not start")?;
        let (said, errors) = (supervisor.stdout.take(), supervisor.stderr.take());
        let mut started = Self { supervisor, pid: 0 };
        let mut pid = String::new();
        BufReader::new(said.context("no output")?).take(20).read_line(&mut pid)?;
        started.pid = pid.trim().parse().with_context(|| format!("a process id and not {pid:?}"))?;
        let answer = wait_ready(errors.context("no output")?, ready)
            .with_context(|| format!("{} does not start", command[0].display()))?;
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
    // Reads to the end, or the process would stop at a full pipe.
    std::thread::spawn(move || {
        for line in BufReader::new(errors).lines().map_while(Result::ok) {
            let mut kept = kept.lock().unwrap_or_else(PoisonError::into_inner);
            kept.truncate(KEPT_LINES - 1);
            kept.push_front(line.clone());
            drop(kept);
            // Nobody listens any more once the process is ready.
            let _ = sender.send(line);
        }
    });
    let deadline = Instant::now() + START_TIMEOUT;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let Ok(line) = lines.recv_timeout(left) else {
            let log = log.lock().unwrap_or_else(PoisonError::into_inner);
            let said: Vec<&str> = log.iter().rev().map(String::as_str).collect();
            return Err(anyhow!("it said:\n{}", said.join("\n")));
        };
        if let Some(answer) = ready(&line) {
            return Ok(answer);
        }
    }
}

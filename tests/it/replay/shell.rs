//! The server of the session, and the shell in which its commands run.

use std::{
    io::{BufRead, BufReader, Write},
    os::unix::process::CommandExt,
    path::Path,
    process::{Child, ChildStdin, Command, Stdio},
    sync::mpsc::{self, Receiver},
    time::Duration,
};

use crate::harness::private_server::free_port;

/// A command that takes longer fails the test.
const COMMAND: Duration = Duration::from_secs(300);
/// Time within which callbacks and sums behind a charge arrive.
pub const SETTLES: Duration = Duration::from_secs(10);
/// The line behind the output of a command.
const END: &str = "--- end of the command ---";

/// The ports of configs/local.yaml.
const PORTS: [&str; 3] = ["8107", "9107", "9101"];

/// `bin/server -conf configs/local.yaml` on free ports. It is killed when dropped.
pub struct Server {
    child: Child,
    ports: [u16; 3],
}

impl Server {
    pub fn start(folder: &Path) -> Self {
        let ports = [free_port(), free_port(), free_port()];
        let mut child = Command::new("bin/server")
            .args(["-conf", "configs/local.yaml"])
            .current_dir(folder)
            .envs(environment(ports))
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        // The lines of a developer, of which the last one says how to stop.
        let (sender, serves) = mpsc::channel();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok);
        std::thread::spawn(move || {
            for line in lines.filter(|line| line.starts_with("stop")) {
                // Fails if the test has ended.
                let _ = sender.send(line);
            }
        });
        let server = Self { child, ports };
        serves.recv_timeout(COMMAND).expect("the server prints its lines");
        server
    }

    /// A text of the document with the ports of this server.
    fn here(&self, text: &str) -> String {
        PORTS
            .iter()
            .zip(self.ports)
            .fold(text.to_owned(), |text, (port, free)| text.replace(&format!(":{port}"), &format!(":{free}")))
    }

    /// A text of this server with the ports of the document.
    fn there(&self, text: &str) -> String {
        PORTS
            .iter()
            .zip(self.ports)
            .fold(text.to_owned(), |text, (port, free)| text.replace(&format!(":{free}"), &format!(":{port}")))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The keys that differ from configs/local.yaml.
fn environment([http, grpc, sandbox]: [u16; 3]) -> [(&'static str, String); 5] {
    [
        ("BILLING__SERVER__HTTP__ADDR", format!("127.0.0.1:{http}")),
        ("BILLING__SERVER__GRPC__ADDR", format!("127.0.0.1:{grpc}")),
        ("BILLING__PAYMENT_SERVICE__GRPC_ADDR", format!("127.0.0.1:{sandbox}")),
        ("BILLING__PAYMENT_SERVICE__NOTIFY_URL", format!("http://127.0.0.1:{grpc}/internal/v1/billing/callback")),
        // The durable tokens of a stream do not depend on the speed of the machine.
        ("BILLING__BILLING__STREAMS__PROGRESS", "50s".into()),
    ]
}

/// One shell for all commands, so that variables stay.
pub struct Shell<'s> {
    server: &'s Server,
    child: Child,
    commands: ChildStdin,
    lines: Receiver<String>,
}

impl<'s> Shell<'s> {
    pub fn start(folder: &Path, server: &'s Server) -> Self {
        let mut child = Command::new("sh")
            // A command that does not end is killed with all that it started.
            .process_group(0)
            .current_dir(folder)
            .envs(environment(server.ports))
            .env("RUST_BACKTRACE", "0")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let output = BufReader::new(child.stdout.take().unwrap());
        let (sender, lines) = mpsc::channel();
        std::thread::spawn(move || {
            for line in output.lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        let commands = child.stdin.take().unwrap();
        Self { server, child, commands, lines }
    }

    /// The standard output of a command.
    pub fn run(&mut self, command: &str) -> String {
        let command =
            self.server.here(command).replace("cargo run --quiet --profile quick --example gateway --", &gateway());
        // Braces keep variables, and the command does not read the next ones.
        writeln!(self.commands, "{{ {command}\n}} < /dev/null; printf '\\n%s\\n' '{END}'").unwrap();
        let mut output = String::new();
        loop {
            let line = self.lines.recv_timeout(COMMAND);
            let line = line.unwrap_or_else(|_| panic!("no end of {command}, which printed {output}"));
            if line == END {
                break;
            }
            output += &line;
            output.push('\n');
        }
        // The end is on a line of its own, behind one that the command began or ended.
        output.pop();
        self.server.there(&output)
    }
}

impl Drop for Shell<'_> {
    fn drop(&mut self) {
        let group = format!("-{}", self.child.id());
        let _ = Command::new("kill").args(["-KILL", "--", &group]).status();
        let _ = self.child.wait();
    }
}

/// The example, as `cargo test` builds it beside this program; without it, cargo builds it.
fn gateway() -> String {
    let program = std::env::current_exe().unwrap();
    let built = program.parent().and_then(Path::parent).unwrap().join("examples/gateway");
    if built.exists() {
        return built.display().to_string();
    }
    format!(
        "cargo run --quiet --profile quick --manifest-path {}/Cargo.toml --example gateway --",
        env!("CARGO_MANIFEST_DIR")
    )
}

//! The receivers of `examples/`, which verify signatures by the libraries `standardwebhooks`: these share no code with
//! the service. The libraries are installed below `target`.

use std::{
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::mpsc::{Receiver, channel},
    time::Duration,
};

use billing_service::service::proto::PutWebhookRequest;
use reqwest::StatusCode;
use serde_json::Value;
use uuid::Uuid;

use super::{put, put_request, start};
use crate::{
    account_status::set_status,
    harness::{
        Sqlite,
        private_server::{free_port, needs_installed},
    },
};

const EXAMPLES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/examples");

/// A receiver as a process. It is killed when dropped.
struct Program {
    child: Child,
    lines: Receiver<String>,
}

impl Program {
    /// Starts a receiver, and waits until it listens.
    fn start(command: &mut Command, port: u16, secret: &str) -> Self {
        let command = command.arg(port.to_string()).env("WEBHOOK_SECRET", secret).stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let (sender, lines) = channel();
        let output = BufReader::new(child.stdout.take().unwrap());
        std::thread::spawn(move || output.lines().map_while(Result::ok).try_for_each(|line| sender.send(line)));
        let program = Self { child, lines };
        assert_eq!(program.line(), "listening");
        program
    }

    fn line(&self) -> String {
        self.lines.recv_timeout(Duration::from_secs(30)).expect("the receiver prints a line")
    }

    fn event(&self) -> Value {
        serde_json::from_str(&self.line()).unwrap()
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn run(command: &mut Command) {
    // At another date (`make test-date`), the certificate of a registry may have ended.
    let output = command.env_remove("LD_PRELOAD").output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}

/// The folder of a language below `target`.
fn folder(language: &str) -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("webhook-receivers").join(language);
    std::fs::create_dir_all(&folder).unwrap();
    folder
}

fn python() -> Command {
    needs_installed("python3");
    let venv = folder("python");
    let program = venv.join("bin/python");
    let has_library = || Command::new(&program).args(["-c", "import standardwebhooks"]).output();
    if !has_library().is_ok_and(|output| output.status.success()) {
        run(Command::new("python3").args(["-m", "venv", "--clear"]).arg(&venv));
        run(Command::new(&program).args(["-m", "pip", "install", "--quiet", "standardwebhooks==1.1.0"]));
    }
    let mut command = Command::new(program);
    command.arg(format!("{EXAMPLES}/webhook_receiver.py"));
    command
}

fn node() -> Command {
    needs_installed("node");
    let folder = folder("node");
    if !folder.join("node_modules/standardwebhooks").exists() {
        let quiet = ["--silent", "--no-audit", "--no-fund", "--ignore-scripts", "--no-save"];
        run(Command::new("npm").arg("install").args(quiet).arg("standardwebhooks@1.1.1").current_dir(&folder));
    }
    // A module finds its packages beside it.
    std::fs::copy(format!("{EXAMPLES}/webhook_receiver.mjs"), folder.join("webhook_receiver.mjs")).unwrap();
    let mut command = Command::new("node");
    command.arg(folder.join("webhook_receiver.mjs"));
    command
}

/// Events arrive at a receiver, which verifies them. It refuses others.
async fn verifies(mut command: impl FnMut() -> Command) {
    let service = start(Sqlite).await;
    let port = free_port();
    let url = format!("http://127.0.0.1:{port}/billing");
    let secret = put(&service.internal, "w", &url).await.secret;
    let program = Program::start(&mut command(), port, &secret);
    set_status(&service.internal, "u", "FROZEN").await;
    let event = program.event();
    assert_eq!((&event["type"], &event["data"]["user_id"]), (&"account.status".into(), &"u".into()));
    let id = event["id"].as_str().unwrap().to_owned();

    // Another secret, and no signature at all.
    let forged = |signature: &str| {
        let request = service.http.post(&url).body("{}").header("webhook-id", Uuid::now_v7().to_string());
        let request = request.header("webhook-timestamp", chrono::Utc::now().timestamp());
        request.header("webhook-signature", signature).send()
    };
    for signature in ["v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=", ""] {
        assert_eq!(forged(signature).await.unwrap().status(), StatusCode::BAD_REQUEST);
    }

    // While the secret is replaced, receivers with the old and with the new one verify.
    let rotated = PutWebhookRequest { rotate_secret: true, ..put_request("w", &url) };
    let new = service.internal.clone().put_webhook(rotated).await.unwrap().into_inner().secret;
    set_status(&service.internal, "v", "FROZEN").await;
    assert_eq!(program.event()["data"]["user_id"], "v", "the old secret");
    drop(program);
    let program = Program::start(&mut command(), port, &new);
    let again =
        billing_service::service::proto::RedeliverWebhookRequest { webhook_id: "w".into(), event_id: id.clone() };
    // The deliverer reads the new secret within a second or two; an event with the old signature alone is refused.
    let seen = loop {
        service.internal.clone().redeliver_webhook(again.clone()).await.unwrap();
        if let Ok(line) = program.lines.recv_timeout(Duration::from_secs(2)) {
            break serde_json::from_str::<Value>(&line).unwrap();
        }
    };
    assert_eq!(seen["id"], id, "the new secret");
    set_status(&service.internal, "x", "FROZEN").await;
    assert_eq!(program.event()["data"]["user_id"], "x");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_receiver_in_python_verifies_by_a_library_of_others() {
    verifies(python).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_receiver_in_node_verifies_by_a_library_of_others() {
    verifies(node).await;
}

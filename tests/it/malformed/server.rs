//! The server under load: a process with callers and users, and its log in a file.

use std::{
    fs::File,
    io::Write,
    net::SocketAddr,
    process::{Child, Command, Stdio},
};

use flate2::{Compression, write::GzEncoder};
use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use serde_json::{Value, json};

use super::{content::NAMES, damage::happens};
use crate::{
    access::sha256,
    harness::{Database, Sqlite, caller::Dice, http_client, private_server::free_port, process::SERVER, wait::until},
};

/// The secret of callbacks, and of the tokens of users.
pub const SECRET: &str = "a-secret-of-more-than-thirty-two-characters";

/// Codes in the metrics that only a fault of the server has.
const FAULTS: [&str; 7] = ["INTERNAL", "UNKNOWN", "DATA_LOSS", "500", "501", "502", "504"];

pub struct Target {
    child: Child,
    pub http: SocketAddr,
    pub grpc: SocketAddr,
    /// The token of a caller with the role admin.
    pub caller_token: String,
    user_tokens: Vec<String>,
    database: Database,
    log: tempfile::NamedTempFile,
}

impl Target {
    pub async fn start() -> Self {
        let database = Database::create(Sqlite).await;
        let caller_token = "a-token-of-an-administrator".to_owned();
        let caller = format!("[{{name: admin, roles: [admin], token_sha256: ['{}']}}]", sha256(&caller_token));
        let secret = format!("[{SECRET}]");
        let payment = format!("'127.0.0.1:{}'", free_port());
        let conf = database.config_file(&[
            ("server.grpc.auth.callers", &caller),
            ("server.grpc.timeout", "5s"),
            ("server.http.timeout", "5s"),
            ("server.http.auth.mode", "jwt"),
            ("server.http.auth.jwt", &format!("{{issuer: i, audience: a, algorithms: [HS256], secret: {SECRET}}}")),
            ("payment_service", "{sandbox: true, callback_auth: signed}"),
            ("payment_service.grpc_addr", &payment),
            ("payment_service.callback_secrets", &secret),
        ]);
        let log = tempfile::NamedTempFile::new().unwrap();
        let mut server = Command::new(SERVER);
        server.arg("-conf").arg(conf).stdin(Stdio::null()).stdout(Stdio::null());
        let child = server.stderr(File::create(log.path()).unwrap()).spawn().unwrap();
        let port = SocketAddr::from(([127, 0, 0, 1], 0));
        let user_tokens = (0..NAMES).map(|number| user_token(&format!("u{number}"))).collect();
        let mut target = Self { child, http: port, grpc: port, caller_token, user_tokens, database, log };
        until("the server serves", async || target.find_ports()).await;
        // The largest tables are there from now on, and the address has shown a valid token.
        for model in ["gpt-4o", "gpt-4"] {
            target.post("tokens/count", json!({"model": model, "text": "a text"})).await;
        }
        target.charge("warm").await;
        target
    }

    fn find_ports(&mut self) -> bool {
        let log = std::fs::read_to_string(self.log.path()).unwrap();
        let mut lines = log.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        let Some(serving) = lines.find(|line| line["fields"]["message"] == "serving") else { return false };
        let addr = |name: &str| serving["fields"][name].as_str().unwrap().parse().unwrap();
        (self.http, self.grpc) = (addr("http_addr"), addr("grpc_addr"));
        true
    }

    /// The token of the user that is in most requests, or of another one.
    pub fn user_token(&self, dice: &mut Dice) -> String {
        let number = if happens(dice, 80) { 0 } else { dice.below(NAMES) };
        self.user_tokens[number].clone()
    }

    async fn post(&self, path: &str, body: Value) -> Value {
        let url = format!("http://{}/internal/v1/billing/{path}", self.grpc);
        let request = http_client().post(url).bearer_auth(&self.caller_token).body(body.to_string());
        request.send().await.unwrap().json().await.unwrap()
    }

    /// A valid charge, which is made.
    async fn charge(&self, trace_id: &str) {
        let charge = json!({"user_id": "regular", "service_name": "asset", "count": 1, "trace_id": trace_id});
        let reply = self.post("deduct", charge).await;
        assert_eq!(reply["success"], true, "{reply}");
    }

    /// The memory of the process without mapped files, in KiB.
    pub fn memory_kib(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).unwrap();
        line.trim().trim_end_matches(" kB").parse().unwrap()
    }

    /// The server still charges, counts no fault, stops in order, has logged no error, and its books are right.
    pub async fn assert_unharmed(mut self) {
        self.charge("after").await;
        let url = format!("http://{}/metrics", self.grpc);
        let metrics = http_client().get(url).send().await.unwrap().text().await.unwrap();
        assert!(metrics.contains("\nbilling_panics_total 0\n"), "a handler panicked");
        for line in metrics.lines().filter(|line| line.starts_with("billing_requests_total{")) {
            assert!(!FAULTS.iter().any(|code| line.contains(&format!("code=\"{code}\""))), "{line}");
        }
        let pid = self.child.id().to_string();
        assert!(Command::new("kill").args(["-s", "TERM", &pid]).status().unwrap().success());
        assert_eq!(self.child.wait().unwrap().code(), Some(0));
        let log = std::fs::read_to_string(self.log.path()).unwrap();
        // A panic is the only line that is no JSON.
        let bad: Vec<&str> =
            log.lines().filter(|line| !line.starts_with('{') || line.contains(r#""level":"ERROR""#)).collect();
        assert!(bad.is_empty(), "{}", bad.join("\n"));
        self.database.assert_audit_is_clean().await;
    }
}

impl Drop for Target {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn user_token(user: &str) -> String {
    let claims = json!({"sub": user, "iss": "i", "aud": "a", "exp": 4_000_000_000_u64});
    encode(&Header::new(Algorithm::HS256), &claims, &EncodingKey::from_secret(SECRET.as_bytes()).unwrap()).unwrap()
}

pub fn gzip(content: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(content).unwrap();
    encoder.finish().unwrap()
}

//! The gateways of examples/, each in its language.

#[path = "../../../examples/gateway/call.rs"]
mod call;
#[path = "../../../examples/gateway/retry.rs"]
mod retry;
#[path = "../../../examples/gateway/stream.rs"]
mod stream;

use std::{
    io::{Cursor, Write},
    net::SocketAddr,
    process::{Command, Stdio},
};

use rstest::rstest;
use tonic::{Request, Status, transport::Channel};

use super::{
    example,
    lossy::{Lost, lossy},
};
use crate::harness::{Service, Sqlite, private_server::needs_installed};

/// `make deps` installs here what examples/gateway.py imports.
const PYTHON_PACKAGES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/target/tools/python");

/// The output of a model. A chunk ends inside a character.
const TEXT: &str = "The balance pays the rest. 余额支付免费额度不够的部分。";

#[derive(Debug, Clone, Copy)]
enum Language {
    Rust,
    Python,
    Node,
}

impl Language {
    /// Runs the gateway to its end: a `call` of units, or a `stream` of a model. Returns its lines.
    async fn run(self, server: SocketAddr, kind: &str, arguments: [&str; 4]) -> String {
        match self {
            Self::Rust => in_process(server, kind, arguments).await,
            Self::Python => program("python3", "gateway.py", server.to_string(), kind, arguments).await,
            Self::Node => program("node", "gateway.mjs", format!("http://{server}"), kind, arguments).await,
        }
    }
}

async fn in_process(server: SocketAddr, kind: &str, [user, service, last, trace]: [&str; 4]) -> String {
    let channel = Channel::from_shared(format!("http://{server}")).unwrap().connect_lazy();
    let open = |request: Request<()>| Ok::<_, Status>(request);
    let mut lines = String::new();
    let write = |line: &str| {
        lines.push_str(line);
        lines.push('\n');
    };
    let ended = if kind == "call" {
        let call = call::call(user, service, last.parse().unwrap(), trace);
        call::run((channel, open), call, write).await
    } else {
        let opening = stream::open(user, service, last, trace);
        stream::run((channel, open), opening, Cursor::new(TEXT), write).await
    };
    ended.unwrap();
    lines
}

async fn program(
    program: &'static str,
    file: &'static str,
    server: String,
    kind: &str,
    arguments: [&str; 4],
) -> String {
    needs_installed(program);
    let [user, service, last, trace] = arguments;
    let arguments = [kind, &server, user, service, last, trace].map(str::to_owned);
    tokio::task::spawn_blocking(move || run_to_end(program, file, &arguments)).await.unwrap()
}

fn run_to_end(program: &str, file: &str, arguments: &[String]) -> String {
    let mut child = Command::new(program)
        .arg(example(file))
        .args(arguments)
        .env("PYTHONPATH", PYTHON_PACKAGES)
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("run `make deps`: it installs {program}: {error}"));
    // A call reads nothing, and may have ended.
    let _ = child.stdin.take().unwrap().write_all(TEXT.as_bytes());
    let output = child.wait_with_output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{file} (`make deps` installs its packages): {errors}");
    String::from_utf8(output.stdout).unwrap()
}

async fn service() -> Service {
    service_with(&[]).await
}

async fn service_with(more: &[(&str, &str)]) -> Service {
    let mut changes = vec![
        ("billing.model_services", "{llm: tokens}"),
        ("billing.models", "{gpt-4o: {input: 1000, output: 10000}}"),
        ("billing.free_quotas", "{passport: 10000, payment: 1000, asset: 3, llm: 0}"),
    ];
    changes.extend(more);
    Service::start_with(Sqlite, &changes).await
}

/// The charge for the whole output: the estimated input, and the counted output.
async fn whole_charge(service: &Service) -> f64 {
    let tokens = format!(r#"{{"model":"gpt-4o","text":{TEXT:?}}}"#);
    let (_, counted) = service.post("/internal/v1/billing/tokens/count", tokens).await;
    0.1 + counted["tokens"].as_f64().unwrap() / 100.0
}

#[rstest]
#[tokio::test]
async fn a_gateway_checks_and_charges_a_call(
    #[values(Language::Rust, Language::Python, Language::Node)] gateway: Language,
) {
    let service = service().await;
    service.adjust("u", 1.0).await;
    let run = async |count, trace| gateway.run(service.app.grpc_addr, "call", ["u", "asset", count, trace]).await;
    assert_eq!(run("5", "t").await, "charged: 3 free, 2 for 0.1\n");
    assert_eq!(run("5", "t").await, "charged: 3 free, 2 for 0.1, by an earlier attempt\n");
    assert_eq!(run("1000", "v").await, "refused: insufficient balance (10001)\n");
    assert_eq!(service.state("u").await, (0.9, [0, 0, 3]));
    service.assert_audit_is_clean().await;
}

#[rstest]
#[tokio::test]
async fn a_gateway_charges_once_though_the_reply_is_lost(
    #[values(Language::Rust, Language::Python, Language::Node)] gateway: Language,
) {
    let service = service().await;
    service.adjust("u", 1.0).await;
    let server = lossy(service.app.grpc_addr, Lost::SecondReply).await;
    let lines = gateway.run(server, "call", ["u", "asset", "5", "t"]).await;
    assert_eq!(lines, "charged: 3 free, 2 for 0.1, by an earlier attempt\n");
    assert_eq!(service.state("u").await, (0.9, [0, 0, 3]));
}

#[rstest]
#[tokio::test]
async fn a_gateway_bills_the_answer_of_a_model(
    #[values(Language::Rust, Language::Python, Language::Node)] gateway: Language,
) {
    let service = service().await;
    service.adjust("u", 5.0).await;
    let charged = whole_charge(&service).await;
    let lines = gateway.run(service.app.grpc_addr, "stream", ["u", "llm", "gpt-4o", "t"]).await;
    let balance = service.state("u").await.0;
    assert!((5.0 - balance - charged).abs() < 1e-9, "{charged} of {balance}: {lines}");
    assert!(lines.starts_with("opened: 2.1 held\n") || lines.starts_with("reserved: 2.1 held\n"), "{lines}");
    let last = lines.lines().last().unwrap();
    assert!(last.starts_with("finished: ") && last.ends_with(&format!("{balance} left")), "{lines}");
    assert_eq!(service.account("u").await.held, 0.0);
    service.assert_audit_is_clean().await;
}

#[rstest]
#[tokio::test]
async fn a_gateway_bills_the_whole_answer_once_though_its_connection_breaks(
    #[values(Language::Rust, Language::Python, Language::Node)] gateway: Language,
    // A stream is opened again within the first. It ends before that within the second, and is charged in part.
    #[values("5s", "1ms")] grace: &str,
) {
    let service = service_with(&[("billing.streams.grace", grace)]).await;
    service.adjust("u", 5.0).await;
    let lost = if matches!(gateway, Language::Node) { Lost::SecondReply } else { Lost::ThirdMessage };
    let charged = whole_charge(&service).await;
    let lines = gateway.run(lossy(service.app.grpc_addr, lost).await, "stream", ["u", "llm", "gpt-4o", "t"]).await;
    let balance = service.state("u").await.0;
    assert!((5.0 - balance - charged).abs() < 1e-9, "{charged} of {balance}: {lines}");
    assert!(lines.ends_with(&format!(", {balance} left\n")), "{lines}");
    assert_eq!(service.account("u").await.held, 0.0);
    service.assert_audit_is_clean().await;
}

//! The binary, run like a developer runs it.

use billing_service::{data::payment::proto::payment_client::PaymentClient, sandbox::Switches};
use serde_json::{Value, json};

use super::town::Town;
use crate::harness::{
    Database, Sqlite,
    payments::SECRET,
    process::{ServerProcess, run},
};

const SANDBOX: &str = env!("CARGO_BIN_EXE_payment-sandbox");

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_binary_plays_payment_service_until_it_is_told_to_stop() {
    let (database, mut town) = (Database::create(Sqlite).await, Town::new(Switches::default()).await);
    let notify_url = format!("http://{}/callback", town.billing.addr);
    let conf = database.config_file(&[
        ("payment_service.grpc_addr", "'127.0.0.1:0'"),
        ("payment_service.callback_secrets", &format!("['{SECRET}', 'the secret before it']")),
        ("payment_service.notify_url", &notify_url),
        ("environment", "staging"),
    ]);
    let conf = conf.to_str().unwrap();
    let arguments = ["-conf", conf, "--duplicates", "1", "--switches", r#"{"duplicates":9}"#];
    let process = ServerProcess::start_binary(SANDBOX, &arguments, "payment-sandbox serving", "addr");
    town.payments = PaymentClient::connect(process.grpc.clone()).await.unwrap();
    let health: Value =
        town.browser.get(format!("{}/health", process.grpc)).send().await.unwrap().json().await.unwrap();
    assert_eq!(health, json!({"status": "UP", "service": "payment-sandbox"}));
    town.create_and_pay("o").await;
    for _ in 0..2 {
        let call = town.billing.called().await;
        assert_eq!(call.verify(), Ok(()));
        call.answer(200);
    }
    // Another server, in the hands of someone who reaches the sandbox.
    let mut other = Town::new(Switches::default()).await;
    other.payments = town.payments.clone();
    other.create_and_pay("stolen").await;
    for _ in 0..2 {
        let call = other.billing.called().await;
        assert_eq!(call.signature, None, "it is signed for an address that nobody configured");
        call.answer(200);
    }
    process.terminate();
    assert_eq!(process.wait(), Some(0));
}

#[tokio::test]
async fn the_sandbox_does_not_start_in_production() {
    let database = Database::create(Sqlite).await;
    let start = |changes: &[(&str, &str)]| {
        let conf = database.config_file(changes);
        // If the sandbox started, the test would not end.
        run("timeout", &["20", SANDBOX, "-conf", conf.to_str().unwrap(), "--addr", "127.0.0.1:0"], &[])
    };
    let payment_service = ("payment_service.grpc_addr", "'127.0.0.1:9101'");
    for (changes, key) in [
        (vec![("environment", "production")], "environment"),
        (vec![("environment", "production"), payment_service], "environment"),
        (vec![("environment", "production"), payment_service, ("payment_service.sandbox", "false")], "environment"),
        (
            vec![("environment", "production"), payment_service, ("payment_service.sandbox", "true")],
            "payment_service.sandbox",
        ),
    ] {
        let output = start(&changes);
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert!(said.contains(&format!("config key {key}:")), "{said}");
    }
}

#[tokio::test]
async fn a_port_in_use_is_an_error_that_names_it() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = taken.local_addr().unwrap().to_string();
    let database = Database::create(Sqlite).await;
    let conf = database.config_file(&[("payment_service.grpc_addr", &format!("'{addr}'"))]);
    let output = run("timeout", &["20", SANDBOX, "-conf", conf.to_str().unwrap()], &[]);
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains(&addr), "{said}");
}

#[test]
fn an_invalid_public_url_is_refused_by_name() {
    let output = run("timeout", &["20", SANDBOX, "--public-url", "http://"], &[]);
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert!(said.contains("--public-url") && said.contains("must be http(s)://"), "{said}");
}

//! kill -9 of the server while money is on its way.

use std::{net::TcpListener as StdListener, sync::Arc, time::Duration};

use axum::{Router, body::Bytes, extract::State, http::HeaderMap, routing::post};
use billing_service::{
    sandbox::{Answer, Sandbox, Switches},
    server::{Limits, serve},
    service::proto::{GetAccountRequest, RechargeReply, RechargeRequest, billing_service_client::BillingServiceClient},
};
use futures_util::future::join_all;
use http::StatusCode;
use rstest::rstest;
use serde_json::json;
use tokio::sync::{Mutex, mpsc};
use tonic::transport::Channel;

use crate::harness::{
    Backend, Database, MySql, Sqlite,
    caller::Dice,
    payments::{press, sandbox, settings},
    process::ServerProcess,
    wait::until,
};

/// A server process that is killed and started again at the same address, and a
/// payment-service that outlives it.
struct Mortal {
    database: Database,
    sandbox: Sandbox,
    conf: std::path::PathBuf,
    http: reqwest::Client,
    process: ServerProcess,
}

impl Mortal {
    async fn start(on: Backend, notify_url: Option<String>) -> Self {
        let (database, sandbox) = (Database::create(on).await, sandbox(Switches::default()).await);
        // Freed for the server, which takes it again after each kill.
        let address = StdListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let grpc: &str = &format!("'{address}'");
        let notify_url = notify_url.unwrap_or_else(|| format!("http://{address}/internal/v1/billing/callback"));
        let notify_url: &str = &format!("'{notify_url}'");
        let changes = [("server.grpc.addr", grpc), ("payment_service.notify_url", notify_url)];
        let conf = database.config_file(&settings(&sandbox, &changes));
        let process = ServerProcess::start_beside(&conf).await;
        Self { database, sandbox, conf, http: reqwest::Client::new(), process }
    }

    async fn start_again(&mut self) {
        self.process = ServerProcess::start_beside(&self.conf).await;
    }

    fn client(&self) -> BillingServiceClient<Channel> {
        BillingServiceClient::new(Channel::from_shared(self.process.grpc.clone()).unwrap().connect_lazy())
    }

    async fn recharge(&self, user: &str, amount: f64) -> RechargeReply {
        let request =
            RechargeRequest { user_id: user.into(), amount, payment_method: "alipay".into(), currency: String::new() };
        self.client().recharge(request).await.unwrap().into_inner()
    }

    async fn balance(&self, user: &str) -> f64 {
        let request = GetAccountRequest { user_id: user.into() };
        self.client().get_account(request).await.unwrap().into_inner().balance
    }
}

#[rstest]
#[tokio::test]
async fn killed_between_payment_and_callback_the_money_arrives_once(#[values(MySql, Sqlite)] on: Backend) {
    let mut mortal = Mortal::start(on, None).await;
    let replies = [mortal.recharge("u", 5.0).await, mortal.recharge("u", 7.0).await];
    mortal.process.kill();
    for reply in &replies {
        press(&mortal.http, &reply.payment_url, "SUCCESS").await;
    }
    // It has been tried, and nobody was there.
    let in_vain =
        async || mortal.sandbox.callbacks().iter().any(|attempt| matches!(attempt.answer, Answer::Missing(_)));
    until("a callback found no server", in_vain).await;
    mortal.start_again().await;
    mortal.sandbox.idle().await;
    assert_eq!(mortal.balance("u").await, 12.0);
    mortal.database.assert_audit_is_clean().await;
}

/// Between payment-service and the server: hands a callback on, waits for the answer, and
/// keeps it to itself until it is told to let answers through.
struct Swallower {
    server: Mutex<Option<String>>,
    http: reqwest::Client,
    answered: mpsc::UnboundedSender<u16>,
}

async fn hand_on(State(swallower): State<Arc<Swallower>>, headers: HeaderMap, body: Bytes) -> StatusCode {
    let Some(server) = swallower.server.lock().await.clone() else { return StatusCode::BAD_GATEWAY };
    let mut request = swallower.http.post(format!("{server}/internal/v1/billing/callback")).body(body);
    for (name, value) in &headers {
        if name.as_str().starts_with("x-") {
            request = request.header(name, value);
        }
    }
    match request.send().await {
        Ok(response) => {
            let status = response.status();
            // The first one is swallowed; the server is dead by the time of the next.
            let _ = swallower.answered.send(status.as_u16());
            *swallower.server.lock().await = None;
            StatusCode::BAD_GATEWAY
        }
        Err(_) => StatusCode::BAD_GATEWAY,
    }
}

#[rstest]
#[tokio::test]
async fn killed_between_commit_and_reply_the_money_arrives_once(#[values(MySql, Sqlite)] on: Backend) {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let notify_url = format!("http://{}/callback", listener.local_addr().unwrap());
    let (answered, mut answers) = mpsc::unbounded_channel();
    let swallower = Arc::new(Swallower { server: Mutex::new(None), http: reqwest::Client::new(), answered });
    let app = Router::new().route("/callback", post(hand_on)).with_state(swallower.clone());
    let limits = Limits { connections: 100, drain_timeout: Duration::from_secs(1) };
    let proxy = tokio::spawn(serve(listener, app, limits, Default::default()));

    let mut mortal = Mortal::start(on, Some(notify_url)).await;
    *swallower.server.lock().await = Some(mortal.process.grpc.clone());
    let reply = mortal.recharge("u", 5.0).await;
    press(&mortal.http, &reply.payment_url, "SUCCESS").await;
    assert_eq!(answers.recv().await, Some(200), "credited");
    mortal.process.kill();
    mortal.start_again().await;
    assert_eq!(mortal.balance("u").await, 5.0);
    // payment-service has no answer, so it reports again.
    *swallower.server.lock().await = Some(mortal.process.grpc.clone());
    assert_eq!(answers.recv().await, Some(200), "credited before");
    assert_eq!(mortal.balance("u").await, 5.0);
    mortal.database.assert_audit_is_clean().await;
    proxy.abort();
}

#[rstest]
#[tokio::test]
async fn killed_at_any_moment_every_payment_arrives_once(#[values(MySql, Sqlite)] on: Backend) {
    const ORDERS: usize = 60;
    let mut mortal = Mortal::start(on, None).await;
    let mut replies = Vec::new();
    for number in 0..ORDERS {
        replies.push(mortal.recharge(&format!("u{}", number % 7), 1.0).await);
    }
    // Each payment is reported three times, at about the same time.
    mortal.sandbox.set_switches(serde_json::from_value(json!({"duplicates": 2})).unwrap());
    let mut dice = Dice(4);
    for chunk in replies.chunks(ORDERS / 6) {
        // Somewhere among the callbacks of this chunk.
        let tried = mortal.sandbox.callbacks().len() + 1 + dice.below(3 * chunk.len());
        let (http, urls) = (mortal.http.clone(), chunk.iter().map(|reply| reply.payment_url.clone()));
        let urls: Vec<_> = urls.collect();
        let pressing = tokio::spawn(async move {
            join_all(urls.iter().map(|url| press(&http, url, "SUCCESS"))).await;
        });
        until("callbacks were tried", async || mortal.sandbox.callbacks().len() >= tried).await;
        mortal.process.kill();
        pressing.await.unwrap();
        mortal.start_again().await;
    }
    mortal.sandbox.idle().await;
    let mut total = 0.0;
    for number in 0..7 {
        total += mortal.balance(&format!("u{number}")).await;
    }
    assert_eq!(total, ORDERS as f64);
    mortal.database.assert_audit_is_clean().await;
}

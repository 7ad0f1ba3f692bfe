//! kill -9 of the server during top-ups.

use std::{
    net::{SocketAddr, TcpListener as StdListener},
    sync::{
        Arc,
        atomic::{AtomicU16, Ordering::Relaxed},
    },
    time::Duration,
};

use axum::{Router, body::Bytes, extract::State, http::HeaderMap, routing::post};
use billing_service::{
    app,
    biz::recharge::reconcile::ReconciledOrders,
    data::payment::proto::{
        CreatePaymentRequest, CreateRefundRequest, GetRefundRequest, PaymentMethod, payment_client::PaymentClient,
    },
    sandbox::{Answer, Sandbox, Switches},
    server::{ListenerLimits, serve},
    service::proto::{
        GetAccountRequest, RechargeReply, RechargeRequest, RefundRechargeRequest, ResolvePaymentRequest,
        billing_internal_service_client::BillingInternalServiceClient, billing_service_client::BillingServiceClient,
    },
};
use futures_util::future::join_all;
use http::StatusCode;
use rstest::rstest;
use serde_json::json;
use tokio::sync::watch;
use tonic::transport::Channel;

use super::reconcile::NEXT_DAY;
use crate::harness::{
    Backend, Database, MySql, Sqlite,
    caller::Dice,
    http_client,
    payments::{press, sandbox, settings, until_reported},
    process::ServerProcess,
    wait::until,
};

/// A server process that is killed and restarted at the same address, and a payment-service that
/// outlives it.
pub struct Mortal {
    pub database: Database,
    pub sandbox: Sandbox,
    conf: std::path::PathBuf,
    pub http: reqwest::Client,
    pub process: ServerProcess,
}

/// An address for restarts of a server. Its port is outside of the range that the system gives
/// out.
fn lasting_address() -> SocketAddr {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let first = 20_000 + (std::process::id() % 1_000) as u16 * 8;
    let address = || SocketAddr::from(([127, 0, 0, 1], first + NEXT.fetch_add(1, Relaxed)));
    std::iter::repeat_with(address).take(1_000).find(|address| StdListener::bind(address).is_ok()).unwrap()
}

impl Mortal {
    pub async fn start(on: Backend, notify_url: Option<String>) -> Self {
        let (database, sandbox) = (Database::create(on).await, sandbox(Switches::default()).await);
        let address = lasting_address();
        let grpc: &str = &format!("'{address}'");
        let notify_url = notify_url.unwrap_or_else(|| format!("http://{address}/internal/v1/billing/callback"));
        let notify_url: &str = &format!("'{notify_url}'");
        let changes = [("server.grpc.addr", grpc), ("payment_service.notify_url", notify_url)];
        let conf = database.config_file(&settings(&sandbox, &changes));
        let process = ServerProcess::start_beside(&conf).await;
        Self { database, sandbox, conf, http: http_client(), process }
    }

    pub async fn start_again(&mut self) {
        self.process = ServerProcess::start_beside(&self.conf).await;
    }

    fn client(&self) -> BillingServiceClient<Channel> {
        BillingServiceClient::new(Channel::from_shared(self.process.grpc.clone()).unwrap().connect_lazy())
    }

    async fn recharge(&self, user: &str, amount: f64) -> RechargeReply {
        let request =
            RechargeRequest { user_id: user.into(), amount, payment_method: "alipay".into(), ..Default::default() };
        self.client().recharge(request).await.unwrap().into_inner()
    }

    /// Looks up what is pending, a day later.
    pub async fn reconcile(&self) -> ReconciledOrders {
        let config = self.database.config(&settings(&self.sandbox, &[]));
        let store = app::connect(&config).await.unwrap();
        let done = app::reconcile_recharges(&config, store.clone(), NEXT_DAY, &Default::default()).await.unwrap();
        app::close(&*store).await;
        done
    }

    async fn balance(&self, user: &str) -> f64 {
        let request = GetAccountRequest { user_id: user.into() };
        self.client().get_account(request).await.unwrap().into_inner().balance
    }
}

#[rstest]
#[tokio::test]
async fn a_kill_between_payment_and_callback_credits_once(#[values(MySql, Sqlite)] on: Backend) {
    let mut mortal = Mortal::start(on, None).await;
    let replies = [mortal.recharge("u", 5.0).await, mortal.recharge("u", 7.0).await];
    mortal.process.kill();
    for reply in &replies {
        press(&mortal.http, &reply.payment_url, "SUCCESS").await;
    }
    // The sandbox has tried a callback, and no server was running.
    let in_vain =
        async || mortal.sandbox.callbacks().iter().any(|attempt| matches!(attempt.answer, Answer::Missing(_)));
    until("a callback found no server", in_vain).await;
    mortal.start_again().await;
    until_reported(&mortal.sandbox).await;
    assert_eq!(mortal.balance("u").await, 12.0);
    mortal.database.assert_audit_is_clean().await;
}

#[rstest]
#[tokio::test]
async fn killed_between_the_steps_of_a_refund_the_money_goes_back_once(#[values(MySql, Sqlite)] on: Backend) {
    let mut mortal = Mortal::start(on, None).await;
    let reply = mortal.recharge("u", 20.0).await;
    press(&mortal.http, &reply.payment_url, "SUCCESS").await;
    until_reported(&mortal.sandbox).await;
    let address = format!("http://{}", mortal.sandbox.addr);
    let mut payments = PaymentClient::connect(address).await.unwrap();
    // payment-service does not know the one refund, and has made the other.
    for (id, refund) in [("unknown", "unavailable"), ("made", "normal")] {
        let switches = json!({"refund": refund, "refund_delay_ms": 60_000, "lose": true});
        mortal.sandbox.set_switches(serde_json::from_value(switches).unwrap());
        let grpc = Channel::from_shared(mortal.process.grpc.clone()).unwrap().connect_lazy();
        let request = RefundRechargeRequest {
            order_id: reply.order_id.clone(),
            refund_id: id.into(),
            amount: 5.0,
            reason: "asked for it".into(),
            force: false,
        };
        let asking =
            tokio::spawn(async move { BillingInternalServiceClient::new(grpc).refund_recharge(request).await });
        let from = format!("FROM recharge_refund WHERE refund_id = '{id}'");
        until("the amount is held", async || mortal.database.rows(&["status"], &from).await == [["pending"]]).await;
        if refund == "normal" {
            let found = GetRefundRequest { refund_id: id.into() };
            until("the refund is made", async || payments.clone().get_refund(found.clone()).await.is_ok()).await;
        }
        mortal.process.kill();
        assert!(asking.await.unwrap().is_err());
        mortal.start_again().await;
    }
    assert_eq!(mortal.balance("u").await, 20.0);
    mortal.sandbox.set_switches(serde_json::from_value(json!({"lose": true})).unwrap());
    for refunded in [2, 0] {
        assert_eq!(mortal.reconcile().await, ReconciledOrders { refunded, ..Default::default() });
    }
    assert_eq!(mortal.balance("u").await, 10.0);
    let refund =
        CreateRefundRequest { order_id: reply.order_id, refund_id: "rest".into(), amount: 1_001, ..Default::default() };
    let refused = payments.create_refund(refund).await.unwrap_err();
    assert_eq!(refused.code(), tonic::Code::FailedPrecondition, "10 of 20 are left there");
    mortal.database.assert_audit_is_clean().await;
}

/// It was claimed; payment-service does not know the one refund, and has made the other.
#[rstest]
#[tokio::test]
async fn killed_between_the_steps_of_the_refund_of_an_unapplied_payment_it_goes_back_once(
    #[values(MySql, Sqlite)] on: Backend,
) {
    let mut mortal = Mortal::start(on, None).await;
    let mut payments = PaymentClient::connect(format!("http://{}", mortal.sandbox.addr)).await.unwrap();
    for (order, refund) in [("unknown", "unavailable"), ("made", "normal")] {
        mortal.sandbox.set_switches(Switches::default());
        let payment = CreatePaymentRequest {
            order_id: order.into(),
            amount: 700,
            currency: "CNY".into(),
            method: PaymentMethod::Alipay.into(),
            notify_url: format!("{}/internal/v1/billing/callback", mortal.process.grpc),
            ..Default::default()
        };
        let payment = payments.create_payment(payment).await.unwrap().into_inner();
        press(&mortal.http, &payment.pay_url, "SUCCESS").await;
        until_reported(&mortal.sandbox).await;
        let from = format!("FROM unapplied_payment WHERE order_id = '{order}'");
        assert_eq!(mortal.database.rows(&["status"], &from).await, [["open"]]);

        let switches = json!({"refund": refund, "refund_delay_ms": 60_000, "lose": true});
        mortal.sandbox.set_switches(serde_json::from_value(switches).unwrap());
        let grpc = Channel::from_shared(mortal.process.grpc.clone()).unwrap().connect_lazy();
        let request = ResolvePaymentRequest {
            payment_order_id: payment.payment_id.clone(),
            action: "refund".into(),
            user_id: String::new(),
            reason: "looked into it".into(),
        };
        let asking =
            tokio::spawn(async move { BillingInternalServiceClient::new(grpc).resolve_payment(request).await });
        until("it is claimed", async || mortal.database.rows(&["status"], &from).await == [["refunding"]]).await;
        if refund == "normal" {
            let found = GetRefundRequest { refund_id: format!("unapplied_{}_1", payment.payment_id) };
            until("the refund is made", async || payments.clone().get_refund(found.clone()).await.is_ok()).await;
        }
        mortal.process.kill();
        assert!(asking.await.unwrap().is_err());
        mortal.start_again().await;
    }
    mortal.sandbox.set_switches(serde_json::from_value(json!({"lose": true})).unwrap());
    for refunded in [2, 0] {
        assert_eq!(mortal.reconcile().await, ReconciledOrders { refunded, ..Default::default() });
    }
    let columns = ["status", "refunds", "MICROS(returned_amount)"];
    let rows = mortal.database.rows(&columns, "FROM unapplied_payment").await;
    assert_eq!(rows, [["refunded", "1", "7000000"]; 2]);
    let returns = mortal.database.rows(&["COUNT(*)"], "FROM unapplied_return").await;
    assert_eq!(returns, [["2"]]);
    mortal.database.assert_audit_is_clean().await;
}

/// Between payment-service and a server: hands a callback on, and never reads the answer.
struct Proxy {
    http: reqwest::Client,
    server: String,
    /// Whether the server is dead.
    dead: watch::Sender<bool>,
}

async fn hand_on(State(proxy): State<Arc<Proxy>>, headers: HeaderMap, body: Bytes) -> StatusCode {
    let mut request = proxy.http.post(format!("{}/internal/v1/billing/callback", proxy.server)).body(body);
    for (name, value) in &headers {
        if name.as_str().starts_with("x-") {
            request = request.header(name, value);
        }
    }
    if *proxy.dead.borrow() {
        // The server runs again, so the answer is passed on.
        return request.send().await.map_or(StatusCode::BAD_GATEWAY, |answer| answer.status());
    }
    let mut dead = proxy.dead.subscribe();
    let _sent = tokio::spawn(request.send());
    dead.wait_for(|dead| *dead).await.unwrap();
    StatusCode::BAD_GATEWAY
}

#[rstest]
#[tokio::test]
async fn a_kill_between_commit_and_answer_credits_once(#[values(MySql, Sqlite)] on: Backend) {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let notify_url = format!("http://{}/callback", listener.local_addr().unwrap());
    let mut mortal = Mortal::start(on, Some(notify_url)).await;
    let server = mortal.process.grpc.clone();
    let proxy = Arc::new(Proxy { http: http_client(), server, dead: watch::Sender::new(false) });
    let app = Router::new().route("/callback", post(hand_on)).with_state(proxy.clone());
    let limits = ListenerLimits { connections: 100, drain_timeout: Duration::from_secs(1), ..Default::default() };
    let serving = tokio::spawn(serve(listener, app, limits, Default::default()));

    let reply = mortal.recharge("u", 5.0).await;
    press(&mortal.http, &reply.payment_url, "SUCCESS").await;
    let from = format!("FROM recharge_order WHERE order_id = '{}'", reply.order_id);
    until("the credit is committed", async || mortal.database.rows(&["status"], &from).await == [["success"]]).await;
    mortal.process.kill();
    proxy.dead.send_replace(true);
    mortal.start_again().await;
    // payment-service got no answer, so it sends the callback again.
    until_reported(&mortal.sandbox).await;
    let answers: Vec<_> = mortal.sandbox.callbacks().into_iter().map(|attempt| attempt.answer).collect();
    assert!(matches!(answers[..], [Answer::Http(502), .., Answer::Http(200)]), "{answers:?}");
    assert_eq!(mortal.balance("u").await, 5.0);
    mortal.database.assert_audit_is_clean().await;
    serving.abort();
}

#[rstest]
#[tokio::test]
async fn kills_at_random_moments_credit_every_payment_once(#[values(MySql, Sqlite)] on: Backend) {
    const ORDERS: usize = 60;
    let mut mortal = Mortal::start(on, None).await;
    let mut replies = Vec::new();
    for number in 0..ORDERS {
        replies.push(mortal.recharge(&format!("u{}", number % 7), 1.0).await);
    }
    // Each payment gets three callbacks at about the same time.
    mortal.sandbox.set_switches(serde_json::from_value(json!({"duplicates": 2})).unwrap());
    let mut dice = Dice(4);
    for chunk in replies.chunks(ORDERS / 6) {
        // At a random callback of this chunk.
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
    until_reported(&mortal.sandbox).await;
    let mut total = 0.0;
    for number in 0..7 {
        total += mortal.balance(&format!("u{number}")).await;
    }
    assert_eq!(total, ORDERS as f64);
    mortal.database.assert_audit_is_clean().await;
}

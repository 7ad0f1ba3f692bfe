//! A service whose payment-service is the sandbox.

use std::{net::SocketAddr, time::Duration};

use axum::{
    Router,
    body::Bytes,
    http::{HeaderMap, HeaderValue},
    response::Response,
};
use billing_service::{
    sandbox::{Options, Sandbox, SignsFor, Switches},
    service::{
        proto::{
            GetRechargeOrderRequest, ListRechargeOrdersRequest, RechargeCallbackReply, RechargeCallbackRequest,
            RechargeOrder, RechargeReply, RechargeRequest,
        },
        signature,
    },
};
use chrono::{DateTime, TimeDelta, Utc};
use prost::Message;
use serde_json::Value;
use tokio::{net::TcpListener, sync::mpsc::UnboundedReceiver, task::JoinHandle};
use tonic::{Request, Status};

use super::{Backend, Database, Service, redis::Proxy};
use crate::harness::wait::until;

/// The secret of callback signatures.
pub const SECRET: &str = "a secret that only tests know";

/// A service and the sandbox as its payment-service.
pub struct Paying {
    pub service: Service,
    pub sandbox: Sandbox,
}

impl Paying {
    pub async fn start(backend: Backend) -> Self {
        Self::start_with(backend, &[]).await
    }

    pub async fn start_with(backend: Backend, changes: &[(&str, &str)]) -> Self {
        let sandbox = sandbox(Switches::default()).await;
        let service = Service::start_on(Database::create(backend).await, &settings(&sandbox, changes)).await;
        Self { service, sandbox }
    }

    /// Starts a proxy between the service and payment-service.
    pub async fn start_behind_proxy(backend: Backend) -> (Self, Proxy) {
        let sandbox = sandbox(Switches::default()).await;
        let proxy = Proxy::start(sandbox.addr.to_string()).await;
        let address: &str = &format!("'{}'", proxy.addr());
        let changes = settings(&sandbox, &[("payment_service.grpc_addr", address)]);
        let service = Service::start_on(Database::create(backend).await, &changes).await;
        (Self { service, sandbox }, proxy)
    }

    pub async fn try_recharge(&self, user: &str, amount: f64) -> Result<RechargeReply, Status> {
        let request =
            RechargeRequest { user_id: user.into(), amount, payment_method: "alipay".into(), ..Default::default() };
        self.service.public.clone().recharge(request).await.map(|reply| reply.into_inner())
    }

    /// Sets all switches of the sandbox. A switch that is not named is off.
    pub fn switch(&self, switches: Value) {
        self.sandbox.set_switches(serde_json::from_value(switches).unwrap());
    }

    /// Starts a top-up that is not paid yet.
    pub async fn recharge(&self, user: &str, amount: f64) -> RechargeReply {
        self.try_recharge(user, amount).await.unwrap()
    }

    /// Inserts an old pending order of the legacy service.
    pub async fn legacy_order(&self, order_id: &str, user: &str, amount: i64) {
        self.service.database.pending_order(order_id, user, amount).await;
    }

    /// Presses a button of the pay page.
    pub async fn press(&self, payment_url: &str, result: &str) {
        press(&self.service.http, payment_url, result).await;
    }

    pub async fn order(&self, order_id: &str) -> RechargeOrder {
        let request = GetRechargeOrderRequest { order_id: order_id.into(), user_id: String::new() };
        self.service.public.clone().get_recharge_order(request).await.unwrap().into_inner()
    }

    /// The orders of a user, newest first.
    pub async fn orders(&self, user: &str) -> Vec<RechargeOrder> {
        let request = ListRechargeOrdersRequest { user_id: user.into(), page_size: 100, ..Default::default() };
        self.service.public.clone().list_recharge_orders(request).await.unwrap().into_inner().orders
    }

    /// Waits until the sandbox has no callback in flight.
    pub async fn until_reported(&self) {
        until_reported(&self.sandbox).await;
    }

    /// Waits until an order has a status.
    pub async fn until_order_is(&self, order_id: &str, status: &str) {
        until(&format!("{order_id} is {status}"), async || self.order(order_id).await.status == status).await;
    }

    /// Sends a callback over gRPC, like payment-service.
    pub async fn notify(&self, callback: RechargeCallbackRequest) -> Result<RechargeCallbackReply, Status> {
        self.service.clock.pass(BETWEEN_CALLBACKS);
        let mut internal = self.service.internal.clone();
        internal.recharge_callback(signed(callback, Utc::now())).await.map(|reply| reply.into_inner())
    }

    /// Sends an unsigned callback, after some time on the test clock.
    pub async fn hint(&self, callback: RechargeCallbackRequest) -> Result<RechargeCallbackReply, Status> {
        self.service.clock.pass(BETWEEN_CALLBACKS);
        self.service.internal.clone().recharge_callback(callback).await.map(|reply| reply.into_inner())
    }

    pub async fn assert_books(&self, user: &str, balance: f64) {
        assert_eq!(self.service.account(user).await.balance, balance);
        self.service.assert_audit_is_clean().await;
    }

    /// The value of `billing_recharge_total` for a status.
    pub async fn counted(&self, status: &str) -> u64 {
        let url = format!("http://{}/metrics", self.service.app.grpc_addr);
        let text = self.service.http.get(url).send().await.unwrap().text().await.unwrap();
        let name = format!("billing_recharge_total{{status=\"{status}\"}} ");
        text.lines().find_map(|line| line.strip_prefix(&name)).map_or(0, |count| count.parse().unwrap())
    }
}

/// Time between unsigned callbacks: the service looks an order up once in this time.
const BETWEEN_CALLBACKS: TimeDelta = TimeDelta::seconds(1);

/// Waits until the sandbox has no callback in flight. Fails at a time limit.
pub async fn until_reported(sandbox: &Sandbox) {
    tokio::time::timeout(Duration::from_secs(60), sandbox.idle()).await.expect("every callback is answered");
}

pub async fn sandbox(switches: Switches) -> Sandbox {
    let secret = Some(serde_json::from_value(SECRET.into()).unwrap());
    // The service under test chooses its port later.
    let signs_for = SignsFor(vec!["127.0.0.1".into()]);
    let options = Options { addr: "127.0.0.1:0".into(), secret, signs_for, switches, public_url: None };
    Sandbox::start(options).await.unwrap()
}

impl Database {
    /// Inserts an old pending order of the legacy service.
    pub async fn pending_order(&self, order_id: &str, user: &str, amount: i64) {
        let (amount, time) = match self.backend {
            Backend::MySql => (amount.to_string(), "'2026-11-01 00:00:00'"),
            Backend::Sqlite => (format!("{amount}000000"), "1793491200000000"),
        };
        let columns = "order_id, user_id, amount, status, created_at, updated_at";
        let values = format!("'{order_id}', '{user}', {amount}, 'pending', {time}, {time}");
        self.execute(&format!("INSERT INTO recharge_order ({columns}) VALUES ({values})")).await;
    }
}

/// A configuration with a payment-service, and then `changes`.
pub fn settings<'s>(sandbox: &Sandbox, changes: &[(&'s str, &'s str)]) -> Vec<(&'s str, &'s str)> {
    // Leaked, so that the settings live as long as the test.
    let address: &'static str = format!("'{}'", sandbox.addr).leak();
    let secrets: &'static str = format!("['{SECRET}']").leak();
    // Long, so that a busy machine does not look like an outage.
    let patient = ("payment_service.timeout", "60s");
    let mut all = vec![("payment_service.grpc_addr", address), ("payment_service.callback_secrets", secrets), patient];
    all.extend(changes);
    all
}

/// A payment-service that is always unavailable. Returns its address, and the requests that it gets.
pub async fn recording_peer() -> (SocketAddr, UnboundedReceiver<(HeaderMap, Bytes)>, JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (seen, sees) = tokio::sync::mpsc::unbounded_channel();
    let answer = async move |request: axum::extract::Request| {
        let (head, body) = request.into_parts();
        let body = axum::body::to_bytes(body, 4_096).await.unwrap();
        seen.send((head.headers, body)).unwrap();
        let mut response = Response::new(axum::body::Body::empty());
        response.headers_mut().insert("content-type", HeaderValue::from_static("application/grpc"));
        response.headers_mut().insert("grpc-status", HeaderValue::from_static("14"));
        response
    };
    let limits = billing_service::server::ListenerLimits {
        connections: 10,
        drain_timeout: Duration::from_secs(1),
        ..Default::default()
    };
    let app = Router::new().fallback(answer);
    let peer = tokio::spawn(billing_service::server::serve(listener, app, limits, Default::default()));
    (address, sees, peer)
}

/// Presses a button of a pay page.
pub async fn press(http: &reqwest::Client, payment_url: &str, result: &str) {
    let page = submit(http, payment_url, &format!("result={result}")).await;
    assert!(page.status().is_success(), "{page:?}");
}

/// Posts a form of a pay page.
pub async fn submit(http: &reqwest::Client, payment_url: &str, form: &str) -> reqwest::Response {
    let request = http.post(payment_url).header("content-type", "application/x-www-form-urlencoded");
    request.body(form.to_owned()).send().await.unwrap()
}

pub fn success(order: &str, payment: &str, amount: f64) -> RechargeCallbackRequest {
    RechargeCallbackRequest {
        order_id: order.into(),
        payment_order_id: payment.into(),
        amount,
        status: "SUCCESS".into(),
        currency: String::new(),
        refund_id: String::new(),
    }
}

pub fn failed(order: &str, payment: &str, amount: f64) -> RechargeCallbackRequest {
    RechargeCallbackRequest { status: "FAILED".into(), ..success(order, payment, amount) }
}

/// A callback with a signature in its metadata.
pub fn signed(callback: RechargeCallbackRequest, at: DateTime<Utc>) -> Request<RechargeCallbackRequest> {
    let signature = signature::sign(SECRET, at, &callback.encode_to_vec());
    let mut request = Request::new(callback);
    request.metadata_mut().insert(signature::HEADER, signature.parse().unwrap());
    request
}

/// `POST` of a callback with headers. Returns the status and the reply.
pub async fn post_callback(service: &Service, body: &str, headers: &[(&str, &str)]) -> (u16, Value) {
    service.clock.pass(BETWEEN_CALLBACKS);
    let url = format!("http://{}/internal/v1/billing/callback", service.app.grpc_addr);
    let mut request = service.http.post(url).body(body.to_owned());
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let response = request.send().await.unwrap();
    (response.status().as_u16(), response.json().await.unwrap())
}

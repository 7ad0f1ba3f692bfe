//! A sandbox, a client of it, and a billing service that gets the callbacks.

use std::time::Duration;

use axum::{
    Router,
    body::{Body, Bytes},
    extract::{Request, State},
    response::Response,
    routing::post,
};
use billing_service::{
    data::payment::proto::{
        CreatePaymentReply, CreatePaymentRequest, CreateRefundReply, CreateRefundRequest, GetPaymentReply,
        GetPaymentRequest, GetRefundReply, GetRefundRequest, PaymentMethod, PaymentStatus,
        payment_client::PaymentClient,
    },
    sandbox::{Sandbox, Switches},
    server,
    service::{
        proto::{RechargeCallbackReply, RechargeCallbackRequest},
        signature::{self, Signature},
    },
};
use chrono::Utc;
use http::{HeaderMap, StatusCode, header::CONTENT_TYPE};
use prost::Message;
use serde_json::Value;
use tokio::{
    net::TcpListener,
    sync::{mpsc, oneshot},
};
use tokio_util::sync::{CancellationToken, DropGuard};
use tonic::{Code, Status, transport::Channel};

use crate::harness::{
    payments::{self, SECRET},
    wait::soon,
};

pub struct Town {
    pub sandbox: Sandbox,
    pub payments: PaymentClient<Channel>,
    /// A client that does not follow redirects.
    pub browser: reqwest::Client,
    pub billing: Billing,
}

impl Town {
    pub async fn new(switches: Switches) -> Self {
        let sandbox = payments::sandbox(switches).await;
        let payments = PaymentClient::connect(format!("http://{}", sandbox.addr)).await.unwrap();
        let browser = reqwest::Client::builder().redirect(reqwest::redirect::Policy::none()).build().unwrap();
        Self { sandbox, payments, browser, billing: Billing::open(TcpListener::bind("127.0.0.1:0").await.unwrap()) }
    }

    /// A top-up of 12.34 CNY with callbacks over HTTP.
    pub fn order(&self, id: &str) -> CreatePaymentRequest {
        CreatePaymentRequest {
            order_id: id.into(),
            user_id: 7,
            amount: 1_234,
            currency: "CNY".into(),
            method: PaymentMethod::Wechatpay.into(),
            subject: "Top-up".into(),
            return_url: "https://shop.example/back".into(),
            notify_url: format!("http://{}/callback", self.billing.addr),
            client_ip: String::new(),
        }
    }

    pub async fn try_create(&self, request: CreatePaymentRequest) -> Result<CreatePaymentReply, Status> {
        soon(self.payments.clone().create_payment(request)).await.map(tonic::Response::into_inner)
    }

    pub async fn create(&self, id: &str) -> CreatePaymentReply {
        self.try_create(self.order(id)).await.unwrap()
    }

    pub async fn get(&self, payment_id: &str, order_id: &str) -> Result<GetPaymentReply, Status> {
        let request = GetPaymentRequest { payment_id: payment_id.into(), order_id: order_id.into() };
        soon(self.payments.clone().get_payment(request)).await.map(tonic::Response::into_inner)
    }

    pub async fn refund_of(&self, refund_id: &str) -> Result<GetRefundReply, Status> {
        let request = GetRefundRequest { refund_id: refund_id.into() };
        soon(self.payments.clone().get_refund(request)).await.map(tonic::Response::into_inner)
    }

    /// Asks for a refund of an order.
    pub async fn refund(&self, order_id: &str, refund_id: &str, amount: i64) -> Result<CreateRefundReply, Status> {
        let (order_id, refund_id) = (order_id.into(), refund_id.into());
        let request = CreateRefundRequest { order_id, refund_id, amount, ..Default::default() };
        soon(self.payments.clone().create_refund(request)).await.map(tonic::Response::into_inner)
    }

    pub async fn status_of(&self, order_id: &str) -> PaymentStatus {
        self.get("", order_id).await.unwrap().status()
    }

    /// Opens the payment of a new order and pays it.
    pub async fn create_and_pay(&self, id: &str) {
        let payment = self.create(id).await;
        assert_eq!(self.submit(&payment.pay_url, "result=SUCCESS").await.status(), 303);
    }

    /// Posts the form of a pay page.
    pub async fn submit(&self, pay_url: &str, form: &str) -> reqwest::Response {
        soon(payments::submit(&self.browser, pay_url, form)).await
    }

    pub async fn page(&self, pay_url: &str) -> String {
        soon(self.browser.get(pay_url).send()).await.unwrap().text().await.unwrap()
    }

    /// Waits until all callbacks are sent, and returns their answers. Fails if a callback arrived that the test
    /// has not taken.
    pub async fn answers(&mut self) -> Vec<billing_service::sandbox::Answer> {
        soon(self.sandbox.idle()).await;
        assert!(self.billing.calls.try_recv().is_err(), "an unexpected callback arrived");
        self.sandbox.callbacks().into_iter().map(|attempt| attempt.answer).collect()
    }
}

/// Receives callbacks over HTTP at `/callback` and over gRPC. The test answers them.
pub struct Billing {
    pub addr: std::net::SocketAddr,
    calls: mpsc::UnboundedReceiver<Call>,
    _stop: DropGuard,
}

impl Billing {
    pub fn open(listener: TcpListener) -> Self {
        let (sender, calls) = mpsc::unbounded_channel();
        let stop = CancellationToken::new();
        let addr = listener.local_addr().unwrap();
        let routes = Router::new()
            .route("/callback", post(over_http))
            .route("/billing.v1.BillingInternalService/RechargeCallback", post(over_grpc))
            .with_state(sender);
        let limits =
            server::ListenerLimits { connections: 1_000, drain_timeout: Duration::from_secs(1), ..Default::default() };
        tokio::spawn(server::serve(listener, routes, limits, stop.clone()));
        Self { addr, calls, _stop: stop.drop_guard() }
    }

    /// The next callback.
    pub async fn called(&mut self) -> Call {
        soon(self.calls.recv()).await.unwrap()
    }
}

/// A callback that waits for its answer.
pub struct Call {
    pub signature: Option<String>,
    /// The bytes that were signed.
    pub message: Vec<u8>,
    /// The message as JSON.
    pub content: Value,
    answer: oneshot::Sender<u16>,
}

impl Call {
    /// Answers with an HTTP status, or over gRPC with a code.
    pub fn answer(self, status: u16) {
        self.answer.send(status).unwrap();
    }

    pub fn order(&self) -> &str {
        self.content["order_id"].as_str().unwrap()
    }

    pub fn verify(&self) -> Result<(), &'static str> {
        Signature::parse(self.signature.as_deref().expect("the callback is signed"), Utc::now())?
            .verify([SECRET], &self.message)
    }
}

type Calls = mpsc::UnboundedSender<Call>;

async fn over_http(State(calls): State<Calls>, headers: HeaderMap, body: Bytes) -> StatusCode {
    assert_eq!(headers[CONTENT_TYPE], "application/json");
    let content = serde_json::from_slice(&body).unwrap();
    let signature = headers.get("X-Billing-Signature").map(|value| value.to_str().unwrap().to_owned());
    StatusCode::from_u16(answer(&calls, signature, body.to_vec(), content).await).unwrap()
}

async fn over_grpc(State(calls): State<Calls>, request: Request) -> Response {
    let codec = tonic_prost::ProstCodec::<RechargeCallbackReply, RechargeCallbackRequest>::default();
    let service = tower::service_fn(move |request: tonic::Request<RechargeCallbackRequest>| {
        let calls = calls.clone();
        async move {
            let metadata = request.metadata().get(signature::HEADER);
            let signature = metadata.map(|value| value.to_str().unwrap().to_owned());
            let message = request.get_ref();
            let content = serde_json::to_value(message).unwrap();
            match Code::from(i32::from(answer(&calls, signature, message.encode_to_vec(), content).await)) {
                Code::Ok => Ok(tonic::Response::new(RechargeCallbackReply { success: true })),
                code => Err(Status::new(code, "as the test says")),
            }
        }
    });
    tonic::server::Grpc::new(codec).unary(service, request).await.map(Body::new)
}

async fn answer(calls: &Calls, signature: Option<String>, message: Vec<u8>, content: Value) -> u16 {
    let (answer, answered) = oneshot::channel();
    calls.send(Call { signature, message, content, answer }).unwrap();
    answered.await.unwrap()
}

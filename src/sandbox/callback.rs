//! A callback and one attempt to send it, as JSON over HTTP or as the RechargeCallback rpc of
//! the billing contract. Each attempt gets a new signature, because a signature is valid for a few
//! minutes only.

use std::time::Duration;

use anyhow::{Context, anyhow};
use axum::body::{Body, to_bytes};
use chrono::Utc;
use http::header::CONTENT_TYPE;
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::{TokioExecutor, TokioTimer},
};
use prost::Message;
use tokio::time::timeout;
use tonic::{Code, metadata::AsciiMetadataValue, transport::Endpoint};

use super::{
    payment::{NotifyUrl, PaymentOutcome, SandboxPayment},
    refund::SandboxRefund,
    switches::Switches,
};
use crate::{
    config::Secret,
    service::{
        proto::{RechargeCallbackRequest, billing_internal_service_client::BillingInternalServiceClient},
        signature,
    },
};

/// Time limit of one attempt, up to the status of the answer.
const DEADLINE: Duration = Duration::from_secs(10);
/// Limits of the body of an answer: its size, and the time to read it. Beyond them the
/// connection is dropped.
const MAX_BODY_BYTES: usize = 4 * 1024;
const BODY_DEADLINE: Duration = Duration::from_secs(1);
/// Idle HTTP connections kept for each destination.
const IDLE_CONNECTIONS: usize = 64;
const IDLE_TIMEOUT: Duration = Duration::from_secs(15);
/// The secret that signs a forged callback.
const FORGED_SECRET: &str = "a secret that nobody else has";

/// The outcome of a payment, or money of it that went back, addressed to the billing service.
pub struct Callback {
    to: NotifyUrl,
    message: RechargeCallbackRequest,
    forged: bool,
}

impl Callback {
    pub fn new(payment: &SandboxPayment, outcome: PaymentOutcome, switches: &Switches) -> Self {
        let order = &payment.order;
        let amount = if switches.wrong_amount { order.amount.one_more() } else { order.amount };
        let message = RechargeCallbackRequest {
            order_id: order.id.clone(),
            payment_order_id: payment.id.clone(),
            // An amount has at most 15 digits, so the shortest decimal form of the double is exactly
            // the amount.
            amount: amount.to_money().to_wire(),
            status: outcome.as_str().into(),
            currency: order.amount.currency().to_string(),
            refund_id: String::new(),
        };
        Self { to: order.notify_url.clone(), message, forged: switches.forge }
    }

    /// The report of money that went back.
    pub fn returned(payment: &SandboxPayment, refund: &SandboxRefund, switches: &Switches) -> Self {
        let order = &payment.order;
        let amount = if switches.wrong_amount { refund.amount.one_more() } else { refund.amount };
        let message = RechargeCallbackRequest {
            order_id: order.id.clone(),
            payment_order_id: payment.id.clone(),
            amount: amount.to_money().to_wire(),
            status: refund.kind.as_str().into(),
            currency: order.amount.currency().to_string(),
            refund_id: refund.id.clone(),
        };
        Self { to: order.notify_url.clone(), message, forged: switches.forge }
    }

    pub fn order_id(&self) -> &str {
        &self.message.order_id
    }

    pub fn status(&self) -> &str {
        &self.message.status
    }

    /// Host and port of the notify URL.
    pub fn destination(&self) -> &str {
        let (NotifyUrl::Http(uri) | NotifyUrl::Grpc(uri)) = &self.to;
        uri.authority().map_or("", |authority| authority.as_str())
    }
}

/// The result of one attempt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// HTTP status.
    Http(u16),
    Grpc(Code),
    /// No answer, with the reason.
    Missing(String),
}

impl Answer {
    /// Whether billing accepted or refused the callback for good. Any other answer means that
    /// the callback is sent again.
    pub fn is_final(&self) -> bool {
        match self {
            Self::Http(status) => match status {
                408 | 429 => false,
                status => matches!(status, 200..=299 | 400..=499),
            },
            Self::Grpc(code) => !matches!(
                code,
                // The connection, not billing, cancels a call.
                Code::Cancelled
                    | Code::Unknown
                    | Code::DeadlineExceeded
                    | Code::ResourceExhausted
                    | Code::Internal
                    | Code::Unavailable
            ),
            Self::Missing(_) => false,
        }
    }
}

/// Sends callbacks.
pub struct Sender {
    http: Client<HttpConnector, Body>,
    /// `None`: callbacks are unsigned.
    secret: Option<Secret>,
    /// The destinations of signed callbacks.
    signs_for: SignsFor,
}

/// The destinations of signed callbacks, as `host:port`, or as `host` for all of its ports. Anyone who
/// reaches the sandbox names a destination, and a signed callback in the wrong hands credits an order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SignsFor(pub Vec<String>);

impl SignsFor {
    /// The destination of a URL alone.
    pub fn url(url: &str) -> Self {
        let uri: Option<http::Uri> = url.parse().ok();
        Self(uri.and_then(|uri| uri.authority().map(ToString::to_string)).into_iter().collect())
    }

    fn contains(&self, destination: &str) -> bool {
        let host = destination.rsplit_once(':').map_or(destination, |(host, _)| host);
        self.0.iter().any(|known| known.eq_ignore_ascii_case(destination) || known.eq_ignore_ascii_case(host))
    }
}

impl Sender {
    pub fn new(secret: Option<Secret>, signs_for: SignsFor) -> Self {
        let mut connector = HttpConnector::new();
        connector.set_nodelay(true);
        let http = Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(IDLE_TIMEOUT)
            .pool_max_idle_per_host(IDLE_CONNECTIONS)
            .build(connector);
        Self { http, secret, signs_for }
    }

    /// Makes one attempt: at most 10 seconds up to the status of the answer, and 1 second for its
    /// body.
    pub async fn send(&self, callback: &Callback) -> Answer {
        let answer = match &callback.to {
            NotifyUrl::Http(url) => match in_time(self.post(url, callback)).await {
                Ok(response) => Ok(Answer::Http(status_of(response).await)),
                Err(why) => Err(why),
            },
            NotifyUrl::Grpc(server) => in_time(self.call(server, callback)).await.map(Answer::Grpc),
        };
        answer.unwrap_or_else(|why| Answer::Missing(format!("{why:#}")))
    }

    async fn post(&self, url: &http::Uri, callback: &Callback) -> anyhow::Result<http::Response<Body>> {
        let body = serde_json::to_vec(&callback.message)?;
        let mut request = http::Request::post(url).header(CONTENT_TYPE, "application/json");
        if let Some(signature) = self.signature(callback, &body) {
            request = request.header(signature::HEADER, signature);
        }
        let response = self.http.request(request.body(Body::from(body))?).await?;
        Ok(response.map(Body::new))
    }

    async fn call(&self, server: &http::Uri, callback: &Callback) -> anyhow::Result<Code> {
        let channel = Endpoint::from(server.clone()).connect().await?;
        let mut request = tonic::Request::new(callback.message.clone());
        if let Some(signature) = self.signature(callback, &callback.message.encode_to_vec()) {
            let signature: AsciiMetadataValue = signature.parse().context("a signature is ASCII")?;
            request.metadata_mut().insert(signature::HEADER, signature);
        }
        let answer = BillingInternalServiceClient::new(channel).recharge_callback(request).await;
        Ok(answer.map_or_else(|status| status.code(), |_| Code::Ok))
    }

    fn signature(&self, callback: &Callback, message: &[u8]) -> Option<String> {
        let is_known = self.signs_for.contains(callback.destination());
        let own = self.secret.as_ref().filter(|_| is_known).map(Secret::reveal);
        let secret = if callback.forged { Some(FORGED_SECRET) } else { own };
        secret.map(|secret| signature::sign(secret, Utc::now(), message))
    }
}

async fn in_time<T>(attempt: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    timeout(DEADLINE, attempt).await.unwrap_or_else(|_| Err(anyhow!("no answer in time")))
}

/// Reads the body to its end so that the connection can be reused. The status counts even if
/// the body fails.
async fn status_of(response: http::Response<Body>) -> u16 {
    let (head, body) = response.into_parts();
    let _ = timeout(BODY_DEADLINE, to_bytes(body, MAX_BODY_BYTES)).await;
    head.status.as_u16()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_destination_is_a_host_or_one_of_its_ports() {
        let (one, all) = (SignsFor::url("http://billing:9107/callback?a=b"), SignsFor(vec!["billing".into()]));
        for (destination, is_one, is_all) in [
            ("billing:9107", true, true),
            ("BILLING:9107", true, true),
            ("billing:9108", false, true),
            ("billing", false, true),
            ("billing.attacker.example:9107", false, false),
            ("attacker@billing:9107", false, false),
            ("", false, false),
        ] {
            assert_eq!((one.contains(destination), all.contains(destination)), (is_one, is_all), "{destination}");
        }
        assert!(!SignsFor::url("").contains("") && !SignsFor::url("/callback").contains("billing:9107"));
    }

    #[test]
    fn only_a_decision_of_billing_is_final() {
        for status in [200, 204, 299, 400, 401, 404, 409, 499] {
            assert!(Answer::Http(status).is_final(), "{status}");
        }
        for status in [100, 301, 408, 429, 500, 503, 599] {
            assert!(!Answer::Http(status).is_final(), "{status}");
        }
        for code in [Code::Ok, Code::InvalidArgument, Code::NotFound, Code::AlreadyExists, Code::Unauthenticated] {
            assert!(Answer::Grpc(code).is_final(), "{code:?}");
        }
        for code in [
            Code::Cancelled,
            Code::Unknown,
            Code::DeadlineExceeded,
            Code::ResourceExhausted,
            Code::Internal,
            Code::Unavailable,
        ] {
            assert!(!Answer::Grpc(code).is_final(), "{code:?}");
        }
        assert!(!Answer::Missing("connection refused".into()).is_final());
    }
}

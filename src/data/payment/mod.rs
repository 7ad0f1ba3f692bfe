//! payment-service, over gRPC: one connection, made at the first call and again whenever
//! it was lost. Every call has a deadline, retries included.

mod answer;

use std::time::Duration;

use async_trait::async_trait;
use tokio::time::{Instant, timeout_at};
use tonic::{
    Code, Request, Response, Status,
    metadata::MetadataValue,
    transport::{Channel, Endpoint},
};

use self::proto::{CreatePaymentRequest, GetPaymentRequest, payment_client::PaymentClient};
use crate::biz::{
    recharge::gateway::{NewPayment, OpenedPayment, Payment, PaymentError, PaymentGateway, TraceContext},
    values::ids::{OrderId, UserId},
};

/// The generated messages and services of `proto/payment/v1`.
pub mod proto {
    #![allow(clippy::all, missing_docs, reason = "generated code; what it trips over depends on the generators")]
    tonic::include_proto!("payment.v1");
}

/// Between two attempts at a call that may be repeated, doubling.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
/// Attempts at one call, within its deadline.
const ATTEMPTS: u32 = 3;
/// A connection that stays silent this long after a question whether it lives is given up.
const KEEP_ALIVE: Duration = Duration::from_secs(10);
/// What users read where they pay.
const SUBJECT: &str = "Account top-up";
/// Characters of a refusal that are kept.
const MAX_REASON: usize = 200;
/// Larger than any answer that makes sense.
const MAX_ANSWER: usize = 64 * 1024;

/// How payment-service is reached, and what it is told of every payment.
#[derive(Debug, Clone)]
pub struct GatewaySettings {
    /// `host:port`.
    pub address: String,
    /// Of each call.
    pub timeout: Duration,
    /// Where the user goes afterwards.
    pub return_url: String,
    /// Where results are reported.
    pub notify_url: String,
}

/// A client of payment-service.
pub struct GrpcPaymentGateway {
    client: PaymentClient<Channel>,
    settings: GatewaySettings,
}

impl GrpcPaymentGateway {
    /// Connects at the first call.
    ///
    /// # Errors
    /// An address that is none.
    pub fn new(settings: GatewaySettings) -> Result<Self, tonic::transport::Error> {
        let endpoint = Endpoint::from_shared(format!("http://{}", settings.address))?
            .connect_timeout(settings.timeout)
            .tcp_nodelay(true)
            .http2_keep_alive_interval(KEEP_ALIVE)
            .keep_alive_timeout(KEEP_ALIVE);
        let client = PaymentClient::new(endpoint.connect_lazy()).max_decoding_message_size(MAX_ANSWER);
        Ok(Self { client, settings })
    }

    /// Calls until there is an answer, or an error after which `may_repeat` says no.
    async fn call<M, R, F>(
        &self,
        message: M,
        trace: &TraceContext,
        send: impl Fn(PaymentClient<Channel>, Request<M>) -> F,
        may_repeat: fn(&Status) -> bool,
    ) -> Result<R, Status>
    where
        M: Clone,
        R: Send + 'static,
        F: Future<Output = Result<Response<R>, Status>> + Send + 'static,
    {
        let deadline = Instant::now() + self.settings.timeout;
        let mut pause = FIRST_PAUSE;
        for attempt in 1.. {
            let request = request(message.clone(), trace, deadline.saturating_duration_since(Instant::now()));
            let error = match within(deadline, send(self.client.clone(), request)).await {
                Ok(response) => return Ok(response.into_inner()),
                Err(error) => error,
            };
            if attempt == ATTEMPTS || !may_repeat(&error) || Instant::now() + pause >= deadline {
                return Err(error);
            }
            tokio::time::sleep(pause).await;
            pause *= 2;
        }
        Err(Status::internal("no attempt was made"))
    }
}

#[async_trait]
impl PaymentGateway for GrpcPaymentGateway {
    async fn open(&self, payment: &NewPayment, trace: &TraceContext) -> Result<OpenedPayment, PaymentError> {
        let amount = payment.amount.to_hundredths();
        let message = CreatePaymentRequest {
            order_id: payment.order.to_string(),
            user_id: number_of(&payment.user),
            amount: amount.ok_or_else(|| PaymentError::Refused("the amount is not in hundredths".into()))?,
            currency: payment.currency.clone(),
            method: answer::method(payment.method).into(),
            subject: SUBJECT.into(),
            return_url: self.settings.return_url.clone(),
            notify_url: self.settings.notify_url.clone(),
            client_ip: payment.client_ip.map(|ip| ip.to_string()).unwrap_or_default(),
        };
        // The contract does not say that a repeat finds the first payment.
        let send = |mut client: PaymentClient<_>, request| async move { client.create_payment(request).await };
        let reply = self.call(message, trace, send, was_not_sent).await.map_err(payment_error)?;
        answer::opened(reply)
    }

    async fn payment_of(&self, order: &OrderId, trace: &TraceContext) -> Result<Option<Payment>, PaymentError> {
        let message = GetPaymentRequest { order_id: order.to_string(), payment_id: String::new() };
        let send = |mut client: PaymentClient<_>, request| async move { client.get_payment(request).await };
        match self.call(message, trace, send, is_outage).await {
            Ok(reply) => answer::payment(reply, order).map(Some),
            Err(status) if status.code() == Code::NotFound => Ok(None),
            Err(status) => Err(payment_error(status)),
        }
    }
}

/// The id where it is a number, and no other user's: 007 is not 7.
fn number_of(user: &UserId) -> u64 {
    let number = user.as_str().parse().ok();
    number.filter(|number: &u64| number.to_string() == user.as_str()).unwrap_or(0)
}

fn request<M>(message: M, trace: &TraceContext, timeout: Duration) -> Request<M> {
    let mut request = Request::new(message);
    request.set_timeout(timeout);
    for (name, value) in [("traceparent", &trace.parent), ("tracestate", &trace.state)] {
        // What is no header value can't have come in one.
        if let Some(Ok(value)) = value.as_ref().map(|value| MetadataValue::try_from(value.as_str())) {
            request.metadata_mut().insert(name, value);
        }
    }
    request
}

/// In a task of its own: tonic 0.14 panics at some malformed answers, such as details
/// that are not base64, and that must not take an order down with it.
async fn within<R: Send + 'static>(
    deadline: Instant,
    call: impl Future<Output = Result<R, Status>> + Send + 'static,
) -> Result<R, Status> {
    let mut task = tokio::spawn(call);
    match timeout_at(deadline, &mut task).await {
        Ok(Ok(answer)) => answer,
        Ok(Err(_)) => Err(Status::unknown("the answer can't be read")),
        Err(_) => {
            task.abort();
            Err(Status::deadline_exceeded("no answer in time"))
        }
    }
}

/// Whether there was not even a connection to send it on.
fn was_not_sent(status: &Status) -> bool {
    let mut cause = std::error::Error::source(status);
    while let Some(error) = cause {
        if error.is::<tonic::ConnectError>() {
            return true;
        }
        cause = error.source();
    }
    false
}

/// Whether a question may be answered when it is put again.
fn is_outage(status: &Status) -> bool {
    matches!(status.code(), Code::Unavailable | Code::Cancelled | Code::Aborted) || was_not_sent(status)
}

fn payment_error(status: Status) -> PaymentError {
    let why = format!("{:?}: {}", status.code(), status.message().chars().take(MAX_REASON).collect::<String>());
    match status.code() {
        Code::InvalidArgument
        | Code::NotFound
        | Code::AlreadyExists
        | Code::PermissionDenied
        | Code::Unauthenticated
        | Code::FailedPrecondition
        | Code::OutOfRange
        | Code::Unimplemented => PaymentError::Refused(why),
        Code::Unavailable | Code::DeadlineExceeded | Code::Cancelled | Code::ResourceExhausted | Code::Aborted => {
            PaymentError::Unavailable(why)
        }
        // Of the transport, which names its cause.
        _ if std::error::Error::source(&status).is_some() => PaymentError::Unavailable(why),
        _ => PaymentError::Senseless(why),
    }
}

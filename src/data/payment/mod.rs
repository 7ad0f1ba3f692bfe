//! The client of payment-service, over gRPC. It has one connection, which is opened at the first
//! call and reopened after a loss. Every call has a deadline that includes its retries.

mod answer;
pub mod proto;

use std::time::Duration;

use async_trait::async_trait;
use backon::{ExponentialBuilder, Retryable};
use tokio::time::{Instant, timeout_at};
use tonic::{
    Code, Request, Response, Status,
    metadata::{AsciiMetadataKey, MetadataValue},
    transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity},
};
use tracing::{Instrument, field::Empty};

use self::proto::{
    CreatePaymentRequest, CreateRefundRequest, GetPaymentRequest, GetRefundRequest, payment_client::PaymentClient,
};
use crate::{
    biz::{
        recharge::gateway::{
            CallerContext, FoundRefund, NewPayment, NewRefund, OpenedPayment, Payment, PaymentError, PaymentGateway,
            RefundState,
        },
        values::{
            ids::{OrderId, PaymentId, RefundId, UserId},
            spans::{self, TARGET},
        },
    },
    context::{self, Outgoing},
    data::{
        spans::Address,
        tls::{ClientIdentity, ClientTls},
    },
};

/// Pauses between the attempts of one call, three at most, within its deadline.
const BACKOFF: ExponentialBuilder =
    ExponentialBuilder::new().with_min_delay(Duration::from_millis(100)).with_max_times(2).with_jitter();
/// Interval of HTTP/2 keep-alive pings, and the wait for an answer before the connection is closed.
const KEEP_ALIVE: Duration = Duration::from_secs(10);
/// The title on the pay page.
const SUBJECT: &str = "Account top-up";
/// Characters of a refusal that are kept in the error.
const MAX_REASON: usize = 200;
/// Largest reply in bytes, far above any valid one.
const MAX_ANSWER: usize = 64 * 1024;

/// The address of payment-service, and the URLs of every payment.
#[derive(Debug, Clone)]
pub struct GatewaySettings {
    /// `host:port`.
    pub address: String,
    /// `None` for connections without TLS.
    pub tls: Option<ClientTls>,
    /// Time limit of each call, including retries.
    pub timeout: Duration,
    /// The page to which the user returns.
    pub return_url: String,
    /// The URL that receives the results.
    pub notify_url: String,
}

/// A client of payment-service.
pub struct GrpcPaymentGateway {
    client: PaymentClient<Channel>,
    settings: GatewaySettings,
    server: Address,
}

/// One rpc of payment-service.
#[derive(Clone, Copy)]
struct Rpc {
    name: &'static str,
    /// Whether a call may be sent again after an error.
    may_retry: fn(&Status) -> bool,
}

impl GrpcPaymentGateway {
    /// Creates a client, which connects at the first call.
    ///
    /// # Errors
    /// The address is invalid.
    pub fn new(settings: GatewaySettings) -> Result<Self, tonic::transport::Error> {
        let scheme = if settings.tls.is_some() { "https" } else { "http" };
        let mut endpoint = Endpoint::from_shared(format!("{scheme}://{}", settings.address))?
            .connect_timeout(settings.timeout)
            .tcp_nodelay(true)
            .http2_keep_alive_interval(KEEP_ALIVE)
            .keep_alive_timeout(KEEP_ALIVE);
        if let Some(tls) = &settings.tls {
            endpoint = endpoint.tls_config(tls_config(tls))?;
        }
        let client = PaymentClient::new(endpoint.connect_lazy()).max_decoding_message_size(MAX_ANSWER);
        let (host, port) = settings.address.rsplit_once(':').unwrap_or((&settings.address, ""));
        let server = Address { host: host.to_owned(), port: port.parse().unwrap_or_default() };
        Ok(Self { client, settings, server })
    }

    /// Calls with retries, in a span. An error for which `may_retry` is false is returned at once.
    async fn call<M, R, F>(
        &self,
        message: M,
        trace: &CallerContext,
        send: impl Fn(PaymentClient<Channel>, Request<M>) -> F,
        rpc: Rpc,
    ) -> Result<R, Status>
    where
        M: Clone,
        R: Send + 'static,
        F: Future<Output = Result<Response<R>, Status>> + Send + 'static,
    {
        let span = tracing::info_span!(
            target: TARGET,
            "payment-service",
            "otel.name" = format_args!("payment.v1.Payment/{}", rpc.name),
            "otel.kind" = "client",
            "otel.status_code" = Empty,
            "rpc.system.name" = "grpc",
            "rpc.method" = format_args!("payment.v1.Payment/{}", rpc.name),
            "rpc.response.status_code" = Empty,
            "server.address" = self.server.host,
            "server.port" = self.server.port,
            "error.type" = Empty,
        );
        let answer = self.call_untraced(message, trace, send, rpc).instrument(span.clone()).await;
        let code = answer.as_ref().map_or_else(Status::code, |_| Code::Ok);
        span.record("rpc.response.status_code", name_of(code));
        if code != Code::Ok {
            spans::fail(&span, name_of(code));
        }
        answer
    }

    async fn call_untraced<M, R, F>(
        &self,
        message: M,
        trace: &CallerContext,
        send: impl Fn(PaymentClient<Channel>, Request<M>) -> F,
        rpc: Rpc,
    ) -> Result<R, Status>
    where
        M: Clone,
        R: Send + 'static,
        F: Future<Output = Result<Response<R>, Status>> + Send + 'static,
    {
        let deadline = Instant::now() + self.settings.timeout;
        let attempt = || {
            let request = request(message.clone(), trace, deadline.saturating_duration_since(Instant::now()));
            within(deadline, send(self.client.clone(), request))
        };
        let response = attempt
            .retry(BACKOFF)
            .when(rpc.may_retry)
            .adjust(|_, pause| pause.filter(|pause| Instant::now() + *pause < deadline))
            .await?;
        Ok(response.into_inner())
    }
}

// A retry could open a second payment, so only an unsent call is retried.
const CREATE_PAYMENT: Rpc = Rpc { name: "CreatePayment", may_retry: was_not_sent };
const GET_PAYMENT: Rpc = Rpc { name: "GetPayment", may_retry: is_outage };
// After any other failure the refund is looked up before it is requested again.
const CREATE_REFUND: Rpc = Rpc { name: "CreateRefund", may_retry: was_not_sent };
const GET_REFUND: Rpc = Rpc { name: "GetRefund", may_retry: is_outage };

#[async_trait]
impl PaymentGateway for GrpcPaymentGateway {
    async fn open(&self, payment: &NewPayment, trace: &CallerContext) -> Result<OpenedPayment, PaymentError> {
        let amount = payment.currency.to_minor(payment.amount);
        let message = CreatePaymentRequest {
            order_id: payment.order.to_string(),
            user_id: number_of(&payment.user),
            amount: amount.ok_or_else(|| PaymentError::Refused("the amount is not in minor units".into()))?,
            currency: payment.currency.to_string(),
            method: answer::method(payment.method).into(),
            subject: SUBJECT.into(),
            return_url: payment.return_url.as_ref().unwrap_or(&self.settings.return_url).clone(),
            notify_url: self.settings.notify_url.clone(),
            client_ip: payment.client_ip.map(|ip| ip.to_string()).unwrap_or_default(),
        };
        let send = |mut client: PaymentClient<_>, request| async move { client.create_payment(request).await };
        let reply = self.call(message, trace, send, CREATE_PAYMENT).await.map_err(payment_error)?;
        answer::opened(reply)
    }

    async fn payment_of(&self, order: &OrderId, trace: &CallerContext) -> Result<Option<Payment>, PaymentError> {
        let message = GetPaymentRequest { order_id: order.to_string(), payment_id: String::new() };
        let send = |mut client: PaymentClient<_>, request| async move { client.get_payment(request).await };
        match self.call(message, trace, send, GET_PAYMENT).await {
            Ok(reply) => answer::payment_of(reply, order).map(Some),
            Err(status) if status.code() == Code::NotFound => Ok(None),
            Err(status) => Err(payment_error(status)),
        }
    }

    async fn payment(&self, id: &PaymentId, trace: &CallerContext) -> Result<Option<Payment>, PaymentError> {
        let message = GetPaymentRequest { order_id: String::new(), payment_id: id.to_string() };
        let send = |mut client: PaymentClient<_>, request| async move { client.get_payment(request).await };
        match self.call(message, trace, send, GET_PAYMENT).await {
            Ok(reply) => answer::payment_with(reply, id).map(Some),
            Err(status) if status.code() == Code::NotFound => Ok(None),
            Err(status) => Err(payment_error(status)),
        }
    }

    async fn refund(&self, refund: &NewRefund, trace: &CallerContext) -> Result<RefundState, PaymentError> {
        let message = CreateRefundRequest {
            payment_id: refund.payment.as_ref().map(PaymentId::to_string).unwrap_or_default(),
            order_id: refund.order.to_string(),
            refund_id: refund.id.to_string(),
            amount: refund.minor_amount,
            reason: refund.reason.clone(),
        };
        let send = |mut client: PaymentClient<_>, request| async move { client.create_refund(request).await };
        match self.call(message, trace, send, CREATE_REFUND).await {
            Ok(reply) => answer::refunded(&reply, &refund.id),
            // An earlier call has made it.
            Err(status) if status.code() == Code::AlreadyExists => {
                Err(PaymentError::Unavailable("the refund exists already".into()))
            }
            Err(status) => Err(payment_error(status)),
        }
    }

    async fn refund_of(&self, id: &RefundId, trace: &CallerContext) -> Result<Option<FoundRefund>, PaymentError> {
        let message = GetRefundRequest { refund_id: id.to_string() };
        let send = |mut client: PaymentClient<_>, request| async move { client.get_refund(request).await };
        match self.call(message, trace, send, GET_REFUND).await {
            Ok(reply) => answer::refund(reply, id).map(Some),
            Err(status) if status.code() == Code::NotFound => Ok(None),
            Err(status) => Err(payment_error(status)),
        }
    }
}

fn tls_config(tls: &ClientTls) -> ClientTlsConfig {
    let config = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(&tls.authorities));
    match &tls.identity {
        Some(ClientIdentity { cert, key }) => config.identity(Identity::from_pem(cert, key)),
        None => config,
    }
}

/// The user id as a number; 0 if the number would not print as the same id, such as 007.
fn number_of(user: &UserId) -> u64 {
    let number = user.as_str().parse().ok();
    number.filter(|number: &u64| number.to_string() == user.as_str()).unwrap_or(0)
}

fn request<M>(message: M, trace: &CallerContext, timeout: Duration) -> Request<M> {
    let mut request = Request::new(message);
    request.set_timeout(timeout);
    let (parent, state) = match context::outgoing() {
        Some(Outgoing { parent, state }) => (Some(parent.to_string()), state),
        None => (trace.parent.clone(), trace.state.clone()),
    };
    for (name, value) in [("traceparent", &parent), ("tracestate", &state)] {
        // An invalid value can't have come from a header, so it is left out.
        if let Some(Ok(value)) = value.as_ref().map(|value| MetadataValue::try_from(value.as_str())) {
            request.metadata_mut().insert(name, value);
        }
    }
    for (name, value) in &trace.forwarded {
        let parsed = (AsciiMetadataKey::from_bytes(name.as_bytes()), MetadataValue::try_from(value.as_str()));
        if let (Ok(name), Ok(value)) = parsed {
            request.metadata_mut().insert(name, value);
        }
    }
    request
}

/// Runs a call in a task of its own, because tonic 0.14 panics at some malformed replies, such as
/// details that are not base64. The task contains the panic.
async fn within<R: Send + 'static>(
    deadline: Instant,
    call: impl Future<Output = Result<R, Status>> + Send + 'static,
) -> Result<R, Status> {
    let mut task = tokio::spawn(call);
    match timeout_at(deadline, &mut task).await {
        Ok(Ok(answer)) => answer,
        Ok(Err(_)) => Err(Status::unknown("malformed reply of payment-service")),
        Err(_) => {
            task.abort();
            Err(Status::deadline_exceeded("payment-service did not answer in time"))
        }
    }
}

/// The name of a code, as the conventions of traces write it.
fn name_of(code: Code) -> &'static str {
    match code {
        Code::Ok => "OK",
        Code::Cancelled => "CANCELLED",
        Code::Unknown => "UNKNOWN",
        Code::InvalidArgument => "INVALID_ARGUMENT",
        Code::DeadlineExceeded => "DEADLINE_EXCEEDED",
        Code::NotFound => "NOT_FOUND",
        Code::AlreadyExists => "ALREADY_EXISTS",
        Code::PermissionDenied => "PERMISSION_DENIED",
        Code::ResourceExhausted => "RESOURCE_EXHAUSTED",
        Code::FailedPrecondition => "FAILED_PRECONDITION",
        Code::Aborted => "ABORTED",
        Code::OutOfRange => "OUT_OF_RANGE",
        Code::Unimplemented => "UNIMPLEMENTED",
        Code::Internal => "INTERNAL",
        Code::Unavailable => "UNAVAILABLE",
        Code::DataLoss => "DATA_LOSS",
        Code::Unauthenticated => "UNAUTHENTICATED",
    }
}

/// Whether the call was not sent, because there was no connection.
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

/// Whether a retry of a read may succeed.
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
        // An error with a source comes from the transport.
        _ if std::error::Error::source(&status).is_some() => PaymentError::Unavailable(why),
        _ => PaymentError::Malformed(why),
    }
}

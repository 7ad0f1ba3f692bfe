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

use self::proto::{
    CreatePaymentRequest, CreateRefundRequest, GetPaymentRequest, GetRefundRequest, payment_client::PaymentClient,
};
use crate::{
    biz::{
        recharge::gateway::{
            CallerContext, FoundRefund, NewPayment, NewRefund, OpenedPayment, Payment, PaymentError, PaymentGateway,
            RefundState,
        },
        values::ids::{OrderId, PaymentId, RefundId, UserId},
    },
    data::tls::{ClientIdentity, ClientTls},
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
        Ok(Self { client, settings })
    }

    /// Calls with retries. An error for which `may_retry` is false is returned at once.
    async fn call<M, R, F>(
        &self,
        message: M,
        trace: &CallerContext,
        send: impl Fn(PaymentClient<Channel>, Request<M>) -> F,
        may_retry: fn(&Status) -> bool,
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
            .when(may_retry)
            .adjust(|_, pause| pause.filter(|pause| Instant::now() + *pause < deadline))
            .await?;
        Ok(response.into_inner())
    }
}

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
            return_url: self.settings.return_url.clone(),
            notify_url: self.settings.notify_url.clone(),
            client_ip: payment.client_ip.map(|ip| ip.to_string()).unwrap_or_default(),
        };
        // A retry could open a second payment, so only an unsent call is retried.
        let send = |mut client: PaymentClient<_>, request| async move { client.create_payment(request).await };
        let reply = self.call(message, trace, send, was_not_sent).await.map_err(payment_error)?;
        answer::opened(reply)
    }

    async fn payment_of(&self, order: &OrderId, trace: &CallerContext) -> Result<Option<Payment>, PaymentError> {
        let message = GetPaymentRequest { order_id: order.to_string(), payment_id: String::new() };
        let send = |mut client: PaymentClient<_>, request| async move { client.get_payment(request).await };
        match self.call(message, trace, send, is_outage).await {
            Ok(reply) => answer::payment_of(reply, order).map(Some),
            Err(status) if status.code() == Code::NotFound => Ok(None),
            Err(status) => Err(payment_error(status)),
        }
    }

    async fn payment(&self, id: &PaymentId, trace: &CallerContext) -> Result<Option<Payment>, PaymentError> {
        let message = GetPaymentRequest { order_id: String::new(), payment_id: id.to_string() };
        let send = |mut client: PaymentClient<_>, request| async move { client.get_payment(request).await };
        match self.call(message, trace, send, is_outage).await {
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
        // After any other failure the refund is looked up before it is requested again.
        let send = |mut client: PaymentClient<_>, request| async move { client.create_refund(request).await };
        match self.call(message, trace, send, was_not_sent).await {
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
        match self.call(message, trace, send, is_outage).await {
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
    for (name, value) in [("traceparent", &trace.parent), ("tracestate", &trace.state)] {
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

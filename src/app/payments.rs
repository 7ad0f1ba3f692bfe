//! Connects to payment-service, or in development to the sandbox that replaces it.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use anyhow::{Context, anyhow};

use crate::{
    biz::{
        recharge::{Recharges, Terms, gateway::PaymentGateway},
        settlement::engine::Engine,
        values::calendar::Calendar,
    },
    config::{CallbackAuth, Config, PaymentServiceConfig, Secret},
    data::{
        Store,
        payment::{self, GatewaySettings},
    },
    sandbox::{self, Sandbox, SignsFor},
    server,
    service::{origin::ForwardedNames, routes::CALLBACK_PATH},
};

/// The connection to payment-service and its settings.
pub(super) struct Payments {
    /// The sandbox in this process, if it is configured.
    pub sandbox: Option<Sandbox>,
    /// `None` if payment-service is not configured.
    pub gateway: Option<Arc<dyn PaymentGateway>>,
    /// Deadline of one call.
    pub timeout: Duration,
    pub callback_auth: CallbackAuth,
    pub callback_secrets: Vec<Secret>,
    /// The headers of callers that go on to payment-service.
    pub forwarded: ForwardedNames,
}

/// The address of payment-service, and the URL of our callback.
pub(super) struct Addresses {
    pub service: String,
    pub notify_url: String,
}

impl Addresses {
    pub fn of(payment: &PaymentServiceConfig) -> Self {
        Self { service: payment.grpc_addr.clone(), notify_url: payment.notify_url.clone() }
    }
}

/// Starts the sandbox if it is configured, and a client. `grpc_addr` is the address of our gRPC
/// listener.
///
/// # Errors
/// An address is malformed or in use.
pub(super) async fn start(config: &Config, grpc_addr: SocketAddr) -> anyhow::Result<Payments> {
    let Some(payment) = &config.payment_service else {
        tracing::info!("payment_service is not configured; top-ups are refused");
        return Ok(Payments {
            sandbox: None,
            gateway: None,
            timeout: Duration::ZERO,
            callback_auth: CallbackAuth::Confirm,
            callback_secrets: Vec::new(),
            forwarded: ForwardedNames::default(),
        });
    };
    let callback_auth = payment.callback_auth();
    if callback_auth == CallbackAuth::None {
        tracing::warn!(
            %grpc_addr,
            "payment_service.callback_auth is none: every caller that reaches the callback may credit pending orders"
        );
    }
    let mut at = Addresses::of(payment);
    if at.notify_url.is_empty() {
        let scheme = if config.server.tls.is_some() { "https" } else { "http" };
        at.notify_url = format!("{scheme}://{}{CALLBACK_PATH}", server::reachable(grpc_addr));
        if !payment.sandbox {
            tracing::warn!(
                notify_url = at.notify_url,
                "payment_service.notify_url is empty; callbacks use a local address that only this machine reaches"
            );
        }
    }
    if payment.sandbox && config.server.tls.is_some() {
        tracing::warn!(
            "payment-sandbox speaks no TLS and server.tls is set: its callbacks do not arrive, and reconcile-recharges credits paid orders"
        );
    }
    let sandbox = if payment.sandbox { Some(start_sandbox(payment, &at.notify_url).await?) } else { None };
    if let Some(sandbox) = &sandbox {
        at.service = server::reachable(sandbox.addr).to_string();
    }
    Ok(Payments {
        sandbox,
        gateway: Some(gateway(payment, at)?),
        timeout: payment.timeout,
        callback_auth,
        callback_secrets: payment.callback_secrets.clone(),
        forwarded: ForwardedNames(payment.forward_metadata.clone().into()),
    })
}

async fn start_sandbox(payment: &PaymentServiceConfig, notify_url: &str) -> anyhow::Result<Sandbox> {
    let options = sandbox::Options {
        addr: payment.grpc_addr.clone(),
        secret: payment.callback_secrets.first().cloned(),
        signs_for: SignsFor::url(notify_url),
        ..Default::default()
    };
    let sandbox = Sandbox::start(options).await.context("config key payment_service.grpc_addr")?;
    tracing::warn!(addr = %sandbox.addr, "payment-sandbox replaces payment-service; no money moves");
    Ok(sandbox)
}

pub(super) fn gateway(payment: &PaymentServiceConfig, at: Addresses) -> anyhow::Result<Arc<dyn PaymentGateway>> {
    let settings = GatewaySettings {
        address: at.service,
        tls: payment.client_tls()?,
        timeout: payment.timeout,
        return_url: payment.return_url.clone(),
        notify_url: at.notify_url,
    };
    let client = payment::GrpcPaymentGateway::new(settings);
    Ok(Arc::new(client.map_err(|error| anyhow!("config key payment_service.grpc_addr: {error}"))?))
}

pub(super) fn recharges(
    config: &Config,
    store: Arc<dyn Store>,
    engine: Arc<Engine>,
    calendar: Arc<Calendar>,
    gateway: Option<Arc<dyn PaymentGateway>>,
) -> Recharges {
    let currency = config.billing.currency;
    let terms = Terms {
        currency,
        max_amount: currency.floor(config.billing.max_recharge),
        max_open: config.server.limits.open_recharges as u64,
        payment_timeout: config.payment_service.as_ref().map_or(Duration::ZERO, |payment| payment.timeout),
    };
    Recharges::new(store, engine, calendar, gateway, terms)
}

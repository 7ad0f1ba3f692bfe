//! payment-service, and in development the sandbox that plays it.

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
    sandbox::{self, Sandbox},
    server,
    service::routes::CALLBACK_PATH,
};

/// What the server has of payment-service.
pub(super) struct Payments {
    /// Played in this process.
    pub sandbox: Option<Sandbox>,
    /// `None` where it is not configured.
    pub gateway: Option<Arc<dyn PaymentGateway>>,
    /// Of one call.
    pub timeout: Duration,
    pub callback_auth: CallbackAuth,
    pub callback_secrets: Vec<Secret>,
}

/// Where payment-service is, and where it finds us.
pub(super) struct Addresses {
    pub service: String,
    pub notify_url: String,
}

impl Addresses {
    pub fn of(payment: &PaymentServiceConfig) -> Self {
        Self { service: payment.grpc_addr.clone(), notify_url: payment.notify_url.clone() }
    }
}

/// Starts the sandbox where it is wanted, and a client; `grpc_addr` is where we listen.
///
/// # Errors
/// An address that is none, or is taken.
pub(super) async fn start(config: &Config, grpc_addr: SocketAddr) -> anyhow::Result<Payments> {
    let Some(payment) = &config.payment_service else {
        tracing::info!("payment_service is not configured: top-ups are refused");
        return Ok(Payments {
            sandbox: None,
            gateway: None,
            timeout: Duration::ZERO,
            callback_auth: CallbackAuth::Confirm,
            callback_secrets: Vec::new(),
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
        at.notify_url = format!("http://{}{CALLBACK_PATH}", server::reachable(grpc_addr));
        if !payment.sandbox {
            tracing::warn!(
                notify_url = at.notify_url,
                "payment_service.notify_url is empty: payment-service is told to report where only this machine reaches us"
            );
        }
    }
    let sandbox = if payment.sandbox { Some(start_sandbox(payment).await?) } else { None };
    if let Some(sandbox) = &sandbox {
        at.service = server::reachable(sandbox.addr).to_string();
    }
    Ok(Payments {
        sandbox,
        gateway: Some(gateway(payment, at)?),
        timeout: payment.timeout,
        callback_auth,
        callback_secrets: payment.callback_secrets.clone(),
    })
}

async fn start_sandbox(payment: &PaymentServiceConfig) -> anyhow::Result<Sandbox> {
    let options = sandbox::Options {
        addr: payment.grpc_addr.clone(),
        secret: payment.callback_secrets.first().cloned(),
        ..Default::default()
    };
    let sandbox = Sandbox::start(options).await.context("config key payment_service.grpc_addr")?;
    tracing::warn!(addr = %sandbox.addr, "payment-sandbox plays payment-service: no money moves");
    Ok(sandbox)
}

pub(super) fn gateway(payment: &PaymentServiceConfig, at: Addresses) -> anyhow::Result<Arc<dyn PaymentGateway>> {
    let settings = GatewaySettings {
        address: at.service,
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
    let terms = Terms { currency: config.billing.currency.clone(), max_amount: config.billing.max_recharge };
    Recharges::new(store, engine, calendar, gateway, terms)
}

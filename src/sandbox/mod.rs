//! payment-sandbox: simulates payment-service for development and tests, over its real
//! contract. Payments live in memory, and no money moves.
//!
//! One port serves gRPC (`payment.v1.Payment`) and HTTP:
//! - `/pay/{payment_id}`: the pay page, on which a user pays, and on which money goes back;
//! - `/switches`: the faults to inject;
//! - `/health`.

mod amount;
mod callback;
mod grpc;
mod notify;
mod page;
mod payment;
mod payments;
mod permits;
mod public_url;
mod refund;
mod switch_routes;
mod switches;
mod till;

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Duration,
};

use anyhow::Context;
use axum::{
    Router,
    extract::{DefaultBodyLimit, Request},
    middleware::{self, Next},
    response::{IntoResponse, Response},
    routing::get,
};
use http::{StatusCode, header::CONTENT_TYPE};
use tokio::{net::TcpListener, task::JoinHandle};
use tokio_util::sync::CancellationToken;
use tonic::service::Routes;

use self::{callback::Sender, grpc::Rpcs, notify::Notifier, payments::SandboxPayments, till::Till};
pub use self::{
    callback::{Answer, SignsFor},
    notify::Attempt,
    public_url::PublicUrl,
    switches::{Create, Get, GetRefund, MAX_DELAY_MS, MAX_DUPLICATES, PayAtOnce, Refund, Switches},
};
use crate::{config::Secret, data::payment::proto::payment_server::PaymentServer, server};

/// The default listen address, which is that of payment-service.
pub const DEFAULT_ADDR: &str = "127.0.0.1:9101";

const MAX_PAYMENTS: usize = 100_000;
const MAX_CONNECTIONS: usize = 10_000;
const MAX_BODY_BYTES: usize = 64 * 1024;
/// Time limit of a request: the longest delay that the switches allow, and 10 seconds to answer.
const REQUEST_DEADLINE: Duration = Duration::from_millis(MAX_DELAY_MS + 10_000);
/// Time that open requests have to finish at shutdown. Short, because nothing here is durable.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(1);

#[derive(Debug, Clone)]
pub struct Options {
    /// `host:port`; port 0 takes a free one.
    pub addr: String,
    /// Signs the callbacks; `None`: callbacks are unsigned.
    pub secret: Option<Secret>,
    /// The destinations of signed callbacks; all others get unsigned ones.
    pub signs_for: SignsFor,
    pub switches: Switches,
    /// Base URL of pay pages for the user's browser. `None`: the listen address.
    pub public_url: Option<PublicUrl>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            addr: DEFAULT_ADDR.into(),
            secret: None,
            signs_for: SignsFor::default(),
            switches: Switches::default(),
            public_url: None,
        }
    }
}

/// A running sandbox.
pub struct Sandbox {
    pub addr: SocketAddr,
    till: Arc<Till>,
    stop: CancellationToken,
    listener: JoinHandle<()>,
}

impl Sandbox {
    /// Listens on `options.addr`.
    ///
    /// # Errors
    /// The address is invalid or already in use.
    pub async fn start(options: Options) -> anyhow::Result<Self> {
        let Options { addr, secret, signs_for, switches, public_url } = options;
        let listener =
            TcpListener::bind(&addr).await.with_context(|| format!("payment-sandbox can't listen on {addr}"))?;
        let addr = listener.local_addr()?;
        let stop = CancellationToken::new();
        let notifier = Arc::new(Notifier::new(Sender::new(secret, signs_for), stop.clone()));
        notifier.set_reorder(switches.reorder);
        let till = Arc::new(Till {
            payments: SandboxPayments::new(MAX_PAYMENTS),
            notifier,
            switches: Mutex::new(switches),
            public_url: public_url.unwrap_or_else(|| PublicUrl::local(addr)),
        });
        let limits =
            server::ListenerLimits { connections: MAX_CONNECTIONS, drain_timeout: DRAIN_TIMEOUT, ..Default::default() };
        let listener = tokio::spawn(server::serve(listener, routes(till.clone()), limits, stop.clone()));
        tracing::info!(%addr, "payment-sandbox serving");
        Ok(Self { addr, till, stop, listener })
    }

    pub fn switches(&self) -> Switches {
        self.till.switches()
    }

    /// Replaces all switches. Those of callbacks act on callbacks that are queued later.
    /// Switching `reorder` off sends the callbacks that it holds back.
    pub fn set_switches(&self, switches: Switches) {
        self.till.set_switches(switches);
    }

    /// The last 10,000 callback attempts, oldest first.
    pub fn callbacks(&self) -> Vec<Attempt> {
        self.till.notifier.log()
    }

    /// Completes when every callback has been answered, dropped or given up. A callback is given
    /// up after 2,000 attempts or 6 hours.
    pub async fn idle(&self) {
        self.till.notifier.idle().await;
    }

    /// Stops at once. Callbacks without an answer are lost.
    pub async fn stop(self) {
        self.stop.cancel();
        if let Err(error) = self.listener.await {
            tracing::error!(%error, "sandbox listener ended abnormally");
        }
        self.till.notifier.idle().await;
    }
}

fn routes(till: Arc<Till>) -> Router {
    let rpcs = PaymentServer::new(Rpcs(till.clone())).max_decoding_message_size(MAX_BODY_BYTES);
    Routes::new(rpcs)
        .into_axum_router()
        .reset_fallback()
        .merge(page::routes().merge(switch_routes::routes()).with_state(till))
        .route("/health", get(health))
        .layer(DefaultBodyLimit::max(MAX_BODY_BYTES))
        .layer(middleware::from_fn(in_time))
}

async fn health() -> impl IntoResponse {
    ([(CONTENT_TYPE, "application/json")], r#"{"status":"UP","service":"payment-sandbox"}"#)
}

async fn in_time(request: Request, next: Next) -> Response {
    tokio::time::timeout(REQUEST_DEADLINE, next.run(request))
        .await
        .unwrap_or_else(|_| StatusCode::SERVICE_UNAVAILABLE.into_response())
}

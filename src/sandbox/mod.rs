//! payment-sandbox: plays payment-service for development and tests, over its real
//! contract. Payments live in memory, and no money moves.
//!
//! One port speaks gRPC (`payment.v1.Payment`) and HTTP: `/pay/{payment_id}`, the page on
//! which a payment is paid; `/switches`, what goes wrong on purpose; `/health`.

mod callback;
mod grpc;
mod notify;
mod page;
mod payment;
mod payments;
mod permits;
mod public_url;
mod switches;

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
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

pub use self::{
    callback::Answer,
    notify::Attempt,
    public_url::PublicUrl,
    switches::{Create, Get, MAX_DELAY_MS, MAX_DUPLICATES, PayAtOnce, Switches},
};
use self::{
    callback::{Callback, Sender},
    grpc::Rpcs,
    notify::Notifier,
    payment::{PaymentOutcome, SandboxOrder, SandboxPayment},
    payments::{SandboxPayments, Tried},
};
use crate::{config::Secret, data::payment::proto::payment_server::PaymentServer, server};

/// Where payment-service listens when nothing else is said.
pub const DEFAULT_ADDR: &str = "127.0.0.1:9101";

const MAX_PAYMENTS: usize = 100_000;
const MAX_CONNECTIONS: usize = 10_000;
const MAX_BODY_BYTES: usize = 64 * 1024;
/// Of a request: the longest delay that the switches make, and some time to answer.
const REQUEST_DEADLINE: Duration = Duration::from_millis(MAX_DELAY_MS + 10_000);
/// What is still open after it is abandoned: there is nothing to lose.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(1);

#[derive(Debug, Clone)]
pub struct Options {
    /// `host:port`; port 0 takes a free one.
    pub addr: String,
    /// Callbacks are signed with it; `None`: unsigned.
    pub secret: Option<Secret>,
    pub switches: Switches,
    /// The base of pay pages, as the user's browser reaches them. `None`: the address
    /// that is listened on.
    pub public_url: Option<PublicUrl>,
}

impl Default for Options {
    fn default() -> Self {
        Self { addr: DEFAULT_ADDR.into(), secret: None, switches: Switches::default(), public_url: None }
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
    /// Listens.
    ///
    /// # Errors
    /// The address is taken or none.
    pub async fn start(options: Options) -> anyhow::Result<Self> {
        let Options { addr, secret, switches, public_url } = options;
        let listener =
            TcpListener::bind(&addr).await.with_context(|| format!("payment-sandbox can't listen on {addr}"))?;
        let addr = listener.local_addr()?;
        let stop = CancellationToken::new();
        let notifier = Arc::new(Notifier::new(Sender::new(secret), stop.clone()));
        notifier.set_reorder(switches.reorder);
        let till = Arc::new(Till {
            payments: SandboxPayments::new(MAX_PAYMENTS),
            notifier,
            switches: Mutex::new(switches),
            public_url: public_url.unwrap_or_else(|| PublicUrl::local(addr)),
        });
        let limits = server::ListenerLimits {
            connections: MAX_CONNECTIONS,
            drain_timeout: DRAIN_TIMEOUT,
            connection_window: None,
        };
        let listener = tokio::spawn(server::serve(listener, routes(till.clone()), limits, stop.clone()));
        tracing::info!(%addr, "payment-sandbox serving");
        Ok(Self { addr, till, stop, listener })
    }

    pub fn switches(&self) -> Switches {
        self.till.switches()
    }

    /// Replaces all of them, for callbacks that are queued from now on. Without `reorder`
    /// those that are held back go out.
    pub fn set_switches(&self, switches: Switches) {
        self.till.set_switches(switches);
    }

    /// The latest attempts to call back, the oldest first; 10,000 at most.
    pub fn callbacks(&self) -> Vec<Attempt> {
        self.till.notifier.log()
    }

    /// Completes when every callback has been answered, lost or given up, the last of which
    /// takes 2,000 attempts or 6 hours.
    pub async fn idle(&self) {
        self.till.notifier.idle().await;
    }

    /// Stops at once; callbacks that are not answered yet are lost.
    pub async fn stop(self) {
        self.stop.cancel();
        if let Err(error) = self.listener.await {
            tracing::error!(%error, "the sandbox's listener ended abnormally");
        }
        self.till.notifier.idle().await;
    }
}

/// Where payments are opened and paid.
struct Till {
    payments: SandboxPayments,
    notifier: Arc<Notifier>,
    switches: Mutex<Switches>,
    public_url: PublicUrl,
}

impl Till {
    /// `None` where the order has a payment.
    fn open(&self, order: SandboxOrder) -> Option<SandboxPayment> {
        let payment = self.payments.open(order)?;
        tracing::info!(order_id = payment.order.id, payment_id = payment.id, "payment opened");
        if let Some(outcome) = self.switches().pay_at_once.outcome() {
            self.pay(&payment.id, outcome);
        }
        Some(payment)
    }

    /// Pays, or fails to, and tells billing.
    fn pay(&self, id: &str, outcome: PaymentOutcome) -> Tried {
        let tried = self.payments.pay(id, outcome);
        if let Tried::Counts(payment) = &tried {
            tracing::info!(order_id = payment.order.id, payment_id = id, outcome = outcome.as_str(), "payment tried");
            let switches = self.switches();
            self.notifier.queue(Callback::new(payment, outcome, &switches), &switches);
        }
        tried
    }

    fn pay_url(&self, id: &str) -> String {
        format!("{}/pay/{id}", self.public_url)
    }

    fn switches(&self) -> Switches {
        *self.switches.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set_switches(&self, switches: Switches) {
        let mut now = self.switches.lock().unwrap_or_else(PoisonError::into_inner);
        *now = switches;
        // Under the lock: of two changes at once, the same one must be the last there.
        self.notifier.set_reorder(switches.reorder);
        drop(now);
        tracing::info!(?switches, "switches changed");
    }
}

fn routes(till: Arc<Till>) -> Router {
    let rpcs = PaymentServer::new(Rpcs(till.clone())).max_decoding_message_size(MAX_BODY_BYTES);
    Routes::new(rpcs)
        .into_axum_router()
        .reset_fallback()
        .merge(page::routes().merge(switches::routes()).with_state(till))
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

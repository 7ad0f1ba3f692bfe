//! The two ports. They are bound early, so that a taken address stops the start, and served when
//! all parts behind them run.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use anyhow::Context;
use tokio::{
    net::{TcpListener, TcpSocket, lookup_host},
    task::JoinHandle,
};
use tokio_util::sync::CancellationToken;
use tonic_health::{ServingStatus, server::HealthReporter};

use super::{core::Core, payments::Payments};
use crate::{
    config::{Config, ConsoleConfig, FrontEndAuth, Secret, Server, ServerTls},
    console::{Console, Port, Sessions, Settings},
    server::{
        self, Access, CallbackGuard, Consoles, Listener, ListenerLimits, Ops, Parts, Tls, TlsFiles,
        access::{Callers, CrossSite, FrontEnd, KeySource, Refusals},
    },
    service::{Api, json::UnknownPolicy, origin::Forwarding, rest::Rest},
};

pub(super) struct Ports {
    http: TcpListener,
    grpc: TcpListener,
    tls: Option<Tls>,
    /// The connections that each port can have.
    connections: usize,
    pub http_addr: SocketAddr,
    pub grpc_addr: SocketAddr,
}

/// The ports in service.
pub(super) struct Served {
    pub health: HealthReporter,
    pub listeners: Vec<JoinHandle<()>>,
}

impl Ports {
    /// # Errors
    /// An address is invalid or taken, or a file of TLS is unusable.
    pub async fn bind(config: &Server, connections: usize, stop: CancellationToken) -> anyhow::Result<Self> {
        let tls = config.tls.as_ref().map(|tls| Tls::start(tls_files(tls), stop)).transpose()?;
        let queue = config.limits.accept_queue;
        let http = listen("server.http.addr", &config.http.addr, queue).await?;
        let grpc = listen("server.grpc.addr", &config.grpc.addr, queue).await?;
        let (http_addr, grpc_addr) = (http.local_addr()?, grpc.local_addr()?);
        Ok(Self { http, grpc, tls, connections, http_addr, grpc_addr })
    }

    /// Serves until the server stops.
    ///
    /// # Errors
    /// Reflection can't read the descriptors, which only a defect can cause.
    pub async fn serve(self, config: &Config, core: &Core, api: Api, payments: &Payments) -> anyhow::Result<Served> {
        let Self { http, grpc, tls, connections, http_addr, grpc_addr } = self;
        let server = &config.server;
        warn_of_open_doors(config, core);
        let (health, health_service) = server::grpc_health();
        server::report_health(&health, ServingStatus::Serving).await;
        let access = access(server, core).await?;
        let api = Arc::new(api);
        let console = consoles(config, core, &api)?;
        let parts = Parts { console, ..parts(server, core, api, payments, access) };
        let public = server::public_app(parts.clone());
        let internal = server::internal_app(parts, health_service)?;
        let limits = limits(server, connections);
        let (asks_users, asks_callers) = (server.http.auth.mode() != FrontEndAuth::None, server.has_callers());
        let unproven = |asks: bool| asks.then_some(unproven_connections(server, connections));
        let metering = ListenerLimits {
            connection_window: Some(server::METERING_WINDOW),
            unproven_connections: unproven(asks_callers),
            ..limits
        };
        let limits = ListenerLimits { unproven_connections: unproven(asks_users), ..limits };
        let (is_tls, forwarding) = (tls.is_some(), Forwarding::new(&server.trusted_proxies));
        let metrics = |port| Some((core.metrics.connections.clone(), port));
        let http =
            Listener { socket: http, app: public, limits, tls: tls.clone(), metrics: metrics("http"), forwarding };
        // The callers of this port prove themselves, and one that shares its connection answers for it.
        let forwarding = Forwarding::default();
        let grpc =
            Listener { socket: grpc, app: internal, limits: metering, tls, metrics: metrics("grpc"), forwarding };
        let listeners = vec![tokio::spawn(http.serve(core.stop.clone())), tokio::spawn(grpc.serve(core.stop.clone()))];
        tracing::info!(%http_addr, %grpc_addr, tls = is_tls, "serving");
        Ok(Served { health, listeners })
    }
}

fn limits(config: &Server, connections: usize) -> ListenerLimits {
    let limits = &config.limits;
    let connections_per_address = match limits.connections_per_address {
        // No single address can fill a port.
        0 => connections.div_ceil(2),
        configured => configured,
    };
    ListenerLimits {
        connections,
        connections_per_address,
        unproven_connections: None,
        idle_timeout: limits.idle_timeout,
        write_timeout: limits.write_timeout,
        max_connection_age: limits.max_connection_age,
        refused_calls: limits.refused_calls,
        refusal_pause: limits.refusal_pause,
        held_refusals: limits.held_refusals,
        held_refusals_per_connection: limits.held_refusals_per_connection,
        drain_timeout: limits.drain_timeout,
        connection_window: None,
    }
}

/// The connections of a port that peers without a proof may have.
fn unproven_connections(config: &Server, connections: usize) -> usize {
    match config.limits.unproven_connections {
        0 => connections.div_ceil(2),
        configured => configured,
    }
}

fn tls_files(tls: &ServerTls) -> TlsFiles {
    TlsFiles { cert: tls.cert_file.clone(), key: tls.key_file.clone(), client_ca: tls.client_ca_file.clone() }
}

/// The consoles, if they are enabled.
///
/// # Errors
/// The key of sessions is not usable.
fn consoles(config: &Config, core: &Core, api: &Arc<Api>) -> anyhow::Result<Option<Consoles>> {
    let ConsoleConfig { enabled, url, key, idle_timeout, max_age, demo_user, .. } = &config.console;
    if !enabled {
        return Ok(None);
    }
    let server = &config.server;
    let (users_sign_in, callers_sign_in) = (server.http.auth.mode() == FrontEndAuth::Jwt, server.has_callers());
    if (users_sign_in || callers_sign_in) && key.is_none() {
        tracing::info!("console.key is not set; sessions of the console end with this process");
    }
    let console = |port, purpose, signs_in, demo_user: &str| {
        let settings = Settings {
            port,
            signs_in,
            demo_user: demo_user.to_owned(),
            url: Some(url.clone()).filter(|url| !url.is_empty()),
            knows_hosts: port == Port::Public && !server.http.hosts.is_empty(),
            currency: config.billing.currency.to_string(),
            thresholds: config.low_thresholds(),
            is_tls: server.tls.is_some(),
            forwarding: Forwarding::new(&server.trusted_proxies),
        };
        let sessions = Sessions::new(key.as_ref().map(Secret::reveal), purpose, *idle_timeout, *max_age)?;
        let (api, calendar) = (api.clone(), core.calendar.clone());
        anyhow::Ok(Console { api, sessions: Arc::new(sessions), calendar, settings: Arc::new(settings) })
    };
    Ok(Some(Consoles {
        public: console(Port::Public, "users", users_sign_in, demo_user)?,
        internal: console(Port::Internal, "operators", callers_sign_in, "")?,
    }))
}

fn parts<'c>(config: &'c Server, core: &Core, api: Arc<Api>, payments: &Payments, access: Access) -> Parts<'c> {
    Parts {
        config,
        rest: Rest {
            api,
            style: config.http.style,
            unknown: UnknownPolicy::new(config.http.unknown_fields, core.metrics.clone()),
        },
        ops: Ops {
            store: core.store.clone(),
            metrics: core.metrics.clone(),
            rates: core.rates.clone(),
            redis: core.redis.clone(),
            engine: core.engine.clone(),
            was_ready: Arc::new(true.into()),
            pinged: Arc::default(),
            rendered: Arc::default(),
            metrics_interval: config.limits.metrics_interval,
        },
        sight: core.sight.clone(),
        callbacks: CallbackGuard {
            auth: payments.callback_auth,
            secrets: payments.callback_secrets.clone().into(),
            calendar: core.calendar.clone(),
            metrics: core.metrics.clone(),
            lines: Arc::default(),
        },
        access,
        console: None,
        payment_timeout: payments.timeout,
        forwarded: payments.forwarded.clone(),
    }
}

/// The checks of callers, and the task that keeps the keys of the issuer current.
///
/// # Errors
/// The keys or the secret of the tokens are not usable.
async fn access(config: &Server, core: &Core) -> anyhow::Result<Access> {
    let refusals = Arc::new(Refusals::new(core.metrics.clone()));
    let forwarding = Forwarding::new(&config.trusted_proxies);
    let callers = Arc::new(Callers::new(config, refusals.clone()));
    let keys = match (&config.http.auth.jwt, config.http.auth.mode()) {
        (Some(jwt), FrontEndAuth::Jwt) => KeySource::open(jwt).await?,
        _ => None,
    };
    if let Some(keys) = keys.clone() {
        tokio::spawn(keys.keep(core.stop.clone()));
    }
    let cross_site = CrossSite::new(&config.http, forwarding.clone(), refusals.clone());
    let front_end = FrontEnd::new(config, keys, callers.clone(), forwarding.clone(), refusals)?;
    Ok(Access { callers, front_end, cross_site, forwarding })
}

/// Interval of the warnings about open doors in production.
const INSECURE_INTERVAL: Duration = Duration::from_secs(60);

/// Names each open door at the start, and again each minute if `server.insecure` allows them.
fn warn_of_open_doors(config: &Config, core: &Core) {
    let open = config.open_doors();
    for (key, danger) in &open {
        tracing::warn!("{key} {danger}");
    }
    if !config.server.insecure {
        return;
    }
    core.metrics.requests.set_insecure();
    let keys = open.iter().map(|(key, _)| *key).collect::<Vec<_>>().join(", ");
    let tell = move || tracing::warn!(%keys, "server.insecure is true: open doors are allowed");
    tokio::spawn(remind(core.stop.clone(), tell));
}

/// Tells at once and each minute, until `stop`.
async fn remind(stop: CancellationToken, tell: impl Fn()) {
    let mut interval = tokio::time::interval(INSECURE_INTERVAL);
    loop {
        tokio::select! {
            _ = interval.tick() => tell(),
            () = stop.cancelled() => return,
        }
    }
}

/// Listens on the first usable address of a name. `queue` connections wait to be accepted.
async fn listen(key: &str, addr: &str, queue: usize) -> anyhow::Result<TcpListener> {
    let bound = async {
        let mut failed = io::Error::from(io::ErrorKind::AddrNotAvailable);
        for addr in lookup_host(addr).await? {
            match bind(addr, queue) {
                Ok(listener) => return Ok(listener),
                Err(error) => failed = error,
            }
        }
        Err(failed)
    };
    bound.await.with_context(|| format!("config key {key}: can't listen on {addr}"))
}

/// As [`TcpListener::bind`], whose queue is too short for many callers that connect at once.
fn bind(addr: SocketAddr, queue: usize) -> io::Result<TcpListener> {
    let socket = if addr.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    // A server that starts again takes the address while connections of its predecessor end.
    socket.set_reuseaddr(true)?;
    socket.bind(addr)?;
    socket.listen(u32::try_from(queue).unwrap_or(u32::MAX))
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering::SeqCst};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn open_doors_are_logged_at_once_and_each_minute_until_the_stop() {
        let (stop, logged) = (CancellationToken::new(), Arc::<AtomicU32>::default());
        let counter = logged.clone();
        let reminding = tokio::spawn(remind(stop.clone(), move || {
            counter.fetch_add(1, SeqCst);
        }));
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert_eq!(logged.load(SeqCst), 1);
        tokio::time::sleep(Duration::from_secs(120)).await;
        assert_eq!(logged.load(SeqCst), 3);
        stop.cancel();
        reminding.await.unwrap();
    }
}

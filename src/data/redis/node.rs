//! One server, connected while it answers.
//!
//! The entries of a server are current only if it has received every update. A restarted server
//! may have loaded an old snapshot. A replica that became the master may lack the last writes.
//! Both have a new run id. The marker, a key in the server, holds the run id that its entries
//! belong to. If the marker differs from the run id, or if this process used another run before,
//! all entries are dropped before any is read.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock},
    time::Duration,
};

use backon::{BackoffBuilder, ExponentialBuilder};
use redis::{
    AsyncConnectionConfig, Client, ClientTlsConfig, ConnectionAddr, ConnectionInfo, IntoConnectionInfo,
    ProtocolVersion, TlsCertificates, Value, aio::MultiplexedConnection, io::tcp::TcpSettings,
};
use tokio::{
    sync::Notify,
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;

use super::{
    RedisSettings,
    keys::{self, Keys},
    link::{Lateness, Link},
};
use crate::{
    biz::values::error::StoreError,
    data::tls::{ClientIdentity, ClientTls},
};

/// Pauses between two attempts to connect. The attempts never end.
const BACKOFF: ExponentialBuilder = ExponentialBuilder::new()
    .with_min_delay(Duration::from_millis(50))
    .with_max_delay(Duration::from_millis(700))
    .without_max_times()
    .with_jitter();
/// Interval of the health checks.
const PULSE: Duration = Duration::from_millis(500);
/// Time limit of emptying a server. It scans all keys, including those of other services.
const PURGE_TIMEOUT: Duration = Duration::from_secs(600);
/// Keys scanned, and dropped, per round trip.
const SCAN_COUNT: usize = 1_000;

/// The location of a server.
#[derive(Debug, Clone)]
pub(super) enum Location {
    /// `host:port`.
    Fixed(String),
    /// The master of this name, whose address the sentinels know.
    Sentinel { sentinels: Vec<String>, master: String },
}

/// The role of a server in the deployment.
pub(super) struct Role {
    pub marker: String,
    /// Whether another server had its slots before, so that its last writes may be missing.
    pub takes_over: bool,
    /// Notified when a server has lost its entries.
    pub cold: Arc<Notify>,
}

pub(super) struct Node {
    location: Location,
    settings: Arc<RedisSettings>,
    keys: Keys,
    marker: RwLock<String>,
    link: RwLock<Option<Arc<Link>>>,
    last_run: Mutex<Option<String>>,
    lateness: Arc<Lateness>,
    /// Notified when this process finds that a server has lost its entries.
    cold: Arc<Notify>,
    stop: CancellationToken,
}

impl Node {
    /// Starts to connect in the background, until `stop`.
    pub fn start(location: Location, settings: Arc<RedisSettings>, role: Role, stop: CancellationToken) -> Arc<Self> {
        let Role { marker, takes_over, cold } = role;
        let node = Arc::new(Self {
            location,
            keys: Keys::of(settings.database),
            settings,
            marker: RwLock::new(marker),
            link: RwLock::default(),
            // No run has an empty id, so the first run counts as a new one.
            last_run: Mutex::new(takes_over.then(String::new)),
            lateness: Arc::default(),
            cold,
            stop,
        });
        tokio::spawn({
            let node = node.clone();
            async move { node.stop.clone().run_until_cancelled(node.keep_connected()).await }
        });
        node
    }

    /// The configured address; empty for a master behind sentinels.
    pub fn address(&self) -> &str {
        match &self.location {
            Location::Fixed(address) => address,
            Location::Sentinel { .. } => "",
        }
    }

    pub fn stop(&self) {
        self.stop.cancel();
    }

    /// The connection, unless it has failed.
    pub fn link(&self) -> Result<Arc<Link>, StoreError> {
        let link = self.link.read().unwrap_or_else(PoisonError::into_inner).clone();
        link.filter(|link| !link.has_ended()).ok_or_else(|| StoreError::Unavailable("redis is not connected".into()))
    }

    /// Sets the marker after slots have moved.
    pub fn set_marker(&self, marker: String) {
        *self.marker.write().unwrap_or_else(PoisonError::into_inner) = marker;
    }

    fn marker(&self) -> String {
        self.marker.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn last_run(&self) -> MutexGuard<'_, Option<String>> {
        self.last_run.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn keep_connected(&self) {
        let (mut pauses, mut last_error) = (BACKOFF.build(), String::new());
        loop {
            match self.connect().await {
                Ok(link) => {
                    tracing::info!(location = ?self.location, "connected to redis");
                    let link = Arc::new(link);
                    *self.link.write().unwrap_or_else(PoisonError::into_inner) = Some(link.clone());
                    let why = self.watch(&link).await;
                    link.end();
                    *self.link.write().unwrap_or_else(PoisonError::into_inner) = None;
                    tracing::warn!(location = ?self.location, why, "redis unavailable; reading from the database");
                    (pauses, last_error) = (BACKOFF.build(), String::new());
                }
                Err(error) => {
                    let error = error.to_string();
                    if error == last_error {
                        tracing::debug!(location = ?self.location, error, "redis not usable; retrying");
                    } else {
                        tracing::warn!(location = ?self.location, error, "redis not usable; retrying");
                    }
                    last_error = error;
                    sleep(pauses.next().unwrap_or(PULSE)).await;
                }
            }
        }
    }

    /// Connects, and drops all entries if they may be stale.
    async fn connect(&self) -> Result<Link, StoreError> {
        let budget = self.settings.write_timeout;
        let address = match &self.location {
            Location::Fixed(address) => address.clone(),
            Location::Sentinel { sentinels, master } => self.ask_sentinels(sentinels, master).await?,
        };
        let connection = timeout(budget * 2, open(&address, &self.settings, true)).await;
        let connection = connection.map_err(|_| unavailable("redis did not accept a connection in time"))??;
        let info = Link::new(connection.clone(), address.clone(), String::new(), self.lateness.clone());
        let run = run_of(&info, budget).await?;
        let link = Link::new(connection, address, run.clone(), self.lateness.clone());
        link.load_scripts(budget).await.map_err(|(_, error)| error)?;

        let marker = self.marker();
        prove_writable(&link, &marker, budget).await?;
        let marked = call(&link, redis::cmd("GET").arg(&marker), budget).await?;
        let used = self.last_run().clone();
        if text(&marked).as_deref() != Some(&*run) || used.is_some_and(|used| used != run) {
            if !self.settings.keeps {
                return Err(unavailable(
                    "redis entries may be stale; start a billing server, which empties and marks redis",
                ));
            }
            timeout(PURGE_TIMEOUT, purge(&link, &self.keys, budget))
                .await
                .map_err(|_| unavailable("redis was not emptied in time"))??;
            call(&link, redis::cmd("SET").arg(&marker).arg(&run), budget).await?;
            // Several processes may empty the server, one after another process has warmed it, so
            // each of them warms it again.
            self.cold.notify_one();
        }
        *self.last_run() = Some(run);
        Ok(link)
    }

    /// Checks the health of a link until it fails, and returns the reason.
    async fn watch(&self, link: &Link) -> &'static str {
        let budget = self.settings.write_timeout;
        loop {
            tokio::select! {
                () = link.ended() => return "a command got no answer",
                () = sleep(PULSE) => {}
            }
            // A replaced master takes up to ten seconds to notice, so the sentinels are asked.
            if let Location::Sentinel { sentinels, master } = &self.location
                && self.ask_sentinels(sentinels, master).await.is_ok_and(|address| address != link.address)
            {
                return "another server is the master";
            }
            let marker = self.marker();
            if prove_writable(link, &marker, budget).await.is_err() {
                return "the server refuses writes";
            }
            let Ok(marked) = call(link, redis::cmd("GET").arg(&marker), budget).await else {
                return "the health check got no answer";
            };
            match text(&marked) {
                Some(run) if run == link.run => {}
                Some(_) => return "the marker belongs to another run",
                None if !self.settings.keeps => return "the server was emptied",
                None => {
                    let mark = redis::cmd("SET").arg(&marker).arg(&link.run).arg("GET").to_owned();
                    match call(link, &mark, budget).await.map(|before| text(&before)) {
                        Ok(None) => {
                            tracing::warn!(location = ?self.location, "redis has lost its entries; loading them again");
                            self.cold.notify_one();
                        }
                        Ok(Some(_)) => {}
                        Err(_) => return "the health check got no answer",
                    }
                }
            }
        }
    }

    async fn ask_sentinels(&self, sentinels: &[String], master: &str) -> Result<String, StoreError> {
        let budget = self.settings.write_timeout;
        let ask = redis::cmd("SENTINEL").arg("GET-MASTER-ADDR-BY-NAME").arg(master).to_owned();
        for sentinel in sentinels {
            // Each sentinel has its own time limit, so that a silent one does not block the next.
            let asked = timeout(budget, async {
                let mut connection = open(sentinel, &self.settings, false).await?;
                connection.send_packed_command(&ask).await.map_err(|error| unavailable(error.to_string()))
            });
            if let Ok(Ok(Value::Array(address))) = asked.await
                && let [host, port] = &address[..]
                && let (Some(host), Some(port)) = (text(host), text(port))
            {
                return Ok(format!("{host}:{port}"));
            }
        }
        Err(unavailable(format!("no sentinel knows the master {master}; check data.redis")))
    }
}

/// Opens a connection. `is_data` is false for a sentinel, which has no logical databases and its
/// own users.
pub(super) async fn open(
    address: &str,
    settings: &RedisSettings,
    is_data: bool,
) -> Result<MultiplexedConnection, StoreError> {
    let (host, port) = address.rsplit_once(':').ok_or_else(|| unavailable("a redis address has no valid port"))?;
    let port = port.parse().map_err(|_| unavailable("a redis address has no valid port"))?;
    let host = host.trim_matches(['[', ']']).to_owned();
    let address = match settings.tls {
        None => ConnectionAddr::Tcp(host, port),
        Some(_) => ConnectionAddr::TcpTls { host, port, insecure: false, tls_params: None },
    };
    let info: ConnectionInfo = address.into_connection_info().map_err(|error| unavailable(error.to_string()))?;
    let mut login = info.redis_settings().clone().set_protocol(ProtocolVersion::RESP2).set_skip_set_lib_name();
    if is_data {
        login = login.set_db(settings.db);
        if let Some(username) = &settings.username {
            login = login.set_username(username);
        }
        if let Some(password) = &settings.password {
            login = login.set_password(password);
        }
    }
    // Without nodelay, a small command waits for the acknowledgement of the one before.
    let info = info.set_redis_settings(login).set_tcp_settings(TcpSettings::default().set_nodelay(true));
    // Callers set the deadlines.
    let config = AsyncConnectionConfig::new().set_connection_timeout(None).set_response_timeout(None);
    let client = match &settings.tls {
        None => Client::open(info),
        Some(tls) => Client::build_with_tls(info, certificates(tls)),
    };
    let client = client.map_err(|error| unavailable(error.to_string()))?;
    client.get_multiplexed_async_connection_with_config(&config).await.map_err(|error| unavailable(error.to_string()))
}

fn certificates(tls: &ClientTls) -> TlsCertificates {
    let identity = |identity: &ClientIdentity| ClientTlsConfig {
        client_cert: identity.cert.clone(),
        client_key: identity.key.clone(),
    };
    TlsCertificates { client_tls: tls.identity.as_ref().map(identity), root_cert: Some(tls.authorities.clone()) }
}

/// The run id of a master.
async fn run_of(link: &Link, budget: Duration) -> Result<String, StoreError> {
    let info = call(link, redis::cmd("INFO").arg("server").arg("replication"), budget).await?;
    let info = text(&info).unwrap_or_default();
    let line = |name: &str| info.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
    if line("role:") != Some("master") {
        return Err(unavailable("the server is not a master"));
    }
    line("run_id:").map(str::to_owned).ok_or_else(|| unavailable("the server reports no run_id"))
}

/// Checks that entries can be dropped; otherwise stale entries would stay readable. A server may
/// answer reads and refuse writes, for example with a full disk or too few replicas.
async fn prove_writable(link: &Link, marker: &str, budget: Duration) -> Result<(), StoreError> {
    call(link, redis::cmd("UNLINK").arg(keys::absent_key_beside(marker)), budget).await.map(|_| ())
}

/// Drops all entries of this database, and the fences of all its loads in flight. Entries that
/// other processes store in the meantime may be dropped too, and are loaded again.
pub(super) async fn purge(link: &Link, keys: &Keys, budget: Duration) -> Result<(), StoreError> {
    // Fences first: a load that began earlier has stored its entry by then, or never does.
    drop_all(link, &keys.fences(), |key| keys.is_fence(key), budget).await?;
    drop_all(link, &keys.hashes(), |key| keys.is_hash(key), budget).await
}

async fn drop_all(
    link: &Link,
    pattern: &str,
    is_one: impl Fn(&str) -> bool,
    budget: Duration,
) -> Result<(), StoreError> {
    let mut cursor = "0".to_owned();
    loop {
        let (next, mut found) = scan(link, pattern, &cursor, budget).await?;
        found.retain(|key| is_one(key));
        let mut drop = redis::pipe();
        for key in &found {
            drop.cmd("UNLINK").arg(key);
        }
        if !found.is_empty() {
            let answers = link.call_all(&drop, budget.max(Duration::from_secs(1))).await?;
            if let Some(refused) = answers.iter().find(|answer| matches!(answer, Value::ServerError(_))) {
                return Err(unavailable(format!("redis was not emptied: {refused:?}")));
            }
        }
        if next == "0" {
            return Ok(());
        }
        cursor = next;
    }
}

/// One SCAN page: the next cursor ("0" at the end), and the keys that match the pattern.
pub(super) async fn scan(
    link: &Link,
    pattern: &str,
    cursor: &str,
    budget: Duration,
) -> Result<(String, Vec<String>), StoreError> {
    let mut scan = redis::cmd("SCAN");
    scan.arg(cursor).arg("MATCH").arg(pattern).arg("COUNT").arg(SCAN_COUNT);
    match call(link, &scan, budget).await? {
        Value::Array(answer) => match &answer[..] {
            [next, Value::Array(found)] => {
                Ok((text(next).unwrap_or_else(|| "0".into()), found.iter().filter_map(text).collect()))
            }
            _ => Err(unavailable("malformed SCAN reply")),
        },
        _ => Err(unavailable("malformed SCAN reply")),
    }
}

async fn call(link: &Link, command: &redis::Cmd, budget: Duration) -> Result<Value, StoreError> {
    link.call(command, budget).await.map_err(|(_, error)| error)
}

pub(super) fn text(value: &Value) -> Option<String> {
    match value {
        Value::BulkString(bytes) => String::from_utf8(bytes.clone()).ok(),
        Value::SimpleString(text) => Some(text.clone()),
        Value::Int(number) => Some(number.to_string()),
        _ => None,
    }
}

pub(super) fn unavailable(why: impl Into<String>) -> StoreError {
    StoreError::Unavailable(why.into().into())
}

//! One server, connected for as long as it answers.
//!
//! What is in a server is true only if nobody missed to tell it anything. A server that was
//! restarted may have an older state than it had, from a snapshot; one that took over from
//! another may lack its last writes. Both show as another run: each run that serves bears
//! the id of the run whose entries are in it, its marker. Where that is not its own, or
//! where this process used another run before, all entries go before any is read.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock},
    time::Duration,
};

use redis::{
    AsyncConnectionConfig, Client, ConnectionAddr, ConnectionInfo, IntoConnectionInfo, ProtocolVersion, Value,
    aio::MultiplexedConnection, io::tcp::TcpSettings,
};
use tokio::{
    sync::Notify,
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;

use super::{
    Settings,
    keys::{self, Keys},
    link::{Lateness, Link},
};
use crate::biz::values::error::StoreError;

/// Between two attempts to connect, doubling from the first to the longest.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);
/// How often a server is asked whether it is there and has its entries.
const PULSE: Duration = Duration::from_millis(500);
/// How long it may take to empty a server: all its keys are looked at, those of others too.
const PURGE_TIMEOUT: Duration = Duration::from_secs(600);
/// Keys that are looked at, and dropped, at once.
const SCAN_COUNT: usize = 1_000;

/// Where a server is.
#[derive(Debug, Clone)]
pub(super) enum Location {
    /// Host and port.
    Fixed(String),
    /// The master of this name, as these sentinels have it.
    Sentinel { sentinels: Vec<String>, master: String },
}

/// The part of a server in what there is.
pub(super) struct Part {
    pub marker: String,
    /// Whether another server had its slots before: its last writes may be missing.
    pub takes_over: bool,
    /// Told whenever a server has lost its entries.
    pub cold: Arc<Notify>,
}

pub(super) struct Node {
    location: Location,
    settings: Arc<Settings>,
    keys: Keys,
    marker: RwLock<String>,
    link: RwLock<Option<Arc<Link>>>,
    last_run: Mutex<Option<String>>,
    lateness: Arc<Lateness>,
    /// Told whenever this process finds that a server has lost its entries.
    cold: Arc<Notify>,
    stop: CancellationToken,
}

impl Node {
    /// Connects, and stays connected until it is dropped or `stop`.
    pub fn start(location: Location, settings: Arc<Settings>, part: Part, stop: CancellationToken) -> Arc<Self> {
        let Part { marker, takes_over, cold } = part;
        let node = Arc::new(Self {
            location,
            keys: Keys::of(settings.database),
            settings,
            marker: RwLock::new(marker),
            link: RwLock::default(),
            // No run has this id, so that the first one counts as another.
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

    /// As it was configured; that of a master behind sentinels is not known here.
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
        link.filter(|link| !link.has_ended()).ok_or_else(|| StoreError::Unavailable("not connected to redis".into()))
    }

    /// Names the marker anew, after slots have moved.
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
        let (mut pause, mut last_error) = (FIRST_PAUSE, String::new());
        loop {
            match self.connect().await {
                Ok(link) => {
                    tracing::info!(location = ?self.location, "connected to redis");
                    let link = Arc::new(link);
                    *self.link.write().unwrap_or_else(PoisonError::into_inner) = Some(link.clone());
                    let why = self.watch(&link).await;
                    link.end();
                    *self.link.write().unwrap_or_else(PoisonError::into_inner) = None;
                    tracing::warn!(location = ?self.location, why, "redis does not answer; the database does");
                    (pause, last_error) = (FIRST_PAUSE, String::new());
                }
                Err(error) => {
                    let error = error.to_string();
                    if error == last_error {
                        tracing::debug!(location = ?self.location, error, "redis can't be used");
                    } else {
                        tracing::warn!(location = ?self.location, error, "redis can't be used");
                    }
                    last_error = error;
                    sleep(pause).await;
                    pause = (pause * 2).min(LONGEST_PAUSE);
                }
            }
        }
    }

    /// A link to a server whose entries are true.
    async fn connect(&self) -> Result<Link, StoreError> {
        let budget = self.settings.write_timeout;
        let address = match &self.location {
            Location::Fixed(address) => address.clone(),
            Location::Sentinel { sentinels, master } => self.ask_sentinels(sentinels, master).await?,
        };
        let connection = timeout(budget * 2, open(&address, &self.settings, true)).await;
        let connection = connection.map_err(|_| unavailable("no connection in time"))??;
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
                return Err(unavailable("its entries are not known to be true; a server has to see to it"));
            }
            timeout(PURGE_TIMEOUT, purge(&link, &self.keys, budget))
                .await
                .map_err(|_| unavailable("not emptied in time"))??;
            call(&link, redis::cmd("SET").arg(&marker).arg(&run), budget).await?;
            // Others may have emptied it too, after the first of them warmed it.
            self.cold.notify_one();
        }
        *self.last_run() = Some(run);
        Ok(link)
    }

    /// Returns why a link can't be used any more.
    async fn watch(&self, link: &Link) -> &'static str {
        let budget = self.settings.write_timeout;
        loop {
            tokio::select! {
                () = link.ended() => return "a command had no answer",
                () = sleep(PULSE) => {}
            }
            // A master that was replaced takes it for ten seconds that it still is one.
            if let Location::Sentinel { sentinels, master } = &self.location
                && self.ask_sentinels(sentinels, master).await.is_ok_and(|address| address != link.address)
            {
                return "another is the master";
            }
            let marker = self.marker();
            if prove_writable(link, &marker, budget).await.is_err() {
                return "it takes no changes";
            }
            let Ok(marked) = call(link, redis::cmd("GET").arg(&marker), budget).await else {
                return "it was asked and did not answer";
            };
            match text(&marked) {
                Some(run) if run == link.run => {}
                Some(_) => return "its entries were replaced",
                None if !self.settings.keeps => return "it was emptied",
                None => {
                    let mark = redis::cmd("SET").arg(&marker).arg(&link.run).arg("GET").to_owned();
                    match call(link, &mark, budget).await.map(|before| text(&before)) {
                        Ok(None) => {
                            tracing::warn!(location = ?self.location, "redis was emptied");
                            self.cold.notify_one();
                        }
                        Ok(Some(_)) => {}
                        Err(_) => return "it was asked and did not answer",
                    }
                }
            }
        }
    }

    async fn ask_sentinels(&self, sentinels: &[String], master: &str) -> Result<String, StoreError> {
        let budget = self.settings.write_timeout;
        let ask = redis::cmd("SENTINEL").arg("GET-MASTER-ADDR-BY-NAME").arg(master).to_owned();
        for sentinel in sentinels {
            // One that does not answer must not keep the next from being asked.
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
        Err(unavailable(format!("no sentinel knows the master {master}")))
    }
}

/// Opens a connection. Sentinels have no logical databases, and their own users.
pub(super) async fn open(
    address: &str,
    settings: &Settings,
    is_data: bool,
) -> Result<MultiplexedConnection, StoreError> {
    let (host, port) = address.rsplit_once(':').ok_or_else(|| unavailable("an address without a port"))?;
    let port = port.parse().map_err(|_| unavailable("an address without a port"))?;
    let address = ConnectionAddr::Tcp(host.trim_matches(['[', ']']).to_owned(), port);
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
    // Else small commands wait for the acknowledgement of those before.
    let info = info.set_redis_settings(login).set_tcp_settings(TcpSettings::default().set_nodelay(true));
    // Deadlines are set by who calls.
    let config = AsyncConnectionConfig::new().set_connection_timeout(None).set_response_timeout(None);
    let client = Client::open(info).map_err(|error| unavailable(error.to_string()))?;
    client.get_multiplexed_async_connection_with_config(&config).await.map_err(|error| unavailable(error.to_string()))
}

/// The id of the run, of a master.
async fn run_of(link: &Link, budget: Duration) -> Result<String, StoreError> {
    let info = call(link, redis::cmd("INFO").arg("server").arg("replication"), budget).await?;
    let info = text(&info).unwrap_or_default();
    let line = |name: &str| info.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
    if line("role:") != Some("master") {
        return Err(unavailable("it is no master"));
    }
    line("run_id:").map(str::to_owned).ok_or_else(|| unavailable("it does not tell its run"))
}

/// That entries can be dropped: otherwise what is read may be old, and nobody could help
/// it. A server may answer and take no changes, as with a full disk or too few replicas.
async fn prove_writable(link: &Link, marker: &str, budget: Duration) -> Result<(), StoreError> {
    call(link, redis::cmd("UNLINK").arg(keys::nothing_beside(marker)), budget).await.map(|_| ())
}

/// Drops every entry and every load under way, those of this database alone. What others store meanwhile may go too, and
/// is loaded again.
pub(super) async fn purge(link: &Link, keys: &Keys, budget: Duration) -> Result<(), StoreError> {
    // Fences first: a load that began before stores its entry until then, or never.
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
                return Err(unavailable(format!("not emptied: {refused:?}")));
            }
        }
        if next == "0" {
            return Ok(());
        }
        cursor = next;
    }
}

/// Some keys that match a pattern, and where to go on; the end is at "0".
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
            _ => Err(unavailable("a scan without sense")),
        },
        _ => Err(unavailable("a scan without sense")),
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
    StoreError::Unavailable(why.into())
}

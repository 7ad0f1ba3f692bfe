//! The databases, servers, users and connections of a run.

use std::{
    cell::{Cell, OnceCell},
    collections::BTreeMap,
    ffi::OsStr,
    path::PathBuf,
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use anyhow::{Context, ensure};
use billing_service::service::proto::{
    AdjustBalanceRequest, SetAlertsRequest, billing_internal_service_client::BillingInternalServiceClient,
};
use serde_json::Value;
use tokio::task::{JoinSet, spawn_blocking};
use tonic::{
    Status,
    transport::{Channel, ClientTlsConfig, Endpoint},
};

use crate::{
    collector,
    durability::{MariaDbSettings, connect, mariadb_settings},
    fleet::Servers,
    mariadb::OwnServer,
    operation::{timed, user},
    redis::Redis,
    scenario::{Plan, System, USERS},
    scratch::Scratch,
    secured,
    supervised::Supervised,
    usage::Processes,
};

/// HTTP/2 connections to each server; callers share them.
const CHANNELS: usize = 8;
/// Concurrent calls that prepare the users.
const CALLERS: usize = 200;
/// The balance of every user at the start. A run can't spend it all.
const CREDIT: u32 = 1_000_000;
/// Time limit of an audit, for the command `timeout`.
const AUDIT_SECONDS: &str = "600";

/// A server under test, with its database and Redis.
pub struct Target {
    pub processes: Processes,
    channels: Vec<Channel>,
    pub conf: Option<PathBuf>,
    /// `data.database.source`.
    pub source: String,
    _server: Supervised,
}

impl Target {
    /// The connection of a caller.
    pub fn channel(&self, caller: usize) -> Channel {
        self.channels[caller % self.channels.len()].clone()
    }

    /// Runs `cron --once audit` on the database, and returns its output. `None` for the baseline,
    /// whose books can't be audited.
    ///
    /// # Errors
    /// The audit finds differences, or fails.
    pub async fn audit(&self) -> anyhow::Result<Option<String>> {
        let Some(conf) = self.conf.clone() else { return Ok(None) };
        let audit = move || {
            let cron = env!("CARGO_BIN_EXE_cron");
            Command::new("timeout").args([AUDIT_SECONDS, cron, "--once", "audit", "-conf"]).arg(conf).output()
        };
        let output = spawn_blocking(audit).await?.context("starting cron")?;
        let printed = String::from_utf8_lossy(&output.stdout).trim().to_owned();
        let errors = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "the audit failed ({}): {printed}\n{errors}", output.status);
        Ok(Some(printed))
    }
}

pub struct World {
    pub targets: BTreeMap<System, Arc<Target>>,
    /// Further servers on MariaDB.
    pub servers: Option<Servers>,
    /// The settings of MariaDB, if it runs.
    pub mariadb: Option<MariaDbSettings>,
    _redis: Option<Redis>,
    _mariadb: Option<OwnServer>,
}

impl World {
    /// Starts the databases and servers that `plan` needs.
    ///
    /// # Errors
    /// A process does not start, or MariaDB does not sync its commits.
    pub async fn start(plan: &Plan, scratch: &Scratch) -> anyhow::Result<Self> {
        let mut world = Self { targets: BTreeMap::new(), servers: None, mariadb: None, _redis: None, _mariadb: None };
        if plan.scenarios.iter().any(|scenario| scenario.system != System::Sqlite) {
            eprintln!("starting MariaDB");
            let mariadb = OwnServer::start().await;
            let source = mariadb.create_database().await;
            world.mariadb = Some(mariadb_settings(&source).await?);
            let folder = scratch.folder("redis")?;
            let redis = spawn_blocking(move || Redis::start(&folder)).await??;
            if plan.needs(System::Mysql) {
                let target = start_server(System::Mysql, (source, Some((mariadb.pid(), &redis))), scratch).await?;
                world.servers = Some(Servers::of(&target)?);
                world.targets.insert(System::Mysql, Arc::new(target));
            }
            let variants = [System::Secured, System::Telemetry, System::Alerts].into_iter();
            for system in variants.filter(|system| plan.needs(*system)) {
                let source = mariadb.create_database().await;
                let target = start_server(system, (source, Some((mariadb.pid(), &redis))), scratch).await?;
                world.targets.insert(system, Arc::new(target));
            }
            if plan.needs(System::Baseline) {
                let source = mariadb.create_database().await;
                let target = start_baseline(source, mariadb.pid(), &redis).await?;
                world.targets.insert(System::Baseline, Arc::new(target));
            }
            if plan.needs(System::Limiter) {
                let target = start_limiter(&redis).await?;
                world.targets.insert(System::Limiter, Arc::new(target));
            }
            world._redis = Some(redis);
            world._mariadb = Some(mariadb);
        }
        if plan.needs(System::Sqlite) {
            let source = scratch.folder("sqlite")?.join("billing.db").display().to_string();
            let target = start_server(System::Sqlite, (source, None), scratch).await?;
            world.targets.insert(System::Sqlite, Arc::new(target));
        }
        Ok(world)
    }
}

/// Starts the service on a database, and credits every user.
async fn start_server(
    system: System,
    (source, servers): (String, Option<(u32, &Redis)>),
    scratch: &Scratch,
) -> anyhow::Result<Target> {
    eprintln!("starting the server on {}", system.name());
    let conf = scratch.path().join(format!("{}.yaml", system.name()));
    let (server, tls) = match system {
        System::Secured => {
            let (server, tls) = secured::prepare(scratch.path())?;
            (server, Some(tls))
        }
        _ => ("  grpc: {addr: '127.0.0.1:0', timeout: 30s}\n".into(), None),
    };
    let driver = if servers.is_some() { "mysql" } else { "sqlite" };
    let mut text = configuration(&server, driver, &source, servers.map(|(_, redis)| redis));
    if system == System::Telemetry {
        text.push_str(&format!("telemetry: {{otlp_endpoint: '{}', sample_ratio: 0.01}}\n", collector::start().await?));
    }
    std::fs::write(&conf, text)?;
    let command: Vec<&OsStr> = vec![OsStr::new(env!("CARGO_BIN_EXE_server")), OsStr::new("-conf"), conf.as_os_str()];
    let (server, channels) = start_process(&command, false, tls).await?;
    eprintln!("crediting {USERS} users");
    of_each_user(&channels, credit).await.context("crediting users")?;
    if system == System::Alerts {
        eprintln!("setting the alerts of {USERS} users");
        of_each_user(&channels, set_alerts).await.context("setting alerts")?;
    }
    let (database, redis) = servers.map(|(database, redis)| (database, redis.pid())).unzip();
    let processes = Processes { servers: vec![server.pid()], database, redis };
    Ok(Target { processes, channels, conf: Some(conf), source, _server: server })
}

/// The configuration of a deployment, with free ports, and with long timeouts, so that slow answers
/// are measured and not cut.
fn configuration(server: &str, driver: &str, source: &str, redis: Option<&Redis>) -> String {
    let redis = redis.map_or_else(String::new, |redis| format!("  redis: {{addr: '{}'}}\n", redis.addr()));
    format!(
        r#"server:
  http: {{addr: '127.0.0.1:0', timeout: 30s}}
{server}data:
  database: {{driver: {driver}, source: '{source}'}}
{redis}billing:
  prices: {{passport: 0.01, payment: 0.10, asset: 0.05}}
  free_quotas: {{passport: 10000, payment: 1000, asset: 1000}}
  model_services: {{chat: tokens, rag: calls}}
  models:
    gpt-4.1: {{input: 15, output: 60}}
    flat: {{input: 0.02, cached_input: 0.01, output: 0.1}}
    tiered:
      input: 0.02
      cached_input: 0.01
      cache_write: 0.03
      cache_write_1h: 0.04
      audio_input: 0.05
      output: 0.1
      reasoning: 0.11
      audio_output: 0.12
      request: 0.00001
      image: 0.00002
      tiers:
        - {{above_input_tokens: 128000, input: 0.03, cached_input: 0.02, cache_write: 0.04, output: 0.2, reasoning: 0.21}}
        - {{above_input_tokens: 200000, input: 0.04, cached_input: 0.03, cache_write: 0.05, output: 0.3, reasoning: 0.31}}
        - {{above_input_tokens: 500000, input: 0.05, cached_input: 0.04, cache_write: 0.06, output: 0.4, reasoning: 0.41}}
log: {{level: info, format: json}}
"#
    )
}

/// Creates the tables of the legacy service with all users, and starts the baseline on them.
async fn start_baseline(source: String, database: u32, redis: &Redis) -> anyhow::Result<Target> {
    eprintln!("starting the baseline");
    let mut connection = connect(&source).await?;
    sqlx::raw_sql(include_str!("../../migrations/mysql/0001_existing_tables.sql")).execute(&mut connection).await?;
    sqlx::raw_sql(include_str!("baseline/users.sql")).execute(&mut connection).await?;
    let this = std::env::current_exe()?;
    let url = redis.url();
    let command: Vec<&OsStr> = vec![
        this.as_os_str(),
        OsStr::new("--baseline-server"),
        OsStr::new(&source),
        OsStr::new("--baseline-redis"),
        OsStr::new(&url),
    ];
    let (server, channels) = start_process(&command, false, None).await?;
    let processes = Processes { servers: vec![server.pid()], database: Some(database), redis: Some(redis.pid()) };
    Ok(Target { processes, channels, conf: None, source, _server: server })
}

/// Starts the rate limiter.
async fn start_limiter(redis: &Redis) -> anyhow::Result<Target> {
    eprintln!("starting the rate limiter");
    let (this, url) = (std::env::current_exe()?, redis.url());
    let command = [this.as_os_str(), OsStr::new("--baseline-redis"), OsStr::new(&url)];
    let (server, channels) = start_process(&command, false, None).await?;
    let processes = Processes { servers: vec![server.pid()], database: None, redis: Some(redis.pid()) };
    Ok(Target { processes, channels, conf: None, source: String::new(), _server: server })
}

/// Starts a server that logs its address, and connects to it. `is_warm`: waits until it has read the
/// accounts in use into its caches, which takes the database some seconds. `tls`: the trust in its certificate.
pub async fn start_process(
    command: &[&OsStr],
    is_warm: bool,
    tls: Option<ClientTlsConfig>,
) -> anyhow::Result<(Supervised, Vec<Channel>)> {
    let command: Vec<_> = command.iter().map(|&part| part.to_owned()).collect();
    let start = move || {
        let command: Vec<&OsStr> = command.iter().map(AsRef::as_ref).collect();
        let (address, warmed) = (OnceCell::new(), Cell::new(!is_warm));
        Supervised::start(&command, |line| {
            let line: Value = serde_json::from_str(line).ok()?;
            let fields = line.get("fields")?;
            match fields["message"].as_str() {
                Some("serving") => drop(address.set(fields["grpc_addr"].as_str()?.to_owned())),
                Some("caches warmed") => warmed.set(true),
                _ => {}
            }
            address.get().filter(|_| warmed.get()).cloned()
        })
    };
    let (server, address) = spawn_blocking(start).await??;
    let scheme = if tls.is_some() { "https" } else { "http" };
    let mut endpoint = Endpoint::from_shared(format!("{scheme}://{address}"))?;
    endpoint = endpoint.tcp_nodelay(true).connect_timeout(Duration::from_secs(10));
    if let Some(tls) = tls {
        endpoint = endpoint.tls_config(tls)?;
    }
    let mut channels = Vec::new();
    for _ in 0..CHANNELS {
        channels.push(endpoint.connect().await?);
    }
    Ok((server, channels))
}

type Client = BillingInternalServiceClient<Channel>;

/// Makes a call for every user.
async fn of_each_user<F>(channels: &[Channel], call: fn(Client, String) -> F) -> anyhow::Result<()>
where
    F: Future<Output = Result<(), Status>> + Send + 'static,
{
    let next = Arc::new(AtomicU32::new(0));
    let mut callers = JoinSet::new();
    for caller in 0..CALLERS {
        let next = next.clone();
        let client = Client::new(channels[caller % channels.len()].clone());
        callers.spawn(async move {
            loop {
                let number = next.fetch_add(1, Ordering::Relaxed);
                if number >= USERS {
                    return Ok(());
                }
                call(client.clone(), user(number)).await?;
            }
        });
    }
    let all: Result<Vec<()>, Status> = callers.join_all().await.into_iter().collect();
    Ok(all.map(drop)?)
}

/// Credits a user, which opens the account.
async fn credit(mut client: Client, user_id: String) -> Result<(), Status> {
    let request = AdjustBalanceRequest {
        user_id,
        amount: f64::from(CREDIT),
        reason: "load benchmark".into(),
        adjustment_id: "load-benchmark".into(),
        ..Default::default()
    };
    client.adjust_balance(timed(request)).await.map(drop)
}

/// Sets as many thresholds as a user may have. The charges of a run reach a few of the quotas.
async fn set_alerts(mut client: Client, user_id: String) -> Result<(), Status> {
    let balance_below = (1..=10).map(|part| f64::from(CREDIT / 20 * part)).collect();
    let quota_percent = (1..=10).map(|part| 10 * part).collect();
    let request = SetAlertsRequest { user_id, balance_below, quota_percent, ..Default::default() };
    client.set_alerts(timed(request)).await.map(drop)
}

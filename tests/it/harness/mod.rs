//! Starts the service on a private database, and calls it.

pub mod abandon;
pub mod books;
pub mod browser;
pub mod caller;
pub mod collector;
pub mod contract;
pub mod galera;
pub mod load;
pub mod lock;
pub mod mariadb;
pub mod payments;
pub mod private_server;
pub mod process;
pub mod progress;
pub mod redis;
mod tables;
mod template;
pub mod tls;
pub mod wait;

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    path::PathBuf,
    sync::{
        Arc, Mutex,
        atomic::{AtomicI64, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use billing_service::{
    app::{self, App},
    biz::{
        jobs::audit::{self, AuditReport, Sources},
        values::calendar::Clock,
    },
    config::Config,
    service::proto::{
        AdjustBalanceRequest, CheckQuotaReply, CheckQuotaRequest, DeductQuotaReply, DeductQuotaRequest,
        GetAccountReply, GetAccountRequest, ListRecordsReply, ListRecordsRequest,
        billing_internal_service_client::BillingInternalServiceClient, billing_service_client::BillingServiceClient,
    },
};
use chrono::{DateTime, TimeDelta, Utc};
use http::{HeaderValue, header::CONTENT_TYPE};
use serde_json::Value;
use sqlx::Row;
use tonic::{Code, Status, transport::Channel};
use tonic_types::StatusExt;

pub use self::Backend::{MySql, Sqlite};

/// The supported databases. Most tests run on both.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Backend {
    MySql,
    Sqlite,
}

/// A private database of one test, and its configuration.
pub struct Database {
    pub backend: Backend,
    /// `data.database.source`.
    pub source: String,
    /// The shared cache of its servers. Only MySQL has one, as in production.
    pub redis: Option<redis::RedisDatabase>,
    /// The currency and the zone of the last configuration, if they differ from the defaults.
    identity: Mutex<BTreeMap<String, String>>,
    folder: tempfile::TempDir,
}

impl Database {
    /// Has the tables of this release.
    pub async fn create(backend: Backend) -> Self {
        match backend {
            MySql => Self { redis: Some(redis::shared().await), ..Self::on(template::database().await) },
            Sqlite => {
                let new = Self::empty(Sqlite).await;
                template::fill(&new).await;
                new
            }
        }
    }

    /// A database without tables.
    pub async fn empty(backend: Backend) -> Self {
        match backend {
            MySql => Self { redis: Some(redis::shared().await), ..Self::on(mariadb::create_database().await) },
            Sqlite => {
                let (identity, folder) = (Mutex::default(), tempfile::tempdir().unwrap());
                let source = folder.path().join("billing.db").display().to_string();
                Self { backend, source, redis: None, identity, folder }
            }
        }
    }

    /// A database on a private server of the test.
    pub fn on(source: String) -> Self {
        let (identity, folder) = (Mutex::default(), tempfile::tempdir().unwrap());
        Self { backend: MySql, source, redis: None, identity, folder }
    }

    /// Writes a configuration file with the prices and quotas of the contract, free ports, and
    /// `changes` by dotted keys.
    pub fn config_file(&self, changes: &[(&str, &str)]) -> PathBuf {
        static FILES: AtomicU64 = AtomicU64::new(0);
        let driver = match self.backend {
            MySql => "mysql",
            Sqlite => "sqlite",
        };
        let mut yaml = format!(
            "data: {{database: {{driver: {driver}, source: '{}', max_connections: 8, acquire_timeout: 6s}}}}\n\
             server.http: {{addr: '127.0.0.1:0', timeout: 20s}}\n\
             server.grpc: {{addr: '127.0.0.1:0', timeout: 20s}}\n\
             server.limits: {{recharges_per_user: 1000, recharges_per_address: 1000, open_recharges: 1000}}\n\
             server.limits.metrics_interval: 0.000001s\n\
             billing.settlement: {{max_wait: 20s}}\n\
             billing.prices: {{passport: 0.01, payment: 0.10, asset: 0.05}}\n\
             billing.free_quotas: {{passport: 10000, payment: 1000, asset: 1000}}\n\
             log: {{level: info, format: json}}\n",
            self.source
        );
        if let Some(redis::RedisDatabase { addr, db }) = &self.redis {
            // Long enough for a busy machine that runs all tests at once.
            writeln!(
                yaml,
                "data.redis: {{addr: '{addr}', db: {db}, read_timeout: 5s, write_timeout: 5s, check_timeout: 5s}}"
            )
            .unwrap();
        }
        for (key, value) in changes {
            if ["billing.currency", "billing.timezone"].contains(key) {
                self.identity.lock().unwrap().insert(key.to_string(), value.to_string());
            }
            writeln!(yaml, "{key}: {value}").unwrap();
        }
        let number = FILES.fetch_add(1, Ordering::Relaxed);
        let path = self.folder.path().join(format!("config-{number}.yaml"));
        std::fs::write(&path, nest(&yaml)).unwrap();
        path
    }

    pub fn config(&self, changes: &[(&str, &str)]) -> Config {
        Config::load(&self.config_file(changes)).unwrap()
    }

    /// Runs the whole audit, like `cron --once audit --full`.
    pub async fn audit(&self) -> AuditReport {
        let identity = self.identity.lock().unwrap().clone();
        let identity: Vec<_> = identity.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect();
        let config = self.config(&identity);
        let store = app::connect(&config).await.unwrap();
        let calendar = config.calendar(TestClock::real());
        let report = audit::audit(Sources::new(&*store, &calendar), &progress::Unwatched).await.unwrap();
        store.close().await;
        report
    }

    pub async fn assert_audit_is_clean(&self) {
        let report = self.audit().await;
        assert!(report.differences.is_empty(), "{:#?}", report.differences);
    }

    /// Runs a statement directly on the database, without the service.
    pub async fn execute(&self, sql: &str) {
        let sql = sqlx::AssertSqlSafe(sql.to_owned());
        match self.backend {
            MySql => {
                let mut connection = self.mysql().await;
                sqlx::raw_sql(sql).execute(&mut connection).await.unwrap();
            }
            Sqlite => {
                let mut connection = self.sqlite().await;
                sqlx::raw_sql(sql).execute(&mut connection).await.unwrap();
            }
        }
    }

    /// The prefix of all its keys in Redis.
    pub async fn cache_prefix(&self) -> String {
        format!("billing:{}:", self.identity().await[0])
    }

    /// Its stored id, currency and time zone.
    pub async fn identity(&self) -> [String; 3] {
        let read = "SELECT id, currency, time_zone FROM database_identity";
        match self.backend {
            MySql => {
                let row = sqlx::query(read).fetch_one(&mut self.mysql().await).await.unwrap();
                [0, 1, 2].map(|column| String::from_utf8(row.get::<Vec<u8>, _>(column)).unwrap())
            }
            Sqlite => {
                let row = sqlx::query(read).fetch_one(&mut self.sqlite().await).await.unwrap();
                [0, 1, 2].map(|column| row.get(column))
            }
        }
    }

    pub async fn mysql(&self) -> sqlx::MySqlConnection {
        use sqlx::Connection;
        let options = billing_service::data::dsn::mysql(&self.source).unwrap();
        sqlx::MySqlConnection::connect_with(&options).await.unwrap()
    }

    pub async fn sqlite(&self) -> sqlx::SqliteConnection {
        use sqlx::Connection;
        let options = billing_service::data::dsn::sqlite(&self.source).unwrap();
        sqlx::SqliteConnection::connect_with(&options).await.unwrap()
    }
}

/// Turns dotted top-level keys of YAML into nested mappings. Later keys win.
fn nest(yaml: &str) -> String {
    let mut root = serde_json::Map::new();
    for line in yaml.lines() {
        let (path, value) = line.split_once(": ").unwrap();
        let value: Value = flow_value(value);
        let mut at = &mut root;
        let mut parts: Vec<&str> = path.split('.').collect();
        let last = parts.pop().unwrap();
        for part in parts {
            at = at.entry(part).or_insert_with(|| Value::Object(Default::default())).as_object_mut().unwrap();
        }
        at.insert(last.to_owned(), value);
    }
    serde_json::to_string(&root).unwrap()
}

/// Parses a flow-style YAML value with the config crate.
fn flow_value(value: &str) -> Value {
    config::Config::builder()
        .add_source(config::File::from_str(&format!("value: {value}"), config::FileFormat::Yaml))
        .build()
        .unwrap()
        .get("value")
        .unwrap()
}

/// A running service with clients for it.
pub struct Service {
    pub database: Database,
    pub app: App,
    pub clock: TestClock,
    pub http: reqwest::Client,
    pub public: BillingServiceClient<Channel>,
    pub internal: BillingInternalServiceClient<Channel>,
}

impl Service {
    pub async fn start(backend: Backend) -> Self {
        Self::start_with(backend, &[]).await
    }

    pub async fn start_with(backend: Backend, changes: &[(&str, &str)]) -> Self {
        Self::start_on(Database::create(backend).await, changes).await
    }

    pub async fn start_on(database: Database, changes: &[(&str, &str)]) -> Self {
        let config = database.config(changes);
        Self::start_configured(database, config).await
    }

    /// Starts with a configuration that the test has changed after loading it.
    pub async fn start_configured(database: Database, config: Config) -> Self {
        Self::start_with_clock(database, config, TestClock::real()).await
    }

    /// Starts with a clock that may be set or stopped already.
    pub async fn start_with_clock(database: Database, config: Config, clock: TestClock) -> Self {
        let app = App::start_with_clock(config, clock.clone()).await.unwrap();
        let channel = Channel::from_shared(format!("http://{}", app.grpc_addr)).unwrap().connect().await.unwrap();
        Self {
            database,
            clock,
            http: http_client(),
            public: BillingServiceClient::new(channel.clone()),
            internal: BillingInternalServiceClient::new(channel),
            app,
        }
    }

    /// `GET` on the public port.
    pub async fn get(&self, path: &str) -> (u16, Value) {
        let response = self.http.get(format!("http://{}{path}", self.app.http_addr)).send().await.unwrap();
        (response.status().as_u16(), response.json().await.unwrap())
    }

    /// `GET` on the internal port.
    pub async fn internal_get(&self, path: &str) -> (u16, Value) {
        let response = self.http.get(format!("http://{}{path}", self.app.grpc_addr)).send().await.unwrap();
        (response.status().as_u16(), response.json().await.unwrap())
    }

    /// `POST` on the internal port.
    pub async fn post(&self, path: &str, body: impl Into<reqwest::Body>) -> (u16, Value) {
        let url = format!("http://{}{path}", self.app.grpc_addr);
        let response = self.http.post(url).body(body).send().await.unwrap();
        (response.status().as_u16(), response.json().await.unwrap())
    }

    /// The text of `/metrics`.
    pub async fn metrics(&self) -> String {
        let url = format!("http://{}/metrics", self.app.grpc_addr);
        self.http.get(url).send().await.unwrap().text().await.unwrap()
    }

    pub async fn account(&self, user: &str) -> GetAccountReply {
        let request = GetAccountRequest { user_id: user.into() };
        self.public.clone().get_account(request).await.unwrap().into_inner()
    }

    /// Balance, and used free units of `passport`, `payment` and `asset`.
    pub async fn state(&self, user: &str) -> (f64, [i32; 3]) {
        let account = self.account(user).await;
        let used = |name: &str| {
            account.quotas.iter().find(|quota| quota.service_name == name).map(|quota| quota.used_quota).unwrap()
        };
        (account.balance, [used("passport"), used("payment"), used("asset")])
    }

    pub async fn check(&self, user: &str, service: &str, count: i32) -> CheckQuotaReply {
        let request =
            CheckQuotaRequest { user_id: user.into(), service_name: service.into(), count, ..Default::default() };
        self.internal.clone().check_quota(request).await.unwrap().into_inner()
    }

    pub async fn try_deduct(&self, request: DeductQuotaRequest) -> Result<DeductQuotaReply, Status> {
        self.internal.clone().deduct_quota(request).await.map(|reply| reply.into_inner())
    }

    pub async fn deduct(&self, request: DeductQuotaRequest) -> DeductQuotaReply {
        self.try_deduct(request).await.unwrap()
    }

    /// A credit or debit by an operator, with a new id.
    pub async fn adjust(&self, user: &str, amount: f64) {
        static IDS: AtomicU64 = AtomicU64::new(0);
        let request = AdjustBalanceRequest {
            user_id: user.into(),
            amount,
            reason: "for a test".into(),
            adjustment_id: format!("test-{}", IDS.fetch_add(1, Ordering::Relaxed)),
            operator: "tester".into(),
            allow_negative: false,
        };
        self.internal.clone().adjust_balance(request).await.unwrap();
    }

    /// Uses up the free quota of `service`.
    pub async fn use_up_free_quota(&self, user: &str, service: &str) {
        let left = self.check(user, service, 1).await.free_remaining;
        if left > 0 {
            self.deduct(charge(user, service, left)).await;
        }
    }

    pub async fn records(&self, request: ListRecordsRequest) -> ListRecordsReply {
        self.public.clone().list_records(request).await.unwrap().into_inner()
    }

    pub async fn assert_audit_is_clean(&self) {
        self.database.assert_audit_is_clean().await;
    }
}

/// A client that sends `content-type: application/json`, unless a request sets another type.
pub fn http_client() -> reqwest::Client {
    let json = [(CONTENT_TYPE, HeaderValue::from_static("application/json"))];
    reqwest::Client::builder().default_headers(json.into_iter().collect()).build().unwrap()
}

/// A charge at the price of the service.
pub fn charge(user: &str, service: &str, count: i32) -> DeductQuotaRequest {
    DeductQuotaRequest { user_id: user.into(), service_name: service.into(), count, ..Default::default() }
}

/// A charge with an id.
pub fn traced(trace_id: &str, charge: DeductQuotaRequest) -> DeductQuotaRequest {
    DeductQuotaRequest { trace_id: trace_id.into(), ..charge }
}

/// The gRPC status and the error code of a refusal.
pub fn code_of(status: &Status) -> (Code, String) {
    let details = status.get_error_details();
    let info = details.error_info().expect("every error has ErrorInfo");
    assert_eq!(info.domain, "billing-service");
    (status.code(), info.metadata["error_code"].clone())
}

const GOES: i64 = i64::MIN;

/// A clock that tests move.
#[derive(Clone)]
pub struct TestClock {
    ahead_micros: Arc<AtomicI64>,
    /// The instant of a stopped clock, or [`GOES`].
    stopped_micros: Arc<AtomicI64>,
    /// Offset of the monotonic time, which is never set back.
    advanced_micros: Arc<AtomicI64>,
}

impl TestClock {
    pub fn real() -> Self {
        let stopped_micros = Arc::new(AtomicI64::new(GOES));
        Self { ahead_micros: Arc::default(), stopped_micros, advanced_micros: Arc::default() }
    }

    /// Sets the clock to `instant`. Time goes on from there.
    pub fn set(&self, instant: &str) {
        let instant: DateTime<Utc> = instant.parse().unwrap();
        let ahead = (instant - Utc::now()).num_microseconds().unwrap();
        self.ahead_micros.store(ahead, Ordering::SeqCst);
        self.stopped_micros.store(GOES, Ordering::SeqCst);
    }

    /// Sets the clock to `instant`, and stops it.
    pub fn stop_at(&self, instant: DateTime<Utc>) {
        self.stopped_micros.store(instant.timestamp_micros(), Ordering::SeqCst);
    }

    /// Advances the monotonic time only. The time of day stays.
    pub fn pass(&self, by: TimeDelta) {
        self.advanced_micros.fetch_add(by.num_microseconds().unwrap(), Ordering::SeqCst);
    }

    pub fn advance(&self, by: TimeDelta) {
        let micros = by.num_microseconds().unwrap();
        self.ahead_micros.fetch_add(micros, Ordering::SeqCst);
        self.advanced_micros.fetch_add(micros, Ordering::SeqCst);
    }
}

impl Clock for TestClock {
    fn now(&self) -> DateTime<Utc> {
        let stopped = self.stopped_micros.load(Ordering::SeqCst);
        if stopped != GOES {
            return DateTime::from_timestamp_micros(stopped).expect("the clock was set to a valid instant");
        }
        Utc::now() + chrono::Duration::microseconds(self.ahead_micros.load(Ordering::SeqCst))
    }

    fn instant(&self) -> Instant {
        let advanced = self.advanced_micros.load(Ordering::SeqCst);
        Instant::now() + Duration::from_micros(advanced.try_into().expect("time goes forward"))
    }
}

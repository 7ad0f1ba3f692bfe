//! Several servers on the same database and the same Redis, and their checks.

use std::time::Duration;

use billing_service::service::proto::{
    CheckQuotaReply, CheckQuotaRequest, DeductQuotaRequest, SetApiKeyQuotaRequest, SetUserLimitsRequest,
};
use tokio::time::{Instant, sleep};

use crate::harness::{Backend, Database, Service, caller::Client, charge, redis::RedisDatabase, wait::until};

/// Longest time until every server shows a change of another server.
const NOTICE: Duration = Duration::from_secs(1);
/// Fewest attempts: on a busy machine, a few attempts may take the whole time.
const LOOKS: u32 = 50;

/// The same database and Redis for another server.
pub fn beside(database: &Database) -> Database {
    let mut same = Database::on(database.source.clone());
    (same.backend, same.redis) = (database.backend, database.redis.clone());
    same
}

/// The database with another Redis, or without one.
pub fn with_redis(mut database: Database, redis: Option<RedisDatabase>) -> Database {
    database.redis = redis;
    database
}

/// A second server beside one.
pub async fn second(service: &Service) -> Service {
    Service::start_on(beside(&service.database), &[]).await
}

pub async fn pair(on: Backend) -> (Service, Service) {
    let one = Service::start(on).await;
    let other = second(&one).await;
    (one, other)
}

/// Waits until `holds`. Fails if this takes longer than a change may take to show.
pub async fn within_a_second(condition: &str, mut holds: impl AsyncFnMut() -> bool) {
    let begun = Instant::now();
    for look in 1.. {
        if holds().await {
            return;
        }
        assert!(look < LOOKS || begun.elapsed() < NOTICE, "not in time: {condition}");
        sleep(Duration::from_millis(10)).await;
    }
}

/// A check of one paid call of `u`, with the API key `k`.
pub fn keyed_call() -> CheckQuotaRequest {
    CheckQuotaRequest { api_key_id: "k".into(), ..call("u") }
}

pub fn call(user: &str) -> CheckQuotaRequest {
    CheckQuotaRequest { user_id: user.into(), service_name: "asset".into(), count: 1, ..Default::default() }
}

/// A charge of one call of `u` with the API key `k`.
pub fn keyed_charge() -> DeductQuotaRequest {
    DeductQuotaRequest { api_key_id: "k".into(), ..charge("u", "asset", 1) }
}

pub async fn check(client: &Client, request: CheckQuotaRequest) -> CheckQuotaReply {
    client.clone().check_quota(request).await.unwrap().into_inner()
}

pub async fn cap(client: &Client, daily_limit: Option<i32>, monthly_limit: Option<i32>) {
    let request = SetUserLimitsRequest { user_id: "u".into(), daily_limit, monthly_limit };
    client.clone().set_user_limits(request).await.unwrap();
}

pub async fn bind_key(client: &Client, quota_type: &str, limit: impl Into<Option<f64>>) {
    let (api_key_id, quota_type) = ("k".into(), quota_type.into());
    let request = SetApiKeyQuotaRequest { api_key_id, quota_type, period: "total".into(), limit: limit.into() };
    client.clone().set_api_key_quota(request).await.unwrap();
}

/// The value of a metric, by its name and labels as they are written.
pub async fn metric(service: &Service, name: &str) -> Option<f64> {
    let url = format!("http://{}/metrics", service.app.grpc_addr);
    let text = service.http.get(url).send().await.unwrap().text().await.unwrap();
    let value = |line: &str| line.strip_prefix(name)?.strip_prefix(' ').map(str::to_owned);
    text.lines().find_map(value).map(|value| value.parse().unwrap())
}

/// Checks that were answered from a source.
pub async fn reads(service: &Service, source: &str) -> f64 {
    let name = format!("billing_check_reads_total{{source=\"{source}\"}}");
    metric(service, &name).await.unwrap_or_default()
}

/// A field of the hash of an account, if it exists.
pub async fn cached(database: &Database, user: &str, field: &str) -> Option<String> {
    let hashes = database.redis.as_ref().unwrap().hashes("billing:*:account").await;
    let key = format!("{}{{{user}}}:account", database.cache_prefix().await);
    hashes.get(&key).map(|hash| hash[field].clone())
}

/// Waits until Redis has the balance of a user.
pub async fn until_cached(database: &Database, user: &str, balance: &str) {
    let what = format!("redis has the balance {balance} of {user}");
    until(&what, async || cached(database, user, "balance").await.as_deref() == Some(balance)).await;
}

/// Makes an account look inactive for two hours, so that warm-up skips it.
pub async fn make_inactive(database: &Database, users: &str) {
    let at = match database.backend {
        Backend::MySql => "updated_at - INTERVAL 2 HOUR",
        Backend::Sqlite => "updated_at - 7200000000",
    };
    database.execute(&format!("UPDATE user_balance SET updated_at = {at} WHERE user_id LIKE '{users}'")).await;
}

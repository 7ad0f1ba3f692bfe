//! Compares Redis and the replies of checks with the tables.

use std::{collections::BTreeMap, time::Duration};

use tokio::time::{Instant, sleep};

use super::{
    account::{Account, Kind, micros},
    servers::{Hashes, Servers},
};
use crate::harness::{Database, Service};

/// Most comparisons until all agree: some seconds, and more on a busy machine.
pub const SOON: usize = 100;
/// Time between two comparisons.
pub const PAUSE: Duration = Duration::from_millis(50);

/// Whether Redis has room for every entry.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Room {
    ForAll,
    ForSome,
}

/// Checks agree with the acknowledged changes. Within a few seconds of the last charge after the
/// outage, every hash agrees with the tables. If Redis has room for every entry, no hash is
/// missing.
pub async fn assert_agree(service: &Service, servers: &Servers, accounts: &[Account], room: Room) {
    let begun = Instant::now();
    let tables = Tables::read(&service.database).await;
    let mut wrong = Vec::new();
    for _ in 0..SOON {
        for account in accounts {
            let reply = service.internal.clone().check_quota(account.check()).await.unwrap().into_inner();
            account.assert_agrees_with(&reply);
            tables.assert_knows(account);
        }
        wrong = tables.differences(servers.hashes().await, accounts, room);
        if wrong.is_empty() {
            println!("redis and the tables are the same after {:?}", begun.elapsed());
            return;
        }
        sleep(PAUSE).await;
    }
    panic!("redis differs from the tables: {wrong:#?}");
}

/// The expected hash of each key, as Redis writes it.
struct Tables {
    /// The prefix of all keys.
    prefix: String,
    accounts: BTreeMap<String, BTreeMap<String, String>>,
    keys: BTreeMap<String, BTreeMap<String, String>>,
}

impl Tables {
    async fn read(database: &Database) -> Self {
        let prefix = database.cache_prefix().await;
        let (mut accounts, mut keys) = (BTreeMap::<_, BTreeMap<_, _>>::new(), BTreeMap::<_, BTreeMap<_, _>>::new());
        let mut enter = |owner: &str, field: &str, value: String| {
            accounts.entry(format!("{prefix}{{{owner}}}:account")).or_default().insert(field.to_owned(), value);
        };
        let status = "CASE status WHEN 0 THEN 'ACTIVE' WHEN 1 THEN 'FROZEN' ELSE 'CLOSED' END";
        let plan = "COALESCE(CONCAT('=', plan), '-')";
        let exhausted = "COALESCE(exhausted_month, '-')";
        let columns = ["user_id", "version", "MICROS(balance)", "MICROS(held)", status, plan, exhausted];
        for row in database.rows(&columns, "FROM user_balance").await {
            let [user, version, balance, held, status, plan, exhausted] = row.try_into().unwrap();
            enter(&user, "plan", plan);
            enter(&user, "exhausted", exhausted);
            enter(&user, "version", version);
            enter(&user, "balance", balance);
            enter(&user, "held", held);
            enter(&user, "status", status);
        }
        let columns = ["user_id", "reset_month", "service_name", "total_quota", "used_quota", "held_quota"];
        for row in database.rows(&columns, "FROM free_quota").await {
            let [user, month, service, total, used, held] = row.try_into().unwrap();
            enter(&user, &format!("quota:{month}:{service}"), format!("{total} {used} {held}"));
        }
        let since = "TIMESTAMPDIFF(MICROSECOND, '1970-01-01', created_at)";
        let [daily, monthly] = ["daily", "monthly"].map(|cap| format!("COALESCE({cap}_limit, '-')"));
        let columns = ["user_id", since, "usage_date", "daily_used", "monthly_used", &daily, &monthly];
        for row in database.rows(&columns, "FROM tenant_quota").await {
            enter(&row[0], "requests", row[1..].join(" "));
        }
        let of_row = ["api_key_id", "quota_type", "period", "quota_limit", "used", since, "usage_date", "version"];
        let columns = [&of_row[..], &["used_day", "used_month", "used_total"]].concat();
        for row in database.rows(&columns, "FROM api_key_quota ORDER BY api_key_id, quota_type").await {
            let quotas = keys.entry(format!("{prefix}{{{}}}:api_key", row[0])).or_default();
            quotas.insert(row[1].clone(), row[2..].join(" "));
        }
        Self { prefix, accounts, keys }
    }

    fn account_key(&self, account: &Account) -> String {
        format!("{}{{{}}}:account", self.prefix, account.user)
    }

    fn key_of_api_key(&self, account: &Account) -> String {
        format!("{}{{{}}}:api_key", self.prefix, account.api_key())
    }

    /// The tables contain the acknowledged changes of an account.
    fn assert_knows(&self, account: &Account) {
        let stored = &self.accounts[&self.account_key(account)];
        assert_eq!(stored["balance"], account.balance.to_string(), "{account:?}");
        let used_of = |text: &str, at: usize| text.split(' ').nth(at).unwrap().to_owned();
        match account.kind {
            Kind::Capped => assert_eq!(used_of(&stored["requests"], 2), account.used.to_string(), "{account:?}"),
            Kind::Keyed => {
                let quotas = &self.keys[&self.key_of_api_key(account)];
                assert_eq!(used_of(&quotas["requests"], 2), account.used.to_string(), "{account:?}");
                assert_eq!(used_of(&quotas["tokens"], 2), (account.used * 7).to_string(), "{account:?}");
            }
            Kind::Rich | Kind::Poor | Kind::Ending => {}
        }
    }

    /// Hashes that differ from the tables, and missing hashes.
    fn differences(&self, hashes: Hashes, accounts: &[Account], room: Room) -> Vec<String> {
        let mut wrong = Vec::new();
        if room == Room::ForAll {
            let keys = accounts.iter().filter(|account| account.kind == Kind::Keyed);
            let keys = keys.map(|account| self.key_of_api_key(account));
            let missing = accounts
                .iter()
                .map(|account| self.account_key(account))
                .chain(keys)
                .filter(|key| !hashes.contains_key(key));
            wrong.extend(missing.map(|key| format!("{key} is missing")));
        }
        for (key, hash) in hashes {
            let differs = if key.ends_with(":account") {
                self.accounts.get(&key).is_none_or(|stored| !is_account(&hash, stored))
            } else if key.ends_with(":api_key") {
                self.keys.get(&key).is_none_or(|stored| !is_api_key(&hash, stored))
            } else {
                false
            };
            if differs {
                let stored = self.accounts.get(&key).or(self.keys.get(&key));
                wrong.push(format!("{key}: cached {hash:?}, stored {stored:?}"));
            }
        }
        wrong
    }
}

/// Amounts are decimals in Redis and millionths here.
fn is_account(hash: &BTreeMap<String, String>, stored: &BTreeMap<String, String>) -> bool {
    hash.len() == stored.len()
        && stored.iter().all(|(field, stored)| match (field.as_str(), hash.get(field)) {
            (_, None) => false,
            ("balance" | "held", Some(cached)) => micros(cached.parse().unwrap()).to_string() == *stored,
            (_, Some(cached)) => cached == stored,
        })
}

/// The version of an API key in Redis combines the versions of its rows.
fn is_api_key(hash: &BTreeMap<String, String>, stored: &BTreeMap<String, String>) -> bool {
    let versions = stored.iter().map(|(kind, quota)| {
        let parts: Vec<&str> = quota.split(' ').collect();
        format!("{kind}:{}:{}", parts[3], parts[5])
    });
    let versions = versions.collect::<Vec<_>>().join(",");
    // Redis stores a missing quota as an explicit none.
    let there = hash.values().filter(|value| *value != "-").count();
    hash.get("version") == Some(&versions)
        && there == stored.len() + 1
        && stored.iter().all(|(kind, quota)| hash.get(kind) == Some(quota))
}

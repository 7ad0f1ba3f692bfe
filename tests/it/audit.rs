//! The audit names rows that the service cannot read.

use async_trait::async_trait;
use billing_service::{
    app,
    biz::{
        jobs::{
            audit::{Sources, audit},
            progress::Progress,
        },
        values::error::StoreError,
    },
    service::proto::SetApiKeyQuotaRequest,
};
use rstest::rstest;

use crate::harness::{Backend, MySql, Service, Sqlite, charge};

impl Service {
    /// An instant in SQL.
    fn sql_now(&self) -> &'static str {
        if self.database.backend == MySql { "UTC_TIMESTAMP()" } else { "1700000000000000" }
    }

    /// A select of the numbers from 1 to `last`, named `n`.
    fn numbers(&self, last: usize) -> String {
        match self.database.backend {
            MySql => format!("SELECT seq AS n FROM seq_1_to_{last}"),
            Sqlite => {
                let next = format!("SELECT n + 1 FROM numbers WHERE n < {last}");
                format!("WITH RECURSIVE numbers AS (SELECT 1 AS n UNION ALL {next}) SELECT n FROM numbers")
            }
        }
    }

    /// A top-up order in SQL: id, user, amount, payment method and status.
    async fn insert_order(&self, id: &str, user: &str, amount: &str, method: &str, status: &str) {
        let now = self.sql_now();
        let columns = "order_id, user_id, amount, payment_method, status, created_at, updated_at";
        let values = format!("'{id}', '{user}', {amount}, {method}, '{status}', {now}, {now}");
        self.database.execute(&format!("INSERT INTO recharge_order ({columns}) VALUES ({values})")).await;
    }

    async fn quota_of_key(&self, key: &str, quota_type: &str) {
        let request = SetApiKeyQuotaRequest {
            api_key_id: key.into(),
            quota_type: quota_type.into(),
            period: "total".into(),
            limit: Some(5.0),
        };
        self.internal.clone().set_api_key_quota(request).await.unwrap();
    }

    /// The differences of an audit, without the missing accounts of users that only have an order.
    async fn unreadable(&self) -> Vec<String> {
        let report = self.database.audit().await;
        let lines: Vec<_> = report.differences.iter().map(ToString::to_string).collect();
        assert_eq!(lines.len() as u64, report.difference_count);
        lines.into_iter().filter(|line| !line.contains("says no account")).collect()
    }
}

#[rstest]
#[tokio::test]
async fn unreadable_orders_are_named_with_their_users(#[values(MySql, Sqlite)] on: Backend) {
    let service = Service::start(on).await;
    service.deduct(charge("u", "asset", 1)).await;
    for (id, method, status) in [
        ("p", "'alipay'", "pending"),
        ("f", "'wechat'", "failed"),
        ("e", "'wechatpay'", "expired"),
        ("s", "NULL", "failed"),
    ] {
        service.insert_order(id, "u", "1", method, status).await;
    }
    assert_eq!(service.unreadable().await, Vec::<String>::new());

    service.insert_order("bad-1", "u", "1", "'stripe'", "cancelled").await;
    service.insert_order("bad-2", "u", "1", "'Alipay'", "pending").await;
    service.insert_order("bad-3", "u", "1", "''", "expired").await;
    // These users have no other row.
    service.insert_order("bad-4", "v", "-1", "'stripe'", "pending").await;
    service.insert_order("bad-5", "w", "1", "NULL", "pending ").await;
    let found = service.unreadable().await;
    let expected = [
        ("u", "bad-1 with status cancelled, payment method stripe"),
        ("u", "bad-2 with status pending, payment method Alipay"),
        ("u", "bad-3 with status expired, payment method ,"),
        ("v", "bad-4 with status pending, payment method stripe"),
        ("w", "bad-5 with status pending , payment method NULL"),
    ];
    assert_eq!(found.len(), expected.len(), "{found:#?}");
    for (user, row) in expected {
        let says = format!("user {user}: stored row says order {row}");
        let is_named = |line: &&String| line.starts_with(&says) && line.ends_with("one that the service can read");
        assert_eq!(found.iter().filter(is_named).count(), 1, "{says}: {found:#?}");
    }
    assert!(found.iter().any(|line| line.contains("amount") && line.contains(" -1")), "{found:#?}");

    service.database.execute("DELETE FROM recharge_order WHERE order_id LIKE 'bad-%'").await;
    service.assert_audit_is_clean().await;
}

#[rstest]
#[tokio::test]
async fn each_user_has_the_number_of_rows_that_are_too_many_to_name(#[values(MySql, Sqlite)] on: Backend) {
    // The rows of the first user are more than one statement reads.
    const USERS: [(&str, usize); 3] = [("ann", 10_050), ("bob", 103), ("cid", 2)];
    let service = Service::start(on).await;
    for (user, rows) in USERS {
        service.deduct(charge(user, "asset", 1)).await;
        let numbers = service.numbers(rows);
        let (name, id) = match on {
            MySql => ("CONCAT('s', n)", "UUID()"),
            Sqlite => ("'s' || n", "hex(randomblob(16))"),
        };
        let at = service.sql_now();
        let columns =
            "free_quota_id, user_id, service_name, total_quota, used_quota, reset_month, created_at, updated_at";
        let values = format!("SELECT {id}, '{user}', {name}, -1, 0, '2020-01', {at}, {at} FROM ({numbers}) numbered");
        service.database.execute(&format!("INSERT INTO free_quota ({columns}) {values}")).await;
        service
            .database
            .execute(&format!(
                "INSERT INTO billing_transaction (user_id, trace_id, status, service_name, count, free_count, paid_count, \
                 amount, record_id, balance_after, free_remaining_after, created_at) SELECT '{user}', {name}, 'RELEASED', \
                 'asset', 1, 1, 0, 0, {id}, 0, 0, {at} FROM ({numbers}) numbered"
            ))
            .await;
    }
    let report = service.database.audit().await;
    let lines: Vec<_> = report.differences.iter().map(ToString::to_string).collect();
    for (named, further) in [
        ("stored row", "rows that the service cannot read"),
        ("charge of RELEASED transaction", "charges of transactions that are not COMMITTED"),
    ] {
        for (user, rows) in USERS {
            let named = lines.iter().filter(|line| line.starts_with(&format!("user {user}: {named} "))).count();
            let further = format!("user {user}: number of further {further} says ");
            let further = lines.iter().find_map(|line| line.strip_prefix(&further)?.strip_suffix(", should be 0"));
            let further: usize = further.map_or(0, |further| further.parse().unwrap());
            assert_eq!(named + further, rows, "{user}: {named} and {further}");
            assert!(named <= 100, "{user}: {named}");
        }
    }
}

#[rstest]
#[tokio::test]
async fn an_audit_says_that_there_may_be_more_quotas_of_api_keys_than_it_reads(#[values(MySql, Sqlite)] on: Backend) {
    let service = Service::start(on).await;
    let cut = |line: &String| line.ends_with("that the service cannot read says 10000 or more, should be 0");
    for (rows, says) in [(9_999, false), (10_001, true)] {
        let (numbers, at) = (service.numbers(rows), service.sql_now());
        let columns = "api_key_id, quota_type, period, quota_limit, usage_date, created_at, updated_at";
        let values = format!("SELECT n, 'requests', 'total', -1, '2020-01-01', {at}, {at} FROM ({numbers}) numbered");
        service.database.execute("DELETE FROM api_key_quota").await;
        service.database.execute(&format!("INSERT INTO api_key_quota ({columns}) {values}")).await;
        let report = service.database.audit().await;
        let lines: Vec<_> = report.differences.iter().map(ToString::to_string).collect();
        assert_eq!(lines.first().is_some_and(cut), says, "{:?}", lines.first());
    }
}

#[rstest]
#[tokio::test]
async fn unreadable_quotas_of_api_keys_are_named_once(#[values(MySql, Sqlite)] on: Backend) {
    let service = Service::start(on).await;
    service.deduct(charge("u", "asset", 1)).await;
    for key in ["good", "kind", "period", "limit", "used", "version", "no-text"] {
        for quota_type in ["requests", "tokens", "amount"] {
            service.quota_of_key(key, quota_type).await;
        }
    }
    service.assert_audit_is_clean().await;

    let no_text = if on == MySql { "x'ff'" } else { "CAST(x'ff' AS TEXT)" };
    for (key, change) in [
        ("kind", "quota_type = 'Tokens'"),
        ("period", "period = 'year'"),
        ("limit", "quota_limit = -1"),
        ("used", "used = -2"),
        ("version", "version = -3"),
        ("no-text", &format!("api_key_id = {no_text}, period = 'week'")),
    ] {
        let row = format!("api_key_id = '{key}' AND quota_type = 'tokens'");
        service.database.execute(&format!("UPDATE api_key_quota SET {change} WHERE {row}")).await;
    }
    let found = service.unreadable().await;
    for (key, row) in [
        ("kind", "quota of Tokens in period total with limit 5, used 0, version 0"),
        ("period", "quota of tokens in period year with limit 5, used 0, version 0"),
        ("limit", "quota of tokens in period total with limit -1, used 0, version 0"),
        ("used", "quota of tokens in period total with limit 5, used -2, version 0"),
        ("version", "quota of tokens in period total with limit 5, used 0, version -3"),
        ("?", "quota of tokens in period week with limit 5, used 0, version 0"),
    ] {
        let line = format!("API key {key}: stored row says {row}, should be one that the service can read");
        assert_eq!(found.iter().filter(|found| **found == line).count(), 1, "{line}: {found:#?}");
    }
    assert_eq!(found.len(), 6, "{found:#?}");

    // The checkpoint has counted the keys.
    let config = service.database.config(&[]);
    let store = app::connect(&config).await.unwrap();
    let calendar = config.calendar(service.clock.clone());
    let resumed = audit(Sources::new(&*store, &calendar), &After("1 6 u")).await.unwrap();
    assert_eq!((resumed.users, resumed.difference_count), (1, 6), "{:#?}", resumed.differences);
    store.close().await;
}

/// Resumes a run after a checkpoint.
struct After(&'static str);

#[async_trait]
impl Progress for After {
    fn position(&self) -> Option<String> {
        Some(self.0.to_owned())
    }

    fn expect(&self, _: u64) {}

    async fn reached(&self, _: &str, _: u64) -> Result<(), StoreError> {
        Ok(())
    }

    fn report(&self, _: &str) {}
}

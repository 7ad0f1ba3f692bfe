//! The gauges of users with a low balance or quota.

use std::{collections::BTreeMap, time::Duration};

use billing_service::{
    app::{self, App},
    biz::{
        jobs::low_balance::{Counted, LowCounts, Percent, StoredCounts, Thresholds},
        values::{
            calendar::{Calendar, SystemClock},
            error::StoreError,
            ids::ServiceName,
            money::Money,
        },
    },
    service::proto::ReserveQuotaRequest,
};
use chrono::DateTime;
use rstest::rstest;

use crate::harness::{Backend, MySql, Service, Sqlite, charge, wait::until};

/// Starts a server, and returns its counts of low users: `balance`, and each service.
async fn count(service: &Service) -> BTreeMap<String, u64> {
    count_with(service, &[]).await
}

async fn count_with(service: &Service, changes: &[(&str, &str)]) -> BTreeMap<String, u64> {
    // The first count of the service may go on. The new server counts again, and does not show the counts of another.
    until("the service has counted", async || service.database.rows(&["COUNT(*)"], "FROM low_count").await != [["0"]])
        .await;
    service.database.execute("DELETE FROM low_count").await;
    let counter = App::start_with_clock(service.database.config(changes), service.clock.clone()).await.unwrap();
    let url = format!("http://{}/metrics", counter.grpc_addr);
    let mut low = Vec::new();
    until("low users are counted", async || {
        let text = service.http.get(&url).send().await.unwrap().text().await.unwrap();
        low = text.lines().filter_map(|line| line.strip_prefix("billing_low_")).map(str::to_owned).collect();
        low.iter().any(|line| line.starts_with("counted_timestamp_seconds "))
    })
    .await;
    counter.stop().await;
    low.iter()
        .filter(|line| !line.starts_with("counted"))
        .map(|line| {
            let (name, users) = line.rsplit_once(' ').unwrap();
            let service = name.strip_prefix("quota_users{service=\"").and_then(|rest| rest.strip_suffix("\"}"));
            let name = if name == "balance_users" { Some("balance") } else { service };
            (name.expect(line).to_owned(), users.parse().unwrap())
        })
        .collect()
}

/// Low by balance, and by the quotas of `asset`, `passport` and `payment`.
fn low(balance: u64, [asset, passport, payment]: [u64; 3]) -> BTreeMap<String, u64> {
    [("balance", balance), ("asset", asset), ("passport", passport), ("payment", payment)]
        .map(|(name, users)| (name.to_owned(), users))
        .into()
}

async fn reserve(service: &Service, user: &str, name: &str, count: i32) {
    let request = ReserveQuotaRequest {
        user_id: user.into(),
        service_name: name.into(),
        count,
        trace_id: "held".into(),
        ..Default::default()
    };
    service.internal.clone().reserve_quota(request).await.unwrap();
}

#[rstest]
#[tokio::test]
async fn held_amounts_count_as_spent(#[values(MySql, Sqlite)] on: Backend) {
    let service = Service::start(on).await;
    for user in ["rich", "holds-money", "holds-quota"] {
        service.adjust(user, 20.0).await;
    }
    assert_eq!(count(&service).await, low(0, [0, 0, 0]));
    // 1,000 units are free, and 300 units cost 15.
    reserve(&service, "holds-money", "asset", 1_300).await;
    reserve(&service, "holds-quota", "payment", 900).await;
    assert_eq!(count(&service).await, low(1, [1, 0, 1]));
}

#[rstest]
#[tokio::test]
async fn a_user_at_the_threshold_is_not_low(#[values(MySql, Sqlite)] on: Backend) {
    let service = Service::start(on).await;
    for (user, balance, used) in [("at", 10.0, 800), ("below", 9.999999, 801), ("above", 10.000001, 799)] {
        service.adjust(user, balance).await;
        service.deduct(charge(user, "asset", used)).await;
    }
    assert_eq!(count(&service).await, low(1, [1, 0, 0]));
    let raised = [("billing.balance_low_threshold", "10.000001"), ("billing.quota_low_percent_threshold", "20.01")];
    assert_eq!(count_with(&service, &raised).await, low(2, [2, 0, 0]));
    let none = [("billing.balance_low_threshold", "0"), ("billing.quota_low_percent_threshold", "0")];
    assert_eq!(count_with(&service, &none).await, low(0, [0, 0, 0]));
}

#[rstest]
#[tokio::test]
async fn a_user_is_low_until_a_credit_and_counts_once(#[values(MySql, Sqlite)] on: Backend) {
    let service = Service::start(on).await;
    service.adjust("u", 60.0).await;
    for _ in 0..3 {
        service.deduct(charge("u", "asset", 680)).await;
    }
    assert_eq!(count(&service).await, low(1, [1, 0, 0]));
    service.adjust("u", 2.0).await;
    assert_eq!(count(&service).await, low(0, [1, 0, 0]));
}

#[rstest]
#[tokio::test]
async fn only_quotas_of_this_month_of_the_billing_zone_count(#[values(MySql, Sqlite)] on: Backend) {
    let service = Service::start(on).await;
    service.clock.set("2026-10-31T15:50:00Z");
    service.adjust("u", 20.0).await;
    service.deduct(charge("u", "asset", 1_000)).await;
    assert_eq!(count(&service).await, low(0, [1, 0, 0]));
    // Still October in UTC.
    service.clock.set("2026-10-31T16:10:00Z");
    assert_eq!(count(&service).await, low(0, [0, 0, 0]));
    service.deduct(charge("u", "payment", 1_000)).await;
    assert_eq!(count(&service).await, low(0, [0, 0, 1]));
    service.clock.set("2026-10-31T15:55:00Z");
    assert_eq!(count(&service).await, low(0, [1, 0, 0]));
}

#[rstest]
#[tokio::test]
async fn services_without_quota_or_configuration_have_no_low_users(#[values(MySql, Sqlite)] on: Backend) {
    let before = [
        ("billing.free_quotas.asset", "0"),
        ("billing.prices.retired", "1"),
        ("billing.free_quotas.retired", "10"),
        ("billing.quota_low_percent_threshold", "100"),
    ];
    let service = Service::start_with(on, &before).await;
    service.adjust("u", 20.0).await;
    service.deduct(charge("u", "asset", 10)).await;
    service.deduct(charge("u", "passport", 10)).await;
    service.deduct(charge("u", "retired", 10)).await;
    // The legacy service may have stored such a quota.
    service.database.execute("UPDATE free_quota SET total_quota = 0 WHERE service_name = 'passport'").await;
    let mut expected = low(0, [0, 0, 0]);
    expected.insert("retired".into(), 1);
    assert_eq!(count_with(&service, &before).await, expected);
    assert_eq!(count_with(&service, &[before[0], before[3]]).await, low(0, [0, 0, 0]));
}

#[rstest]
#[tokio::test]
async fn a_failed_count_is_stored_with_the_last_counts_or_without_any(#[values(MySql, Sqlite)] on: Backend) {
    let service = Service::start(on).await;
    let store = app::connect(&service.database.config(&[])).await.unwrap();
    // So late that the counts of the service delete none.
    let at = |text: &str| DateTime::parse_from_rfc3339(text).unwrap().to_utc();
    let failed = StoredCounts { counted: None, due_at: at("2126-11-21T10:14:00Z") };
    store.store_counts("2026-11 10 2000", &failed).await.unwrap();
    assert_eq!(store.stored_counts("2026-11 10 2000").await.unwrap(), Some(failed.clone()));
    assert_eq!(store.stored_counts("2026-11 10 3000").await.unwrap(), None);

    let quotas = BTreeMap::from([(ServiceName::from_stored("asset"), 2)]);
    let counted = Counted { counts: LowCounts { balance: 0, quotas }, at: at("2126-11-21T10:15:00Z") };
    let counted = StoredCounts { counted: Some(counted), due_at: at("2126-11-22T10:13:59Z") };
    store.store_counts("2026-11 10 3000", &counted).await.unwrap();
    let stored = [store.stored_counts("2026-11 10 2000").await, store.stored_counts("2026-11 10 3000").await];
    assert_eq!(stored, [Ok(Some(failed)), Ok(Some(counted.clone()))]);

    // A day after the other basis was due.
    let failed_again = StoredCounts { due_at: at("2126-11-22T10:14:01Z"), ..counted };
    store.store_counts("2026-11 10 3000", &failed_again).await.unwrap();
    let stored = [store.stored_counts("2026-11 10 2000").await, store.stored_counts("2026-11 10 3000").await];
    assert_eq!(stored, [Ok(None), Ok(Some(failed_again))]);
    store.close().await;
}

#[rstest]
#[tokio::test]
async fn the_database_ends_a_slow_count(#[values(MySql, Sqlite)] on: Backend) {
    let service = Service::start(on).await;
    let digits = "SELECT 0 AS n UNION ALL SELECT 1 UNION ALL SELECT 2 UNION ALL SELECT 3 UNION ALL SELECT 4 \
                  UNION ALL SELECT 5 UNION ALL SELECT 6 UNION ALL SELECT 7 UNION ALL SELECT 8 UNION ALL SELECT 9";
    let at = match on {
        MySql => "'2026-11-21'",
        Sqlite => "0",
    };
    let insert = format!(
        "INSERT INTO user_balance (user_balance_id, user_id, created_at, updated_at) \
         SELECT '', CONCAT(a.n, b.n, c.n, d.n, e.n), {at}, {at} FROM ({digits}) a CROSS JOIN ({digits}) b \
         CROSS JOIN ({digits}) c CROSS JOIN ({digits}) d CROSS JOIN ({digits}) e"
    );
    service.database.execute(&insert).await;
    let store = app::connect(&service.database.config(&[])).await.unwrap();
    let thresholds = Thresholds { balance: Money::from_micros(1), quota: Percent::from_hundredths(2_000) };
    let month = Calendar::new(chrono_tz::UTC, SystemClock).now().month;
    let cut = store.count_low(thresholds, month, Duration::from_millis(1)).await;
    assert!(matches!(cut, Err(StoreError::Unavailable(_))), "{cut:?}");
    let counted = store.count_low(thresholds, month, Duration::from_secs(60)).await;
    assert_eq!(counted, Ok(LowCounts { balance: 100_000, ..LowCounts::default() }));
    store.close().await;
}

//! Times of the legacy service are wall-clock times of its zone.

use rstest::rstest;

use super::legacy::{self, PLAIN, errors, migrate, migrated};
use crate::harness::{Service, charge};

/// A record of a free unit at each time. The used quotas match no month.
fn records(times: &[&str]) -> String {
    let rows: Vec<_> =
        times.iter().enumerate().map(|(at, time)| format!("('r{at}', 'u', 'asset', 1, 0, 1, '{time}')")).collect();
    format!(
        "INSERT INTO billing_record (billing_record_id, user_id, service_name, type, amount, count, created_at) VALUES {}",
        rows.join(", ")
    )
}

/// The converted time of a record, and its day and month in the billing zone, Shanghai.
#[rstest]
#[case("UTC", &[("2026-10-31 15:59:59", "2026-10-31 15:59:59", "2026-10-31"), ("2026-10-31 16:00:00", "2026-10-31 16:00:00", "2026-11-01")])]
#[case("Asia/Shanghai", &[("2026-10-31 23:59:59", "2026-10-31 15:59:59", "2026-10-31"), ("2026-11-01 00:00:00", "2026-10-31 16:00:00", "2026-11-01")])]
#[case("Europe/Berlin", &[
    ("2026-03-29 01:59:59", "2026-03-29 00:59:59", "2026-03-29"),
    ("2026-03-29 02:30:00", "2026-03-29 01:30:00", "2026-03-29"),
    ("2026-03-29 03:00:00", "2026-03-29 01:00:00", "2026-03-29"),
    ("2026-10-25 01:59:59", "2026-10-24 23:59:59", "2026-10-25"),
    ("2026-10-25 02:30:00", "2026-10-25 01:30:00", "2026-10-25"),
    ("2026-10-25 03:00:00", "2026-10-25 02:00:00", "2026-10-25"),
    ("2026-07-31 17:59:59", "2026-07-31 15:59:59", "2026-07-31"),
    ("2026-07-31 18:00:00", "2026-07-31 16:00:00", "2026-08-01"),
    ("2026-10-31 16:59:59", "2026-10-31 15:59:59", "2026-10-31"),
    ("2026-10-31 17:00:00", "2026-10-31 16:00:00", "2026-11-01"),
])]
#[case("America/New_York", &[
    ("2026-03-08 02:30:00", "2026-03-08 06:30:00", "2026-03-08"),
    ("2026-11-01 01:30:00", "2026-11-01 05:30:00", "2026-11-01"),
    ("2026-11-01 02:00:00", "2026-11-01 07:00:00", "2026-11-01"),
    ("2026-10-31 11:59:59", "2026-10-31 15:59:59", "2026-10-31"),
    ("2026-10-31 12:00:00", "2026-10-31 16:00:00", "2026-11-01"),
])]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn times_become_utc_and_days_follow_the_billing_zone(
    #[case] zone: &str,
    #[case] times: &[(&str, &str, &str)],
    #[values(false, true)] chosen: bool,
) {
    let database = legacy::database(if chosen { "Asia/Kathmandu" } else { zone }).await;
    database.execute(&PLAIN.tables()).await;
    database.execute(&records(&times.iter().map(|(wall, ..)| *wall).collect::<Vec<_>>())).await;
    let wall = times[0].0;
    let order = format!(
        "INSERT INTO recharge_order (order_id, user_id, amount, status, created_at, updated_at) VALUES \
         ('o', 'u', 10, 'success', '{wall}', '{wall}');
         INSERT INTO user_balance (user_balance_id, user_id, balance, created_at, updated_at) VALUES \
         ('b', 'u', 10, '{wall}', NULL);
         INSERT INTO free_quota (free_quota_id, user_id, service_name, total_quota, used_quota, reset_month, created_at, \
         updated_at) VALUES ('q', 'u', 'asset', 1000, 0, '2026-11', '{wall}', '{wall}')"
    );
    database.execute(&order).await;
    let choice = ["--legacy-zone", zone];
    let printed = migrated(&database, if chosen { &choice } else { &[] });
    assert!(printed.contains(&format!("wall-clock times of {zone} (")), "{printed}");
    assert!(printed.contains(&format!("{wall} becomes {} UTC", times[0].1)), "{printed}");

    let found = database
        .rows(
            &["DATE_FORMAT(created_at, '%Y-%m-%d %H:%i:%s')", "usage_date"],
            "FROM billing_record ORDER BY LENGTH(billing_record_id), billing_record_id",
        )
        .await;
    let expected: Vec<_> = times.iter().map(|(_, utc, day)| [*utc, *day]).collect();
    assert_eq!(found, expected);
    let time = |column: &str| format!("DATE_FORMAT({column}, '%Y-%m-%d %H:%i:%s')");
    for table in ["recharge_order", "free_quota"] {
        let found = database.rows(&[&time("created_at"), &time("updated_at")], &format!("FROM {table}")).await;
        assert_eq!(found, [[times[0].1, times[0].1]], "{table}");
    }
    let now = "updated_at BETWEEN UTC_TIMESTAMP() - INTERVAL 1 HOUR AND UTC_TIMESTAMP() + INTERVAL 1 SECOND";
    let found = database.rows(&[&time("created_at"), now], "FROM user_balance").await;
    assert_eq!(found, [[times[0].1, "1"]]);
    database.assert_audit_is_clean().await;

    let service = Service::start_on(database, &[]).await;
    service.clock.set("2026-11-21T00:00:00Z");
    let of_november = times.iter().filter(|(.., day)| day.starts_with("2026-11")).count();
    let reply = service.deduct(charge("u", "asset", 1)).await;
    // The legacy quota has counted none of these records.
    assert_eq!(reply.free_remaining, 999, "{of_november}");
    let (_, stats) = service.get("/api/v1/billing/stats/month?user_id=u").await;
    assert_eq!(stats["free_count"], of_november + 1);
    service.assert_audit_is_clean().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn missing_times_become_the_time_of_the_upgrade() {
    let database = legacy::database("Asia/Shanghai").await;
    database.execute(&PLAIN.tables()).await;
    database
        .execute(
            "SET sql_mode = '';
            INSERT INTO user_balance (user_balance_id, user_id, balance, created_at, updated_at) VALUES
                ('b1', 'null', 0, NULL, NULL), ('b2', 'zero', 0, '0000-00-00 00:00:00', '0000-00-00 00:00:00');
            INSERT INTO billing_record (billing_record_id, user_id, service_name, type, amount, count, created_at) VALUES
                ('r1', 'null', 'asset', 1, 0, 1, NULL), ('r2', 'zero', 'asset', 1, 0, 1, '0000-00-00 00:00:00')",
        )
        .await;
    migrated(&database, &[]);
    let just_now = "SUM(created_at BETWEEN UTC_TIMESTAMP() - INTERVAL 1 HOUR AND UTC_TIMESTAMP() + INTERVAL 1 SECOND)";
    assert_eq!(database.rows(&[just_now], "FROM user_balance").await, [["2"]]);
    let records = database.rows(&["created_at", "usage_date"], "FROM billing_record").await;
    assert_eq!(records, [["1970-01-02 00:00:00.000000", "1970-01-02"]; 2]);
    database.assert_audit_is_clean().await;
}

/// TIMESTAMP columns store instants. The session of the legacy service converted its wall-clock times
/// to them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn timestamps_are_read_like_the_legacy_service_read_them() {
    let mut database = legacy::database("Asia/Shanghai").await;
    database.execute(&PLAIN.tables()).await;
    database.execute("ALTER TABLE billing_record MODIFY created_at TIMESTAMP NULL").await;
    database
        .execute(&format!("SET time_zone = '+03:00'; {}", records(&["2026-10-31 23:59:59", "2026-11-01 00:00:00"])))
        .await;
    database.source += "&time_zone=%27%2B03%3A00%27";
    let printed = migrated(&database, &[]);
    assert!(printed.contains("2026-10-31 23:59:59 becomes 2026-10-31 15:59:59 UTC"), "{printed}");
    let found = database.rows(&["created_at", "usage_date"], "FROM billing_record ORDER BY 1").await;
    let expected = [["2026-10-31 15:59:59.000000", "2026-10-31"], ["2026-10-31 16:00:00.000000", "2026-11-01"]];
    assert_eq!(found, expected);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_unknown_zone_stops_the_upgrade_before_it_begins() {
    let mut database = legacy::database("Asia/Nowhere").await;
    database.execute(&PLAIN.tables()).await;
    let before = legacy::fingerprint(&database).await;
    let refused = migrate(&database, &[]);
    assert_eq!(refused.status.code(), Some(1));
    let said = errors(&refused);
    assert!(said.contains("Asia/Nowhere") && said.contains("--legacy-zone"), "{said}");
    legacy::assert_untouched(&database, &before).await;
    assert_eq!(migrate(&database, &["--legacy-zone", "Asia/Nowhere"]).status.code(), Some(2));
    // A converted database ignores the zone.
    legacy::set_loc(&mut database, "UTC");
    migrated(&database, &[]);
    legacy::set_loc(&mut database, "Asia/Nowhere");
    migrated(&database, &[]);
}

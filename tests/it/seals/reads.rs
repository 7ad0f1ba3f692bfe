//! Jobs read no more than a month, or a minute of work, however many there are.

use std::time::Duration;

use billing_service::{
    app::{self, cron::Job},
    biz::{
        jobs::{
            audit::AtOnce,
            low_balance::{Percent, Thresholds},
            reset::reset_quotas,
        },
        values::{calendar::Calendar, money::Money},
    },
};

use crate::{
    cron::{Counted, runner},
    harness::{MySql, Service, progress::Unwatched},
};

/// The rows that statements of this database have read from a table since the server counts them.
async fn rows_read(service: &Service, table: &str) -> u64 {
    let from = format!(
        "FROM (SELECT 1 AS one) o LEFT JOIN information_schema.table_statistics \
         ON table_schema = DATABASE() AND table_name = '{table}'"
    );
    service.database.rows(&["COALESCE(SUM(rows_read), 0)"], &from).await[0][0].parse().unwrap()
}

#[tokio::test]
async fn jobs_of_mysql_read_one_month_however_many_there_are() {
    const USERS: u64 = 300;
    let service = Service::start(MySql).await;
    for sql in [
        "INSERT INTO user_balance (user_id, created_at, updated_at) \
         SELECT CONCAT('u', seq), '2020-01-01', '2020-01-01' FROM seq_1_to_300",
        "INSERT INTO free_quota (user_id, service_name, total_quota, used_quota, reset_month, created_at, updated_at) \
         SELECT CONCAT('u', u.seq), s.name, 10, 0, DATE_FORMAT('2020-01-01' + INTERVAL m.seq MONTH, '%Y-%m'), \
         '2020-01-01', '2020-01-01' FROM seq_1_to_300 u, seq_1_to_60 m, \
         (SELECT 'asset' AS name UNION SELECT 'payment' UNION SELECT 'passport') s",
        // Reservations that expire later.
        "INSERT INTO reservation_expiry (expires_at, user_id, trace_id) \
         SELECT '2030-01-01' + INTERVAL seq SECOND, CONCAT('u', seq), 'held' FROM seq_1_to_20000",
        "ANALYZE TABLE user_balance, free_quota, reservation_expiry",
        "SET GLOBAL userstat = 1",
    ] {
        service.database.execute(sql).await;
    }
    let store = app::connect(&service.database.config(&[])).await.unwrap();
    let calendar = Calendar::new(chrono_tz::Asia::Shanghai, service.clock.clone());
    service.clock.set("2024-11-21T04:00:00Z");
    let month = calendar.now().month;
    let before = rows_read(&service, "free_quota").await;
    let thresholds = Thresholds { balance: Money::ZERO, quota: Percent::from_hundredths(2_000) };
    store.count_low(thresholds, month, Duration::from_secs(60)).await.unwrap();
    let counted = rows_read(&service, "free_quota").await - before;
    assert!(counted >= 3 * USERS, "the statistics are on: {counted}");
    assert!(counted <= 4 * USERS, "{counted} rows of {} read", 60 * 3 * USERS);
    let catalog = service.database.config(&[]).catalog();
    let before = rows_read(&service, "free_quota").await;
    let reset = reset_quotas(&*store, &catalog, &calendar, &Unwatched).await.unwrap();
    assert_eq!((reset.users, reset.failed), (USERS, 0));
    let read = rows_read(&service, "free_quota").await - before;
    assert!(read <= 20 * USERS, "{read} rows of {} read", 60 * 3 * USERS);

    // With few months, an index may seem to be dearer than the whole table.
    service.database.execute("DELETE FROM free_quota WHERE reset_month NOT BETWEEN '2024-06' AND '2024-12'").await;
    service.database.execute("ANALYZE TABLE free_quota").await;
    let before = rows_read(&service, "free_quota").await;
    store.count_low(thresholds, month, Duration::from_secs(60)).await.unwrap();
    let counted = rows_read(&service, "free_quota").await - before;
    assert!(counted <= 4 * USERS, "{counted} rows of {} read", 7 * 3 * USERS);

    let before = rows_read(&service, "reservation_expiry").await;
    assert_eq!(store.due(calendar.now().utc, None, 500).await.unwrap(), []);
    let read = rows_read(&service, "reservation_expiry").await - before;
    assert!(read <= 10, "{read} rows of 20000 read");
    store.close().await;
}

#[tokio::test]
async fn audits_of_mysql_read_each_row_of_a_large_account_a_few_times_however_many_statements_there_are() {
    const ROWS: u64 = 6_000;
    let service = Service::start(MySql).await;
    service.clock.set("2024-11-21T04:00:00Z");
    for sql in [
        "INSERT INTO user_balance (user_id, created_at, updated_at) VALUES ('hot', '2024-10-05', '2024-10-05')",
        "INSERT INTO billing_transaction (user_id, trace_id, status, service_name, count, free_count, paid_count, amount, \
         record_id, balance_after, free_remaining_after, created_at) SELECT 'hot', SHA1(seq), 'COMMITTED', 'asset', 1, 0, \
         1, 0, CONCAT('r', seq), 0, 0, '2024-10-05 01:00:00' + INTERVAL seq SECOND FROM seq_1_to_6000",
        "INSERT INTO billing_record (billing_record_id, user_id, service_name, type, amount, count, created_at, \
         usage_date, trace_id) SELECT CONCAT('r', seq), 'hot', 'asset', 2, 0, 1, \
         '2024-10-05 01:00:00' + INTERVAL seq SECOND, '2024-10-05', SHA1(seq) FROM seq_1_to_6000",
        "INSERT INTO usage_daily (user_id, usage_date, service_name, free_count, paid_count, amount, free_records, \
         paid_records) VALUES ('hot', '2024-10-05', 'asset', 0, 6000, 0, 0, 6000)",
        "ANALYZE TABLE user_balance, billing_transaction, billing_record, billing_record_archive, usage_daily",
        "SET GLOBAL userstat = 1",
    ] {
        service.database.execute(sql).await;
    }
    // Some sixty statements in each direction.
    let at_once = AtOnce { records: 100, of_one_user: 100, users: 100 };
    let tables = ["billing_record", "billing_transaction"];
    let read = async || {
        let mut counts = Vec::new();
        for table in tables {
            counts.push(rows_read(&service, table).await);
        }
        counts
    };
    let mut before = read().await;
    for (name, most) in [("nightly", 8), ("whole", 14), ("seal", 12)] {
        match name {
            "nightly" => assert_eq!(service.nightly_audit_in(at_once).await.difference_count, 0),
            "whole" => assert_eq!(service.whole_audit_in(at_once).await.difference_count, 0),
            _ => assert_eq!(service.seal_in(at_once).await.0.accounts, 1),
        }
        let after = read().await;
        for ((table, before), after) in tables.iter().zip(&before).zip(&after) {
            let times = (after - before) / ROWS;
            assert!((1..=most).contains(&times), "{name}: {table} was read {times} times");
        }
        before = after;
    }
}

#[tokio::test]
async fn a_night_of_mysql_reads_a_few_days_however_many_the_month_has() {
    const DAYS: u64 = 20;
    const RECORDS_OF_A_DAY: u64 = 288;
    let service = Service::start(MySql).await;
    for sql in [
        "INSERT INTO user_balance (user_id, created_at, updated_at) VALUES ('hot', '2024-11-01', '2024-11-01')",
        "INSERT INTO billing_transaction (user_id, trace_id, status, service_name, count, free_count, paid_count, amount, \
         record_id, balance_after, free_remaining_after, created_at) SELECT 'hot', SHA1(seq), 'COMMITTED', 'asset', 1, 0, \
         1, 0, CONCAT('r', seq), 0, 0, '2024-10-31 15:57:30' + INTERVAL 5 * seq MINUTE FROM seq_1_to_5760",
        "INSERT INTO billing_record (billing_record_id, user_id, service_name, type, amount, count, created_at, \
         usage_date, trace_id) SELECT CONCAT('r', seq), 'hot', 'asset', 2, 0, 1, \
         '2024-10-31 15:57:30' + INTERVAL 5 * seq MINUTE, '2024-11-01' + INTERVAL (seq - 1) DIV 288 DAY, SHA1(seq) \
         FROM seq_1_to_5760",
        "INSERT INTO usage_daily (user_id, usage_date, service_name, free_count, paid_count, amount, free_records, \
         paid_records) SELECT 'hot', '2024-11-01' + INTERVAL seq DAY, 'asset', 0, 288, 0, 0, 288 FROM seq_0_to_19",
        "ANALYZE TABLE user_balance, billing_transaction, billing_record, billing_record_archive, usage_daily",
        "SET GLOBAL userstat = 1",
    ] {
        service.database.execute(sql).await;
    }
    let mut read = Vec::new();
    for night in ["2024-11-20T20:00:00Z", "2024-11-21T20:00:00Z"] {
        service.clock.set(night);
        let before = rows_read(&service, "billing_record").await;
        let watched = Counted::all();
        let runner = runner(service.database.config(&[]), &service.clock, watched.stop.clone()).await;
        let report = runner.run_due(Job::Audit, &watched).await.unwrap().expect("the period was not run before");
        assert_eq!(report.lines, ["audit: 1 user, 0 differences"], "{:#?}", watched.reported());
        read.push(rows_read(&service, "billing_record").await - before);
    }
    // The first audit has no other before it. Each compares a record in a few statements.
    let (first, second) = (read[0], read[1]);
    assert!(first >= DAYS * RECORDS_OF_A_DAY, "the statistics are on: {first}");
    assert!(second <= first / 5, "{second} of {first}");
}

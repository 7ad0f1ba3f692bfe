//! The same rows have the same result in every shape of the legacy tables.

use billing_service::service::proto::ListRecordsRequest;
use rstest::rstest;

use super::legacy::{self, Shape, migrated};
use crate::harness::{Service, charge};

fn rows(shape: Shape) -> String {
    let Shape { user, payment, .. } = shape;
    let (free, paid) = (shape.free(), shape.paid());
    format!(
        "INSERT INTO user_balance (user_balance_id, {user}, balance, version, created_at, updated_at) VALUES
            ('b1', '1001', 99999999.99, 7, '2026-01-01 08:00:00', '2026-11-02 08:00:00'),
            ('b2', 'minus', -3.20, 1, '2026-01-01 08:00:00', '2026-01-01 08:00:00'),
            ('b3', 'even', 9.88, 2, '2026-01-01 08:00:00', '2026-01-01 08:00:00');
        INSERT INTO free_quota (free_quota_id, {user}, service_name, total_quota, used_quota, reset_month, created_at,
            updated_at) VALUES
            ('q1', '1001', 'asset', 500, 20, '2026-10', '2026-10-01 00:00:00', '2026-10-31 23:59:59'),
            ('q2', '1001', 'passport', 10000, 3, '2026-11', '2026-11-01 00:00:00', '2026-11-01 00:00:00');
        INSERT INTO billing_record (billing_record_id, {user}, service_name, type, amount, count, created_at) VALUES
            ('r1', '1001', 'asset', {free}, 0, 20, '2026-10-31 23:59:59'),
            ('r2', '1001', 'passport', {free}, 0, 3, '2026-11-01 00:00:00'),
            ('r3', 'even', 'payment', {paid}, 0.1200, 1, '2026-11-02 08:00:00');
        INSERT INTO recharge_order (order_id, {user}, amount, {payment}, status, created_at, updated_at) VALUES
            ('o1', '1001', 99999999.99, 'p1', 'success', '2026-01-01 08:00:00', '2026-01-01 08:00:01'),
            ('o2', 'even', 10, 'p2 ', 'SUCCESS', '2026-01-01 08:00:00', '2026-01-01 08:00:00'),
            ('o3', 'even', 5, '', 'pending', '2026-01-01 08:00:00', '2026-01-01 08:00:00');"
    )
}

/// The expected rows after the upgrade.
const EXPECTED: &[&str] = &[
    "user_balance b1 1001 99999999.990000 7 0.000000 2026-01-01 00:00:00.000000 2026-11-02 00:00:00.000000",
    "user_balance b3 even 9.880000 2 0.000000 2026-01-01 00:00:00.000000 2026-01-01 00:00:00.000000",
    "user_balance b2 minus -3.200000 1 0.000000 2026-01-01 00:00:00.000000 2026-01-01 00:00:00.000000",
    "free_quota q1 1001 asset 500 20 2026-10 0 2026-09-30 16:00:00.000000 2026-10-31 15:59:59.000000",
    "free_quota q2 1001 passport 10000 3 2026-11 0 2026-10-31 16:00:00.000000 2026-10-31 16:00:00.000000",
    "billing_record r1 1001 asset 1 0.000000 20 2026-10-31 15:59:59.000000 2026-10-31 NULL",
    "billing_record r2 1001 passport 1 0.000000 3 2026-10-31 16:00:00.000000 2026-11-01 NULL",
    "billing_record r3 even payment 2 0.120000 1 2026-11-02 00:00:00.000000 2026-11-02 NULL",
    "recharge_order o1 1001 99999999.990000 p1 success 2026-01-01 00:00:00.000000 2026-01-01 00:00:01.000000",
    "recharge_order o2 even 10.000000 p2 success 2026-01-01 00:00:00.000000 2026-01-01 00:00:00.000000",
    "recharge_order o3 even 5.000000 NULL pending 2026-01-01 00:00:00.000000 2026-01-01 00:00:00.000000",
    "usage_daily 1001 2026-10-31 asset 20 0 0.000000 1 0",
    "usage_daily 1001 2026-11-01 passport 3 0 0.000000 1 0",
    "usage_daily even 2026-11-02 payment 0 1 0.120000 0 1",
    "balance_adjustment minus opening -3.200000 \
     Opening entry: the part of the legacy balance that no top-up and no record explains upgrade -3.200000 now",
];

#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_shape_has_the_same_result(
    #[values("uid", "user_id")] user: &'static str,
    #[values(
        "TINYINT",
        "INT NOT NULL",
        "ENUM('free','balance')",
        "ENUM('balance','free') NOT NULL",
        "ENUM('Balance','other','FREE')",
        "VARCHAR(10)"
    )]
    kind: &'static str,
    #[values("payment_id", "payment_order_id")] payment: &'static str,
) {
    let shape = Shape { user, kind, payment };
    let database = legacy::database("Asia/Shanghai").await;
    database.execute(&shape.tables()).await;
    database.execute(&rows(shape)).await;
    let printed = migrated(&database, &[]);
    assert_eq!(printed.contains("uid becomes user_id"), user == "uid", "{printed}");

    let found = legacy::contents(&database).await;
    let found: Vec<_> = found.iter().map(|row| row.join(" ")).filter(|row| !row.starts_with("_sqlx")).collect();
    assert_eq!(found, EXPECTED);
    database.assert_audit_is_clean().await;

    let service = Service::start_on(database, &[]).await;
    service.clock.set("2026-11-21T00:00:00Z");
    assert_eq!(service.state("1001").await, (99_999_999.99, [3, 0, 0]));
    assert_eq!(service.account("minus").await.balance, -3.2);
    let reply = service.deduct(charge("1001", "payment", 1001)).await;
    assert_eq!((reply.amount, reply.balance), (0.1, 99_999_999.89));
    service.assert_audit_is_clean().await;
}

/// The upgrade inspects the columns of each table.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tables_may_have_different_shapes() {
    let database = legacy::database("Asia/Shanghai").await;
    let shape = Shape { kind: "ENUM('balance','free')", ..legacy::PLAIN };
    database.execute(&shape.tables()).await;
    database.execute(&rows(shape)).await;
    database.execute("ALTER TABLE free_quota RENAME COLUMN user_id TO uid").await;
    database.execute("ALTER TABLE recharge_order RENAME COLUMN user_id TO uid, DROP COLUMN updated_at").await;
    database.execute("ALTER TABLE user_balance DROP COLUMN version, ENGINE = MyISAM").await;
    // AUTO_INCREMENT ids instead of UUIDs.
    database.execute("ALTER TABLE free_quota DROP PRIMARY KEY, DROP COLUMN free_quota_id").await;
    database.execute("ALTER TABLE free_quota ADD COLUMN free_quota_id BIGINT AUTO_INCREMENT PRIMARY KEY").await;
    migrated(&database, &[]);
    let engines = "FROM information_schema.tables WHERE table_schema = DATABASE()";
    assert_eq!(database.rows(&["MAX(engine)", "MIN(engine)"], engines).await, [["InnoDB", "InnoDB"]]);
    let ids = database.rows(&["free_quota_id"], "FROM free_quota ORDER BY free_quota_id").await;
    assert_eq!(ids.concat(), ["1", "2"]);
    database.assert_audit_is_clean().await;
    let service = Service::start_on(database, &[]).await;
    service.clock.set("2026-11-21T00:00:00Z");
    assert_eq!(service.state("1001").await, (99_999_999.99, [3, 0, 0]));
    assert_eq!(service.state("newcomer").await, (0.0, [0, 0, 0]));
}

/// The id of a record keeps the collation of its table. Lists also read the archive.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn records_are_listed_with_any_collation() {
    let database = legacy::database("Asia/Shanghai").await;
    database.execute(&legacy::PLAIN.tables()).await;
    for table in ["user_balance", "free_quota", "billing_record", "recharge_order"] {
        let convert = format!("ALTER TABLE {table} CONVERT TO CHARACTER SET utf8mb4 COLLATE utf8mb4_unicode_ci");
        database.execute(&convert).await;
    }
    database.execute(&rows(legacy::PLAIN)).await;
    migrated(&database, &[]);
    let service = Service::start_on(database, &[]).await;
    let all = ListRecordsRequest { user_id: "1001".into(), ..Default::default() };
    let listed = service.records(all.clone()).await.records;
    assert!(!listed.is_empty());
    let columns = "billing_record_id, user_id, service_name, type, amount, count, created_at, usage_date, trace_id";
    let half = "FROM billing_record WHERE user_id = '1001' ORDER BY created_at LIMIT 1";
    service.database.execute(&format!("INSERT INTO billing_record_archive ({columns}) SELECT {columns} {half}")).await;
    let moved = "WHERE billing_record_id IN (SELECT billing_record_id FROM billing_record_archive)";
    service.database.execute(&format!("DELETE FROM billing_record {moved}")).await;
    assert_eq!(service.records(all).await.records, listed);
}

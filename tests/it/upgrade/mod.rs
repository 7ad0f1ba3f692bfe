//! Databases of the legacy service, and of an earlier release, are converted in place.

mod half_done;
mod kills;
pub mod legacy;
mod openings;
mod plan;
mod release;
mod schema_lock;
mod shapes;
mod times;

use sqlx::{Connection, Row};

use crate::harness::{Service, charge};

/// The tables of the contract, with keys and NULLs that the contract leaves open.
const OLD_TABLES: &str = "
CREATE TABLE user_balance (user_balance_id VARCHAR(36) PRIMARY KEY, user_id VARCHAR(36) UNIQUE, balance DECIMAL(10,2),
    version INT, created_at DATETIME, updated_at DATETIME);
CREATE TABLE free_quota (free_quota_id VARCHAR(36) PRIMARY KEY, user_id VARCHAR(36), service_name VARCHAR(32),
    total_quota INT, used_quota INT, reset_month VARCHAR(7), created_at DATETIME, updated_at DATETIME,
    UNIQUE KEY uk_user_service_month (user_id, service_name, reset_month), KEY by_month (reset_month));
CREATE TABLE billing_record (billing_record_id VARCHAR(36) PRIMARY KEY, user_id VARCHAR(36), service_name VARCHAR(32),
    type TINYINT, amount DECIMAL(10,4), count INT, created_at DATETIME, INDEX idx_user_date (user_id, created_at));
CREATE TABLE recharge_order (order_id VARCHAR(64) PRIMARY KEY, user_id VARCHAR(36), amount DECIMAL(10,2),
    payment_order_id VARCHAR(64) UNIQUE, status VARCHAR(20), created_at DATETIME, updated_at DATETIME,
    INDEX idx_user_id (user_id));
";

const OLD_ROWS: &str = "
INSERT INTO user_balance (user_balance_id, user_id, balance, version) VALUES
    ('b1', '1001', 99999999.99, 7), ('b2', 'Ann', 0.25, 1);
INSERT INTO free_quota (free_quota_id, user_id, service_name, total_quota, used_quota, reset_month) VALUES
    ('q1', '1001', 'asset', 500, 20, '2026-10'), ('q2', '1001', 'passport', 10000, 3, '2026-11');
INSERT INTO billing_record (billing_record_id, user_id, service_name, type, amount, count, created_at) VALUES
    ('r1', '1001', 'asset', 1, 0, 20, '2026-10-31 15:59:59'),
    ('r2', '1001', 'passport', 1, 0, 3, '2026-10-31 16:00:00'),
    ('r3', '1001', 'payment', 2, 0.1234, 1, '2026-11-02 00:00:00');
INSERT INTO recharge_order (order_id, user_id, amount, payment_order_id, status) VALUES
    ('recharge_1001_1', '1001', 99999999.99, 'p1', 'success'), ('recharge_1001_2', '1001', 5, NULL, 'pending'),
    ('recharge_Ann_1', 'Ann', 1.50, 'p2 ', 'SUCCESS'), ('recharge_Ann_2', 'Ann', 2, '', NULL),
    ('recharge_Ann_3 ', 'Ann', 3, NULL, 'Failed ');
";

/// The state after a killed migration: the first one is not marked as finished, and the second one
/// has begun.
const STOPPED_HALF_WAY: &str = "
CREATE TABLE _sqlx_migrations (version BIGINT PRIMARY KEY, description TEXT NOT NULL,
    installed_on TIMESTAMP NOT NULL DEFAULT CURRENT_TIMESTAMP, success BOOLEAN NOT NULL, checksum BLOB NOT NULL,
    execution_time BIGINT NOT NULL);
INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time)
VALUES (1, '0001_existing_tables', FALSE, X'00', -1);
ALTER TABLE user_balance MODIFY user_id VARCHAR(36) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NOT NULL,
    DROP PRIMARY KEY, ADD PRIMARY KEY (user_id);
ALTER TABLE billing_record ADD COLUMN usage_date DATE NULL, ADD COLUMN trace_id VARBINARY(128) NULL;
CREATE TABLE former_upgrade (id TINYINT PRIMARY KEY, legacy_zone VARCHAR(64) NOT NULL, billing_zone VARCHAR(64) NOT NULL,
    begun_at DATETIME(6) NOT NULL, last_user VARCHAR(36) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NULL);
INSERT INTO former_upgrade (id, legacy_zone, billing_zone, begun_at) VALUES (1, 'UTC', 'Asia/Shanghai', '2026-11-20');
";

#[tokio::test]
async fn an_existing_database_keeps_every_row_and_goes_on() {
    let database = legacy::database("UTC").await;
    database.execute(OLD_TABLES).await;
    database.execute(OLD_ROWS).await;
    // The first attempt stopped half-way. MySQL commits at every change of a table.
    database.execute(STOPPED_HALF_WAY).await;
    let service = Service::start_on(database, &[]).await;
    service.clock.set("2026-11-21T00:00:00Z");

    assert_eq!(service.state("1001").await, (99_999_999.99, [3, 0, 0]));
    assert_eq!(service.account("Ann").await.balance, 0.25);
    assert_eq!(service.account("ann").await.balance, 0.0);
    service.assert_audit_is_clean().await;
    // The record of October is sealed, and the rest of the legacy history goes on unsealed.
    let sealed = service.seal().await;
    assert_eq!((sealed.accounts, sealed.left), (1, 0));
    service.assert_seals_hold().await;
    let mut connection = service.database.mysql().await;
    let row = sqlx::query("SELECT total_quota, used_quota FROM free_quota WHERE free_quota_id = 'q1'")
        .fetch_one(&mut connection)
        .await
        .unwrap();
    assert_eq!((row.get::<i32, _>(0), row.get::<i32, _>(1)), (500, 20));
    let orders: i64 =
        sqlx::query("SELECT COUNT(*) FROM recharge_order").fetch_one(&mut connection).await.unwrap().get(0);
    assert_eq!(orders, 5);
    connection.close().await.unwrap();
    let (_, list) = service.get("/api/v1/billing/recharges?user_id=Ann").await;
    let orders = list["orders"].as_array().unwrap();
    let text = |order: &serde_json::Value, name: &str| order[name].as_str().unwrap().to_owned();
    let shown = |order| [text(order, "order_id"), text(order, "payment_order_id"), text(order, "status")];
    let mut shown: Vec<_> = orders.iter().map(shown).collect();
    shown.sort_unstable();
    let expected =
        [["recharge_Ann_1", "p2", "success"], ["recharge_Ann_2", "", "pending"], ["recharge_Ann_3", "", "failed"]];
    assert_eq!(shown, expected);

    let reply = service.deduct(charge("1001", "payment", 1001)).await;
    assert_eq!((reply.amount, reply.balance), (0.1, 99_999_999.89));
    let listed = service
        .records(billing_service::service::proto::ListRecordsRequest { user_id: "1001".into(), ..Default::default() });
    let listed = listed.await;
    let counts: Vec<_> = listed.records.iter().map(|record| (record.count, record.amount)).collect();
    assert_eq!(counts, [(1, 0.1), (1000, 0.0), (1, 0.1234), (3, 0.0), (20, 0.0)]);
    assert_eq!(listed.total, 5);

    // Repeated migrations change nothing.
    service.app.stop().await;
    service.database.execute("UPDATE _sqlx_migrations SET success = FALSE WHERE version > 1").await;
    let service = Service::start_on(service.database, &[]).await;
    service.clock.set("2026-11-21T00:00:00Z");
    assert_eq!(service.state("1001").await, (99_999_999.89, [3, 1000, 0]));
    assert_eq!(service.deduct(charge("1001", "payment", 1)).await.balance, 99_999_999.79);
    service.assert_seals_hold().await;
}

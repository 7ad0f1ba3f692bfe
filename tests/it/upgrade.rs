//! A database of the service this one replaces becomes ours in place.

use sqlx::{Connection, Row};

use crate::harness::{Database, MySql, Service, charge};

const OLD_TABLES: &str = include_str!("../../migrations/mysql/0001_existing_tables.sql");

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
    ('recharge_1001_1', '1001', 99999999.99, 'p1', 'success'), ('recharge_1001_2', '1001', 5, NULL, 'pending');
";

#[tokio::test]
async fn an_existing_database_keeps_every_row_and_goes_on() {
    let database = Database::create(MySql).await;
    database.execute(OLD_TABLES).await;
    database.execute(OLD_ROWS).await;
    let service = Service::start_on(database, &[]).await;
    service.clock.set("2026-11-21T00:00:00Z");

    assert_eq!(service.state("1001").await, (99_999_999.99, [3, 0, 0]));
    assert_eq!(service.account("Ann").await.balance, 0.25);
    assert_eq!(service.account("ann").await.balance, 0.0);
    let mut connection = service.database.mysql().await;
    let row = sqlx::query("SELECT total_quota, used_quota FROM free_quota WHERE free_quota_id = 'q1'")
        .fetch_one(&mut connection)
        .await
        .unwrap();
    assert_eq!((row.get::<i32, _>(0), row.get::<i32, _>(1)), (500, 20));
    let orders: i64 =
        sqlx::query("SELECT COUNT(*) FROM recharge_order").fetch_one(&mut connection).await.unwrap().get(0);
    assert_eq!(orders, 2);
    connection.close().await.unwrap();

    let reply = service.deduct(charge("1001", "payment", 1001)).await;
    assert_eq!((reply.amount, reply.balance), (0.1, 99_999_999.89));
    let listed = service
        .records(billing_service::service::proto::ListRecordsRequest { user_id: "1001".into(), ..Default::default() });
    let listed = listed.await;
    let counts: Vec<_> = listed.records.iter().map(|record| (record.count, record.amount)).collect();
    assert_eq!(counts, [(1, 0.1), (1000, 0.0), (1, 0.1234), (3, 0.0), (20, 0.0)]);
    assert_eq!(listed.total, 5);
}

//! A database of the legacy service has statements from its first full month with this service on.

use rstest::rstest;

use super::assert_chain;
use crate::{
    harness::{Database, MySql, Service, charge, code_of, traced},
    upgrade::legacy::{PLAIN, database, migrated},
};

/// The state that an earlier release has left after a conversion.
const OF_AN_EARLIER_RELEASE: &str = "
DROP TABLE legacy_takeover;
ALTER TABLE recharge_order DROP KEY idx_user_updated;
UPDATE _sqlx_migrations SET installed_on = '2026-11-20 00:00:00';
";
const OLD_ACCOUNTS: &str = "UPDATE user_balance SET created_at = '2026-05-01 00:00:00', updated_at = updated_at; DELETE FROM balance_adjustment";

const OLD_BOOKS: &str = "
INSERT INTO user_balance (user_balance_id, user_id, balance) VALUES ('1', 'u', 12.34);
INSERT INTO recharge_order (order_id, user_id, amount, payment_order_id, status, created_at, updated_at) VALUES
    ('o1', 'u', 20.00, 'p1', 'success', '2026-10-04 00:00:00', '2026-10-04 00:00:00');
INSERT INTO billing_record (billing_record_id, user_id, service_name, type, amount, count, created_at) VALUES
    ('r1', 'u', 'payment', 2, 0.1234, 1, '2026-10-05 00:00:00');
";

async fn legacy_database() -> Database {
    let database = database("Asia/Shanghai").await;
    database.execute(&PLAIN.tables()).await;
    database.execute(OLD_BOOKS).await;
    migrated(&database, &[]);
    database
}

/// The migration finds the accounts of the legacy service, and notes its own time.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_conversion_of_old_accounts_counts_from_its_end() {
    let database = database("Asia/Shanghai").await;
    database.execute(&PLAIN.tables()).await;
    database.execute(OLD_BOOKS).await;
    let killed = "INSERT INTO legacy_takeover VALUES (1, '2026-01-01 00:00:00')";
    database
        .execute(
            "CREATE TABLE legacy_takeover (only_row TINYINT NOT NULL PRIMARY KEY, taken_over_at DATETIME(6) NOT NULL)",
        )
        .await;
    database.execute(killed).await;
    migrated(&database, &[]);
    let openings = "FROM legacy_takeover, balance_adjustment WHERE adjustment_id = 'opening'";
    assert_eq!(database.rows(&["taken_over_at >= balance_adjustment.created_at"], openings).await, [["1"]]);
}

async fn assert_begins_with(service: &Service, taken_over: &str, first: &str) {
    for month in ["2026-01", taken_over] {
        let refused = service.try_statement("u", month).await.unwrap_err();
        assert_eq!(code_of(&refused).1, "10009");
        let why = format!(
            "month: has no statement: this service took the accounts over from the legacy service in \
            {taken_over}, and {first} is the first full month"
        );
        assert_eq!(refused.message(), why);
    }
    let path = format!("/internal/v1/billing/statements.csv?month={taken_over}");
    assert_eq!(service.internal_get(&path).await.0, 400);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn statements_begin_with_the_first_full_month_after_the_conversion() {
    let database = legacy_database().await;
    database.execute("UPDATE legacy_takeover SET taken_over_at = '2026-11-29 10:00:00'").await;
    // The opening entries are of the conversion.
    database.execute("UPDATE balance_adjustment SET created_at = '2026-11-29 10:00:00'").await;
    let service = Service::start_on(database, &[]).await;
    service.clock.set("2026-12-20T04:00:00Z");
    service.deduct(traced("t", charge("u", "payment", 1_003))).await;
    assert_begins_with(&service, "2026-11", "2026-12").await;
    let december = service.statement("u", "2026-12").await;
    assert_eq!((december.opening_balance, december.closing_balance), (12.34, 12.04));
    service.clock.set("2027-01-20T04:00:00Z");
    service.adjust("u", 1.0).await;
    let january = service.statement("u", "2027-01").await;
    assert_eq!((january.opening_balance, january.closing_balance), (12.04, 13.04));
    service.assert_audit_is_clean().await;
}

/// By accounts that are older than the first migration, or by opening entries where the legacy service kept no
/// time of its accounts.
#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_conversion_of_an_earlier_release_is_known_too(#[values(true, false)] by_accounts: bool) {
    let database = legacy_database().await;
    database.execute(OF_AN_EARLIER_RELEASE).await;
    if by_accounts {
        database.execute(OLD_ACCOUNTS).await;
    }
    let rows = database.rows(&["version"], "FROM _sqlx_migrations WHERE description LIKE '%statements'").await;
    database.execute(&format!("DELETE FROM _sqlx_migrations WHERE version >= {}", rows[0][0])).await;
    let service = Service::start_on(database, &[]).await;
    service.clock.set("2027-01-20T04:00:00Z");
    assert_begins_with(&service, "2026-11", "2026-12").await;
}

#[tokio::test]
async fn a_database_of_its_own_has_statements_of_every_month() {
    let service = Service::start(MySql).await;
    service.clock.set("2026-10-10T04:00:00Z");
    service.adjust("u", 1.0).await;
    assert_eq!(service.database.rows(&["COUNT(*)"], "FROM legacy_takeover").await, [["0"]]);
    assert_eq!(assert_chain(&service, "u", &["1970-01", "2026-09", "2026-10"]).await, 1.0);
}

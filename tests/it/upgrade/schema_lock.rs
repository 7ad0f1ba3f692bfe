//! Only one process migrates at a time, also with several nodes of a cluster.

use crate::harness::{
    Database, MySql,
    process::{SERVER, run},
};

async fn leased_to(node: &str) -> Database {
    let database = Database::empty(MySql).await;
    let table = "CREATE TABLE schema_lease (id TINYINT NOT NULL PRIMARY KEY, owner VARCHAR(36) NOT NULL, \
                 node VARCHAR(255) NOT NULL, ends_at DATETIME(6) NOT NULL, is_creating TINYINT NOT NULL DEFAULT 0)";
    database.execute(table).await;
    let lease = format!("INSERT INTO schema_lease VALUES (1, 'other', {node}, UTC_TIMESTAMP(6) + INTERVAL 1 HOUR, 0)");
    database.execute(&lease).await;
    database
}

fn migrate(database: &Database) -> (Option<i32>, String) {
    let conf = database.config_file(&[("data.database.connect_timeout", "1s")]);
    let done = run(SERVER, &["-conf", conf.to_str().unwrap(), "--migrate-only"], &[]);
    (done.status.code(), String::from_utf8_lossy(&done.stderr).into_owned())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_start_waits_for_a_migration_on_another_node() {
    let database = leased_to("'elsewhere:3306'").await;
    let (code, said) = migrate(&database);
    assert_eq!(code, Some(1));
    assert!(said.contains("another process is migrating"), "{said}");
    database.execute("UPDATE schema_lease SET ends_at = UTC_TIMESTAMP(6)").await;
    assert_eq!(migrate(&database).0, Some(0));
}

/// A free GET_LOCK shows that the owner is dead.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_lease_of_a_dead_process_on_the_same_node_is_taken_over_at_once() {
    let database = leased_to("CONCAT(@@hostname, ':', @@port)").await;
    let (code, said) = migrate(&database);
    assert_eq!(code, Some(0), "{said}");
}

/// During its creation, a new database has tables like those of the legacy service.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_first_start_is_continued() {
    let database = leased_to("CONCAT(@@hostname, ':', @@port)").await;
    assert_eq!(migrate(&database).0, Some(0));
    database.execute("UPDATE schema_lease SET is_creating = 1").await;
    database.execute("ALTER TABLE billing_record MODIFY usage_date DATE NULL").await;
    database.execute("DELETE FROM _sqlx_migrations WHERE version > 3").await;
    let (code, said) = migrate(&database);
    assert_eq!(code, Some(0), "{said}");
    let day = "FROM information_schema.columns WHERE table_schema = DATABASE() AND column_name = 'usage_date' \
               AND table_name = 'billing_record'";
    assert_eq!(database.rows(&["is_nullable"], day).await, [["NO"]]);
}

/// Such as a backup, or a transaction that nobody ended. Behind a waiting change all statements on the table
/// wait.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_migration_does_not_wait_long_for_a_table_in_use_and_says_so() {
    let database = Database::create(MySql).await;
    database.execute("ALTER TABLE recharge_refund DROP KEY idx_status_updated").await;
    database.execute("DELETE FROM _sqlx_migrations WHERE version >= 24").await;
    let mut other = database.mysql().await;
    sqlx::raw_sql("SET SESSION autocommit = 0; SELECT COUNT(*) FROM recharge_refund")
        .execute(&mut other)
        .await
        .unwrap();
    let (code, said) = migrate(&database);
    assert_eq!(code, Some(1));
    assert!(said.contains("another session uses a table that is to be changed"), "{said}");
    sqlx::raw_sql("ROLLBACK").execute(&mut other).await.unwrap();
    assert_eq!(migrate(&database).0, Some(0));
}

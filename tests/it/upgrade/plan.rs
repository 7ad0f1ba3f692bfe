//! The printed plan of an upgrade, and the refusals before any change.

use rstest::rstest;

use super::legacy::{self, PLAIN, Shape, errors, fingerprint, migrate, migrated};
use crate::harness::{Backend, Database, MySql, Sqlite, process::CRON};

const ROWS: &str = "
INSERT INTO user_balance (user_balance_id, uid, balance) VALUES ('b1', 'u', 8.00), ('b2', 'v', 0);
INSERT INTO recharge_order (order_id, uid, amount, status) VALUES ('o1', 'u', 5.50, 'success');
INSERT INTO free_quota (free_quota_id, uid, service_name, total_quota, used_quota, reset_month) VALUES
    ('q1', 'u', 'asset', 1000, 7, '2026-10');
INSERT INTO billing_record (billing_record_id, uid, service_name, type, amount, count, created_at) VALUES
    ('r1', 'u', 'asset', 'free', 0, 3, '2026-10-31 23:59:59');
";

/// Runs `server --migrate-only --dry-run`, and checks that it changes nothing. Returns its output.
async fn dry_run(database: &Database) -> String {
    let before = fingerprint(database).await;
    let printed = migrated(database, &["--dry-run"]);
    legacy::assert_untouched(database, &before).await;
    printed
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dry_run_prints_the_plan_and_changes_nothing() {
    let database = legacy::database("Asia/Shanghai").await;
    database.execute(&Shape { user: "uid", kind: "ENUM('balance','free')", payment: "payment_id" }.tables()).await;
    database.execute(ROWS).await;
    let printed = dry_run(&database).await;
    let migrations = std::fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/migrations/mysql")).unwrap();
    let mut migrations: Vec<_> = migrations.map(|file| file.unwrap().path()).collect();
    migrations.sort();
    let migrations: Vec<_> = migrations.iter().map(|path| path.file_stem().unwrap().to_str().unwrap()).collect();
    let expected = format!(
        "the database is the legacy service's; it is converted in place, and every row is kept\n\
         user_balance: 2 rows; uid becomes user_id\n\
         free_quota: 1 rows; uid becomes user_id\n\
         billing_record: 1 rows; type enum('balance','free') becomes TINYINT, free 1, balance 2; uid becomes user_id\n\
         recharge_order: 1 rows; payment_id becomes payment_order_id; uid becomes user_id\n\
         times: wall-clock times of Asia/Shanghai (loc in data.database.source) become UTC; billing days are those of \
         Asia/Shanghai\n\
         for example, created_at of billing_record r1: 2026-10-31 23:59:59 becomes 2026-10-31 15:59:59 UTC\n\
         balances: 2; 1 do not match their recharges and records and get opening entries, +2.5 and -0 in \
         total\n\
         used quotas: 1; 1 do not match their free records of the month and get opening \
         entries, +4 and -0 in total\n\
         migrations to run: {}\n",
        migrations.join(", ")
    );
    assert_eq!(printed, expected);

    // The upgrade prints the same plan first. After it, nothing is left to do.
    assert_eq!(migrated(&database, &[]), format!("{expected}the database is up to date\n"));
    let after = legacy::contents(&database).await;
    let again = "the database is this service's; it has no legacy tables\nmigrations to run: none\n";
    assert_eq!(dry_run(&database).await, again);
    assert_eq!(migrated(&database, &[]), format!("{again}the database is up to date\n"));
    assert_eq!(legacy::contents(&database).await, after);
}

#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_empty_database_is_not_a_legacy_database(#[values(MySql, Sqlite)] on: Backend) {
    let database = Database::empty(on).await;
    let printed = if on == MySql { dry_run(&database).await } else { migrated(&database, &["--dry-run"]) };
    assert!(printed.contains("it has no legacy tables"), "{printed}");
    assert!(printed.contains("migrations to run: 0001_existing_tables, "), "{printed}");
    if on == Sqlite {
        assert!(!std::path::Path::new(&database.source).exists());
    }
    migrated(&database, &[]);
    let printed = migrated(&database, &["--dry-run"]);
    assert!(printed.contains("it has no legacy tables"), "{printed}");
    assert!(printed.ends_with("migrations to run: none\n"), "{printed}");
    let conf = database.config_file(&[]);
    let alone = crate::harness::process::run(
        crate::harness::process::SERVER,
        &["-conf", conf.to_str().unwrap(), "--dry-run"],
        &[],
    );
    assert_eq!(alone.status.code(), Some(2), "{}", errors(&alone));
}

#[rstest]
#[case("ALTER TABLE user_balance ADD COLUMN uid VARCHAR(36)", "user_balance has both uid and user_id")]
#[case("ALTER TABLE recharge_order ADD COLUMN payment_id VARCHAR(36)", "has both payment_id and payment_order_id")]
#[case("ALTER TABLE recharge_order DROP COLUMN status", "recharge_order has no status")]
#[case("ALTER TABLE free_quota DROP KEY uk_user_service_month, DROP COLUMN user_id", "free_quota has neither user_id")]
#[case("ALTER TABLE billing_record MODIFY created_at BIGINT", "billing_record.created_at is bigint")]
#[case("ALTER TABLE user_balance MODIFY balance DOUBLE", "user_balance.balance is double")]
#[case("ALTER TABLE user_balance ADD COLUMN tier INT NOT NULL", "user_balance.tier is unknown to this service")]
#[case(
    "INSERT INTO billing_record VALUES ('r', 'u', 'asset', 3, 0, 1, NULL)",
    "1 rows of billing_record have type \"3\""
)]
#[case(
    "INSERT INTO billing_record VALUES ('r', 'u', 'asset', NULL, 0, 1, NULL)",
    "1 rows of billing_record have no type"
)]
#[case(
    "ALTER TABLE billing_record MODIFY type ENUM('free','gift'); \
     INSERT INTO billing_record VALUES ('r', 'u', 'asset', 'gift', 0, 1, NULL), ('s', 'u', 'asset', 'gift', 0, 1, NULL)",
    "2 rows of billing_record have type \"gift\""
)]
#[case(
    "ALTER TABLE billing_record MODIFY type VARCHAR(10); INSERT INTO billing_record VALUES ('r', 'u', 'asset', '1', 0, 1, NULL)",
    "1 rows of billing_record have type \"1\""
)]
#[case("INSERT INTO billing_record VALUES ('r', 'u', 'asset', 1, 0, -1, NULL)", "have a count below zero")]
#[case(
    "INSERT INTO billing_record VALUES ('r', NULL, 'asset', 1, 0, 1, NULL)",
    "1 rows of billing_record have no user_id"
)]
#[case(
    "INSERT INTO free_quota VALUES ('q', 'u', 'asset', 5, -1, '2026-10', NULL, NULL)",
    "1 rows of free_quota have a used_quota below zero: raise total_quota"
)]
#[case(
    "ALTER TABLE user_balance DROP KEY user_id; \
     INSERT INTO user_balance VALUES ('a', 'u', 1, 0, NULL, NULL), ('b', 'u ', 1, 0, NULL, NULL)",
    "1 values of user_id are in user_balance more than once"
)]
#[case(
    "ALTER TABLE recharge_order MODIFY user_id VARCHAR(64); \
     INSERT INTO recharge_order VALUES ('o', REPEAT('u', 37), 1, '', 'success', NULL, NULL)",
    "1 rows of recharge_order have a user_id of more than 36 characters"
)]
#[case("ALTER TABLE billing_record ADD FOREIGN KEY (user_id) REFERENCES user_balance (user_id)", "drop foreign key ")]
#[case(
    "INSERT INTO recharge_order VALUES ('o', 'u', 1, '', 'paid', NULL, NULL)",
    "1 rows of recharge_order have a status other than"
)]
#[case(
    "INSERT INTO recharge_order VALUES ('o', 'u', 1, 'p', 'success', NULL, NULL), ('q', 'u', 1, 'p ', 'success', NULL, NULL)",
    "1 values of payment_order_id are in more than one recharge_order"
)]
#[case(
    "ALTER TABLE user_balance ADD COLUMN deleted_at DATETIME NULL; \
     INSERT INTO user_balance (user_balance_id, user_id, balance, deleted_at) VALUES ('a', 'u', 100, '2026-01-01')",
    "1 rows of user_balance are marked as deleted by deleted_at"
)]
#[case(
    "ALTER TABLE free_quota MODIFY total_quota BIGINT; \
     INSERT INTO free_quota VALUES ('q', 'u', 'asset', 2147483648, 0, '2026-10', NULL, NULL)",
    "1 rows of free_quota have a total_quota above 2147483647"
)]
#[case(
    "ALTER TABLE user_balance DROP PRIMARY KEY, ADD COLUMN id BIGINT AUTO_INCREMENT PRIMARY KEY",
    "user_balance.id is AUTO_INCREMENT"
)]
#[case("ALTER TABLE billing_record DROP PRIMARY KEY", "billing_record has no primary key")]
#[case("ALTER TABLE billing_record ADD COLUMN trace_id VARCHAR(64)", "billing_record has a trace_id, which")]
#[case("CREATE TRIGGER t BEFORE UPDATE ON user_balance FOR EACH ROW SET NEW.version = 0", "drop trigger t")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_unsupported_legacy_database_is_refused_without_a_change(#[case] sql: &str, #[case] why: &str) {
    let database = legacy::database("UTC").await;
    database.execute(&PLAIN.tables()).await;
    database.execute(sql).await;
    let before = fingerprint(&database).await;
    for more in [&[][..], &["--dry-run"]] {
        let refused = migrate(&database, more);
        assert_eq!(refused.status.code(), Some(1));
        let said = errors(&refused);
        assert!(said.contains("nothing was changed") && said.contains(why), "{said}");
        legacy::assert_untouched(&database, &before).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn commands_that_only_read_do_not_convert_a_database() {
    let database = legacy::database("UTC").await;
    database.execute(&PLAIN.tables()).await;
    let before = fingerprint(&database).await;
    let conf = database.config_file(&[]);
    for arguments in [&["--list"][..], &["--once", "reset-quotas", "--dry-run"]] {
        let refused = std::process::Command::new(CRON).args(arguments).arg("-conf").arg(&conf).output().unwrap();
        assert_eq!((refused.status.code(), refused.stdout.len()), (Some(1), 0), "{arguments:?}");
        assert!(String::from_utf8_lossy(&refused.stderr).contains("server --migrate-only"), "{refused:?}");
        legacy::assert_untouched(&database, &before).await;
    }
}

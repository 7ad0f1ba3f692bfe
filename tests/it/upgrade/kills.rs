//! An upgrade that is killed repeatedly has the same result as one that is not.

use std::{
    collections::BTreeSet,
    path::Path,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use sqlx::Row;

use super::legacy::{self, Shape, errors, fingerprint, migrate, migrated};
use crate::harness::{Database, process::SERVER};

const SHAPE: Shape = Shape { user: "uid", kind: "ENUM('balance','free')", payment: "payment_id" };
const MAX_ATTEMPTS: usize = 20;
/// Most kills of one upgrade. A busy machine may stop at every changed column.
const MAX_KILLS: usize = 60;
/// Tens of thousands of records. The accounts of most users do not match their records. All times are
/// old, because the times of two upgrades differ.
const ROWS: &str = "
INSERT INTO user_balance (user_balance_id, uid, balance, created_at, updated_at)
    SELECT UUID(), CONCAT('user-', seq), seq / 100, '2024-03-31 02:30:00' + INTERVAL seq HOUR, '2024-10-27 02:30:00'
    FROM seq_1_to_6000;
UPDATE user_balance SET user_balance_id = MD5(uid), updated_at = updated_at;
INSERT INTO free_quota (free_quota_id, uid, service_name, total_quota, used_quota, reset_month, created_at, updated_at)
    SELECT MD5(seq), CONCAT('user-', seq), 'asset', 1000, seq MOD 7, '2024-10', '2024-10-01 00:00:00',
    '2024-10-01 00:00:00' FROM seq_1_to_6000;
INSERT INTO billing_record (billing_record_id, uid, service_name, type, amount, count, created_at)
    SELECT MD5(seq), CONCAT('user-', seq MOD 6000 + 1), 'asset', IF(seq MOD 3, 'free', 'balance'),
    IF(seq MOD 3, 0, 0.0500), 1, '2024-03-20 02:30:00' + INTERVAL seq * 600 SECOND FROM seq_1_to_36000;
INSERT INTO recharge_order (order_id, uid, amount, payment_id, status, created_at, updated_at)
    SELECT CONCAT('order-', seq), CONCAT('user-', seq), 10, MD5(seq), IF(seq MOD 5, 'SUCCESS', 'pending'),
    '2024-10-01 00:00:00' + INTERVAL seq MINUTE, '2024-10-01 00:00:00' + INTERVAL seq MINUTE FROM seq_1_to_6000;
";

async fn filled() -> Database {
    let database = legacy::database("Europe/Berlin").await;
    database.execute(&SHAPE.tables()).await;
    database.execute(ROWS).await;
    database
}

fn start(conf: &Path) -> Child {
    // With `nice`, the test process runs first, so that it kills in time.
    Command::new("nice")
        .args(["-n", "10", SERVER, "-conf", conf.to_str().unwrap(), "--migrate-only"])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

/// The stage of an upgrade: untouched, in the columns and migrations, the last finished user, or
/// done.
async fn stage(database: &Database) -> String {
    let progress = sqlx::query("SELECT COALESCE(last_user, '-') FROM former_upgrade");
    let Ok(rows) = progress.fetch_all(&mut database.mysql().await).await else {
        let days = "FROM information_schema.columns WHERE table_schema = DATABASE() AND column_name = 'usage_date' \
                    AND table_name = 'billing_record' AND is_nullable = 'NO'";
        let is_ours = database.rows(&["COUNT(*)"], days).await == [["1"]];
        return if is_ours { "done".into() } else { "untouched".into() };
    };
    let last: Option<Vec<u8>> = rows.first().map(|row| row.get(0));
    match last.map(|last| String::from_utf8(last).unwrap()).as_deref() {
        None => "begun".into(),
        Some("-") => {
            let columns = "FROM information_schema.columns WHERE table_schema = DATABASE() AND table_name IN \
                ('user_balance', 'free_quota', 'billing_record', 'recharge_order')";
            let shape = database.rows(&["MD5(GROUP_CONCAT(CONCAT(table_name, column_name, column_type)))"], columns);
            format!("columns {}", shape.await.concat().concat())
        }
        Some(user) => format!("users {user}"),
    }
}

/// The stored progress agrees with the converted users. Otherwise a kill would repeat or skip a
/// chunk. Every user has records here.
async fn assert_progress_is_true(watch: &mut sqlx::MySqlConnection) {
    let both =
        "SELECT COALESCE(last_user, ''), COALESCE((SELECT MAX(user_id) FROM usage_daily), '') FROM former_upgrade";
    // The tables only exist during the upgrade.
    let Ok(rows) = sqlx::query(both).fetch_all(watch).await else { return };
    for row in rows {
        let [remembered, done]: [Vec<u8>; 2] = [row.get(0), row.get(1)];
        assert_eq!(String::from_utf8(remembered).unwrap(), String::from_utf8(done).unwrap());
    }
}

/// Waits for the next stage, and kills the process then or after `later`.
async fn kill_in_the_next_stage(database: &Database, conf: &Path, later: Duration) {
    let before = stage(database).await;
    let mut watch = database.mysql().await;
    let mut process = start(conf);
    let deadline = Instant::now() + Duration::from_secs(60);
    while process.try_wait().unwrap().is_none() && Instant::now() < deadline {
        for _ in 0..20 {
            assert_progress_is_true(&mut watch).await;
        }
        if stage(database).await != before {
            break;
        }
    }
    tokio::time::sleep(later).await;
    process.kill().unwrap();
    process.wait().unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_upgrade_killed_in_every_stage_has_the_usual_result() {
    let straight = filled().await;
    migrated(&straight, &[]);
    straight.assert_audit_is_clean().await;
    let expected = legacy::contents(&straight).await;

    let mut stages = BTreeSet::new();
    let count = |stages: &BTreeSet<String>, kind: &str| stages.iter().filter(|stage| stage.starts_with(kind)).count();
    let is_enough = |stages: &_| count(stages, "columns") >= 5 && count(stages, "users") >= 5;
    for (attempt, later) in [0, 11].into_iter().cycle().enumerate().take(MAX_ATTEMPTS) {
        // A busy machine may miss many stages.
        if attempt >= 2 && is_enough(&stages) {
            break;
        }
        let database = filled().await;
        let conf = database.config_file(&[]);
        for _ in 0..MAX_KILLS {
            kill_in_the_next_stage(&database, &conf, Duration::from_millis(later)).await;
            let reached = stage(&database).await;
            let is_done = reached == "done";
            stages.insert(reached);
            if is_done {
                break;
            }
        }
        assert!(migrated(&database, &[]).ends_with("the database is up to date\n"));
        // Compared in parts, because the whole content is too long to print.
        let found = legacy::contents(&database).await;
        let different: Vec<_> = found.iter().zip(&expected).filter(|(found, expected)| found != expected).collect();
        assert!(different.is_empty(), "{:#?}", &different[..different.len().min(5)]);
        assert_eq!(found.len(), expected.len());
        database.assert_audit_is_clean().await;
    }
    assert!(is_enough(&stages), "{stages:?}");
}

/// Converted rows look like others, so the upgrade keeps the zones of its beginning.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_upgrade_continues_in_the_zones_of_its_beginning() {
    let mut database = filled().await;
    let mut conf = database.config_file(&[]);
    for _ in 0..MAX_KILLS {
        let reached = stage(&database).await;
        if reached.starts_with("users") {
            break;
        }
        // A busy machine may miss the stage, and the upgrade finishes.
        if reached == "done" {
            database = filled().await;
            conf = database.config_file(&[]);
        }
        kill_in_the_next_stage(&database, &conf, Duration::ZERO).await;
    }
    assert!(stage(&database).await.starts_with("users"), "{}", stage(&database).await);
    let before = fingerprint(&database).await;
    let refused = migrate(&database, &["--legacy-zone", "Asia/Tokyo"]);
    assert!(errors(&refused).contains("began with Europe/Berlin"), "{}", errors(&refused));
    let billing = database.config_file(&[("billing.timezone", "Europe/Berlin")]);
    let arguments = ["-conf", billing.to_str().unwrap(), "--migrate-only"];
    let refused = crate::harness::process::run(SERVER, &arguments, &[]);
    assert!(errors(&refused).contains("began with Asia/Shanghai"), "{}", errors(&refused));
    let printed = migrated(&database, &["--dry-run"]);
    assert!(printed.contains("its conversion has begun, and continues"), "{printed}");
    assert!(printed.contains("remaining balances: "), "{printed}");
    legacy::assert_untouched(&database, &before).await;

    // A changed or missing zone in the source has no effect now.
    legacy::set_loc(&mut database, "UTC");
    migrated(&database, &[]);
    let straight = filled().await;
    migrated(&straight, &[]);
    assert!(legacy::contents(&database).await == legacy::contents(&straight).await);
}

//! Regular jobs: each period is run once, and months are opened ahead.

use std::{
    process::{Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use billing_service::{
    app::{
        self,
        cron::{Display, Job, Runner},
    },
    biz::calendar::Clock,
    config::Config,
};
use futures_util::future::join_all;
use rstest::rstest;
use tokio_util::sync::CancellationToken;

use crate::harness::{Backend, Database, MySql, Service, Sqlite, TestClock, charge, process::CRON, wait::until};

/// Counts what is done, and asks the run to stop after so many items.
struct Counted {
    done: AtomicU64,
    stop_after: u64,
    stop: CancellationToken,
}

impl Counted {
    fn all() -> Self {
        Self { done: AtomicU64::new(0), stop_after: u64::MAX, stop: CancellationToken::new() }
    }
}

impl Display for Counted {
    fn advance(&self, items: u64) {
        if self.done.fetch_add(items, Ordering::Relaxed) + items >= self.stop_after {
            self.stop.cancel();
        }
    }
}

async fn runner(config: Config, clock: &TestClock, stop: CancellationToken) -> Runner {
    let store = app::connect(&config).await.unwrap();
    Runner::new(Arc::new(config), store, Arc::new(clock.clone()) as Arc<dyn Clock>, stop)
}

/// Rows of a month: user, service, total and used.
async fn quotas(database: &Database, month: &str) -> Vec<Vec<String>> {
    let from = format!("FROM free_quota WHERE reset_month = '{month}' ORDER BY user_id, service_name");
    database.rows(&["user_id", "service_name", "total_quota", "used_quota"], &from).await
}

/// So many users without a quota row.
async fn users(database: &Database, count: usize) {
    for chunk in (0..count).collect::<Vec<_>>().chunks(500) {
        let now = match database.backend {
            MySql => "UTC_TIMESTAMP()",
            Sqlite => "0",
        };
        let rows = chunk.iter().map(|number| format!("('id{number}', 'user{number:05}', 0, 0, {now}, {now})"));
        let rows: Vec<String> = rows.collect();
        database
            .execute(&format!(
                "INSERT INTO user_balance (user_balance_id, user_id, balance, version, created_at, updated_at) VALUES {}",
                rows.join(",")
            ))
            .await;
    }
}

#[rstest]
#[tokio::test]
async fn months_are_opened_for_every_user_and_stay_as_they_are(#[values(MySql, Sqlite)] on: Backend) {
    let service = Service::start(on).await;
    service.clock.set("2026-11-20T04:00:00Z");
    service.deduct(charge("spender", "asset", 7)).await;
    users(&service.database, 2_500).await;
    let runner = runner(service.database.config(&[]), &service.clock, CancellationToken::new()).await;
    let shown = Counted::all();
    let report = runner.run_due(Job::ResetQuotas, &shown).await.unwrap().unwrap();
    assert_eq!(
        (report.lines.as_slice(), report.is_good),
        (&["reset-quotas: 2501 users open, 0 failed".to_owned()][..], true)
    );
    assert_eq!(shown.done.load(Ordering::Relaxed), 2_501);
    for month in ["2026-11", "2026-12"] {
        let rows = quotas(&service.database, month).await;
        assert_eq!(rows.len(), 2_501 * 3);
        let used: Vec<&str> = rows.iter().filter(|row| row[3] != "0").map(|row| row[3].as_str()).collect();
        assert_eq!(used, if month == "2026-11" { vec!["7"] } else { vec![] });
    }
    assert_eq!(runner.run_due(Job::ResetQuotas, &Counted::all()).await.unwrap(), None, "the period was run");
    // It is used as if it had been opened by the first call.
    service.clock.set("2026-11-30T16:00:00Z");
    assert_eq!(service.deduct(charge("spender", "asset", 1)).await.free_remaining, 999);
    assert_eq!(service.deduct(charge("user00042", "asset", 1)).await.free_remaining, 999);
    assert_eq!(service.deduct(charge("new", "asset", 1)).await.free_remaining, 999);
    service.assert_audit_is_clean().await;
}

#[rstest]
#[tokio::test]
async fn quotas_that_are_configured_anew_are_those_of_the_next_month(#[values(MySql, Sqlite)] on: Backend) {
    let database = Database::create(on).await;
    let clock = TestClock::real();
    clock.set("2026-11-20T04:00:00Z");
    // Migrates.
    drop(app::connect(&database.config(&[])).await.unwrap());
    users(&database, 2).await;
    let total = async |month: &str| -> Vec<String> {
        let rows = quotas(&database, month).await;
        rows.into_iter().filter(|row| row[1] == "asset").map(|row| row[2].clone()).collect()
    };
    for (asset, now, next) in [("1000", "1000", "1000"), ("500", "1000", "500"), ("1000", "1000", "1000")] {
        let config = database.config(&[("billing.free_quotas.asset", asset)]);
        let runner = runner(config, &clock, CancellationToken::new()).await;
        assert!(runner.run_due(Job::ResetQuotas, &Counted::all()).await.unwrap().is_some());
        assert_eq!(
            (total("2026-11").await, total("2026-12").await),
            (vec![now.to_owned(); 2], vec![next.to_owned(); 2])
        );
    }
}

#[rstest]
#[tokio::test]
async fn a_run_that_was_cut_short_goes_on_elsewhere(#[values(MySql, Sqlite)] on: Backend) {
    let database = Database::create(on).await;
    let clock = TestClock::real();
    drop(app::connect(&database.config(&[])).await.unwrap());
    users(&database, 3_000).await;
    let shown = Counted { stop_after: 1, ..Counted::all() };
    let first = runner(database.config(&[]), &clock, shown.stop.clone()).await;
    let error = first.run_due(Job::ResetQuotas, &shown).await.unwrap_err();
    assert_eq!(error.to_string(), "the run was cut short");
    let done = shown.done.load(Ordering::Relaxed);
    assert!((1..3_000).contains(&done), "{done}");
    let (second, shown) = (runner(database.config(&[]), &clock, CancellationToken::new()).await, Counted::all());
    let report = second.run_due(Job::ResetQuotas, &shown).await.unwrap().unwrap();
    assert_eq!(report.lines, [format!("reset-quotas: {} users open, 0 failed", 3_000 - done)]);
    let month = clock.now().with_timezone(&chrono_tz::Asia::Shanghai).format("%Y-%m").to_string();
    assert_eq!(quotas(&database, &month).await.len(), 9_000);
}

#[rstest]
#[tokio::test]
async fn who_holds_the_lease_is_not_disturbed_until_it_ends(#[values(MySql, Sqlite)] on: Backend) {
    let database = Database::create(on).await;
    let clock = TestClock::real();
    let runner = runner(database.config(&[]), &clock, CancellationToken::new()).await;
    let (soon, gone) = match on {
        MySql => ("UTC_TIMESTAMP() + INTERVAL 1 HOUR", "UTC_TIMESTAMP() - INTERVAL 1 SECOND"),
        Sqlite => ("(unixepoch() + 3600) * 1000000", "(unixepoch() - 1) * 1000000"),
    };
    database.execute(&format!("INSERT INTO job_lease (job, owner, ends_at) VALUES ('audit', 'other', {soon})")).await;
    assert_eq!(runner.run_due(Job::Audit, &Counted::all()).await.unwrap(), None);
    assert_eq!(runner.run_now(Job::Audit, &Counted::all()).await.unwrap(), None);
    let conf = database.config_file(&[]);
    let once = Command::new(CRON).args(["--once", "audit", "-conf"]).arg(conf).output().unwrap();
    assert_eq!(once.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&once.stderr).contains("audit runs elsewhere"));
    // Its holder died.
    database.execute(&format!("UPDATE job_lease SET ends_at = {gone} WHERE job = 'audit'")).await;
    assert!(runner.run_due(Job::Audit, &Counted::all()).await.unwrap().is_some());
}

#[rstest]
#[tokio::test]
async fn a_user_whose_rows_can_not_be_written_does_not_stop_the_others(#[values(MySql, Sqlite)] on: Backend) {
    let database = Database::create(on).await;
    drop(app::connect(&database.config(&[])).await.unwrap());
    users(&database, 5).await;
    let trigger = match on {
        MySql => {
            "CREATE TRIGGER refuse BEFORE INSERT ON free_quota FOR EACH ROW \
             IF NEW.user_id = 'user00002' AND NEW.service_name = 'asset' THEN \
             SIGNAL SQLSTATE '45000' SET MESSAGE_TEXT = 'refused'; END IF"
        }
        Sqlite => {
            "CREATE TRIGGER refuse BEFORE INSERT ON free_quota \
             WHEN NEW.user_id = 'user00002' AND NEW.service_name = 'asset' \
             BEGIN SELECT RAISE(ABORT, 'refused'); END"
        }
    };
    database.execute(trigger).await;
    let clock = TestClock::real();
    clock.set("2026-11-20T04:00:00Z");
    let runner = runner(database.config(&[]), &clock, CancellationToken::new()).await;
    let report = runner.run_due(Job::ResetQuotas, &Counted::all()).await.unwrap().unwrap();
    assert_eq!(
        report.lines,
        ["reset-quotas: user user00002 was left out", "reset-quotas: 4 users open, 1 failed"].map(str::to_owned)
    );
    assert!(!report.is_good);
    let rows = quotas(&database, "2026-12").await;
    assert_eq!(rows.len(), 14, "all but one service of one user");
}

#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_crons_at_once_run_each_period_once(#[values(MySql, Sqlite)] on: Backend) {
    let service = Service::start(on).await;
    users(&service.database, 1_500).await;
    let conf = service.database.config_file(&[]);
    let crons: Vec<_> = (0..3)
        .map(|_| {
            let mut cron = Command::new(CRON);
            cron.arg("-conf").arg(&conf).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap()
        })
        .collect();
    let finished = async || {
        let from = "FROM job_run WHERE finished_at IS NOT NULL AND job IN ('audit', 'reset-quotas')";
        service.database.rows(&["job"], from).await.len()
    };
    until("what was missed is caught up with", async || finished().await == 2).await;
    for cron in &crons {
        assert!(Command::new("kill").arg(cron.id().to_string()).status().unwrap().success());
    }
    let printed = join_all(crons.into_iter().map(|cron| async {
        let ended = tokio::task::spawn_blocking(|| cron.wait_with_output().unwrap()).await.unwrap();
        assert_eq!(ended.status.code(), Some(0));
        String::from_utf8(ended.stdout).unwrap()
    }));
    let printed = printed.await.concat();
    for line in ["reset-quotas: 1500 users open, 0 failed", "audit: "] {
        assert_eq!(printed.matches(line).count(), 1, "{printed}");
    }
}

#[test]
fn jobs_are_listed_with_their_schedules() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let database = runtime.block_on(Database::create(Sqlite));
    runtime.block_on(async { drop(app::connect(&database.config(&[])).await.unwrap()) });
    let list = Command::new(CRON).args(["--list", "-conf"]).arg(database.config_file(&[])).output().unwrap();
    let printed = String::from_utf8(list.stdout).unwrap();
    assert_eq!(printed.lines().count(), 5, "{printed}");
    assert!(printed.contains("reset-quotas         0 0 0 1 * *"), "{printed}");
    assert!(printed.contains("reconcile-cache      30 */5 * * * *  next not configured"), "{printed}");
}

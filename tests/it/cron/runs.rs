//! Who runs what: each period once, by one of any number of crons.

use std::process::Stdio;

use billing_service::app::cron::Job;
use futures_util::future::join_all;
use rstest::rstest;
use tokio_util::sync::CancellationToken;

use super::{Counted, cron, end_lease, migrated, output_of, run, runner, stderr, stdout, terminate, users};
use crate::harness::{Backend, Database, MySql, Service, Sqlite, TestClock, wait::until};

#[rstest]
#[tokio::test]
async fn who_holds_the_lease_is_not_disturbed_until_it_ends(#[values(MySql, Sqlite)] on: Backend) {
    let database = Database::create(on).await;
    let clock = TestClock::real();
    let runner = runner(database.config(&[]), &clock, CancellationToken::new()).await;
    let soon = match on {
        MySql => "UTC_TIMESTAMP() + INTERVAL 1 HOUR",
        Sqlite => "(unixepoch() + 3600) * 1000000",
    };
    database.execute(&format!("INSERT INTO job_lease (job, owner, ends_at) VALUES ('audit', 'other', {soon})")).await;
    assert_eq!(runner.run_due(Job::Audit, &Counted::all()).await.unwrap(), None);
    assert_eq!(runner.run_now(Job::Audit, false, &Counted::all()).await.unwrap(), None);
    let once = run(cron(&database.config_file(&[]), &["--once", "audit"])).await;
    assert_eq!(once.status.code(), Some(1));
    assert!(stderr(&once).contains("audit runs elsewhere"));
    // Its holder died.
    end_lease(&database, "audit").await;
    assert!(runner.run_due(Job::Audit, &Counted::all()).await.unwrap().is_some());
}

#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_crons_at_once_run_each_period_once(#[values(MySql, Sqlite)] on: Backend) {
    let service = Service::start(on).await;
    users(&service.database, 1_500).await;
    let conf = service.database.config_file(&[]);
    let crons: Vec<_> = (0..3).map(|_| cron(&conf, &[]).stderr(Stdio::null()).spawn().unwrap()).collect();
    let finished = async || {
        let from = "FROM job_run WHERE finished_at IS NOT NULL AND job IN ('audit', 'reset-quotas')";
        service.database.rows(&["job"], from).await.len()
    };
    until("what was missed is caught up with", async || finished().await == 2).await;
    crons.iter().for_each(terminate);
    let printed = join_all(crons.into_iter().map(|cron| async {
        let ended = output_of(cron).await;
        assert_eq!(ended.status.code(), Some(0));
        stdout(&ended)
    }));
    let printed = printed.await.concat();
    for line in ["reset-quotas: 1500 users open, 0 failed", "audit: "] {
        assert_eq!(printed.matches(line).count(), 1, "{printed}");
    }
}

#[tokio::test]
async fn jobs_are_listed_with_their_schedules() {
    let database = migrated(Database::create(Sqlite).await).await;
    let printed = stdout(&run(cron(&database.config_file(&[]), &["--list"])).await);
    assert_eq!(printed.lines().count(), 5, "{printed}");
    assert!(printed.contains("reset-quotas         0 0 0 1 * *"), "{printed}");
    assert!(printed.contains("reconcile-cache      30 */5 * * * *  next not configured"), "{printed}");
}

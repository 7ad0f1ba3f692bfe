//! Each period is run once, by one of several crons.

use std::{
    path::Path,
    process::{Output, Stdio},
};

use billing_service::{
    app::{self, cron::Job},
    biz::jobs::runs::{Begun, Run},
};
use chrono::{Datelike, NaiveTime, TimeDelta, Utc};
use futures_util::future::join_all;
use rstest::rstest;
use tokio_util::sync::CancellationToken;

use super::{Counted, cron, end_lease, migrated, output_of, run, runner, runs, stderr, stdout, terminate, users};
use crate::harness::{Backend, Database, MySql, Service, Sqlite, TestClock, wait::until};

#[rstest]
#[tokio::test]
async fn a_job_does_not_run_while_another_process_holds_the_lease(#[values(MySql, Sqlite)] on: Backend) {
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
    assert!(stderr(&once).contains("audit is running in another process"));
    // The holder of the lease died.
    end_lease(&database, "audit").await;
    assert!(runner.run_due(Job::Audit, &Counted::all()).await.unwrap().is_some());
}

#[rstest]
#[tokio::test]
async fn an_end_that_is_stored_again_ends_no_run_that_began_since(#[values(MySql, Sqlite)] on: Backend) {
    let database = Database::create(on).await;
    let store = app::connect(&database.config(&[])).await.unwrap();
    let run =
        |owner: &str, is_by_hand| Run { job: "audit", period: "2026-11-21".into(), is_by_hand, owner: owner.into() };
    for is_by_hand in [true, false] {
        let (first, second) = (run("first", is_by_hand), run("second", is_by_hand));
        store.begin_run(&first).await.unwrap();
        store.end_run(&first, is_by_hand).await.unwrap();
        assert_eq!(store.begin_run(&second).await.unwrap(), Begun::Ours { position: None });
        assert!(store.renew_run(&second, Some("7 0 user")).await.unwrap());
        store.end_run(&first, true).await.unwrap();
        assert!(store.renew_run(&second, None).await.unwrap(), "the lease is kept");
        assert_eq!(runs(&database, "audit").await, [[second.key(), "7 0 user".into(), "0".into()]]);
        store.end_run(&second, true).await.unwrap();
        database.execute("DELETE FROM job_run").await;
    }
    store.close().await;
}

/// A clock that steps back makes the end of a lease an instant of the future.
#[rstest]
#[tokio::test]
async fn a_released_lease_is_free_after_the_clock_steps_back(#[values(MySql, Sqlite)] on: Backend) {
    let database = migrated(Database::create(on).await).await;
    users(&database, 300).await;
    let clock = TestClock::real();
    let run = async |watched: Counted| {
        let runner = runner(database.config(&[]), &clock, watched.stop.clone()).await;
        runner.run_due(Job::Audit, &watched).await
    };
    assert!(run(Counted::cut_after(1)).await.is_err(), "interrupted");
    let soon = match on {
        MySql => "UTC_TIMESTAMP() + INTERVAL 1 HOUR",
        Sqlite => "(unixepoch() + 3600) * 1000000",
    };
    database.execute(&format!("UPDATE job_lease SET ends_at = {soon} WHERE job = 'audit'")).await;
    assert!(run(Counted::all()).await.unwrap().is_some());
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
    until("the missed periods have been run", async || finished().await == 2).await;
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

/// The period of the current month: its beginning in Shanghai.
fn this_month() -> String {
    let shanghai = Utc::now().with_timezone(&chrono_tz::Asia::Shanghai);
    let first = shanghai.date_naive().with_day(1).unwrap();
    (first.and_time(NaiveTime::MIN) - TimeDelta::hours(8)).and_utc().format("%Y-%m-%dT%H:%M:%SZ").to_string()
}

#[rstest]
#[tokio::test]
async fn a_missed_period_is_run_once_at_the_start(#[values(MySql, Sqlite)] on: Backend) {
    let database = migrated(Database::create(on).await).await;
    users(&database, 10).await;
    let (conf, period) = (database.config_file(&[]), this_month());
    // The last run was long ago.
    let long_ago = if on == MySql { "'2020-01-01'" } else { "0" };
    let values = format!("('reset-quotas', '2019-12-31T16:00:00Z x', {long_ago}, {long_ago})");
    database.execute(&format!("INSERT INTO job_run (job, period, started_at, finished_at) VALUES {values}")).await;
    let done = async |job: &str| runs(&database, job).await.into_iter().filter(|run| run[2] == "1").collect::<Vec<_>>();
    let mut started = Vec::new();
    for _ in 0..2 {
        // Another due job shows that each cron has checked its schedules.
        database.execute("DELETE FROM job_run WHERE job = 'expire-reservations'").await;
        let cron = cron(&conf, &[]).spawn().unwrap();
        let caught_up = async || {
            let reset = done("reset-quotas").await;
            reset.iter().any(|run| run[0].starts_with(&period)) && !done("expire-reservations").await.is_empty()
        };
        until("the missed period has been run", caught_up).await;
        terminate(&cron);
        started.push(stdout(&output_of(cron).await));
    }
    assert_eq!(done("reset-quotas").await.len(), 1, "the old run is deleted");
    let of = |line: &str| started.iter().map(|printed| printed.matches(line).count()).collect::<Vec<_>>();
    assert_eq!(of("reset-quotas: 10 users open, 0 failed"), [1, 0], "{started:?}");
}

#[rstest]
#[tokio::test]
async fn a_cron_stopped_during_a_run_ends_at_once_and_the_next_one_continues(#[values(MySql, Sqlite)] on: Backend) {
    let database = migrated(Database::create(on).await).await;
    users(&database, 12_000).await;
    let conf = database.config_file(&[]);
    for by_hand in [false, true] {
        let (stopped, position) = stop_in_the_middle(&database, &conf, by_hand).await;
        let (code, said) = if by_hand { (1, "--resume continues it") } else { (0, "a later run continues it") };
        assert_eq!(stopped.status.code(), Some(code), "{}", stderr(&stopped));
        assert!(stderr(&stopped).contains(said), "{}", stderr(&stopped));
        let opened: usize = position.split(' ').nth(1).unwrap().parse().unwrap();
        assert!((1_000..=12_000).contains(&opened), "{position}");

        // The lease was released, so the next run need not wait.
        let arguments: &[&str] = if by_hand { &["--once", "reset-quotas", "--resume"] } else { &[] };
        let next = cron(&conf, arguments).spawn().unwrap();
        if !by_hand {
            until("the run is finished", async || runs(&database, "reset-quotas").await[0][2] == "1").await;
            terminate(&next);
        }
        let next = output_of(next).await;
        assert_eq!(next.status.code(), Some(0), "{}", stderr(&next));
        assert!(stdout(&next).contains("reset-quotas: 12000 users open, 0 failed"), "{}", stdout(&next));
        assert!(stderr(&next).contains("continuing from the checkpoint"), "{}", stderr(&next));
        undo(&database).await;
    }
}

/// Stops a cron after its next checkpoint. Returns its output and the checkpoint.
async fn stop_in_the_middle(database: &Database, conf: &Path, by_hand: bool) -> (Output, String) {
    let arguments: &[&str] = if by_hand { &["--once", "reset-quotas"] } else { &[] };
    // On a busy machine, the run may finish before the signal.
    for _ in 0..20 {
        let mut running = cron(conf, arguments).spawn().unwrap();
        let got_somewhere = async || runs(database, "reset-quotas").await.iter().any(|run| !run[1].is_empty());
        let mut ended_or_got = async || got_somewhere().await || running.try_wait().unwrap().is_some();
        until("the run has a checkpoint", async || ended_or_got().await).await;
        if running.try_wait().unwrap().is_none() {
            terminate(&running);
        }
        let stopped = output_of(running).await;
        match runs(database, "reset-quotas").await.as_slice() {
            [run] if run[2] == "0" => return (stopped, run[1].clone()),
            _ => undo(database).await,
        }
    }
    panic!("every run finished before the signal");
}

async fn undo(database: &Database) {
    database.execute("DELETE FROM job_run WHERE job = 'reset-quotas'").await;
    database.execute("DELETE FROM free_quota").await;
}

#[tokio::test]
async fn jobs_are_listed_with_their_schedules() {
    let database = migrated(Database::create(Sqlite).await).await;
    let printed = stdout(&run(cron(&database.config_file(&[]), &["--list"])).await);
    assert_eq!(printed.lines().count(), 13, "{printed}");
    assert!(printed.contains("reset-quotas         0 0 0 1 * *"), "{printed}");
    assert!(printed.contains("reconcile-cache      30 */5 * * * *  not configured"), "{printed}");
    assert!(printed.contains("rebuild-rollup                       by hand"), "{printed}");
}

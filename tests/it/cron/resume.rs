//! An interrupted run continues from its checkpoint, and never from the checkpoint of another run.

use billing_service::{
    app::cron::{Beginning, Job, JobReport},
    biz::values::calendar::Clock,
};
use rstest::rstest;
use tokio_util::sync::CancellationToken;

use super::{Counted, cron, migrated, quotas, run, runner, runs, stderr, users};
use crate::harness::{Backend, Database, MySql, Sqlite, TestClock};

/// Runs a job by hand.
async fn by_hand(
    database: &Database,
    clock: &TestClock,
    job: Job,
    resumes: bool,
    shown: &Counted,
) -> anyhow::Result<JobReport> {
    let runner = runner(database.config(&[]), clock, shown.stop.clone()).await;
    Ok(runner.run_now(job, resumes, shown).await?.expect("no other process runs the job"))
}

fn began(shown: &Counted) -> Beginning {
    shown.begun.lock().unwrap().expect("the run began")
}

/// Interrupts a run after the first chunk. Returns the number of finished items.
async fn interrupt(database: &Database, clock: &TestClock, job: Job) -> u64 {
    let shown = Counted::cut_after(1);
    let error = by_hand(database, clock, job, false, &shown).await.unwrap_err();
    assert_eq!(error.to_string(), "the run was interrupted");
    let kept = runs(database, job.name()).await;
    assert_eq!(kept.iter().filter(|run| run[0].ends_with(" by hand") && !run[1].is_empty()).count(), 1, "{kept:?}");
    shown.done()
}

#[rstest]
#[tokio::test]
async fn an_interrupted_run_continues_in_another_process(#[values(MySql, Sqlite)] on: Backend) {
    let database = migrated(Database::create(on).await).await;
    let clock = TestClock::real();
    users(&database, 3_000).await;
    let shown = Counted::cut_after(1);
    let first = runner(database.config(&[]), &clock, shown.stop.clone()).await;
    let error = first.run_due(Job::ResetQuotas, &shown).await.unwrap_err();
    assert_eq!(error.to_string(), "the run was interrupted");
    let done = shown.done();
    assert!((1..3_000).contains(&done), "{done}");
    let (second, shown) = (runner(database.config(&[]), &clock, CancellationToken::new()).await, Counted::all());
    let report = second.run_due(Job::ResetQuotas, &shown).await.unwrap().unwrap();
    assert_eq!(report.lines, ["reset-quotas: 3000 users open, 0 failed"]);
    assert_eq!((shown.done(), shown.expected()), (3_000 - done, 3_000 - done));
    let month = clock.now().with_timezone(&chrono_tz::Asia::Shanghai).format("%Y-%m").to_string();
    assert_eq!(quotas(&database, &month).await.len(), 9_000);
}

#[rstest]
#[tokio::test]
async fn a_run_by_hand_continues_from_its_checkpoint_if_asked(#[values(MySql, Sqlite)] on: Backend) {
    let database = migrated(Database::create(on).await).await;
    let clock = TestClock::real();
    clock.set("2026-11-20T04:00:00Z");
    users(&database, 3_000).await;
    let done = interrupt(&database, &clock, Job::ResetQuotas).await;
    assert!((1..3_000).contains(&done), "{done}");
    let kept = runs(&database, "reset-quotas").await;
    assert!(kept[0][0].starts_with("2026-10-31T16:00:00Z ") && kept[0][0].ends_with(" by hand"), "{kept:?}");

    // A run that starts from the beginning keeps the old checkpoint until its own first checkpoint.
    let shown = Counted::all();
    shown.stop.cancel();
    let _ = by_hand(&database, &clock, Job::ResetQuotas, false, &shown).await;
    if shown.done() == 0 {
        assert_eq!((runs(&database, "reset-quotas").await, began(&shown)), (kept.clone(), Beginning::Restarted));
    }

    let shown = Counted::all();
    let report = by_hand(&database, &clock, Job::ResetQuotas, true, &shown).await.unwrap();
    assert_eq!(began(&shown), Beginning::Resumed);
    assert_eq!((shown.done(), shown.expected()), (3_000 - done, 3_000 - done));
    assert_eq!(report.lines, ["reset-quotas: 3000 users open, 0 failed"]);
    assert_eq!(quotas(&database, "2026-11").await.len(), 9_000);
    assert_eq!(
        runs(&database, "reset-quotas").await,
        Vec::<Vec<String>>::new(),
        "the checkpoint of a finished run is deleted"
    );

    // No checkpoint is left, and the period of the schedule has not been run.
    let shown = Counted::all();
    by_hand(&database, &clock, Job::ResetQuotas, true, &shown).await.unwrap();
    assert_eq!((began(&shown), shown.done()), (Beginning::First, 3_000));
    let scheduled = runner(database.config(&[]), &clock, CancellationToken::new()).await;
    assert!(scheduled.run_due(Job::ResetQuotas, &Counted::all()).await.unwrap().is_some());

    // Without --resume, a run starts from the beginning.
    interrupt(&database, &clock, Job::ResetQuotas).await;
    let shown = Counted::all();
    by_hand(&database, &clock, Job::ResetQuotas, false, &shown).await.unwrap();
    assert_eq!((began(&shown), shown.expected(), shown.done()), (Beginning::Restarted, 3_000, 3_000));
}

#[rstest]
#[tokio::test]
async fn runs_by_hand_and_scheduled_runs_have_separate_checkpoints(#[values(MySql, Sqlite)] on: Backend) {
    let database = migrated(Database::create(on).await).await;
    let clock = TestClock::real();
    clock.set("2026-11-20T04:00:00Z");
    users(&database, 2_000).await;
    interrupt(&database, &clock, Job::ResetQuotas).await;
    let scheduled = runner(database.config(&[]), &clock, CancellationToken::new()).await;
    let shown = Counted::all();
    scheduled.run_due(Job::ResetQuotas, &shown).await.unwrap().unwrap();
    assert_eq!((began(&shown), shown.done()), (Beginning::First, 2_000));
    // The run by hand does not continue from the scheduled run either.
    let shown = Counted::all();
    by_hand(&database, &clock, Job::ResetQuotas, true, &shown).await.unwrap();
    assert_eq!((began(&shown), shown.done()), (Beginning::Resumed, 1_000));
    assert_eq!(scheduled.run_due(Job::ResetQuotas, &Counted::all()).await.unwrap(), None);
}

#[rstest]
#[tokio::test]
async fn a_checkpoint_of_last_month_is_not_used_this_month(#[values(MySql, Sqlite)] on: Backend) {
    let database = migrated(Database::create(on).await).await;
    let clock = TestClock::real();
    clock.set("2026-11-30T15:50:00Z");
    users(&database, 2_000).await;
    interrupt(&database, &clock, Job::ResetQuotas).await;
    clock.set("2026-11-30T16:00:00Z");
    let shown = Counted::all();
    let report = by_hand(&database, &clock, Job::ResetQuotas, true, &shown).await.unwrap();
    assert_eq!(
        (began(&shown), report.lines[0].as_str()),
        (Beginning::First, "reset-quotas: 2000 users open, 0 failed")
    );
    for month in ["2026-12", "2027-01"] {
        assert_eq!(quotas(&database, month).await.len(), 6_000);
    }

    // The same if the month turns after the period was determined.
    clock.set("2027-01-05T00:00:00Z");
    interrupt(&database, &clock, Job::ResetQuotas).await;
    database.execute("UPDATE job_run SET position = '2026-12 1000 0 user00999'").await;
    let shown = Counted::all();
    by_hand(&database, &clock, Job::ResetQuotas, true, &shown).await.unwrap();
    assert_eq!(shown.done(), 2_000);
    assert_eq!(quotas(&database, "2027-02").await.len(), 6_000);
}

#[rstest]
#[tokio::test]
async fn a_run_with_other_quotas_reopens_the_period_even_if_it_is_killed(#[values(MySql, Sqlite)] on: Backend) {
    let database = migrated(Database::create(on).await).await;
    let clock = TestClock::real();
    clock.set("2026-11-20T04:00:00Z");
    users(&database, 2_000).await;
    let of = async |asset: &str, stop: CancellationToken| {
        runner(database.config(&[("billing.free_quotas.asset", asset)]), &clock, stop).await
    };
    let old = of("1000", CancellationToken::new()).await;
    old.run_due(Job::ResetQuotas, &Counted::all()).await.unwrap().unwrap();
    let shown = Counted::cut_after(1);
    of("500", shown.stop.clone()).await.run_due(Job::ResetQuotas, &shown).await.unwrap_err();
    let totals = async || {
        let rows = quotas(&database, "2026-12").await;
        let of = |total: &str| rows.iter().filter(|row| row[1] == "asset" && row[2] == total).count();
        (of("1000"), of("500"))
    };
    // The chunk in progress may have been written.
    let (_, changed) = totals().await;
    assert!(changed >= 1_000, "{changed}");
    // The old quotas are configured again.
    old.run_due(Job::ResetQuotas, &Counted::all()).await.unwrap().expect("the period runs again");
    assert_eq!(totals().await, (2_000, 0));
}

#[rstest]
#[tokio::test]
async fn a_resumed_audit_keeps_the_differences_found_before(#[values(MySql, Sqlite)] on: Backend) {
    let database = migrated(Database::create(on).await).await;
    let clock = TestClock::real();
    users(&database, 700).await;
    let wrong = "balance = 1000000 WHERE user_id IN ('user00007', 'user00008', 'user00650')";
    database.execute(&format!("UPDATE user_balance SET {wrong}")).await;
    let shown = Counted::cut_after(1);
    by_hand(&database, &clock, Job::AuditAll, false, &shown).await.unwrap_err();
    let first = shown.reported();
    assert!(first.len() == 2 && first[0].contains("user00007"), "{first:?}");
    assert!(runs(&database, "audit-all").await[0][1].starts_with("200 2 "));
    let shown = Counted::all();
    let report = by_hand(&database, &clock, Job::AuditAll, true, &shown).await.unwrap();
    assert_eq!((shown.expected(), shown.done()), (500, 500));
    let reported = shown.reported();
    assert!(
        reported.len() == 1 && reported[0].starts_with("audit-all: user user00650: balance says 1"),
        "{reported:?}"
    );
    assert_eq!(
        (report.lines.as_slice(), report.is_good),
        (&["audit-all: 700 users, 3 differences".to_owned()][..], false)
    );
}

#[tokio::test]
async fn the_command_says_that_a_run_can_be_resumed() {
    let database = migrated(Database::create(Sqlite).await).await;
    users(&database, 700).await;
    let conf = database.config_file(&[("log.level", "error")]);
    let nothing = run(cron(&conf, &["--once", "audit-all", "--resume"])).await;
    assert_eq!(stderr(&nothing), "audit-all: no checkpoint to continue from; starting from the beginning\n");
    interrupt(&database, &TestClock::real(), Job::AuditAll).await;
    let anew = run(cron(&conf, &["--once", "audit-all"])).await;
    assert!(stderr(&anew).contains("--resume continues that run"), "{}", stderr(&anew));
    interrupt(&database, &TestClock::real(), Job::AuditAll).await;
    let resumed = run(cron(&conf, &["--once", "audit-all", "--resume"])).await;
    assert_eq!(stderr(&resumed), "audit-all: continuing from the checkpoint of the last run by hand\n");
    assert_eq!(super::stdout(&resumed), "audit-all: 700 users, 0 differences\n");
    let done = run(cron(&conf, &["--once", "audit-all"])).await;
    assert_eq!((stderr(&done).as_str(), done.status.code()), ("", Some(0)));
}

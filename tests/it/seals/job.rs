//! The job that seals months beside other processes, and its refusals.

use billing_service::{
    app::{
        self,
        cron::{Job, JobReport},
    },
    biz::jobs::{
        audit::{AtOnce, Sources},
        runs::under_lease,
        seals::job::{SealedMonths, seal_months},
    },
};
use chrono::TimeDelta;
use rstest::rstest;

use super::{Reported, a_year, month};
use crate::{
    cron::{Counted, end_lease, runner},
    harness::{Backend, MySql, Service, Sqlite, charge, progress::Unwatched},
};

#[rstest]
#[tokio::test]
async fn a_transaction_without_its_records_is_not_sealed_over(#[values(MySql, Sqlite)] on: Backend) {
    let service = a_year(on).await;
    // The caller has its answer, and a repeat gets it again. Records, balance and quota are lost.
    service.charge_in_part("bob", "alone", "2026-10-20T04:00:00Z", false).await;
    assert_eq!(service.found_at_night().await, Vec::<String>::new(), "no record leads to it");
    assert_eq!(service.seal().await, SealedMonths { accounts: 2, left: 1, lacking: 0, month: month("2026-10") });
    let found = service.found_in_all().await;
    assert!(found.iter().any(|line| line.starts_with("user bob: transaction alone says")), "{found:#?}");
    let undo = "DELETE FROM billing_transaction WHERE trace_id = 'alone'";
    service.database.execute(undo).await;
    assert_eq!(service.seal().await, SealedMonths { accounts: 1, left: 0, lacking: 1, month: month("2026-10") });
    service.assert_seals_hold().await;

    // The next month: one behind the last seal.
    service.clock.set("2026-12-05T04:00:00Z");
    for user in ["ann", "bob"] {
        service.deduct(charge(user, "asset", 1)).await;
    }
    service.charge_in_part("bob", "alone", "2026-11-20T04:00:00Z", false).await;
    assert_eq!(service.seal().await, SealedMonths { accounts: 1, left: 1, lacking: 0, month: month("2026-11") });
    service.database.execute(undo).await;
    // One of sealed months is for the whole audit.
    service.charge_in_part("bob", "alone", "2026-03-20T04:00:00Z", false).await;
    assert_eq!(service.seal().await, SealedMonths { accounts: 1, left: 0, lacking: 1, month: month("2026-11") });
    let found = service.found_in_all().await;
    assert!(found.iter().any(|line| line.starts_with("user bob: transaction alone says")), "{found:#?}");
}

#[rstest]
#[tokio::test]
async fn an_account_whose_last_seal_is_lost_stops_no_other(#[values(MySql, Sqlite)] on: Backend) {
    let service = a_year(on).await;
    assert_eq!(service.seal().await.accounts, 3);
    service.database.execute("DELETE FROM sealed_account WHERE user_id = 'ann'").await;
    let line = "user ann: last seal, of 2026-10: account says none, should be one";
    assert_eq!(service.found_at_night().await, [line]);
    for (at, expected) in [
        ("2026-11-21T04:00:00Z", SealedMonths { accounts: 0, left: 1, lacking: 0, month: month("2026-10") }),
        ("2026-12-05T04:00:00Z", SealedMonths { accounts: 1, left: 1, lacking: 0, month: month("2026-11") }),
    ] {
        service.clock.set(at);
        service.deduct(charge("bob", "asset", 1)).await;
        let sealed = service.seal().await;
        assert_eq!(sealed, expected, "{:#?}", service.found_in_all().await);
    }
    assert_eq!(service.found_at_night().await, [line]);
}

#[rstest]
#[tokio::test]
async fn an_account_whose_last_seal_is_gone_from_the_seals_is_named_although_it_is_quiet(
    #[values(MySql, Sqlite)] on: Backend,
) {
    let service = a_year(on).await;
    assert_eq!(service.seal().await.accounts, 3);
    // Its last call was in March.
    service.database.execute("DELETE FROM sealed_month WHERE user_id = 'old'").await;
    let left = SealedMonths { accounts: 0, left: 1, lacking: 0, month: month("2026-10") };
    let lines = ["user old: seal of 2026-10 says none, should be one", "user old: has differences; not sealed"];
    assert_eq!(service.seal_in(AtOnce::default()).await, (left, lines.map(str::to_owned).into()));
    // It is not sealed over.
    service.clock.set("2026-11-23T04:00:00Z");
    for user in ["old", "bob"] {
        service.deduct(charge(user, "asset", 1)).await;
    }
    service.clock.set("2026-12-05T04:00:00Z");
    let left = SealedMonths { accounts: 2, left: 1, lacking: 0, month: month("2026-11") };
    assert_eq!(service.seal_in(AtOnce::default()).await, (left, lines.map(str::to_owned).into()));
    service.database.execute("DELETE FROM sealed_account WHERE user_id = 'old'").await;
    assert_eq!(service.seal().await, SealedMonths { accounts: 1, left: 0, lacking: 1, month: month("2026-11") });
    service.assert_seals_hold().await;
}

#[rstest]
#[tokio::test]
async fn a_run_says_that_the_month_of_the_seals_is_gone(#[values(MySql, Sqlite)] on: Backend) {
    let service = a_year(on).await;
    let run = async || {
        let cron = runner(service.database.config(&[]), &service.clock, Counted::all().stop).await;
        let report = cron.run_due(Job::SealMonths, &Counted::all()).await.unwrap();
        service.clock.advance(TimeDelta::days(1));
        report.expect("the period was not run before")
    };
    let good = |report: JobReport| (report.is_good, report.lines.len()) == (true, 1);
    service.clock.set("2026-11-21T18:31:00Z");
    assert!(good(run().await), "the first run");
    assert!(good(run().await));
    for table in ["all_sealed", "sealed_month", "sealed_account"] {
        service.database.execute(&format!("DELETE FROM {table}")).await;
    }
    let report = run().await;
    let said = report.lines[0].starts_with("seal-months: all_sealed has no row, although a run has finished");
    assert_eq!((report.is_good, said, report.lines.len()), (false, true, 2), "{:?}", report.lines);
    assert!(report.lines[1].starts_with("seal-months: 3 accounts sealed"), "{:?}", report.lines);
    assert!(good(run().await), "said once");
}

#[rstest]
#[tokio::test]
async fn only_accounts_with_history_in_the_closed_month_are_audited_before_their_seals(
    #[values(MySql, Sqlite)] on: Backend,
) {
    let service = a_year(on).await;
    // Its history begins in the open month, in which the nightly audit finds its difference.
    service.deduct(charge("new", "asset", 4)).await;
    let one = service.sql_amount(100);
    service.database.execute(&format!("UPDATE user_balance SET balance = balance + {one} WHERE user_id = 'new'")).await;
    for accounts in [3, 0] {
        assert_eq!(service.seal().await, SealedMonths { accounts, left: 0, lacking: 0, month: month("2026-10") });
    }
    assert_eq!(service.found_at_night().await.len(), 1);
    service.clock.set("2026-12-05T04:00:00Z");
    assert_eq!(service.seal().await, SealedMonths { accounts: 2, left: 1, lacking: 0, month: month("2026-11") });
}

#[rstest]
#[tokio::test]
async fn two_runs_at_once_seal_each_account_once(#[values(MySql, Sqlite)] on: Backend) {
    let service = a_year(on).await;
    let config = service.database.config(&[]);
    let (one, other) = (app::connect(&config).await.unwrap(), app::connect(&config).await.unwrap());
    let calendar = config.calendar(service.clock.clone());
    let (first, second) = tokio::join!(
        seal_months(Sources::new(&*one, &calendar), false, &Unwatched),
        seal_months(Sources::new(&*other, &calendar), false, &Unwatched)
    );
    assert_eq!((first.unwrap().left, second.unwrap().left), (0, 0));
    one.close().await;
    other.close().await;
    let seals = service.database.rows(&["user_id"], "FROM sealed_month ORDER BY user_id").await;
    assert_eq!(seals, [["ann"], ["bob"], ["old"]]);
    service.assert_seals_hold().await;
}

#[rstest]
#[tokio::test]
async fn a_run_that_seals_anew_what_was_sealed_is_not_good(#[values(MySql, Sqlite)] on: Backend) {
    let service = a_year(on).await;
    let run = async || {
        let cron = runner(service.database.config(&[]), &service.clock, Counted::all().stop).await;
        cron.run_now(Job::SealMonths, false, &Counted::all()).await.unwrap().unwrap()
    };
    assert!(run().await.is_good);
    for table in ["sealed_month", "sealed_account"] {
        service.database.execute(&format!("DELETE FROM {table} WHERE user_id = 'ann'")).await;
    }
    let config = service.database.config(&[]);
    let (store, calendar) = (app::connect(&config).await.unwrap(), config.calendar(service.clock.clone()));
    let reported = Reported::default();
    seal_months(Sources::new(&*store, &calendar), true, &reported).await.unwrap();
    store.close().await;
    let line =
        "user ann: lacked seals up to 2026-10: they were deleted, or an earlier run left it; would be sealed anew";
    assert_eq!(*reported.0.lock().unwrap(), [line]);
    let report = run().await;
    let expected = [
        "seal-months: 1 account lacked seals of earlier months",
        "seal-months: 1 account sealed up to 2026-10, 0 with differences left",
    ];
    assert_eq!((report.lines, report.is_good), (expected.map(str::to_owned).into(), false));
    assert!(run().await.is_good);
}

#[rstest]
#[tokio::test]
async fn one_process_has_a_lease_and_another_when_it_is_gone(#[values(MySql, Sqlite)] on: Backend) {
    let service = Service::start(on).await;
    let config = service.database.config(&[]);
    let (one, other) = (app::connect(&config).await.unwrap(), app::connect(&config).await.unwrap());
    let job = "sweep-of-a-test";
    let done = async |answer: u32| Ok::<_, ()>(answer);
    let nested = async {
        assert_eq!(under_lease(&*other, job, "other", done(2)).await, Ok(None), "the first process works");
        Ok::<_, ()>(1)
    };
    assert_eq!(under_lease(&*one, job, "one", nested).await, Ok(Some(Ok(1))));
    // The first process dies with the lease.
    assert_eq!(one.take_lease(job, "one").await, Ok(true));
    assert_eq!(under_lease(&*other, job, "other", done(2)).await, Ok(None));
    end_lease(&service.database, job).await;
    assert_eq!(under_lease(&*other, job, "other", done(2)).await, Ok(Some(Ok(2))));
    // A failure leaves the lease to the others.
    assert_eq!(under_lease(&*other, job, "other", async { Err::<(), _>("down") }).await, Ok(Some(Err("down"))));
    assert_eq!(under_lease(&*one, job, "one", done(3)).await, Ok(Some(Ok(3))));
    assert_eq!(service.database.rows(&["job"], "FROM job_run WHERE job = 'sweep-of-a-test'").await, [[""; 1]; 0]);
    one.close().await;
    other.close().await;
}

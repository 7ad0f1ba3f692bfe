//! The job that seals months beside other processes, and its refusals.

use billing_service::{
    app,
    biz::jobs::{
        runs::{Begun, Run, under_lease},
        seals::job::{SealedMonths, seal_months},
    },
};
use rstest::rstest;

use super::{a_year, month};
use crate::{
    cron::end_lease,
    harness::{Backend, MySql, Service, Sqlite, charge, progress::Unwatched},
};

#[rstest]
#[tokio::test]
async fn a_transaction_without_its_records_is_not_sealed_over(#[values(MySql, Sqlite)] on: Backend) {
    let service = a_year(on).await;
    // The caller has its answer, and a repeat gets it again. Records, balance and quota are lost.
    service.charge_in_part("bob", "alone", "2026-10-20T04:00:00Z", false).await;
    assert_eq!(service.found_at_night().await, Vec::<String>::new(), "no record leads to it");
    assert_eq!(service.seal().await, SealedMonths { accounts: 2, left: 1, month: month("2026-10") });
    let found = service.found_in_all().await;
    assert!(found.iter().any(|line| line.starts_with("user bob: transaction alone says")), "{found:#?}");
    service.database.execute("DELETE FROM billing_transaction WHERE trace_id = 'alone'").await;
    assert_eq!(service.seal().await, SealedMonths { accounts: 1, left: 0, month: month("2026-10") });
    service.assert_seals_hold().await;
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
        ("2026-11-21T04:00:00Z", SealedMonths { accounts: 0, left: 1, month: month("2026-10") }),
        ("2026-12-05T04:00:00Z", SealedMonths { accounts: 1, left: 1, month: month("2026-11") }),
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
async fn two_runs_at_once_seal_each_account_once(#[values(MySql, Sqlite)] on: Backend) {
    let service = a_year(on).await;
    let config = service.database.config(&[]);
    let (one, other) = (app::connect(&config).await.unwrap(), app::connect(&config).await.unwrap());
    let calendar = config.calendar(service.clock.clone());
    let (first, second) = tokio::join!(
        seal_months(&*one, &calendar, false, &Unwatched),
        seal_months(&*other, &calendar, false, &Unwatched)
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
async fn one_process_has_a_lease_and_another_when_it_is_gone(#[values(MySql, Sqlite)] on: Backend) {
    let service = Service::start(on).await;
    let config = service.database.config(&[]);
    let (one, other) = (app::connect(&config).await.unwrap(), app::connect(&config).await.unwrap());
    let run = |owner: &str, minute: u32| Run {
        job: "sweep-of-a-test",
        period: format!("2026-11-21T04:{minute:02}:00Z servers"),
        is_by_hand: false,
        owner: owner.into(),
    };
    let done = async { Ok::<_, ()>(1) };
    let nested = async {
        // While the first process works, the second one does not, in this minute or the next.
        for minute in [1, 2] {
            let refused = under_lease(&*other, &run("other", minute), async { Ok::<_, ()>(2) }).await;
            assert_eq!(refused, Ok(None));
        }
        Ok::<_, ()>(1)
    };
    assert_eq!(under_lease(&*one, &run("one", 1), nested).await, Ok(Some(Ok(1))));
    assert_eq!(under_lease(&*other, &run("other", 1), done).await, Ok(None), "this minute is done");
    // The first process dies in the next minute.
    assert!(matches!(one.begin_run(&run("one", 2)).await, Ok(Begun::Ours { .. })));
    assert_eq!(under_lease(&*other, &run("other", 2), async { Ok::<_, ()>(2) }).await, Ok(None));
    end_lease(&service.database, "sweep-of-a-test").await;
    assert_eq!(under_lease(&*other, &run("other", 2), async { Ok::<_, ()>(2) }).await, Ok(Some(Ok(2))));
    // A failure leaves the minute to the others.
    assert_eq!(under_lease(&*other, &run("other", 3), async { Err::<(), _>("down") }).await, Ok(Some(Err("down"))));
    assert_eq!(under_lease(&*one, &run("one", 3), async { Ok::<_, ()>(3) }).await, Ok(Some(Ok(3))));
    one.close().await;
    other.close().await;
}

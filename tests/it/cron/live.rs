//! `reset-quotas` during charges, and users who are created during the run.

use std::sync::Arc;

use billing_service::app::cron::Job;
use futures_util::{StreamExt, stream};
use rstest::rstest;
use tokio_util::sync::CancellationToken;

use super::{Counted, add_users, quotas, runner, users};
use crate::harness::{Backend, MySql, Service, Sqlite, charge};

/// Concurrent requests.
const AT_ONCE: usize = 64;

#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn first_calls_of_users_during_a_reset_succeed_and_count(#[values(MySql, Sqlite)] on: Backend) {
    let service = Arc::new(Service::start(on).await);
    service.clock.set("2026-11-20T04:00:00Z");
    users(&service.database, 3_000).await;
    let stop = CancellationToken::new();
    let resetting = tokio::spawn({
        let (service, stop) = (service.clone(), stop.clone());
        async move {
            let mut resets = 0;
            // Each run changes the totals of the next month. It does not change existing rows of this month.
            for payment in ["1000", "500"].iter().cycle() {
                let config = service.database.config(&[("billing.free_quotas.payment", payment)]);
                let runner = runner(config, &service.clock, CancellationToken::new()).await;
                let report = runner.run_due(Job::ResetQuotas, &Counted::all()).await.unwrap().unwrap();
                assert!(report.is_good, "{report:?}");
                resets += 1;
                if stop.is_cancelled() {
                    return resets;
                }
            }
            unreachable!()
        }
    });
    // Every second known user in reverse order, and as many new users.
    let names = (0..1_500).rev().flat_map(|number| [format!("user{:05}", number * 2), format!("user{number:05}-new")]);
    let charging = stream::iter(names.enumerate()).for_each_concurrent(AT_ONCE, |(number, user)| {
        let service = service.clone();
        async move {
            let count = 1 + (number % 7) as i32;
            if number % 3 == 0 {
                assert!(service.check(&user, "asset", count).await.allowed);
            }
            let reply = service.deduct(charge(&user, "asset", count)).await;
            assert_eq!((reply.free_count, reply.free_remaining), (count, 1_000 - count), "{user}");
        }
    });
    charging.await;
    stop.cancel();
    let resets = resetting.await.unwrap();
    println!("{resets} resets");
    let used: u64 = (0..3_000u64).map(|number| 1 + number % 7).sum();
    let rows = quotas(&service.database, "2026-11").await;
    assert_eq!(rows.iter().map(|row| row[3].parse::<u64>().unwrap()).sum::<u64>(), used);
    let mut known = rows.iter().filter(|row| row[1] == "payment" && !row[0].ends_with("-new"));
    assert!(known.all(|row| row[2] == "1000"), "rows of the current month do not change");
    service.assert_audit_is_clean().await;
}

#[rstest]
#[tokio::test]
async fn users_created_during_a_run_are_opened_by_the_run_or_by_their_first_call(#[values(MySql, Sqlite)] on: Backend) {
    let service = Service::start(on).await;
    service.clock.set("2026-11-20T04:00:00Z");
    users(&service.database, 2_000).await;
    let database = &service.database;
    let shown = Counted::cut_after(1);
    let first = runner(database.config(&[]), &service.clock, shown.stop.clone()).await;
    first.run_due(Job::ResetQuotas, &shown).await.unwrap_err();
    assert_eq!(shown.done(), 1_000);

    // Users before and after the position, added in SQL and by the service.
    add_users(database, &["user00000-row".to_owned(), "user01999-row".to_owned()]).await;
    service.deduct(charge("user00000-call", "asset", 3)).await;
    service.deduct(charge("user01999-call", "asset", 3)).await;
    let second = runner(database.config(&[]), &service.clock, CancellationToken::new()).await;
    let report = second.run_due(Job::ResetQuotas, &Counted::all()).await.unwrap().unwrap();
    assert_eq!(report.lines, ["reset-quotas: 2002 users open, 0 failed"]);
    let of = async |user: &str| {
        let mut months = Vec::new();
        for month in ["2026-11", "2026-12"] {
            months.push(quotas(database, month).await.iter().filter(|row| row[0] == user).count());
        }
        months
    };
    assert_eq!(of("user01999-row").await, [3, 3]);
    assert_eq!(of("user01999-call").await, [3, 3]);
    assert_eq!(of("user00000-row").await, [0, 0]);
    assert_eq!(of("user00000-call").await, [3, 0]);
    // All users are charged in the same way, in this month and in the next one.
    for (at, used_before) in [("2026-11-20T05:00:00Z", 3), ("2026-11-30T16:00:00Z", 0)] {
        service.clock.set(at);
        for name in ["user00000", "user01999"] {
            let left = async |user: String| service.deduct(charge(&user, "asset", 5)).await.free_remaining;
            assert_eq!(left(format!("{name}-row")).await, 995);
            assert_eq!(left(format!("{name}-call")).await, 995 - used_before);
        }
    }
    service.assert_audit_is_clean().await;
}

//! Rebuilds of the daily rollup from the records.

use billing_service::{
    app,
    biz::{
        jobs::rollup::{Rebuilt, rebuild_rollup},
        values::calendar::{Calendar, SystemClock},
    },
    service::proto::{DeductQuotaRequest, GetStatsSummaryRequest},
};
use rstest::rstest;

use crate::harness::{Backend, Database, MySql, Service, Sqlite, charge, progress::Unwatched};

async fn rebuild(database: &Database, is_dry_run: bool) -> Rebuilt {
    let store = app::connect(&database.config(&[])).await.unwrap();
    let calendar = Calendar::new(chrono_tz::Asia::Shanghai, SystemClock);
    let rebuilt = rebuild_rollup(&*store, &calendar, is_dry_run, &Unwatched).await.unwrap();
    store.close().await;
    // The other rollup has tests of its own.
    Rebuilt { use_days: 0, ..rebuilt }
}

const COLUMNS: [&str; 8] = [
    "user_id",
    "usage_date",
    "service_name",
    "free_count",
    "paid_count",
    "MICROS(amount)",
    "free_records",
    "paid_records",
];

async fn rollup(database: &Database) -> Vec<Vec<String>> {
    database.rows(&COLUMNS, "FROM usage_daily ORDER BY user_id, usage_date, service_name").await
}

/// Three users with charges on five days. The older records are in the archive.
async fn some_use(on: Backend) -> Service {
    let service = Service::start(on).await;
    for user in ["a", "b", "c"] {
        service.adjust(user, 100.0).await;
        for day in ["2026-01-31", "2026-02-01", "2026-10-31", "2026-11-20", "2026-11-21"] {
            service.clock.set(&format!("{day}T04:00:00Z"));
            for service_name in ["asset", "passport"] {
                service.deduct(charge(user, service_name, 900)).await;
            }
        }
    }
    let (columns, old) = (
        "billing_record_id, user_id, service_name, type, amount, count, created_at, usage_date, trace_id",
        "FROM billing_record WHERE usage_date < '2026-10-01'",
    );
    service.database.execute(&format!("INSERT INTO billing_record_archive ({columns}) SELECT {columns} {old}")).await;
    service.database.execute(&format!("DELETE {old}")).await;
    service
}

#[rstest]
#[case::missing("DELETE FROM usage_daily", 3)]
#[case::of_no_record(
    "INSERT INTO usage_daily \
    (user_id, usage_date, service_name, free_count, paid_count, amount, free_records, paid_records) SELECT user_id, '2025-01-01', service_name, 1, 0, 0, 1, 0 \
    FROM usage_daily WHERE user_id = 'b' AND usage_date = '2026-02-01'",
    1
)]
#[case::wrong_units(
    "UPDATE usage_daily SET free_count = free_count + 1 WHERE user_id = 'c' AND usage_date = '2026-02-01'",
    1
)]
#[case::wrong_money("UPDATE usage_daily SET amount = amount + 1 WHERE user_id <> 'c' AND usage_date > '2026-11-01'", 2)]
#[case::wrong_number("UPDATE usage_daily SET paid_records = 7 WHERE user_id = 'a'", 1)]
#[tokio::test]
async fn rows_that_differ_from_the_records_are_rebuilt(
    #[values(MySql, Sqlite)] on: Backend,
    #[case] damage: &str,
    #[case] users: u64,
) {
    let service = some_use(on).await;
    let right = rollup(&service.database).await;
    assert_eq!(right.len(), 30);
    assert_eq!(rebuild(&service.database, false).await, Rebuilt { users: 3, differing: 0, use_days: 0 });
    service.database.execute(damage).await;
    let wrong = rollup(&service.database).await;
    assert_ne!(wrong, right);
    assert_eq!(rebuild(&service.database, true).await, Rebuilt { users: 3, differing: users, use_days: 0 });
    assert_eq!(rollup(&service.database).await, wrong, "a dry run changes nothing");
    assert_eq!(rebuild(&service.database, false).await, Rebuilt { users: 3, differing: users, use_days: 0 });
    assert_eq!(rollup(&service.database).await, right);
    service.assert_audit_is_clean().await;
}

#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn charges_go_on_during_a_rebuild(#[values(MySql, Sqlite)] on: Backend) {
    let service = Service::start(on).await;
    let charging = async |user: String| {
        for n in 0..60 {
            let call = DeductQuotaRequest { trace_id: format!("{n}"), ..charge(&user, "asset", 1) };
            assert!(service.deduct(call).await.success);
        }
    };
    let users: Vec<String> = (0..8).map(|number| format!("user{number}")).collect();
    let charges = futures_util::future::join_all(users.iter().map(|user| charging(user.clone())));
    let rebuilding = async {
        for _ in 0..15 {
            // The rebuild finds all rows wrong, and repairs all of them.
            service.database.execute("DELETE FROM usage_daily").await;
            rebuild(&service.database, false).await;
        }
    };
    tokio::join!(charges, rebuilding);
    service.assert_audit_is_clean().await;
    for user in users {
        let request = GetStatsSummaryRequest { user_id: user };
        assert_eq!(service.public.clone().get_stats_summary(request).await.unwrap().into_inner().total_count, 60);
    }
}

//! The rebuild and the audit of the rollup.

use billing_service::{
    app,
    biz::{
        account::users::UserSpan,
        jobs::{
            rollup::{Rebuilt, rebuild_rollup},
            use_audit::UseRange,
        },
        values::{
            calendar::{Calendar, DaySpan},
            ids::UserId,
        },
    },
};
use rstest::rstest;

use super::{NAMES, USER, groups_of, random_call, start, usage_of};
use crate::harness::{Backend, MySql, Service, Sqlite, caller::Dice, progress::Unwatched};

async fn rebuild(service: &Service, is_dry_run: bool) -> Rebuilt {
    let store = app::connect(&service.database.config(super::MODELS)).await.unwrap();
    let calendar = Calendar::new(chrono_tz::Asia::Shanghai, service.clock.clone());
    let rebuilt = rebuild_rollup(&*store, &calendar, is_dry_run, &Unwatched).await.unwrap();
    store.close().await;
    rebuilt
}

/// Calls on four days. The records of the first two are in the archive.
async fn some_use(on: Backend) -> Service {
    let service = start(on).await;
    let mut dice = Dice(5);
    for at in ["2026-09-05T04:00:00Z", "2026-09-06T04:00:00Z", "2026-11-19T04:00:00Z", "2026-11-20T04:00:00Z"] {
        service.clock.set(at);
        for n in 0..15 {
            service.deduct(random_call(&mut dice, format!("{at}-{n}"))).await;
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
#[case::units("UPDATE usage_by SET paid_count = paid_count + 1 WHERE model = 'gpt-5'", "paid units in the rollup")]
#[case::money("UPDATE usage_by SET amount = amount + 1 WHERE api_key_id = 'key-a'", "amount in the rollup")]
#[case::tokens("UPDATE usage_by SET cache_write_1h_tokens = 0", "1h cache write tokens in the rollup")]
#[case::lost("DELETE FROM usage_by WHERE model = 'gpt-5'", "paid units in the rollup")]
#[case::calls("UPDATE usage_by SET calls = calls + 1 WHERE usage_date = '2026-09-05'", "calls in the rollup")]
#[case::model("UPDATE usage_by SET model = 'other' WHERE model = 'gpt-4.1'", "model 'other'")]
#[case::twice(
    "UPDATE usage_by SET paid_records = paid_records * 2 + 1 WHERE usage_date = '2026-11-19'",
    "paid records in the rollup"
)]
#[tokio::test]
async fn a_damaged_row_is_named_and_rebuilt(
    #[values(MySql, Sqlite)] on: Backend,
    #[case] damage: &str,
    #[case] named: &str,
) {
    let service = some_use(on).await;
    service.whole_usage(usage_of("day")).await;
    let right = service.whole_usage(usage_of("model")).await;
    service.assert_audit_is_clean().await;
    service.database.execute(damage).await;
    let found = service.database.audit().await.differences;
    assert!(found.iter().any(|difference| difference.to_string().contains(named)), "{found:#?}");
    let damaged = rebuild(&service, true).await.use_days;
    assert!(damaged > 0);
    assert_eq!(rebuild(&service, false).await, Rebuilt { users: 1, differing: 0, use_days: damaged });
    service.assert_audit_is_clean().await;
    assert_eq!(groups_of(&service.whole_usage(usage_of("model")).await), groups_of(&right));
    assert_eq!(rebuild(&service, false).await.use_days, 0);
}

/// Damage that the next read sees by itself.
#[rstest]
#[case::unreadable("UPDATE usage_parts SET parts = '[[1,0' WHERE usage_date = '2026-09-05'")]
#[case::other_parts("UPDATE usage_parts SET parts = '[]'")]
#[case::too_many("UPDATE usage_parts SET records = records + 5")]
#[case::both_lost("DELETE FROM usage_parts WHERE usage_date = '2026-11-19'")]
#[case::negative("UPDATE usage_by SET paid_records = -5, free_records = 0")]
#[tokio::test]
async fn damaged_parts_are_summed_anew_or_told(#[values(MySql, Sqlite)] on: Backend, #[case] damage: &str) {
    let service = some_use(on).await;
    let right = service.whole_usage(usage_of("model")).await;
    service.database.execute(damage).await;
    service.whole_usage(usage_of("day")).await;
    if damage.contains("usage_by ") {
        assert!(!service.database.audit().await.differences.is_empty());
        assert!(rebuild(&service, false).await.use_days > 0);
    }
    assert_eq!(service.whole_usage(usage_of("model")).await, right);
    service.assert_audit_is_clean().await;
}

/// A database of an older release has no rows.
#[rstest]
#[tokio::test]
async fn a_rebuild_fills_an_empty_rollup_from_records_and_archive(#[values(MySql, Sqlite)] on: Backend) {
    let service = some_use(on).await;
    assert_eq!(rebuild(&service, true).await.use_days, 4);
    assert_eq!(service.database.rows(&["COUNT(*)"], "FROM usage_by").await, [["0"]], "a dry run changes nothing");
    assert_eq!(rebuild(&service, false).await.use_days, 4);
    let rows = service.database.rows(&["COUNT(*)"], "FROM usage_by").await;
    let rebuilt: Vec<_> = {
        let mut replies = Vec::new();
        for by in NAMES {
            replies.push(service.whole_usage(usage_of(by)).await);
        }
        replies
    };
    assert_eq!(service.database.rows(&["COUNT(*)"], "FROM usage_by").await, rows);
    service.database.execute("DELETE FROM usage_by").await;
    service.database.execute("DELETE FROM usage_parts").await;
    for (by, rebuilt) in NAMES.iter().zip(rebuilt) {
        assert_eq!(service.whole_usage(usage_of(by)).await, rebuilt, "{by}");
    }
    service.assert_is_exact(&Default::default()).await;
}

/// The days of a large user are compared in several statements.
#[rstest]
#[tokio::test]
async fn a_range_of_days_is_compared_as_its_user(#[values(MySql, Sqlite)] on: Backend) {
    let service = some_use(on).await;
    service.whole_usage(usage_of("day")).await;
    let store = app::connect(&service.database.config(super::MODELS)).await.unwrap();
    let user = UserId::from_stored(USER);
    let sizes = store.use_day_sizes(&user).await.unwrap();
    let days: Vec<_> = sizes.iter().map(|(day, _)| day.to_string()).collect();
    assert_eq!(days, ["2026-09-05", "2026-09-06", "2026-11-19", "2026-11-20"]);
    let all: u64 = sizes.iter().map(|(_, size)| size).sum();
    let of_user = store.use_sizes(&UserSpan { after: None, last: user.clone() }).await.unwrap();
    assert_eq!(of_user, [(user.clone(), all)]);

    let users = UseRange::Users { first: user.clone(), last: user.clone() };
    let of_days = |first: usize, last: usize| UseRange::Days {
        user: user.clone(),
        days: DaySpan { first: sizes[first].0, last: sizes[last].0 },
    };
    for range in [&users, &of_days(0, 3), &of_days(0, 0), &of_days(3, 3)] {
        assert_eq!(store.differing_use(range, 1_000).await.unwrap(), [], "{range:?}");
    }
    service.database.execute("UPDATE usage_by SET calls = calls + 1").await;
    let whole = store.differing_use(&users, 1_000).await.unwrap();
    assert!(whole.len() > 4, "{whole:?}");
    let mut in_parts = store.differing_use(&of_days(0, 1), 1_000).await.unwrap();
    in_parts.extend(store.differing_use(&of_days(2, 3), 1_000).await.unwrap());
    assert_eq!(in_parts, whole);
    store.close().await;
}

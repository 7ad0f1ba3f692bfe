//! Passes over the records: in part, twice, by several servers, and cut short.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use billing_service::{
    app,
    biz::{
        reports::usage::{
            DayChange, GroupBy, Part, UseCount, UseFilter,
            budget::Budget,
            refresh::{Refreshed, Walks, discard, refresh},
        },
        values::{
            calendar::{Calendar, DaySpan},
            error::StoreError,
            ids::UserId,
        },
    },
    service::proto::DeductQuotaRequest,
};
use rstest::rstest;
use tokio::time::timeout;

use super::{USER, break_stream, commit_of, expected, groups_of, random_call, records, reserve_of, start, usage_of};
use crate::harness::{
    Backend, MySql, Service, Sqlite,
    caller::Dice,
    charge,
    process::{ServerProcess, until_killed},
    wait::until,
};

/// Enough records that a day has several parts.
const LARGE: usize = 6_000;

/// A large day: calls at three times of it, by models and keys.
async fn large_day(on: Backend) -> Service {
    let service = start(on).await;
    for (number, at) in ["2026-11-20T01:00:00Z", "2026-11-20T02:05:00Z", "2026-11-20T04:00:00Z"].iter().enumerate() {
        service.clock.set(at);
        let call = DeductQuotaRequest {
            model: ["", "m-1", "m-2"][number].into(),
            api_key_id: format!("key-{}", number % 2),
            ..charge(USER, "asset", 1)
        };
        service.charge_many(&format!("large-{number}"), LARGE / 3, &call).await;
    }
    service
}

async fn assert_is_exact_in_the_end(service: &Service) {
    for by in super::NAMES {
        let reply = service.whole_usage(usage_of(by)).await;
        let records = records(service).await;
        assert_eq!(groups_of(&reply), expected(&records, by, &BTreeSet::new(), |_| true), "{by}");
    }
}

#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn charges_write_nothing_to_the_rollup(#[values(MySql, Sqlite)] on: Backend) {
    let service = start(on).await;
    let mut dice = Dice(3);
    for n in 0..20 {
        service.deduct(random_call(&mut dice, format!("c-{n}"))).await;
        let call = random_call(&mut dice, format!("r-{n}"));
        service.internal.clone().reserve_quota(reserve_of(&call)).await.unwrap();
        service.internal.clone().commit_reservation(commit_of(&call)).await.unwrap();
    }
    break_stream(&service, "s").await;
    assert_eq!(service.database.rows(&["COUNT(*)"], "FROM usage_by").await, [["0"]]);
}

#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_large_day_is_summed_behind_the_read(#[values(MySql, Sqlite)] on: Backend) {
    let service = large_day(on).await;
    // A hold of the first hour, committed after the day was summed.
    service.clock.set("2026-11-20T01:03:00Z");
    let late = DeductQuotaRequest { trace_id: "late".into(), model: "m-3".into(), ..charge(USER, "asset", 2) };
    service.internal.clone().reserve_quota(reserve_of(&late)).await.unwrap();
    service.clock.set("2026-11-20T04:01:00Z");
    let first = service.usage(usage_of("model")).await;
    assert!(first.pending_records > 0, "a request has no time for all of them");
    assert_is_exact_in_the_end(&service).await;
    service.internal.clone().commit_reservation(commit_of(&late)).await.unwrap();
    assert_is_exact_in_the_end(&service).await;
    service.clock.set("2026-11-20T05:00:00Z");
    service.deduct(charge(USER, "asset", 1)).await;
    assert_is_exact_in_the_end(&service).await;
    service.assert_audit_is_clean().await;
}

#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_day_that_grows_large_stays_exact(#[values(MySql, Sqlite)] on: Backend) {
    let service = start(on).await;
    for round in 0..4 {
        service.charge_many(&format!("round-{round}"), 1_900, &charge(USER, "asset", 1)).await;
        assert_is_exact_in_the_end(&service).await;
        service.clock.advance(chrono::TimeDelta::minutes(7));
    }
    assert!(parts(&service).await > 1);
    service.assert_audit_is_clean().await;
}

/// Passes of two servers at once, each cut short at some time, while charges go on.
#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn passes_at_once_and_cut_short_change_nothing(#[values(MySql, Sqlite)] on: Backend) {
    let service = large_day(on).await;
    let calendar = Arc::new(Calendar::new(chrono_tz::Asia::Shanghai, service.clock.clone()));
    let (user, day) = (UserId::from_stored(USER), "2026-11-20".parse().unwrap());
    let span = DaySpan { first: day, last: day };
    let (first, second) = (
        app::connect(&service.database.config(&[])).await.unwrap(),
        app::connect(&service.database.config(&[])).await.unwrap(),
    );
    let passing = async |store: &Arc<dyn billing_service::data::Store>, seed: u64| {
        let (mut dice, walks) = (Dice(seed), Walks::default());
        for _ in 0..20 {
            let limit = Duration::from_millis(dice.below(60) as u64);
            match timeout(limit, refresh(&**store, &calendar, &user, span, Budget::WITHOUT_END, &walks)).await {
                Ok(Ok(_)) | Err(_) => {}
                Ok(Err(error)) => panic!("{error}"),
            }
        }
    };
    let charging = async {
        let mut dice = Dice(11);
        for n in 0..60 {
            service.deduct(random_call(&mut dice, format!("during-{n}"))).await;
        }
    };
    tokio::join!(passing(&first, 1), passing(&second, 2), charging);
    assert_is_exact_in_the_end(&service).await;
    service.assert_audit_is_clean().await;
    first.close().await;
    second.close().await;
}

#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_is_killed_in_a_pass_leaves_exact_sums(#[values(MySql, Sqlite)] on: Backend) {
    until_killed(1, async || {
        let service = large_day(on).await;
        let conf = service.database.config_file(super::MODELS);
        let mut server = ServerProcess::start_beside(&conf).await;
        // Port 9107 has no route of usage, so the job of the killed process is the read over gRPC.
        let mut client =
            billing_service::service::proto::billing_service_client::BillingServiceClient::connect(server.grpc.clone())
                .await
                .unwrap();
        let span = billing_service::service::proto::GetUsageRequest { to: "2026-11-20".into(), ..usage_of("model") };
        let pending = client.get_usage(span).await.unwrap().into_inner().pending_records;
        let some = async || service.database.rows(&["COUNT(*)"], "FROM usage_by").await[0][0] != "0";
        until("the pass has begun", some).await;
        server.kill();
        assert_is_exact_in_the_end(&service).await;
        service.assert_audit_is_clean().await;
        usize::from(pending > 0)
    })
    .await;
}

/// The number of parts that have rows.
async fn parts(service: &Service) -> usize {
    service.database.rows(&["COUNT(DISTINCT part)"], "FROM usage_by").await[0][0].parse().unwrap()
}

#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_parts_of_a_past_day_become_one(#[values(MySql, Sqlite)] on: Backend) {
    let service = large_day(on).await;
    let store = app::connect(&service.database.config(&[])).await.unwrap();
    let calendar = Calendar::new(chrono_tz::Asia::Shanghai, service.clock.clone());
    let (user, day) = (UserId::from_stored(USER), "2026-11-20".parse().unwrap());
    let span = DaySpan { first: day, last: day };
    let pass = async || {
        let walks = Walks::default();
        // The server may do the same.
        until("a pass has run", async || {
            let pass = refresh(&*store, &calendar, &user, span, Budget::WITHOUT_END, &walks).await;
            matches!(pass.unwrap(), Refreshed { missing: 0, conflicts: 0, .. })
        })
        .await;
    };
    pass().await;
    assert!(parts(&service).await > 1, "the newest part has not ended");
    service.clock.set("2026-11-22T04:00:00Z");
    pass().await;
    assert_eq!(parts(&service).await, 1);
    assert_is_exact_in_the_end(&service).await;
    service.assert_audit_is_clean().await;

    // A merge that is sent again, or comes from a slower server, is refused.
    let known = store.days(&user, span).await.unwrap().remove(0);
    let rows = service.database.rows(&["COUNT(*)", "SUM(paid_count)"], "FROM usage_by").await;
    let part = known.parts()[0];
    let groups = store.part_sums(&user, day, part.id).await.unwrap();
    let again =
        |version| DayChange { day, version, parts: known.parts.clone(), removed: vec![part.id], added: groups.clone() };
    for version in [0, known.version - 1, known.version + 1] {
        let refused = store.change(&user, again(version)).await;
        assert!(matches!(refused, Err(StoreError::Conflict(_))), "{version}: {refused:?}");
    }
    assert_eq!(service.database.rows(&["COUNT(*)", "SUM(paid_count)"], "FROM usage_by").await, rows);

    // A record of that day comes later than all.
    service.clock.set("2026-11-20T02:06:00Z");
    service.deduct(DeductQuotaRequest { model: "m-3".into(), ..charge(USER, "asset", 3) }).await;
    service.clock.set("2026-11-22T04:00:00Z");
    assert_is_exact_in_the_end(&service).await;
    pass().await;
    assert_eq!(parts(&service).await, 1);
    assert_is_exact_in_the_end(&service).await;
    service.assert_audit_is_clean().await;
    store.close().await;
}

/// Servers that see different numbers of records on both sides of the number up to which a day is one part.
#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_servers_at_the_end_of_a_full_part_count_nothing_twice(#[values(MySql, Sqlite)] on: Backend) {
    let service = start(on).await;
    service.charge_many("first", 1_000, &charge(USER, "asset", 1)).await;
    let store = app::connect(&service.database.config(&[])).await.unwrap();
    let calendar = Calendar::new(chrono_tz::Asia::Shanghai, service.clock.clone());
    let (user, day) = (UserId::from_stored(USER), "2026-11-20".parse().unwrap());
    let span = DaySpan { first: day, last: day };
    // The slow server has read the day and its records, and has not written yet.
    let slow = store.days(&user, span).await.unwrap().remove(0);
    let groups = store.sums_between(&user, calendar.bounds(span)).await.unwrap();
    service.deduct(charge(USER, "asset", 1)).await;
    assert_is_exact_in_the_end(&service).await;
    let part = Part { id: slow.version + 1, from: 0, until: 86_400_000, records: 1_000, rows: 1 };
    let (parts, removed) = (Some(vec![part]), Vec::new());
    let late = DayChange { day, version: slow.version, parts, removed, added: groups };
    let refused = store.change(&user, late).await;
    assert!(matches!(refused, Err(StoreError::Conflict(_))), "{refused:?}");
    assert_is_exact_in_the_end(&service).await;
    service.assert_audit_is_clean().await;
    store.close().await;
}

/// Reads during a rebuild: a reply that lacks records says so.
#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_read_during_a_rebuild_has_its_records_or_says_how_many_it_lacks(#[values(MySql, Sqlite)] on: Backend) {
    let service = large_day(on).await;
    assert_is_exact_in_the_end(&service).await;
    let store = app::connect(&service.database.config(&[])).await.unwrap();
    let calendar = Calendar::new(chrono_tz::Asia::Shanghai, service.clock.clone());
    let (user, day) = (UserId::from_stored(USER), "2026-11-20".parse().unwrap());
    let filter = UseFilter {
        user: user.clone(),
        span: DaySpan { first: day, last: day },
        service: None,
        model: None,
        api_key: None,
    };
    let is_over = std::sync::atomic::AtomicBool::new(false);
    let rebuilding = async {
        for _ in 0..10 {
            // The server may sum the same day.
            until("the day is discarded", async || discard(&*store, &user, day).await.is_ok()).await;
            let walks = Walks::default();
            refresh(&*store, &calendar, &user, filter.span, Budget::WITHOUT_END, &walks).await.unwrap();
        }
        is_over.store(true, std::sync::atomic::Ordering::SeqCst);
    };
    let reading = async {
        let mut reads = 0;
        while !is_over.load(std::sync::atomic::Ordering::SeqCst) {
            let (groups, missing) = store.grouped(&filter, GroupBy::Day, None, 10).await.unwrap();
            let units: i64 = groups.iter().map(|(_, sums)| sums.get(UseCount::PaidUnits)).sum();
            let free: i64 = groups.iter().map(|(_, sums)| sums.get(UseCount::FreeUnits)).sum();
            let has = (units + free) as usize;
            assert!(missing > 0 || has == LARGE, "{has} of {LARGE}, and {missing} missing");
            reads += 1;
        }
        assert!(reads > 0);
    };
    tokio::join!(rebuilding, reading);
    assert_is_exact_in_the_end(&service).await;
    service.assert_audit_is_clean().await;
    store.close().await;
}

/// A lock stands for a pass of another server between the two statements of a reply.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_groups_of_a_reply_and_its_missing_records_are_of_one_snapshot() {
    let service = start(MySql).await;
    service.charge_many("calls", 200, &charge(USER, "asset", 1)).await;
    let right = service.whole_usage(usage_of("day")).await;
    let mut other = service.database.mysql().await;
    sqlx::raw_sql("LOCK TABLES usage_by WRITE").execute(&mut other).await.unwrap();
    let reading = async { service.usage(usage_of("day")).await };
    let changing = async {
        let waits = "FROM information_schema.processlist WHERE db = DATABASE() AND state LIKE '%metadata lock%'";
        until("the groups wait for the lock", async || service.database.rows(&["COUNT(*)"], waits).await[0][0] != "0")
            .await;
        sqlx::raw_sql("DELETE FROM usage_by; UNLOCK TABLES").execute(&mut other).await.unwrap();
    };
    let (reply, ()) = tokio::join!(reading, changing);
    assert_eq!(reply, right);
}

/// A commit that comes late adds records at its own time to a call.
#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_with_records_in_two_parts_counts_the_same_in_the_audit(#[values(MySql, Sqlite)] on: Backend) {
    let service = large_day(on).await;
    assert_is_exact_in_the_end(&service).await;
    let call = DeductQuotaRequest { trace_id: "mixed".into(), model: "m-4".into(), ..charge(USER, "passport", 40) };
    service.deduct(call).await;
    let later = match on {
        MySql => "created_at + INTERVAL 600 SECOND",
        Sqlite => "created_at + 600000000",
    };
    let moving = format!("UPDATE billing_record SET created_at = {later} WHERE trace_id = 'mixed' AND type = 2");
    service.database.execute(&moving).await;
    let times = service.database.rows(&["COUNT(DISTINCT created_at)"], "FROM billing_record WHERE trace_id = 'mixed'");
    assert_eq!(times.await, [["2"]]);
    assert_is_exact_in_the_end(&service).await;
    // Only the parts tell the two times apart.
    let in_parts = service.database.rows(&["COUNT(DISTINCT part)", "SUM(calls)"], "FROM usage_by WHERE model = 'm-4'");
    assert_eq!(in_parts.await, [["2", "2"]]);
    service.assert_audit_is_clean().await;
}

#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reads_at_once_all_answer(#[values(MySql, Sqlite)] on: Backend) {
    let service = large_day(on).await;
    let reads = (0..12).map(|n| service.usage(usage_of(super::NAMES[n % 4])));
    futures_util::future::join_all(reads).await;
    assert_is_exact_in_the_end(&service).await;
    service.assert_audit_is_clean().await;
}

//! Each call around the end of a month counts in exactly one month.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering::Relaxed},
};

use billing_service::{
    biz::values::calendar::Clock,
    service::proto::{
        BatchDeductQuotaRequest, CommitReservationRequest, DeductQuotaRequest, ReleaseReservationRequest,
        ReserveQuotaRequest,
    },
};
use chrono::{DateTime, TimeDelta, Utc};
use futures_util::future::join_all;
use rstest::rstest;

use crate::harness::{Backend, Database, MySql, Service, Sqlite, charge, traced, wait::until};

/// The beginning of November in Shanghai.
fn november() -> DateTime<Utc> {
    "2026-10-31T16:00:00Z".parse().unwrap()
}

const TICK: TimeDelta = TimeDelta::microseconds(1);

/// Used free units of October and of November.
async fn used(database: &Database, service: &str) -> [u64; 2] {
    let mut used = [0; 2];
    for (month, used) in ["2026-10", "2026-11"].into_iter().zip(&mut used) {
        let from = format!("FROM free_quota WHERE reset_month = '{month}' AND service_name = '{service}'");
        let rows = database.rows(&["COALESCE(SUM(used_quota), 0)"], &from).await;
        *used = rows[0][0].parse().unwrap();
    }
    used
}

fn hold(user: &str, trace: &str, count: i32) -> ReserveQuotaRequest {
    let (user_id, trace_id, service_name) = (user.to_owned(), trace.to_owned(), "asset".to_owned());
    ReserveQuotaRequest { user_id, trace_id, service_name, count, ..Default::default() }
}

fn commit(user: &str, trace: &str, count: i32) -> CommitReservationRequest {
    let (user_id, trace_id) = (user.to_owned(), trace.to_owned());
    CommitReservationRequest { user_id, trace_id, count: Some(count), ..Default::default() }
}

const CALLERS: usize = 32;

/// Makes charges, batches and reservations one after another, until well after midnight. Counts the
/// charged units.
async fn call_over_midnight(service: Arc<Service>, number: usize, units: Arc<AtomicU64>) {
    let end = november() + TimeDelta::milliseconds(300);
    // Some callers have their own account, and the others share one.
    let user = if number.is_multiple_of(2) { "shared".to_owned() } else { format!("u{number}") };
    let mut internal = service.internal.clone();
    for call in 0.. {
        let begun = service.clock.now();
        let trace = format!("{number}-{call}");
        let charged = match call % 4 {
            0 => {
                internal.reserve_quota(hold(&user, &trace, 3)).await.unwrap();
                internal.commit_reservation(commit(&user, &trace, 2)).await.unwrap().into_inner().free_count
            }
            1 => {
                let items = (0..3).map(|item| traced(&format!("{trace}-{item}"), charge(&user, "asset", 1)));
                let batch = BatchDeductQuotaRequest { items: items.collect() };
                let results = internal.batch_deduct_quota(batch).await.unwrap().into_inner().results;
                results.iter().map(|result| result.reply.as_ref().unwrap().free_count).sum()
            }
            _ => {
                let request = traced(&trace, charge(&user, "asset", 1));
                let first = service.deduct(request.clone()).await;
                let again = service.deduct(request).await;
                assert!(again.replayed && again.record_id == first.record_id);
                first.free_count
            }
        };
        units.fetch_add(charged as u64, Relaxed);
        if begun > end {
            return;
        }
    }
}

#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_charge_while_the_month_turns_counts_in_one_month(#[values(MySql, Sqlite)] on: Backend) {
    let service = Service::start_with(on, &[("billing.free_quotas.asset", "1000000")]).await;
    let service = Arc::new(service);
    let before = november() - TimeDelta::milliseconds(300);
    service.clock.stop_at(before);
    let units = Arc::new(AtomicU64::new(0));
    let callers: Vec<_> =
        (0..CALLERS).map(|number| tokio::spawn(call_over_midnight(service.clone(), number, units.clone()))).collect();
    until("some units are charged in October", async || units.load(Relaxed) > 0).await;
    service.clock.set(&before.to_rfc3339());
    for caller in join_all(callers).await {
        caller.unwrap();
    }
    let [october, november_units] = used(&service.database, "asset").await;
    println!("{october} units in October, {november_units} in November");
    assert!(october > 0 && november_units > 0, "{october}, {november_units}");
    assert_eq!(october + november_units, units.load(Relaxed));
    let held = service.database.rows(&["COALESCE(SUM(held_quota), 0)"], "FROM free_quota").await;
    assert_eq!(held, [["0"]]);
    // Day, month and time of each record are from the same instant.
    let midnight = match on {
        MySql => "'2026-10-31 16:00:00'".to_owned(),
        Sqlite => november().timestamp_micros().to_string(),
    };
    let astray = format!(
        "FROM billing_record r JOIN billing_transaction t ON t.user_id = r.user_id AND t.trace_id = r.trace_id \
         WHERE t.expires_at IS NULL AND (r.created_at < {midnight}) <> (r.usage_date < '2026-11-01')"
    );
    assert_eq!(service.database.rows(&["COUNT(*)"], &astray).await, [["0"]]);
    service.assert_audit_is_clean().await;
}

#[rstest]
#[tokio::test]
async fn a_retry_after_midnight_counts_in_the_month_of_the_first_attempt(#[values(MySql, Sqlite)] on: Backend) {
    let service = Service::start(on).await;
    let at_once = charge("u", "asset", 5);
    let batch = async |items: Vec<DeductQuotaRequest>| {
        let request = BatchDeductQuotaRequest { items };
        let results = service.internal.clone().batch_deduct_quota(request).await.unwrap().into_inner().results;
        results.into_iter().map(|result| result.reply.unwrap()).collect::<Vec<_>>()
    };
    service.clock.stop_at(november() - TICK);
    let first = service.deduct(traced("one", at_once.clone())).await;
    let old: Vec<_> = (0..10).map(|item| traced(&format!("b{item}"), charge("u", "asset", 1))).collect();
    let first_batch = batch(old.clone()).await;
    assert_eq!(used(&service.database, "asset").await, [15, 0]);
    service.clock.stop_at(november());
    let again = service.deduct(traced("one", at_once)).await;
    assert_eq!((again.replayed, &again.record_id), (true, &first.record_id));
    assert_eq!(used(&service.database, "asset").await, [15, 0]);
    // A batch whose first half was charged before midnight.
    let new = (10..20).map(|item| traced(&format!("b{item}"), charge("u", "asset", 1)));
    let results = batch(old.into_iter().chain(new).collect()).await;
    assert_eq!(results.iter().filter(|reply| reply.replayed).count(), 10);
    assert!(results.iter().zip(&first_batch).all(|(again, first)| again.record_id == first.record_id));
    assert_eq!(used(&service.database, "asset").await, [15, 10]);
    service.assert_audit_is_clean().await;
}

#[rstest]
#[tokio::test]
async fn a_commit_after_midnight_counts_in_the_month_of_the_reserve(#[values(MySql, Sqlite)] on: Backend) {
    let service = Service::start(on).await;
    let mut internal = service.internal.clone();
    service.clock.stop_at(november() - TICK);
    for trace in ["exact", "less", "more", "released"] {
        internal.reserve_quota(hold("u", trace, 10)).await.unwrap();
    }
    service.clock.stop_at(november());
    for (trace, count) in [("exact", 10), ("less", 4), ("more", 13)] {
        let reply = internal.commit_reservation(commit("u", trace, count)).await.unwrap().into_inner();
        assert_eq!((reply.free_count, reply.amount), (count, 0.0), "{trace}");
        // Its retry counts in that month, too.
        let again = internal.commit_reservation(commit("u", trace, count)).await.unwrap().into_inner();
        assert!(again.replayed);
    }
    let release = ReleaseReservationRequest { user_id: "u".into(), trace_id: "released".into() };
    internal.release_reservation(release).await.unwrap();
    assert_eq!(used(&service.database, "asset").await, [27, 0]);
    assert_eq!(service.deduct(charge("u", "asset", 1)).await.free_remaining, 999);
    assert_eq!(used(&service.database, "asset").await, [27, 1]);
    let held = service.database.rows(&["SUM(held_quota)"], "FROM free_quota").await;
    assert_eq!(held, [["0"]]);
    service.assert_audit_is_clean().await;
}

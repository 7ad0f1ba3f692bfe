//! Calls while the database is blocked.

use std::time::Duration;

use billing_service::service::proto::{CommitReservationRequest, ReserveQuotaRequest};
use futures_util::{StreamExt, future::join_all, stream::FuturesUnordered};
use rstest::rstest;
use tonic::Code;

use crate::harness::{Backend, MySql, Service, Sqlite, charge, code_of, lock::Lock, traced, wait::soon};

/// Restarts the service with `changes`.
async fn restarted(service: Service, changes: &[(&str, &str)]) -> Service {
    service.app.stop().await;
    Service::start_on(service.database, changes).await
}

const ONE_SMALL_LANE: &[(&str, &str)] = &[
    ("billing.settlement", "{lanes: 1, queue: 10, batch: 5, max_wait: 30s, retry_timeout: 30s}"),
    ("server.grpc.timeout", "30s"),
];

#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_lane_refuses_at_once_and_keeps_its_accepted_charges(#[values(MySql, Sqlite)] on: Backend) {
    let service = Service::start_with(on, ONE_SMALL_LANE).await;
    service.check("u", "passport", 1).await;
    let lock = Lock::take(&service.database).await;
    let mut calls: FuturesUnordered<_> = (0..60)
        .map(|i| {
            let mut client = service.internal.clone();
            let request = traced(&format!("t{i}"), charge("u", "passport", 1));
            tokio::spawn(async move { client.deduct_quota(request).await })
        })
        .collect();
    // The batch in flight has one to five charges, and the queue has ten. The other charges are
    // answered while the lock is held.
    for _ in 0..45 {
        let refused = soon(calls.next()).await.unwrap().unwrap().unwrap_err();
        assert_eq!(code_of(&refused), (Code::Unavailable, "10014".into()));
    }
    lock.release().await;

    let mut passed = 0;
    while let Some(reply) = calls.next().await {
        match reply.unwrap() {
            Ok(_) => passed += 1,
            Err(refused) => assert_eq!(code_of(&refused), (Code::Unavailable, "10014".into())),
        }
    }
    assert!((11..=15).contains(&passed), "{passed}");
    assert_eq!(service.state("u").await.1[0], passed);
    service.assert_audit_is_clean().await;
}

/// Long enough for unblocked calls, and shorter than any wait for a lock.
const SHORT_DEADLINE: &[(&str, &str)] = &[("server.grpc.timeout", "1.5s")];

#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_charge_outlives_its_caller_and_its_deadline(#[values(MySql, Sqlite)] on: Backend) {
    let service = Service::start(on).await;
    service.check("u", "passport", 1).await;
    let service = restarted(service, SHORT_DEADLINE).await;
    let lock = Lock::take(&service.database).await;

    let late = service.try_deduct(traced("late", charge("u", "passport", 1))).await.unwrap_err();
    assert_eq!(code_of(&late), (Code::Unavailable, "10014".into()));

    let (sent, mut client) = (traced("gone", charge("u", "passport", 2)), service.internal.clone());
    let mut call = Box::pin(client.deduct_quota(sent));
    let gone = tokio::time::timeout(Duration::from_millis(50), &mut call).await;
    assert!(gone.is_err());
    drop(call);
    lock.release().await;

    // The charge may have reached the service or not. A retry settles it.
    let retry = async |request| {
        for _ in 0..50 {
            if let Ok(reply) = service.try_deduct(Clone::clone(&request)).await {
                return reply;
            }
        }
        panic!("the service does not recover")
    };
    assert!(retry(traced("late", charge("u", "passport", 1))).await.replayed);
    retry(traced("gone", charge("u", "passport", 2))).await;
    let service = restarted(service, &[]).await;
    assert_eq!(service.state("u").await.1[0], 3);
    service.assert_audit_is_clean().await;
}

#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_charge_without_an_answer_in_time_counts_as_a_failure(#[values(MySql, Sqlite)] on: Backend) {
    let service = Service::start(on).await;
    let reserve = ReserveQuotaRequest {
        user_id: "u".into(),
        service_name: "passport".into(),
        count: 1,
        trace_id: "stream".into(),
        ..Default::default()
    };
    service.internal.clone().reserve_quota(reserve).await.unwrap();
    let service = restarted(service, SHORT_DEADLINE).await;
    let lock = Lock::take(&service.database).await;
    service.try_deduct(charge("u", "passport", 1)).await.unwrap_err();
    let commit = CommitReservationRequest { user_id: "u".into(), trace_id: "stream".into(), ..Default::default() };
    service.internal.clone().commit_reservation(commit).await.unwrap_err();
    let text = service.metrics().await;
    for line in [
        "billing_deduct_failure{reason=\"overloaded\"} 2",
        "billing_deduct_failure{reason=\"internal\"} 0",
        "billing_quota_deduct_duration_seconds_count 1",
        "billing_duration_ms_count{operation=\"commit\"} 1",
        "billing_deduct_success 0",
        "billing_stream_failed 1",
    ] {
        assert!(text.lines().any(|found| found == line), "{line} is not in\n{text}");
    }
    lock.release().await;
}

#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stop_answers_accepted_charges(#[values(MySql, Sqlite)] on: Backend) {
    let service = Service::start(on).await;
    // Opens the account before the lock.
    service.check("u", "passport", 1).await;
    let lock = Lock::take(&service.database).await;
    let mut calls: Vec<_> = (0..20)
        .map(|i| {
            let mut client = service.internal.clone();
            let request = traced(&format!("t{i}"), charge("u", "passport", 1));
            Box::pin(async move { client.deduct_quota(request).await })
        })
        .collect();
    for call in &mut calls {
        assert!(futures_util::poll!(call).is_pending());
    }
    // Sent last on the same connection: its answer shows that the charges have arrived.
    assert!(service.check("u", "passport", 1).await.allowed);
    let stopping = tokio::spawn(service.app.stop());
    lock.release().await;
    for reply in join_all(calls).await {
        assert!(reply.unwrap().into_inner().success);
    }
    stopping.await.unwrap();
    let service = Service::start_on(service.database, &[]).await;
    assert_eq!(service.state("u").await.1[0], 20);
    service.assert_audit_is_clean().await;
}

#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_above_the_limit_is_refused_and_health_still_answers(#[values(MySql, Sqlite)] on: Backend) {
    let service = Service::start_with(on, &[("server.limits.requests", "1")]).await;
    service.check("u", "passport", 1).await;
    let lock = Lock::take(&service.database).await;
    // This charge takes the only permit, and keeps it while the lock is held. A probe below may have taken
    // the permit before.
    let mut client = service.internal.clone();
    let open = tokio::spawn(async move {
        loop {
            match client.deduct_quota(charge("u", "passport", 1)).await {
                Err(refused) if code_of(&refused).1 == "10014" => {}
                other => break other,
            }
        }
    });
    // Probes come one after another, so only the open request can make them fail.
    let refused = async {
        loop {
            if let Err(refused) = service.try_deduct(charge("u", "passport", 0)).await
                && code_of(&refused).1 == "10014"
            {
                break refused;
            }
        }
    };
    let refused = tokio::time::timeout(Duration::from_secs(10), refused).await.expect("refused at once");
    assert_eq!(refused.code(), Code::Unavailable);
    let url = format!("http://{}/health", service.app.grpc_addr);
    assert_eq!(service.http.get(url).send().await.unwrap().status(), 200);
    lock.release().await;
    assert!(open.await.unwrap().unwrap().into_inner().success);
}

//! Caps on the requests of a user.

use billing_service::{
    app::App,
    service::proto::{
        BatchDeductQuotaRequest, CommitReservationRequest, ReleaseReservationRequest, ReserveQuotaRequest,
        SetUserLimitsRequest, UserLimits,
    },
};
use futures_util::future::join_all;
use rstest::rstest;
use serde_json::json;
use tonic::{Code, Status};

use crate::harness::{Backend, MySql, Service, Sqlite, caller::Client, charge, code_of, traced};

async fn cap(service: &Service, daily_limit: Option<i32>, monthly_limit: Option<i32>) -> Option<UserLimits> {
    let request = SetUserLimitsRequest { user_id: "u".into(), daily_limit, monthly_limit };
    service.internal.clone().set_user_limits(request).await.unwrap().into_inner().limits
}

async fn reserve(service: &Service, trace: &str) -> Result<(), Status> {
    let request = ReserveQuotaRequest {
        user_id: "u".into(),
        service_name: "asset".into(),
        count: 1,
        trace_id: trace.into(),
        ..Default::default()
    };
    service.internal.clone().reserve_quota(request).await.map(|_| ())
}

fn capped(answer: Result<impl std::fmt::Debug, Status>) {
    assert_eq!(code_of(&answer.unwrap_err()), (Code::ResourceExhausted, "10002".into()));
}

/// The requests of this day and of this month in the account.
async fn used(service: &Service) -> (i32, i32) {
    let limits = service.account("u").await.limits.unwrap();
    (limits.daily_used, limits.monthly_used)
}

#[rstest]
#[tokio::test]
async fn a_reached_cap_refuses_until_its_period_ends(#[values(MySql, Sqlite)] on: Backend) {
    let service = Service::start(on).await;
    service.clock.set("2026-11-29T02:00:00Z");
    cap(&service, Some(2), Some(3)).await;
    let check = service.check("u", "asset", 1).await;
    assert_eq!((check.daily_remaining, check.monthly_remaining), (Some(2), Some(3)));
    service.deduct(charge("u", "asset", 500)).await;
    service.deduct(charge("u", "passport", 1)).await;
    let check = service.check("u", "asset", 1).await;
    assert_eq!((check.allowed, check.reason.as_str(), check.error_code.as_str()), (false, "daily limit", "10002"));
    assert_eq!((check.daily_remaining, check.monthly_remaining), (Some(0), Some(1)));
    capped(service.try_deduct(charge("u", "asset", 1)).await);

    service.clock.set("2026-11-30T02:00:00Z");
    assert_eq!(service.check("u", "asset", 1).await.reason, "free");
    service.deduct(charge("u", "asset", 1)).await;
    assert_eq!(service.check("u", "asset", 1).await.reason, "monthly limit");
    capped(service.try_deduct(charge("u", "asset", 1)).await);
    assert_eq!(used(&service).await, (1, 3));

    // A new month in the billing zone, and still the old month in UTC.
    service.clock.set("2026-11-30T16:00:00Z");
    assert_eq!(used(&service).await, (0, 0));
    service.deduct(charge("u", "asset", 1)).await;
    assert_eq!(used(&service).await, (1, 1));
    service.assert_audit_is_clean().await;
}

#[rstest]
#[tokio::test]
async fn refused_and_released_requests_do_not_count(#[values(MySql, Sqlite)] on: Backend) {
    let service = Service::start_with(on, &[("billing.reservation_ttl", "1m")]).await;
    service.clock.set("2026-11-21T02:00:00Z");
    cap(&service, Some(3), None).await;
    service.deduct(traced("t", charge("u", "asset", 1))).await;
    service.deduct(traced("t", charge("u", "asset", 1))).await;
    assert!(service.try_deduct(charge("u", "asset", 1_000_000)).await.is_err());
    assert_eq!(used(&service).await, (1, 1));

    reserve(&service, "released").await.unwrap();
    reserve(&service, "committed").await.unwrap();
    capped(reserve(&service, "one-more").await);
    capped(service.try_deduct(charge("u", "asset", 1)).await);
    let mut internal = service.internal.clone();
    let release = ReleaseReservationRequest { user_id: "u".into(), trace_id: "released".into() };
    internal.release_reservation(release.clone()).await.unwrap();
    internal.release_reservation(release).await.unwrap();
    let commit =
        |trace: &str| CommitReservationRequest { user_id: "u".into(), trace_id: trace.into(), ..Default::default() };
    internal.commit_reservation(commit("committed")).await.unwrap();
    assert_eq!(used(&service).await, (2, 2));
    // The request was refused before, so it may be made now.
    reserve(&service, "one-more").await.unwrap();
    assert_eq!(used(&service).await, (3, 3));

    service.clock.advance(chrono::TimeDelta::minutes(2));
    let store = billing_service::app::connect(&service.database.config(&[])).await.unwrap();
    let swept = billing_service::app::sweep(
        &service.database.config(&[]),
        store.clone(),
        service.clock.clone(),
        &tokio_util::sync::CancellationToken::new(),
    )
    .await;
    assert_eq!(swept.unwrap().freed, 1);
    store.close().await;
    assert_eq!(used(&service).await, (2, 2));
    // The work was delivered, so the commit counts.
    internal.commit_reservation(commit("one-more")).await.unwrap();
    internal.commit_reservation(commit("one-more")).await.unwrap();
    assert_eq!(used(&service).await, (3, 3));
    service.assert_audit_is_clean().await;
}

#[rstest]
#[tokio::test]
async fn a_release_of_a_request_from_before_the_caps_does_not_lower_the_count(#[values(MySql, Sqlite)] on: Backend) {
    let service = Service::start(on).await;
    service.clock.set("2026-11-21T02:00:00Z");
    for trace in ["a", "b", "c"] {
        reserve(&service, trace).await.unwrap();
    }
    service.clock.advance(chrono::TimeDelta::seconds(1));
    cap(&service, Some(2), None).await;
    service.deduct(charge("u", "asset", 1)).await;
    service.deduct(charge("u", "asset", 1)).await;
    for trace in ["a", "b", "c"] {
        let release = ReleaseReservationRequest { user_id: "u".into(), trace_id: trace.into() };
        service.internal.clone().release_reservation(release).await.unwrap();
    }
    assert_eq!(used(&service).await, (2, 2));
    capped(service.try_deduct(charge("u", "asset", 1)).await);
}

#[rstest]
#[tokio::test]
async fn many_callers_of_two_servers_make_exactly_the_capped_requests(#[values(MySql, Sqlite)] on: Backend) {
    let service = Service::start(on).await;
    cap(&service, Some(30), None).await;
    let other = App::start(service.database.config(&[])).await.unwrap();
    let other_client = Client::connect(format!("http://{}", other.grpc_addr)).await.unwrap();
    let answers = join_all((0..100).map(|number| {
        let mut client = if number % 2 == 0 { service.internal.clone() } else { other_client.clone() };
        async move { client.deduct_quota(charge("u", "asset", 1)).await }
    }));
    let (made, refused): (Vec<_>, Vec<_>) = answers.await.into_iter().partition(Result::is_ok);
    assert_eq!((made.len(), refused.len()), (30, 70));
    refused.into_iter().for_each(capped);
    other.stop().await;
    assert_eq!(service.state("u").await.1, [0, 0, 30]);
    service.assert_audit_is_clean().await;
}

#[rstest]
#[tokio::test]
async fn items_of_a_batch_are_capped_one_by_one(#[values(MySql, Sqlite)] on: Backend) {
    let service = Service::start(on).await;
    cap(&service, None, Some(2)).await;
    let items =
        vec![charge("u", "asset", 1), charge("another", "asset", 1), charge("u", "asset", 1), charge("u", "asset", 1)];
    let reply = service.internal.clone().batch_deduct_quota(BatchDeductQuotaRequest { items }).await.unwrap();
    let codes: Vec<_> =
        reply.into_inner().results.into_iter().map(|result| result.error.map(|error| error.error_code)).collect();
    assert_eq!(codes, [None, None, None, Some("10002".into())]);
}

#[rstest]
#[tokio::test]
async fn caps_can_be_set_changed_and_removed(#[values(MySql, Sqlite)] on: Backend) {
    let service = Service::start(on).await;
    assert_eq!(service.account("u").await.limits, None);
    assert_eq!(service.check("u", "asset", 1).await.daily_remaining, None);
    let path = "/internal/v1/billing/users/u/limits";
    let (status, reply) = service.post(path, json!({"dailyLimit": "5", "monthly_limit": 9}).to_string()).await;
    let limits = json!({"daily_limit": 5, "monthly_limit": 9, "daily_used": 0, "monthly_used": 0});
    assert_eq!((status, reply), (200, json!({"success": true, "limits": limits})));
    assert_eq!(service.get("/api/v1/billing/account?user_id=u").await.1["limits"], limits);

    service.deduct(charge("u", "asset", 1)).await;
    // Without caps, the counts stay.
    let limits = cap(&service, Some(0), None).await.unwrap();
    assert_eq!((limits.daily_limit, limits.monthly_limit, limits.daily_used), (Some(0), None, 1));
    capped(service.try_deduct(charge("u", "asset", 1)).await);
    assert_eq!(cap(&service, None, None).await, None);
    service.deduct(charge("u", "asset", 1)).await;
    assert_eq!(service.account("u").await.limits, None);
    // The count starts again.
    assert_eq!(cap(&service, Some(5), None).await.unwrap().daily_used, 0);

    for (user, body, field) in [
        ("u", json!({"daily_limit": -1}), "daily_limit"),
        ("u", json!({"monthly_limit": -5}), "monthly_limit"),
        ("u", json!({"daily_limit": 1.5}), "daily_limit"),
        ("a%20b", json!({"daily_limit": 1}), "user_id"),
    ] {
        let (status, error) =
            service.post(&format!("/internal/v1/billing/users/{user}/limits"), body.to_string()).await;
        assert_eq!((status, &error["metadata"]["field"]), (400, &json!(field)), "{error}");
    }
}

//! Quotas of API keys.

use billing_service::{
    app::App,
    service::proto::{
        ApiKeyQuota, CheckQuotaRequest, CommitReservationRequest, DeductQuotaRequest, GetApiKeyQuotaRequest,
        ReleaseReservationRequest, ReserveQuotaRequest, SetApiKeyQuotaRequest, Usage,
    },
};
use futures_util::future::join_all;
use rstest::rstest;
use serde_json::json;
use tonic::{Code, Status};

use crate::harness::{Backend, MySql, Service, Sqlite, caller::Client, charge, code_of, traced};

async fn bind(service: &Service, quota_type: &str, period: &str, limit: f64) {
    let request = SetApiKeyQuotaRequest {
        api_key_id: "key/1".into(),
        quota_type: quota_type.into(),
        period: period.into(),
        limit: Some(limit),
    };
    service.internal.clone().set_api_key_quota(request).await.unwrap();
}

/// Used and remaining amounts of the only quota of the key.
async fn used(service: &Service) -> (f64, f64) {
    let request = GetApiKeyQuotaRequest { api_key_id: "key/1".into() };
    let reply = service.internal.clone().get_api_key_quota(request).await.unwrap().into_inner();
    let [ApiKeyQuota { used, remaining, .. }] = reply.quotas[..] else { panic!("{reply:?}") };
    (used, remaining)
}

fn keyed(user: &str, count: i32) -> DeductQuotaRequest {
    DeductQuotaRequest { api_key_id: "key/1".into(), ..charge(user, "asset", count) }
}

fn with_tokens(input_tokens: i32, output_tokens: i32) -> DeductQuotaRequest {
    DeductQuotaRequest { usage: Some(Usage { input_tokens, output_tokens, ..Default::default() }), ..keyed("u", 1) }
}

fn bound(answer: Result<impl std::fmt::Debug, Status>) {
    let refused = answer.unwrap_err();
    assert_eq!(code_of(&refused), (Code::ResourceExhausted, "10002".into()));
    assert!(refused.message().contains("api key quota"), "{refused:?}");
}

#[rstest]
#[tokio::test]
async fn requests_of_a_key_are_limited_until_the_period_ends(#[values(MySql, Sqlite)] on: Backend) {
    let service = Service::start(on).await;
    service.clock.set("2026-11-29T02:00:00Z");
    bind(&service, "requests", "day", 2.0).await;
    service.deduct(keyed("u", 500)).await;
    service.deduct(keyed("another", 1)).await;
    bound(service.try_deduct(keyed("u", 1)).await);
    service.deduct(charge("u", "asset", 1)).await;
    let check = |api_key_id: &str| CheckQuotaRequest {
        user_id: "u".into(),
        service_name: "asset".into(),
        count: 1,
        api_key_id: api_key_id.into(),
        ..Default::default()
    };
    let mut internal = service.internal.clone();
    let refused = internal.check_quota(check("key/1")).await.unwrap().into_inner();
    assert_eq!(
        (refused.allowed, refused.reason.as_str(), refused.error_code.as_str()),
        (false, "api key quota", "10002")
    );
    assert!(internal.check_quota(check("another key")).await.unwrap().into_inner().allowed);
    assert_eq!(used(&service).await, (2.0, 0.0));
    // The next day in the billing zone.
    service.clock.set("2026-11-29T16:00:00Z");
    assert_eq!(used(&service).await, (0.0, 2.0));
    service.deduct(keyed("u", 1)).await;
    service.assert_audit_is_clean().await;
}

#[rstest]
#[tokio::test]
async fn tokens_and_amounts_are_limited_too(#[values(MySql, Sqlite)] on: Backend) {
    let service = Service::start(on).await;
    bind(&service, "tokens", "month", 100.0).await;
    service.deduct(with_tokens(60, 30)).await;
    bound(service.try_deduct(with_tokens(10, 1)).await);
    let check = CheckQuotaRequest {
        user_id: "u".into(),
        service_name: "asset".into(),
        count: 1,
        api_key_id: "key/1".into(),
        estimated_input_tokens: 10,
        estimated_output_tokens: 1,
        ..Default::default()
    };
    let reply = service.internal.clone().check_quota(check).await.unwrap().into_inner();
    assert_eq!((reply.allowed, reply.reason.as_str()), (false, "api key quota"));
    service.deduct(with_tokens(10, 0)).await;
    // A call without tokens uses none.
    service.deduct(keyed("u", 1)).await;
    assert_eq!(used(&service).await, (100.0, 0.0));

    let take_away = SetApiKeyQuotaRequest {
        api_key_id: "key/1".into(),
        quota_type: "tokens".into(),
        period: "month".into(),
        limit: None,
    };
    let reply = service.internal.clone().set_api_key_quota(take_away).await.unwrap().into_inner();
    assert_eq!(reply.quotas, vec![]);
    bind(&service, "amount", "total", 1.25).await;
    service.adjust("u", 10.0).await;
    service.use_up_free_quota("u", "asset").await;
    service.deduct(keyed("u", 20)).await;
    bound(service.try_deduct(keyed("u", 6)).await);
    service.deduct(keyed("u", 5)).await;
    assert_eq!(used(&service).await, (1.25, 0.0));
    // Free calls cost nothing.
    service.deduct(DeductQuotaRequest { api_key_id: "key/1".into(), ..charge("u", "passport", 1) }).await;
    assert_eq!(service.account("u").await.balance, 8.75);
    service.assert_audit_is_clean().await;
}

#[rstest]
#[tokio::test]
async fn a_reservation_takes_its_hold_and_counts_its_delivered_units(#[values(MySql, Sqlite)] on: Backend) {
    let service = Service::start(on).await;
    service.adjust("u", 10.0).await;
    service.use_up_free_quota("u", "asset").await;
    bind(&service, "amount", "total", 1.0).await;
    let reserve = |trace: &str, count| ReserveQuotaRequest {
        user_id: "u".into(),
        service_name: "asset".into(),
        count,
        trace_id: trace.into(),
        api_key_id: "key/1".into(),
        ..Default::default()
    };
    let mut internal = service.internal.clone();
    internal.reserve_quota(reserve("a", 12)).await.unwrap();
    bound(internal.reserve_quota(reserve("b", 9)).await);
    internal.reserve_quota(reserve("c", 8)).await.unwrap();
    assert_eq!(used(&service).await, (1.0, 0.0));
    let release = ReleaseReservationRequest { user_id: "u".into(), trace_id: "c".into() };
    internal.release_reservation(release).await.unwrap();
    assert_eq!(used(&service).await, (0.6, 0.4));
    let commit =
        CommitReservationRequest { user_id: "u".into(), trace_id: "a".into(), count: Some(30), ..Default::default() };
    internal.commit_reservation(commit.clone()).await.unwrap();
    internal.commit_reservation(commit).await.unwrap();
    // A commit may exceed the quota, because the work was delivered.
    assert_eq!(used(&service).await, (1.5, 0.0));
    bound(service.try_deduct(keyed("u", 1)).await);
    service.assert_audit_is_clean().await;
}

#[rstest]
#[tokio::test]
async fn the_quota_of_a_key_shared_by_users_of_two_servers_is_exact(#[values(MySql, Sqlite)] on: Backend) {
    // Many lanes and small batches, so that many transactions lock the key.
    let lanes = [("billing.settlement.lanes", "8"), ("billing.settlement.batch", "4")];
    let service = Service::start_with(on, &lanes).await;
    bind(&service, "requests", "total", 300.0).await;
    let other = App::start(service.database.config(&lanes)).await.unwrap();
    let other_client = Client::connect(format!("http://{}", other.grpc_addr)).await.unwrap();
    let users: Vec<String> = (0..40).map(|number| format!("u{number}")).collect();
    join_all(users.iter().map(|user| service.account(user))).await;
    let answers = join_all((0..800).map(|number| {
        let user = &users[number % users.len()];
        let mut client = if number % 2 == 0 { service.internal.clone() } else { other_client.clone() };
        async move {
            for _ in 0..20 {
                let answer = client.deduct_quota(traced(&format!("t{number}"), keyed(user, 1))).await;
                // On a busy machine, a lane may wait too long for the key.
                if !matches!(&answer, Err(status) if code_of(status).1 == "10014") {
                    return answer;
                }
            }
            panic!("no definite answer to the charge {number}");
        }
    }));
    let (made, refused): (Vec<_>, Vec<_>) = answers.await.into_iter().partition(Result::is_ok);
    assert_eq!((made.len(), refused.len()), (300, 500));
    refused.into_iter().for_each(bound);
    other.stop().await;
    assert_eq!(used(&service).await, (300.0, 0.0));
    service.assert_audit_is_clean().await;
}

#[rstest]
#[tokio::test]
async fn quotas_of_a_key_are_set_and_shown_over_rest(#[values(MySql, Sqlite)] on: Backend) {
    let service = Service::start(on).await;
    let path = "/internal/v1/billing/api-keys/key%2F1/quota";
    assert_eq!(service.internal_get(path).await, (200, json!({"api_key_id": "key/1", "quotas": []})));
    let body = json!({"quotaType": "amount", "period": "month", "limit": "2.5"});
    assert_eq!(service.post(path, body.to_string()).await.0, 200);
    let body = json!({"quota_type": "requests", "period": "day", "limit": 3});
    let (status, reply) = service.post(path, body.to_string()).await;
    let mut quotas = json!([
        {"quota_type": "requests", "period": "day", "limit": 3.0, "used": 0.0, "remaining": 3.0},
        {"quota_type": "amount", "period": "month", "limit": 2.5, "used": 0.0, "remaining": 2.5},
    ]);
    for (quota, shown) in quotas.as_array_mut().unwrap().iter_mut().zip(reply["quotas"].as_array().unwrap()) {
        // The quota begins now, unless the period has just begun.
        quota["used_since"] = shown["used_since"].clone();
        quota["used_is_partial"] = shown["used_is_partial"].clone();
    }
    assert_eq!((status, &reply), (200, &json!({"api_key_id": "key/1", "quotas": quotas})));
    assert_eq!(service.internal_get(path).await, (200, reply));
    for (change, field) in [
        (json!({"quota_type": "calls"}), "quota_type"),
        (json!({"period": "week"}), "period"),
        (json!({"limit": -1}), "limit"),
        (json!({"limit": 1.5}), "limit"),
        (json!({"limit": 1e13}), "limit"),
        (json!({"quota_type": "amount", "limit": -0.5}), "limit"),
        (json!({"quota_type": "amount", "limit": 0.000_000_1}), "limit"),
    ] {
        let mut body = json!({"quota_type": "tokens", "period": "day", "limit": 1});
        body.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
        let (status, error) = service.post(path, body.to_string()).await;
        assert_eq!((status, &error["metadata"]["field"]), (400, &json!(field)), "{body}: {error}");
    }
}

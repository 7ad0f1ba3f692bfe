//! Events of limits, of refused reserves and of a month's turn.

use billing_service::service::proto::{
    CommitReservationRequest, DeductQuotaRequest, ReserveQuotaRequest, SetApiKeyQuotaRequest, SetUserLimitsRequest,
};
use chrono::TimeDelta;
use futures_util::future::join_all;
use rstest::rstest;
use serde_json::json;

use super::{all, data, set_alerts};
use crate::harness::{Backend, MySql, Service, Sqlite, charge, code_of, traced};

#[rstest]
#[tokio::test]
async fn caps_and_quotas_of_an_api_key_reach_their_percentages_once(#[values(MySql, Sqlite)] on: Backend) {
    let service = Service::start(on).await;
    let caps = SetUserLimitsRequest { user_id: "u".into(), daily_limit: Some(4), monthly_limit: Some(10) };
    service.internal.clone().set_user_limits(caps).await.unwrap();
    let quota = SetApiKeyQuotaRequest {
        api_key_id: "k".into(),
        quota_type: "amount".into(),
        period: "month".into(),
        limit: Some(1.0),
    };
    service.internal.clone().set_api_key_quota(quota).await.unwrap();
    service.adjust("u", 10.0).await;
    for number in 0..4 {
        let call = DeductQuotaRequest {
            cost: 0.3,
            api_key_id: "k".into(),
            ..traced(&number.to_string(), charge("u", "asset", 1_000))
        };
        let _ = service.try_deduct(call).await;
    }
    let shown: Vec<_> = all(&service.internal)
        .await
        .iter()
        .map(data)
        .filter(|data| data["quota"] != "free")
        .map(|data| {
            format!("{} {} {} of {}", data["quota"].as_str().unwrap(), data["percent"], data["used"], data["limit"])
        })
        .collect();
    // The first call is free. Each of the others costs 0.3.
    assert_eq!(
        shown,
        [
            "cap 50 2 of 4",
            "api_key 50 \"0.6\" of \"1\"",
            "cap 80 4 of 4",
            "cap 100 4 of 4",
            "api_key 80 \"0.9\" of \"1\"",
        ]
    );
}

#[rstest]
#[tokio::test]
async fn a_refused_reserve_exhausts_an_account_once_until_its_refill(#[values(MySql, Sqlite)] on: Backend) {
    let service = Service::start(on).await;
    service.use_up_free_quota("u", "asset").await;
    let reserve = |trace: &str| ReserveQuotaRequest {
        user_id: "u".into(),
        service_name: "asset".into(),
        count: 100,
        trace_id: trace.into(),
        ..Default::default()
    };
    let refused = async |trace: &str| {
        let refused = service.internal.clone().reserve_quota(reserve(trace)).await.unwrap_err();
        assert_eq!(code_of(&refused).1, "10001");
    };
    for trace in ["a", "a", "b"] {
        refused(trace).await;
    }
    service.adjust("u", 1.0).await;
    refused("a").await;
    let exhausted: Vec<_> = all(&service.internal)
        .await
        .iter()
        .filter(|event| event.r#type == "balance.exhausted")
        .map(data)
        .map(|data| (data["refused"].clone(), data["trace_id"].clone(), data["available"].clone()))
        .collect();
    let of = |available: &str| (json!("reserve"), json!("a"), json!(available));
    assert_eq!(exhausted, [of("0"), of("1")]);
}

#[rstest]
#[tokio::test]
async fn each_month_has_its_own_thresholds(#[values(MySql, Sqlite)] on: Backend) {
    let service = Service::start(on).await;
    // Half a minute before the month ends in the billing zone.
    service.clock.set("2026-11-30T15:59:30Z");
    set_alerts(&service.internal, "u", &[], &[50]).await;
    service.deduct(traced("november", charge("u", "asset", 500))).await;
    let held = ReserveQuotaRequest {
        user_id: "u".into(),
        service_name: "passport".into(),
        count: 6_000,
        trace_id: "over".into(),
        ..Default::default()
    };
    service.internal.clone().reserve_quota(held).await.unwrap();
    service.clock.advance(TimeDelta::minutes(1));
    service.deduct(traced("november", charge("u", "asset", 500))).await;
    service.deduct(traced("december", charge("u", "asset", 500))).await;
    let commit = CommitReservationRequest { user_id: "u".into(), trace_id: "over".into(), ..Default::default() };
    for _ in 0..2 {
        service.internal.clone().commit_reservation(commit.clone()).await.unwrap();
    }
    let reached: Vec<_> = all(&service.internal)
        .await
        .iter()
        .map(data)
        .map(|data| format!("{} {}", data["service_name"].as_str().unwrap(), data["month"].as_str().unwrap()))
        .collect();
    // A commit counts to the month of its reserve.
    assert_eq!(reached, ["asset 2026-11", "asset 2026-12", "passport 2026-11"]);
}

#[rstest]
#[tokio::test]
async fn a_changed_limit_reaches_its_percentages_anew(#[values(MySql, Sqlite)] on: Backend) {
    let service = Service::start(on).await;
    let key = DeductQuotaRequest { api_key_id: "k".into(), ..charge("u", "asset", 1) };
    let set = async |cap: i32, quota: f64| {
        let caps = SetUserLimitsRequest { user_id: "u".into(), daily_limit: Some(cap), monthly_limit: None };
        service.internal.clone().set_user_limits(caps).await.unwrap();
        let quota = SetApiKeyQuotaRequest {
            api_key_id: "k".into(),
            quota_type: "requests".into(),
            period: "total".into(),
            limit: Some(quota),
        };
        service.internal.clone().set_api_key_quota(quota).await.unwrap();
    };
    set(4, 4.0).await;
    for number in 0..2 {
        service.deduct(traced(&number.to_string(), key.clone())).await;
    }
    set(10, 100.0).await;
    service.deduct(traced("3", key.clone())).await;
    set(5, 5.0).await;
    service.deduct(traced("4", key)).await;
    let mut reached: Vec<_> = all(&service.internal)
        .await
        .iter()
        .map(data)
        .map(|data| {
            format!("{} {}: {} of {}", data["quota"].as_str().unwrap(), data["percent"], data["used"], data["limit"])
        })
        .collect();
    reached.sort();
    assert_eq!(
        reached,
        [
            "api_key 50: 2 of 4",
            "api_key 50: 4 of 5",
            "api_key 80: 4 of 5",
            "cap 50: 2 of 4",
            "cap 50: 4 of 5",
            "cap 80: 4 of 5",
        ]
    );
}

#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_quota_of_a_key_that_users_share_reaches_each_percentage_once(#[values(MySql, Sqlite)] on: Backend) {
    const CALLS: usize = 40;
    let service = Service::start(on).await;
    let quota = SetApiKeyQuotaRequest {
        api_key_id: "k".into(),
        quota_type: "requests".into(),
        period: "total".into(),
        limit: Some(CALLS as f64),
    };
    service.internal.clone().set_api_key_quota(quota).await.unwrap();
    let calls = (0..CALLS).map(|number| {
        let call = DeductQuotaRequest { api_key_id: "k".into(), ..charge(["u", "v"][number % 2], "asset", 1) };
        service.deduct(traced(&number.to_string(), call))
    });
    join_all(calls).await;
    let events = all(&service.internal).await;
    let reached: Vec<_> = events.iter().map(data).map(|data| (data["percent"].clone(), data["used"].clone())).collect();
    assert_eq!(reached, [(json!(50), json!(20)), (json!(80), json!(32)), (json!(100), json!(40))]);
    for event in &events {
        assert_eq!(data(event)["user_id"], event.user_id.as_str());
    }
}

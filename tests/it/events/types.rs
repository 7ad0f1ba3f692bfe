//! Events of limits, of refused reserves and of a month's turn.

use billing_service::service::proto::{
    CommitReservationRequest, DeductQuotaRequest, ReserveQuotaRequest, SetApiKeyQuotaRequest, SetUserLimitsRequest,
};
use chrono::TimeDelta;
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

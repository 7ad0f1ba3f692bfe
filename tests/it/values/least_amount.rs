//! The least amount: a paid part with a cost above zero costs at least 0.000001.

use billing_service::service::proto::{
    CheckQuotaRequest, CommitReservationRequest, DeductQuotaRequest, ReserveQuotaRequest,
};
use rstest::rstest;
use serde_json::json;

use super::{MODELS, call, delivered, hold, tokens, with};
use crate::harness::{Backend, MySql, Service, Sqlite, charge, code_of, traced};

const LEAST: f64 = 0.000001;

#[rstest]
#[tokio::test]
async fn a_call_that_costs_less_than_a_millionth_is_refused_without_a_balance(#[values(MySql, Sqlite)] on: Backend) {
    let service = Service::start_with(on, MODELS).await;
    let small = || call("embed", "embed-s", tokens(3, 0));
    let check = CheckQuotaRequest {
        user_id: "u".into(),
        service_name: "embed".into(),
        count: 1,
        model: "embed-s".into(),
        estimated_input_tokens: 3,
        ..Default::default()
    };
    let body = json!({"user_id": "u", "service_name": "embed", "count": 1, "model": "embed-s",
                      "usage": {"input_tokens": 3}});
    for balance in [0.0, -1.0] {
        if balance < 0.0 {
            // Delivered work takes the balance below zero.
            let reserve = ReserveQuotaRequest { api_key_id: String::new(), ..hold("d", "asset", "", (0, 0)) };
            service.internal.clone().reserve_quota(reserve).await.unwrap();
            let commit = CommitReservationRequest { count: Some(1_020), ..delivered("d") };
            service.internal.clone().commit_reservation(commit).await.unwrap();
        }
        assert_eq!(service.account("u").await.balance, balance);
        assert_eq!(code_of(&service.try_deduct(small()).await.unwrap_err()).1, "10001");
        let (status, error) = service.post("/internal/v1/billing/deduct", body.to_string()).await;
        assert_eq!((status, &error["metadata"]["error_code"]), (400, &json!("10001")), "{error}");
        let verdict = service.internal.clone().check_quota(check.clone()).await.unwrap().into_inner();
        assert_eq!((verdict.reason.as_str(), verdict.estimated_cost), ("insufficient balance", LEAST));
        let reserve = service.internal.clone().reserve_quota(hold("r", "embed", "embed-s", (3, 0))).await;
        assert_eq!(code_of(&reserve.unwrap_err()).1, "10001");
        // A model with a price of zero still costs nothing.
        assert_eq!(service.deduct(call("embed", "free-m", tokens(1_000, 1_000))).await.amount, 0.0);
    }
    service.adjust("u", 1.000002).await;
    assert_eq!((service.deduct(small()).await.amount, service.deduct(small()).await.balance), (LEAST, 0.0));
    assert_eq!(code_of(&service.try_deduct(small()).await.unwrap_err()).1, "10001");
    service.assert_audit_is_clean().await;
}

#[rstest]
#[tokio::test]
async fn the_paid_part_of_a_mixed_call_costs_at_least_a_millionth(#[values(MySql, Sqlite)] on: Backend) {
    let service = Service::start_with(on, &with("billing.free_quotas", "{asset: 1000, llm: 999}")).await;
    let mixed = || DeductQuotaRequest { cost: LEAST, ..charge("u", "asset", 1_001) };
    assert_eq!(code_of(&service.try_deduct(mixed()).await.unwrap_err()).1, "10001");
    // A thousand tokens cost 0.0001, and one of them is paid.
    let of_tokens = || call("llm", "tiny", tokens(1_000, 0));
    assert_eq!(code_of(&service.try_deduct(of_tokens()).await.unwrap_err()).1, "10001");
    service.adjust("u", 0.000003).await;
    let charged = service.deduct(mixed()).await;
    assert_eq!((charged.free_count, charged.paid_count, charged.amount), (1_000, 1, LEAST));
    let charged = service.deduct(of_tokens()).await;
    assert_eq!((charged.free_count, charged.paid_count, charged.amount), (999, 1, LEAST));
    // A part of the reserved tokens.
    let reserve = ReserveQuotaRequest { cost: LEAST, count: 1_000, ..hold("r", "asset", "", (0, 0)) };
    service.internal.clone().reserve_quota(reserve).await.unwrap();
    let commit = CommitReservationRequest { count: Some(1), ..delivered("r") };
    let committed = service.internal.clone().commit_reservation(commit).await.unwrap().into_inner();
    assert_eq!((committed.amount, committed.balance), (LEAST, 0.0));
    service.assert_audit_is_clean().await;
}

#[rstest]
#[tokio::test]
async fn quotas_of_amounts_count_the_least_amount(#[values(MySql, Sqlite)] on: Backend) {
    let service = Service::start_with(on, MODELS).await;
    service.adjust("u", 1.0).await;
    service.bind_key("amount", "total", 0.000002).await;
    for _ in 0..2 {
        service.deduct(call("embed", "embed-s", tokens(1, 0))).await;
    }
    assert_eq!(service.key_used("amount").await, 0.000002);
    let third = traced("t", call("embed", "embed-s", tokens(1, 0)));
    assert_eq!(code_of(&service.try_deduct(third).await.unwrap_err()).1, "10002");
    service.assert_audit_is_clean().await;
}

//! An error with an unknown outcome names the id of the request.

use billing_service::service::proto::{
    AdjustBalanceRequest, BatchDeductQuotaRequest, CommitReservationRequest, DeductQuotaRequest, ReserveQuotaRequest,
};
use rstest::rstest;
use serde_json::{Value, json};
use tonic::{Code, Status};
use tonic_types::StatusExt;

use crate::harness::{Backend, MySql, Service, Sqlite, charge, code_of, lock::Lock, traced};

/// The deadline of a request is shorter than the retry_timeout of the lanes.
const IMPATIENT: [(&str, &str); 2] = [("server.grpc.timeout", "300ms"), ("server.http.timeout", "300ms")];

fn metadata(status: &Status, key: &str) -> String {
    assert_eq!(code_of(status), (Code::Unavailable, "10014".into()));
    let details = status.get_error_details();
    assert_eq!(details.retry_info().unwrap().retry_delay.unwrap().as_secs(), 1);
    details.error_info().unwrap().metadata.get(key).cloned().unwrap_or_default()
}

fn repeat(trace_id: &str) -> DeductQuotaRequest {
    traced(trace_id, charge("u", "asset", 1))
}

/// Sends a charge again until it has an answer.
async fn settle(service: &Service, trace_id: &str) -> bool {
    let answered = async {
        loop {
            if let Ok(reply) = service.try_deduct(repeat(trace_id)).await {
                return reply.replayed;
            }
        }
    };
    tokio::time::timeout(std::time::Duration::from_secs(30), answered).await.expect("the charge gets an answer")
}

#[rstest]
#[tokio::test]
async fn an_unanswered_charge_without_an_id_names_its_new_id(#[values(MySql, Sqlite)] on: Backend) {
    let service = Service::start_with(on, &IMPATIENT).await;
    service.deduct(repeat("first")).await;
    let lock = Lock::take(&service.database).await;
    let over_grpc = metadata(&service.try_deduct(charge("u", "asset", 1)).await.unwrap_err(), "trace_id");
    let url = format!("http://{}/internal/v1/billing/deduct", service.app.grpc_addr);
    let body = json!({"user_id": "u", "service_name": "asset", "count": 1}).to_string();
    let sent = service.http.post(url).body(body).send().await.unwrap();
    assert_eq!((sent.status().as_u16(), sent.headers()["retry-after"].as_bytes()), (503, &b"1"[..]));
    let reply: Value = sent.json().await.unwrap();
    let over_rest = reply["metadata"]["trace_id"].as_str().unwrap().to_owned();
    assert_eq!(reply["metadata"]["error_code"], "10014");
    let given = metadata(&service.try_deduct(repeat("given")).await.unwrap_err(), "trace_id");
    assert_eq!(given, "given");
    lock.release().await;
    for id in [over_grpc.as_str(), &over_rest, "given"] {
        assert!(!id.is_empty());
        assert!(settle(&service, id).await, "{id} was charged, and a retry finds it");
    }
    assert_eq!(service.state("u").await.1[2], 4);
    service.assert_audit_is_clean().await;
}

#[rstest]
#[tokio::test]
async fn every_unanswered_posting_names_its_id(#[values(MySql, Sqlite)] on: Backend) {
    let service = Service::start_with(on, &IMPATIENT).await;
    service.deduct(repeat("first")).await;
    let reserve =
        ReserveQuotaRequest { user_id: "u".into(), service_name: "asset".into(), count: 1, ..Default::default() };
    let held = service.internal.clone().reserve_quota(reserve.clone()).await.unwrap().into_inner().trace_id;
    let lock = Lock::take(&service.database).await;
    let mut internal = service.internal.clone();
    assert!(!metadata(&internal.reserve_quota(reserve).await.unwrap_err(), "trace_id").is_empty());
    let commit = CommitReservationRequest { user_id: "u".into(), trace_id: held.clone(), ..Default::default() };
    assert_eq!(metadata(&internal.commit_reservation(commit).await.unwrap_err(), "trace_id"), held);
    let adjust = AdjustBalanceRequest {
        user_id: "u".into(),
        amount: 1.0,
        reason: "r".into(),
        adjustment_id: "a-1".into(),
        operator: String::new(),
        allow_negative: false,
    };
    assert_eq!(metadata(&internal.adjust_balance(adjust).await.unwrap_err(), "adjustment_id"), "a-1");
    lock.release().await;
}

/// A call without an id is no repeat, so its refusal needs no look-up.
#[rstest]
#[tokio::test]
async fn an_invalid_call_without_an_id_needs_no_database(#[values(MySql, Sqlite)] on: Backend) {
    let service = Service::start_with(on, &IMPATIENT).await;
    service.deduct(repeat("first")).await;
    let lock = Lock::take(&service.database).await;
    let wrong = charge("u", "nothing", 1);
    let refused = code_of(&service.try_deduct(wrong.clone()).await.unwrap_err());
    assert_eq!(refused, (Code::InvalidArgument, "10008".into()));
    let reserve =
        ReserveQuotaRequest { user_id: "u".into(), service_name: "nothing".into(), count: 1, ..Default::default() };
    let refused = code_of(&service.internal.clone().reserve_quota(reserve).await.unwrap_err());
    assert_eq!(refused, (Code::InvalidArgument, "10008".into()));
    let batch = BatchDeductQuotaRequest { items: vec![wrong] };
    let results = service.internal.clone().batch_deduct_quota(batch).await.unwrap().into_inner().results;
    assert_eq!(results[0].error.as_ref().unwrap().error_code, "10008");
    let url = format!("http://{}/internal/v1/billing/deduct", service.app.grpc_addr);
    let body = json!({"user_id": "u", "service_name": "nothing", "count": 1}).to_string();
    assert_eq!(service.http.post(url).body(body).send().await.unwrap().status(), 400);
    lock.release().await;
}

/// The lanes give up before the deadline of the request, so that each item has a result.
#[rstest]
#[tokio::test]
async fn an_unanswered_item_without_an_id_names_its_new_id(#[values(MySql, Sqlite)] on: Backend) {
    let service = Service::start_with(on, &[("billing.settlement.retry_timeout", "500ms")]).await;
    service.deduct(repeat("first")).await;
    let lock = Lock::take(&service.database).await;
    let items = vec![charge("u", "asset", 1), repeat("given")];
    let request = BatchDeductQuotaRequest { items };
    let results = service.internal.clone().batch_deduct_quota(request).await.unwrap().into_inner().results;
    lock.release().await;
    let errors: Vec<_> = results.into_iter().map(|result| result.error.unwrap()).collect();
    assert!(errors.iter().all(|error| error.error_code == "10014"), "{errors:?}");
    let (_, fresh) = errors[0].message.rsplit_once("trace_id ").expect("the error names the id");
    settle(&service, fresh).await;
    settle(&service, "given").await;
    assert_eq!(service.state("u").await.1[2], 3);
    service.assert_audit_is_clean().await;
}

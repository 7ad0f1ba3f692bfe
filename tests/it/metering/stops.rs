//! Holds that grow with their streams, and streams that the service stops.

use billing_service::service::proto::{
    CommitReservationRequest, DeductQuotaRequest, ReserveQuotaRequest, SetApiKeyQuotaRequest, StreamFinish,
};
use rstest::rstest;
use serde_json::{Value, json};

use super::{Gateway, MODELS, stream};
use crate::{
    account_status::set_status,
    events::all,
    harness::{Backend, MySql, Service, Sqlite, charge, code_of, lock::Lock, wait::until},
};

#[rstest]
#[tokio::test]
async fn a_stream_is_stopped_when_hold_and_balance_are_used_up(#[values(MySql, Sqlite)] on: Backend) {
    let service = Service::start_with(on, MODELS).await;
    service.adjust("u", 10.0).await;
    let (mut gateway, opened) = Gateway::open(&service, stream("s", "rag", "dear", (1, 3))).await;
    assert_eq!(opened.amount, 4.0);
    // The hold does not grow beyond the estimate before it is needed.
    assert_eq!(gateway.deliver_durably(0, 1).await.held, 4.0);
    let state = gateway.deliver_durably(1, 7).await;
    assert_eq!((state.held, state.stop), (10.0, false), "9 of 10");
    assert_eq!(service.account("u").await.held, 10.0);
    let refused = service.try_deduct(charge("u", "payment", 1_001)).await.unwrap_err();
    assert_eq!(code_of(&refused).1, "10001", "others cannot spend the hold of a stream");
    gateway.output(" hello").await;
    assert_eq!(gateway.state(|state| state.stop).await.output_tokens, 9);
    assert_eq!(gateway.finish(StreamFinish::default()).await.unwrap().balance, 0.0);
    service.assert_nothing_is_held("u").await;
    let stopped = json!({"user_id": "u", "trace_id": "s", "service_name": "rag", "model": "dear", "cause": "balance",
        "output_tokens": 9});
    assert_eq!(stops(&service).await, [stopped]);
}

/// The stops of streams that subscribers learn of.
async fn stops(service: &Service) -> Vec<Value> {
    let events = all(&service.internal).await;
    let stops = events.iter().filter(|event| event.r#type == "stream.stopped");
    stops.map(|event| serde_json::from_str(&event.data).unwrap()).collect()
}

#[rstest]
#[tokio::test]
async fn tokens_delivered_after_the_stop_are_charged_too(#[values(MySql, Sqlite)] on: Backend) {
    let service = Service::start_with(on, MODELS).await;
    service.adjust("u", 10.0).await;
    let (mut gateway, _) = Gateway::open(&service, stream("s", "rag", "dear", (1, 3))).await;
    gateway.deliver(0, 12).await;
    gateway.state(|state| state.stop).await;
    let finished = gateway.finish(StreamFinish::default()).await.unwrap();
    assert_eq!((finished.amount, finished.balance), (13.0, -3.0));
    service.assert_nothing_is_held("u").await;
}

#[rstest]
#[tokio::test]
async fn a_stream_of_a_frozen_account_stops_at_its_hold_and_is_charged(#[values(MySql, Sqlite)] on: Backend) {
    let service = Service::start_with(on, MODELS).await;
    service.adjust("u", 10.0).await;
    let (first, opened) = Gateway::open(&service, stream("s", "rag", "dear", (1, 3))).await;
    assert_eq!(opened.amount, 4.0);
    set_status(&service.internal, "u", "FROZEN").await;
    let refused = Gateway::try_open(service.internal.clone(), stream("new", "rag", "dear", (1, 3))).await;
    assert_eq!(code_of(&refused.err().unwrap()).1, "10015");
    // A stream that began before the freeze may be reopened.
    let (mut gateway, again) = Gateway::open(&service, stream("s", "rag", "dear", (1, 3))).await;
    assert!(again.replayed);
    drop(first);
    gateway.deliver(0, 5).await;
    assert_eq!(gateway.state(|state| state.stop).await.held, 4.0);
    let finished = gateway.finish(StreamFinish::default()).await.unwrap();
    assert_eq!((finished.amount, finished.balance), (6.0, 4.0));
    service.assert_nothing_is_held("u").await;
    assert_eq!(stops(&service).await[0]["cause"], "account_status");
}

#[rstest]
#[tokio::test]
async fn a_top_up_lets_a_stopped_stream_go_on(#[values(MySql, Sqlite)] on: Backend) {
    let service = Service::start_with(on, MODELS).await;
    service.adjust("u", 10.0).await;
    let (mut gateway, _) = Gateway::open(&service, stream("s", "rag", "dear", (1, 3))).await;
    gateway.deliver(0, 9).await;
    gateway.state(|state| state.stop).await;
    service.adjust("u", 1_000.0).await;
    assert!(gateway.state(|state| !state.stop).await.held > 10.0);
    // More output than the credit covers stops it again.
    gateway.deliver(9, 1_002).await;
    gateway.state(|state| state.stop).await;
    until("the second stop is told", async || stops(&service).await.len() == 2).await;
    let told: Vec<_> = stops(&service).await.iter().map(|stop| stop["output_tokens"].clone()).collect();
    assert_eq!(told, [9, 1_011]);
    assert_eq!(gateway.finish(StreamFinish::default()).await.unwrap().amount, 1_012.0);
    service.assert_nothing_is_held("u").await;
    assert_eq!(stops(&service).await.len(), 2, "the finish tells of no further stop");
}

#[rstest]
#[tokio::test]
async fn a_stopped_stream_that_breaks_tells_of_its_stop_once(#[values(MySql, Sqlite)] on: Backend) {
    let service = Service::start_with(on, MODELS).await;
    service.adjust("u", 10.0).await;
    let (mut gateway, _) = Gateway::open(&service, stream("s", "rag", "dear", (1, 3))).await;
    gateway.deliver(0, 9).await;
    gateway.state(|state| state.stop).await;
    drop(gateway);
    until("the broken stream is charged", async || service.account("u").await.balance == 0.0).await;
    assert_eq!(stops(&service).await.len(), 1);
}

#[rstest]
#[tokio::test]
async fn a_stop_while_the_database_does_not_answer_is_told_later(#[values(MySql, Sqlite)] on: Backend) {
    let service = Service::start_with(on, MODELS).await;
    service.adjust("u", 10.0).await;
    let (mut gateway, _) = Gateway::open(&service, stream("s", "rag", "dear", (1, 3))).await;
    let state = gateway.deliver_durably(0, 8).await;
    assert_eq!((state.held, state.stop), (10.0, false));
    let lock = Lock::take(&service.database).await;
    gateway.deliver(8, 1).await;
    gateway.state(|state| state.stop).await;
    lock.release().await;
    until("the stop is told", async || stops(&service).await.len() == 1).await;
    gateway.finish(StreamFinish::default()).await.unwrap();
    assert_eq!(stops(&service).await.len(), 1);
}

#[rstest]
#[tokio::test]
async fn a_hold_grows_into_the_free_quota_first(#[values(MySql, Sqlite)] on: Backend) {
    let service = Service::start_with(on, MODELS).await;
    // A hundred tokens are free, and there is no balance.
    let (mut gateway, opened) = Gateway::open(&service, stream("s", "chat", "dear", (1, 9))).await;
    assert_eq!((opened.free_count, opened.amount), (10, 0.0));
    assert!(!gateway.deliver_durably(0, 98).await.stop, "99 of 100");
    let quota = service.account("u").await.quotas.into_iter().find(|quota| quota.service_name == "chat").unwrap();
    assert_eq!((quota.held_quota, quota.used_quota), (100, 0));
    gateway.output(" hello").await;
    assert_eq!(gateway.state(|state| state.stop).await.cost, 0.0);
    let finished = gateway.finish(StreamFinish::default()).await.unwrap();
    assert_eq!((finished.free_count, finished.paid_count, finished.balance), (100, 0, 0.0));
    service.assert_nothing_is_held("u").await;
}

#[rstest]
#[tokio::test]
async fn a_free_call_is_never_stopped(#[values(MySql, Sqlite)] on: Backend) {
    let service = Service::start_with(on, MODELS).await;
    let (mut gateway, _) = Gateway::open(&service, stream("s", "llm", "dear", (1, 3))).await;
    let state = gateway.deliver_durably(0, 5_000).await;
    assert_eq!((state.stop, state.cost, state.held), (false, 0.0, 0.0));
    assert_eq!(gateway.finish(StreamFinish::default()).await.unwrap().amount, 0.0);
    service.assert_nothing_is_held("u").await;
}

#[rstest]
#[tokio::test]
async fn a_stream_is_stopped_when_its_key_has_no_tokens_left(#[values(MySql, Sqlite)] on: Backend) {
    let service = Service::start_with(on, MODELS).await;
    service.adjust("u", 100.0).await;
    let quota = r#"{"quota_type":"tokens","period":"day","limit":10}"#;
    service.post("/internal/v1/billing/api-keys/k/quota", quota).await;
    let used =
        async || service.internal_get("/internal/v1/billing/api-keys/k/quota").await.1["quotas"][0]["used"].clone();
    let keyed = |trace| ReserveQuotaRequest { api_key_id: "k".into(), ..stream(trace, "rag", "dear", (1, 3)) };
    let (mut gateway, _) = Gateway::open(&service, keyed("s")).await;
    assert!(!gateway.deliver_durably(0, 3).await.stop);
    assert_eq!(used().await, 4.0);
    // Tokens beyond the estimate count at once, also for other calls.
    assert!(!gateway.deliver_durably(3, 5).await.stop, "9 of 10");
    assert_eq!(used().await, 9.0);
    let refused = Gateway::try_open(service.internal.clone(), keyed("other")).await.err().unwrap();
    assert_eq!(code_of(&refused).1, "10002");
    gateway.output(" hello").await;
    gateway.state(|state| state.stop).await;
    gateway.finish(StreamFinish::default()).await.unwrap();
    assert_eq!(used().await, 10.0);
    service.assert_nothing_is_held("u").await;
    assert_eq!(
        (&stops(&service).await[0]["cause"], &stops(&service).await[0]["api_key_id"]),
        (&json!("api_key"), &json!("k"))
    );
}

#[rstest]
#[tokio::test]
async fn a_hold_does_not_grow_beyond_the_quota_of_its_key(#[values(MySql, Sqlite)] on: Backend) {
    let service = Service::start_with(on, MODELS).await;
    service.adjust("u", 100.0).await;
    let quota = SetApiKeyQuotaRequest {
        api_key_id: "k".into(),
        quota_type: "amount".into(),
        period: "month".into(),
        limit: Some(7.0),
    };
    service.internal.clone().set_api_key_quota(quota).await.unwrap();
    let open = ReserveQuotaRequest { api_key_id: "k".into(), ..stream("s", "rag", "dear", (1, 3)) };
    let (mut gateway, _) = Gateway::open(&service, open).await;
    gateway.deliver(0, 6).await;
    assert_eq!(gateway.state(|state| state.stop).await.held, 7.0);
    gateway.finish(StreamFinish::default()).await.unwrap();
    let used = service.internal_get("/internal/v1/billing/api-keys/k/quota").await.1;
    assert_eq!(used["quotas"][0]["used"], 7.0, "{used}");
    service.assert_nothing_is_held("u").await;
}

/// A token of `text-cheap` costs a tenth of the least amount.
#[rstest]
#[tokio::test]
async fn a_stream_with_a_tiny_price_stops_when_nothing_is_left(#[values(MySql, Sqlite)] on: Backend) {
    let service = Service::start_with(on, MODELS).await;
    // A hundred tokens are free, and there is no balance.
    let (mut gateway, opened) = Gateway::open(&service, stream("s", "chat", "text-cheap", (1, 9))).await;
    assert_eq!((opened.free_count, opened.amount), (10, 0.0));
    assert!(!gateway.deliver_durably(0, 98).await.stop, "99 of 100");
    gateway.output(" hello hello").await;
    assert_eq!(gateway.state(|state| state.stop).await.cost, 0.000001);
    let finished = gateway.finish(StreamFinish::default()).await.unwrap();
    assert_eq!((finished.free_count, finished.paid_count, finished.amount), (100, 1, 0.000001));
    assert_eq!(finished.balance, -0.000001, "delivered tokens are charged");
    let refused = Gateway::try_open(service.internal.clone(), stream("r", "rag", "text-cheap", (1, 1))).await;
    assert_eq!(code_of(&refused.err().unwrap()).1, "10001");

    service.adjust("u", 0.000002).await;
    let (mut gateway, opened) = Gateway::open(&service, stream("b", "rag", "text-cheap", (1, 1))).await;
    assert_eq!(opened.amount, 0.000001);
    gateway.deliver_durably(0, 3).await;
    drop(gateway);
    assert_eq!(service.ended("b", "COMMITTED").await.amount, 0.000001);
    assert_eq!(service.account("u").await.balance, 0.0);
    service.assert_nothing_is_held("u").await;
}

#[rstest]
#[tokio::test]
async fn a_key_and_the_free_quota_count_the_same_tokens_at_any_cost(#[values(MySql, Sqlite)] on: Backend) {
    let service = Service::start_with(on, MODELS).await;
    service.adjust("u", 100.0).await;
    let quota = r#"{"quota_type":"tokens","period":"month","limit":1000}"#;
    service.post("/internal/v1/billing/api-keys/k/quota", quota).await;
    let used =
        async || service.internal_get("/internal/v1/billing/api-keys/k/quota").await.1["quotas"][0]["used"].clone();
    let free = async || {
        let quotas = service.account("u").await.quotas;
        quotas.into_iter().find(|quota| quota.service_name == "chat").unwrap().used_quota
    };
    let keyed = |trace| ReserveQuotaRequest { api_key_id: "k".into(), ..stream(trace, "chat", "dear", (10, 10)) };
    // The stream has counted no tokens, so the expected tokens count.
    let (mut gateway, _) = Gateway::open(&service, keyed("silent")).await;
    let finish = StreamFinish { cost: 0.5, ..Default::default() };
    gateway.finish(finish.clone()).await.unwrap();
    assert_eq!((used().await.as_f64().unwrap(), free().await), (10.0, 10), "the input as it was estimated");
    let (mut gateway, _) = Gateway::open(&service, keyed("counted")).await;
    gateway.deliver_durably(0, 5).await;
    gateway.finish(finish).await.unwrap();
    assert_eq!((used().await.as_f64().unwrap(), free().await), (25.0, 25));
    // A broken stream is charged as reported. Then a commit has a cost and fewer tokens.
    let rest = DeductQuotaRequest { model: "dear".into(), usage: super::usage(75, 0, 0), ..charge("u", "chat", 1) };
    service.deduct(rest).await;
    let (mut gateway, _) = Gateway::open(&service, keyed("broken")).await;
    gateway.deliver_durably(0, 7).await;
    drop(gateway);
    service.ended("broken", "COMMITTED").await;
    assert_eq!((used().await.as_f64().unwrap(), free().await), (42.0, 100));
    let commit = CommitReservationRequest {
        user_id: "u".into(),
        trace_id: "broken".into(),
        cost: 50.0,
        usage: super::usage(1, 0, 1),
        ..Default::default()
    };
    let committed = service.internal.clone().commit_reservation(commit).await.unwrap().into_inner();
    assert_eq!((committed.paid_count, committed.amount), (17, 50.0));
    assert_eq!((used().await.as_f64().unwrap(), free().await), (42.0, 100), "a lower commit takes nothing back");
    service.assert_nothing_is_held("u").await;
}

//! Streams that finish with the count of the service or of the vendor.

use std::time::Duration;

use billing_service::service::proto::{CommitReservationRequest, StreamFinish};
use rstest::rstest;
use serde_json::json;
use tonic::Request;

use super::{Gateway, MODELS, stream, usage, words};
use crate::harness::{Backend, MySql, Service, Sqlite, wait::until};

#[rstest]
#[tokio::test]
async fn a_stream_is_charged_for_its_delivered_tokens(#[values(MySql, Sqlite)] on: Backend) {
    let service = Service::start_with(on, MODELS).await;
    service.adjust("u", 100.0).await;
    let (mut gateway, opened) = Gateway::open(&service, stream("s", "rag", "dear", (3, 20))).await;
    assert_eq!((opened.amount, opened.status.as_str(), opened.replayed), (23.0, "PENDING", false));
    assert_eq!(service.account("u").await.held, 23.0);

    assert_eq!(gateway.deliver(0, 4).await.cost, 7.0);
    assert_eq!(gateway.deliver(4, 1).await.cost, 8.0);
    let finished = gateway.finish(StreamFinish::default()).await.unwrap();
    assert_eq!((finished.amount, finished.balance, finished.shortfall), (8.0, 92.0, 0.0));
    assert!(!finished.replayed);

    let made = service.metered("s").await;
    assert_eq!((made.status.as_str(), made.amount, made.usage), ("COMMITTED", 8.0, usage(3, 0, 5)));
    assert_eq!(made.record_id, finished.record_id);
    service.assert_nothing_is_held("u").await;
}

#[rstest]
#[tokio::test]
async fn the_count_of_the_vendor_takes_precedence(#[values(MySql, Sqlite)] on: Backend) {
    let service = Service::start_with(on, MODELS).await;
    service.adjust("u", 100.0).await;
    let (mut gateway, _) = Gateway::open(&service, stream("s", "rag", "dear", (3, 20))).await;
    gateway.deliver(0, 4).await;
    let finish = StreamFinish { usage: usage(5, 1, 2), ..Default::default() };
    let finished = gateway.finish(finish).await.unwrap();
    assert_eq!((finished.amount, finished.balance), (7.0, 93.0));
    assert_eq!(service.metered("s").await.usage, usage(5, 1, 2));
    // The same commit as a unary call is a replay.
    let commit = CommitReservationRequest {
        user_id: "u".into(),
        trace_id: "s".into(),
        usage: usage(5, 1, 2),
        ..Default::default()
    };
    let again = service.internal.clone().commit_reservation(commit).await.unwrap().into_inner();
    assert!(again.replayed && again.record_id == finished.record_id);
    service.assert_nothing_is_held("u").await;
}

#[rstest]
#[tokio::test]
async fn a_usage_report_of_the_vendor_replaces_the_estimate(#[values(MySql, Sqlite)] on: Backend) {
    let service = Service::start_with(on, MODELS).await;
    service.adjust("u", 100.0).await;
    let (mut gateway, _) = Gateway::open(&service, stream("s", "rag", "dear", (3, 20))).await;
    // Some vendors only report the output.
    gateway.heartbeat(usage(0, 0, 2)).await;
    assert_eq!(gateway.state(|state| state.output_tokens == 2).await.cost, 5.0);
    gateway.heartbeat(usage(7, 2, 1)).await;
    assert_eq!(gateway.state(|state| state.output_tokens == 1).await.cost, 8.0);
    // The reported input stays, and the service has counted more output by now.
    gateway.heartbeat(usage(0, 0, 3)).await;
    assert_eq!(gateway.state(|state| state.output_tokens == 3).await.cost, 10.0);
    assert_eq!(gateway.deliver(0, 4).await.cost, 11.0);
    assert_eq!(gateway.finish(StreamFinish::default()).await.unwrap().amount, 11.0);
    assert_eq!(service.metered("s").await.usage, usage(7, 2, 4));
    service.assert_nothing_is_held("u").await;
}

#[rstest]
#[tokio::test]
async fn chunks_count_as_their_text_wherever_they_end(#[values(MySql, Sqlite)] on: Backend) {
    let service = Service::start_with(on, MODELS).await;
    service.adjust("u", 100.0).await;
    let text = "余额不足,请先充值。👩‍👩‍👧 fn main() {}\n\n    \tend";
    let counted = service.post("/internal/v1/billing/tokens/count", json!({ "text": text }).to_string()).await.1;
    let whole = counted["tokens"].as_i64().unwrap();
    for size in 1..=7 {
        let trace = format!("s{size}");
        let (mut gateway, _) = Gateway::open(&service, stream(&trace, "llm", "gpt-4.1", (3, 20))).await;
        for chunk in text.as_bytes().chunks(size) {
            gateway.output(chunk).await;
        }
        gateway.finish(StreamFinish::default()).await.unwrap();
        let counted = service.metered(&trace).await.usage.unwrap().output_tokens;
        assert_eq!(i64::from(counted), whole, "in chunks of {size} bytes");
    }
    service.assert_nothing_is_held("u").await;
}

/// Two calls are free with any number of tokens, or a hundred tokens are free.
#[rstest]
#[tokio::test]
async fn free_quota_goes_first(#[values(MySql, Sqlite)] on: Backend) {
    let service = Service::start_with(on, MODELS).await;
    service.adjust("u", 100.0).await;
    for (trace, amount) in [("c1", 0.0), ("c2", 0.0), ("c3", 7.0)] {
        let (mut gateway, _) = Gateway::open(&service, stream(trace, "llm", "dear", (3, 20))).await;
        assert_eq!(gateway.deliver(0, 4).await.cost, amount);
        let finished = gateway.finish(StreamFinish::default()).await.unwrap();
        assert_eq!((finished.free_count + finished.paid_count, finished.amount), (1, amount), "{trace}");
    }
    for (trace, delivered, free, amount) in [("t1", 60, 70, 0.0), ("t2", 40, 30, 20.0), ("t3", 3, 0, 13.0)] {
        let (mut gateway, _) = Gateway::open(&service, stream(trace, "chat", "dear", (10, 10))).await;
        assert_eq!(gateway.deliver(0, delivered).await.output_tokens, delivered);
        let finished = gateway.finish(StreamFinish::default()).await.unwrap();
        assert_eq!((finished.free_count, finished.paid_count), (free, 10 + delivered - free), "{trace}");
        assert_eq!(finished.amount, amount);
    }
    service.assert_nothing_is_held("u").await;
}

#[rstest]
#[tokio::test]
async fn a_service_with_a_price_per_call_can_be_metered(#[values(MySql, Sqlite)] on: Backend) {
    let service = Service::start_with(on, MODELS).await;
    service.adjust("u", 100.0).await;
    service.use_up_free_quota("u", "asset").await;
    let (mut gateway, opened) = Gateway::open(&service, stream("s", "asset", "", (0, 0))).await;
    assert_eq!(opened.amount, 0.05);
    assert_eq!(gateway.deliver(0, 4).await.cost, 0.05);
    assert_eq!(gateway.finish(StreamFinish::default()).await.unwrap().amount, 0.05);
    service.assert_nothing_is_held("u").await;
}

#[rstest]
#[tokio::test]
async fn a_commit_with_a_text_and_no_usage_counts_the_output(#[values(MySql, Sqlite)] on: Backend) {
    let service = Service::start_with(on, MODELS).await;
    service.adjust("u", 100.0).await;
    let mut client = service.internal.clone();
    client.reserve_quota(stream("r", "rag", "dear", (3, 20))).await.unwrap();
    let commit = CommitReservationRequest {
        user_id: "u".into(),
        trace_id: "r".into(),
        // A usage of zero tokens counts as no usage.
        usage: usage(0, 0, 0),
        output_text: Some(words(6)),
        ..Default::default()
    };
    let first = client.commit_reservation(commit.clone()).await.unwrap().into_inner();
    assert_eq!((first.amount, first.balance), (9.0, 91.0));
    assert!(client.commit_reservation(commit.clone()).await.unwrap().into_inner().replayed);
    let other = CommitReservationRequest { output_text: Some(words(7)), ..commit };
    let refused = client.commit_reservation(other).await.unwrap_err();
    assert!(refused.message().contains("usage"), "{refused}");
    assert_eq!(service.metered("r").await.usage, usage(3, 0, 6));
    service.assert_nothing_is_held("u").await;
}

/// Counting this text takes half a second, and the caller does not wait for the charge.
#[rstest]
#[tokio::test]
async fn a_commit_is_charged_even_if_its_caller_leaves_during_the_count(#[values(MySql, Sqlite)] on: Backend) {
    let service = Service::start_with(on, MODELS).await;
    service.adjust("u", 100.0).await;
    service.internal.clone().reserve_quota(stream("r", "rag", "text-cheap", (3, 20))).await.unwrap();
    let letters = (0..900_000u32).map(|at| char::from(b'a' + (at.wrapping_mul(2_654_435_769) >> 24) as u8 % 26));
    let commit = CommitReservationRequest {
        user_id: "u".into(),
        trace_id: "r".into(),
        output_text: Some(letters.collect()),
        ..Default::default()
    };
    until("the commit is charged", async || {
        let mut request = Request::new(commit.clone());
        request.set_timeout(Duration::from_millis(100));
        let _ = service.internal.clone().commit_reservation(request).await;
        service.metered("r").await.status == "COMMITTED"
    })
    .await;
    until("the metric counts the commit", async || service.metric("billing_stream_committed").await == 1.0).await;
    service.assert_nothing_is_held("u").await;
}

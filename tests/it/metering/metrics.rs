//! The metrics of streams.

use billing_service::service::proto::{CommitReservationRequest, StreamFinish};
use rstest::rstest;

use super::{Gateway, MODELS, models_with, stream, usage, words};
use crate::harness::{Backend, MySql, Service, Sqlite, wait::until};

impl Service {
    /// A metric with labels appears with its first value, so it may be absent.
    pub async fn metric(&self, name: &str) -> f64 {
        let text = self.metrics().await;
        match text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')) {
            None if name.contains('{') => 0.0,
            value => value.unwrap_or_else(|| panic!("no {name}")).parse().unwrap(),
        }
    }
}

const ACCURACY: &str = "billing_stream_token_accuracy_pct";

#[rstest]
#[tokio::test]
async fn the_service_compares_its_counts_with_those_of_the_vendor(#[values(MySql, Sqlite)] on: Backend) {
    let service = Service::start_with(on, MODELS).await;
    service.adjust("u", 100.0).await;
    assert_eq!(service.metric(ACCURACY).await, 100.0);
    let finish = |vendors: i32, hidden_output_tokens: i32| StreamFinish {
        usage: usage(3, 0, vendors),
        hidden_output_tokens,
        ..Default::default()
    };
    // The service counts 9,000 each time. The vendor counts less, hidden reasoning tokens, and more.
    let above = 100.0 - 100.0 * 6.0 / 25.0;
    for (trace, finish, accuracy) in
        [("a", finish(10_000, 0), 90.0), ("b", finish(40_000, 30_000), 90.0), ("c", finish(5_000, 0), above)]
    {
        let (mut gateway, _) = Gateway::open(&service, stream(trace, "rag", "gpt-4.1", (3, 20))).await;
        gateway.deliver(0, 9_000).await;
        gateway.finish(finish).await.unwrap();
        assert_eq!(service.metric(ACCURACY).await, accuracy, "{trace}");
    }
    // A commit with both counts is compared too. A repeat is not, and neither is a model with another encoding.
    for (trace, model, accuracy) in [("d", "gpt-4.1", 100.0 - 100.0 * 7.0 / 35.0), ("e", "dear", 80.0)] {
        service.internal.clone().reserve_quota(stream(trace, "rag", model, (3, 20))).await.unwrap();
        let commit = CommitReservationRequest {
            user_id: "u".into(),
            trace_id: trace.into(),
            usage: usage(3, 0, 10_000),
            output_text: Some(words(9_000)),
            ..Default::default()
        };
        for _ in 0..2 {
            service.internal.clone().commit_reservation(commit.clone()).await.unwrap();
            // The comparison runs after the reply.
            until(trace, async || service.metric(ACCURACY).await == accuracy).await;
        }
    }
}

#[rstest]
#[tokio::test]
async fn streams_are_counted(#[values(MySql, Sqlite)] on: Backend) {
    let service = Service::start_with(on, MODELS).await;
    service.adjust("u", 100.0).await;
    let open = |trace| stream(trace, "rag", "dear", (3, 7));
    let (mut finishes, _) = Gateway::open(&service, open("finishes")).await;
    let (mut breaks, _) = Gateway::open(&service, open("breaks")).await;
    let (empty, _) = Gateway::open(&service, open("empty")).await;
    assert_eq!(service.metric("billing_streams_open").await, 3.0);
    assert_eq!(service.metric("billing_stream_pending_created").await, 3.0);
    finishes.deliver(0, 1).await;
    finishes.finish(StreamFinish::default()).await.unwrap();
    breaks.deliver(0, 2).await;
    drop((breaks, empty));
    until("all streams have ended", async || service.metric("billing_streams_open").await == 0.0).await;
    assert_eq!(service.metric("billing_stream_committed").await, 2.0);
    assert_eq!(service.metric("billing_stream_failed").await, 0.0);
    assert_eq!(service.metric("billing_deduct_success").await, 2.0);
    assert_eq!(service.metric("billing_quota_deduct_total{service=\"rag\",type=\"balance\"}").await, 2.0);
    assert_eq!(service.metric("billing_balance_amount{operation=\"deduct\"}").await, 9.0);

    let (mut fails, _) = Gateway::open(&service, open("fails")).await;
    let finish = StreamFinish { usage: usage(0, 0, i32::MAX), ..Default::default() };
    fails.finish(finish).await.unwrap_err();
    until("the failure is counted", async || service.metric("billing_stream_failed").await == 1.0).await;
    assert_eq!(service.metric("billing_deduct_failure{reason=\"invalid_argument\"}").await, 1.0);
}

/// A commit with more tokens than its broken stream adds the difference once.
#[rstest]
#[case::within_the_hold(4, 2.0)]
#[case::that_falls_short(7, 1.0)]
#[tokio::test]
async fn an_addition_to_a_charge_is_counted(
    #[values(MySql, Sqlite)] on: Backend,
    #[case] delivered: i32,
    #[case] charges: f64,
) {
    let service = Service::start_with(on, &models_with("billing.reservations", "{rag: {above_hold: cap}}")).await;
    service.adjust("u", 10.0).await;
    let (mut breaks, _) = Gateway::open(&service, stream("breaks", "rag", "dear", (3, 7))).await;
    breaks.deliver(0, delivered).await;
    drop(breaks);
    let first = f64::from(3 + delivered);
    let charged = ["billing_balance_amount{operation=\"deduct\"}", "billing_shortfall_amount_total"];
    let deducted =
        ["balance", "free"].map(|kind| format!("billing_quota_deduct_total{{service=\"rag\",type=\"{kind}\"}}"));
    let others = ["billing_idempotent_hit", "billing_stream_committed"];
    let counted = async || {
        let mut values = Vec::new();
        for name in charged.into_iter().chain(deducted.iter().map(String::as_str)).chain(others) {
            values.push(service.metric(name).await);
        }
        values
    };
    until("the break is counted", async || counted().await == [first, 0.0, 1.0, 0.0, 0.0, 1.0]).await;
    let late = CommitReservationRequest {
        user_id: "u".into(),
        trace_id: "breaks".into(),
        usage: usage(3, 0, 12),
        ..Default::default()
    };
    for repeats in [0.0, 1.0] {
        let charged = service.internal.clone().commit_reservation(late.clone()).await.unwrap().into_inner();
        assert_eq!((charged.amount, charged.shortfall), (10.0, 5.0));
        assert_eq!(counted().await, [10.0, 5.0, charges, 0.0, repeats, 1.0]);
    }
}

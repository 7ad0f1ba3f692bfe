//! Streams whose finish names the model that served, and its service tier.

use billing_service::service::proto::{CommitReservationRequest, ReserveQuotaRequest, StreamFinish};
use rstest::rstest;

use super::{Gateway, models_with, stream, usage};
use crate::harness::{Backend, MySql, Service, Sqlite, wait::until};

/// A token of `first` costs one yuan, and one of `other` three.
const SERVED: (&str, &str) = (
    "billing.models",
    "{first: {input: 1000000, output: 1000000, max_tokens: 10, service_tiers: {batch: 0.5}}, \
      other: {input: 3000000, output: 3000000, service_tiers: {batch: 0.5}, aliases: ['other-*']}, \
      plain: {input: 2000000, output: 2000000}, \
      gpt-4: {input: 1, output: 1}, gpt-4.1: {input: 1, output: 1}}",
);

#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_finish_names_the_model_and_the_service_tier(#[values(MySql, Sqlite)] on: Backend) {
    let service = Service::start_with(on, &models_with(SERVED.0, SERVED.1)).await;
    service.adjust("u", 1_000.0).await;
    // Three tokens of input and four of output.
    for (trace, reserved, model, tier, amount, shown) in [
        ("none", "", "", "", 7.0, ""),
        ("tier", "", "", "batch", 3.5, "batch"),
        ("model", "", "other", "", 21.0, ""),
        ("alias", "", "other-2026", "", 21.0, ""),
        ("both", "", "other", "batch", 10.5, "batch"),
        ("reserved", "batch", "", "", 3.5, "batch"),
        ("kept", "batch", "other", "", 10.5, "batch"),
        ("lacking", "batch", "plain", "", 14.0, ""),
    ] {
        let open = ReserveQuotaRequest { service_tier: reserved.into(), ..stream(trace, "rag", "first", (3, 20)) };
        let (mut gateway, opened) = Gateway::open(&service, open).await;
        assert_eq!(opened.amount, if reserved.is_empty() { 23.0 } else { 11.5 });
        let state = gateway.deliver(0, 4).await;
        assert_eq!(state.cost, if reserved.is_empty() { 7.0 } else { 3.5 });
        let finish = StreamFinish { model: model.into(), service_tier: tier.into(), ..Default::default() };
        assert_eq!(gateway.finish(finish).await.unwrap().amount, amount, "{trace}");
        let made = service.metered(trace).await;
        assert_eq!((made.amount, made.usage), (amount, usage(3, 0, 4)), "{trace}");
        assert_eq!((made.model.as_str(), made.served_model.as_str()), ("first", model), "{trace}");
        assert_eq!(made.service_tier, shown, "{trace}");
        let lines = made.price_lines.iter().map(|line| line.amount).sum::<f64>();
        assert_eq!(lines, amount, "{trace}");
    }
    service.assert_nothing_is_held("u").await;
}

/// The gateway died. A commit brings the text, and the stream, opened again, finishes later.
#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_commit_after_a_text_keeps_its_model_and_its_service_tier(#[values(MySql, Sqlite)] on: Backend) {
    let service = Service::start_with(on, &models_with(SERVED.0, SERVED.1)).await;
    service.adjust("u", 1_000.0).await;
    let (mut gateway, _) = Gateway::open(&service, stream("s", "rag", "first", (3, 20))).await;
    gateway.deliver_durably(0, 4).await;
    let text = CommitReservationRequest {
        user_id: "u".into(),
        trace_id: "s".into(),
        output_text: Some(" hello".into()),
        model: "other".into(),
        service_tier: "batch".into(),
        ..Default::default()
    };
    let charged = service.internal.clone().commit_reservation(text.clone()).await.unwrap().into_inner();
    // The report of 3 + 4 tokens counts, at half of three yuan each.
    assert_eq!(charged.amount, 10.5);
    assert!(service.internal.clone().commit_reservation(text).await.unwrap().into_inner().replayed);
    let finished = gateway.finish(StreamFinish { usage: usage(3, 0, 6), ..Default::default() }).await.unwrap();
    assert_eq!(finished.amount, 13.5);
    let made = service.metered("s").await;
    assert_eq!((made.served_model.as_str(), made.service_tier.as_str(), made.amount), ("other", "batch", 13.5));
    service.assert_nothing_is_held("u").await;
}

#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_text_is_counted_in_the_encoding_of_the_model_that_served(#[values(MySql, Sqlite)] on: Backend) {
    // Fewer tokens would show as full accuracy.
    let text = "账户余额不足，请先充值。".repeat(1_000);
    let service = Service::start_with(on, &models_with(SERVED.0, SERVED.1)).await;
    service.adjust("u", 1_000.0).await;
    let counted = async |model: &str| {
        let body = serde_json::json!({"model": model, "text": text}).to_string();
        service.post("/internal/v1/billing/tokens/count", body).await.1["tokens"].as_i64().unwrap() as i32
    };
    let (old, new) = (counted("gpt-4").await, counted("gpt-4.1").await);
    assert!(old > new, "the encodings differ: {old} {new}");
    for (trace, reserved, served, output) in
        [("a", "gpt-4.1", "", new), ("b", "gpt-4.1", "gpt-4", old), ("c", "gpt-4", "gpt-4.1", new)]
    {
        service.internal.clone().reserve_quota(stream(trace, "rag", reserved, (3, 20))).await.unwrap();
        let commit = CommitReservationRequest {
            user_id: "u".into(),
            trace_id: trace.into(),
            output_text: Some(text.clone()),
            model: served.into(),
            ..Default::default()
        };
        service.internal.clone().commit_reservation(commit).await.unwrap();
        assert_eq!(service.metered(trace).await.usage, usage(3, 0, output), "{trace}");
    }

    // The accuracy compares with the count of the vendor only in the encoding of the model that served.
    const ACCURACY: &str = "billing_stream_token_accuracy_pct";
    for (trace, served, vendors, accuracy) in [
        ("d", "gpt-4", old, 100.0),
        ("e", "", new, 100.0),
        ("f", "", old, 100.0 - 100.0 * f64::from(old - new) / f64::from(old + new)),
    ] {
        let (mut gateway, _) = Gateway::open(&service, stream(trace, "rag", "gpt-4.1", (3, 40))).await;
        gateway.output(text.as_str()).await;
        let finish = StreamFinish { model: served.into(), usage: usage(3, 0, vendors), ..Default::default() };
        gateway.finish(finish).await.unwrap();
        until(trace, async || (service.metric(ACCURACY).await - accuracy).abs() < 1e-6).await;
    }
}

/// The vendor counted in the encoding of the model that served.
#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_commit_is_compared_in_the_encoding_of_the_model_that_served(#[values(MySql, Sqlite)] on: Backend) {
    let text = "账户余额不足，请先充值。".repeat(1_000);
    let service = Service::start_with(on, &models_with(SERVED.0, SERVED.1)).await;
    service.adjust("u", 1_000.0).await;
    // Half of the vendor's count, so that the comparison shows.
    let body = serde_json::json!({"model": "gpt-4", "text": text}).to_string();
    let ours = service.post("/internal/v1/billing/tokens/count", body).await.1["tokens"].as_i64().unwrap() as i32;
    service.internal.clone().reserve_quota(stream("r", "rag", "gpt-4.1", (3, 40))).await.unwrap();
    let commit = CommitReservationRequest {
        user_id: "u".into(),
        trace_id: "r".into(),
        usage: usage(3, 0, 2 * ours),
        output_text: Some(text),
        model: "gpt-4".into(),
        ..Default::default()
    };
    service.internal.clone().commit_reservation(commit).await.unwrap();
    until("the counts are compared", async || service.metric("billing_stream_token_accuracy_pct").await == 50.0).await;
}

#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_far_beyond_the_expected_one_is_counted(#[values(MySql, Sqlite)] on: Backend) {
    let changes = [models_with(SERVED.0, SERVED.1), vec![("billing.usage_sanity", "2")]].concat();
    let service = Service::start_with(on, &changes).await;
    service.adjust("u", 1_000.0).await;
    // `first` has 10 tokens at most, and the estimates are 30 and 5 tokens.
    for (trace, model, estimate, output, counted) in [
        ("within", "first", (3, 27), 17, 0.0),
        ("beyond the model", "first", (3, 27), 18, 1.0),
        ("beyond the estimate", "plain", (3, 2), 8, 2.0),
        ("within the estimate", "plain", (3, 2), 7, 2.0),
    ] {
        let (mut gateway, _) = Gateway::open(&service, stream(trace, "rag", model, estimate)).await;
        gateway.finish(StreamFinish { usage: usage(3, 0, output), ..Default::default() }).await.unwrap();
        until("the stream is over", async || service.metric("billing_streams_open").await == 0.0).await;
        assert_eq!(service.metric("billing_usage_suspicious").await, counted, "{trace}");
    }
}

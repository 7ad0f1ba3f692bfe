//! Service tiers and served models of reserves and commits, from the wire to the tables and back.

use billing_service::{
    biz::values::calendar::Clock,
    service::proto::{
        CommitReservationReply, CommitReservationRequest, DeductQuotaRequest, PutPriceVersionRequest,
        ReserveQuotaRequest, SetUserPlanRequest,
    },
};
use chrono::TimeDelta;
use rstest::rstest;

use super::{
    blamed, blames, call, delivered, hold,
    models::{MODELS, put, sum},
    tokens,
};
use crate::harness::{Backend, Database, MySql, Service, Sqlite, process::ServerProcess, traced};

impl Service {
    /// Commits a call of 3,000 and 1,000 tokens, and repeats it. The amount is the sum of the stored lines.
    async fn committed(&self, trace: &str, model: &str, service_tier: &str) -> CommitReservationReply {
        let commit = commit(trace, model, service_tier);
        let reply = self.deliver(commit.clone()).await.unwrap();
        assert!(self.deliver(commit).await.unwrap().replayed, "{trace}");
        let found = self.found(trace).await;
        assert_eq!((found.amount, sum(&found.price_lines)), (reply.amount, reply.amount), "{:?}", found.price_lines);
        assert_eq!((found.served_model.as_str(), found.usage), (model, tokens(3_000, 0, 1_000)));
        reply
    }
}

fn commit(trace: &str, model: &str, service_tier: &str) -> CommitReservationRequest {
    CommitReservationRequest {
        model: model.into(),
        service_tier: service_tier.into(),
        ..delivered(trace, tokens(3_000, 0, 1_000))
    }
}

/// A hold of 3,000 and 1,000 tokens.
fn reserve(trace: &str, model: &str, service_tier: &str) -> ReserveQuotaRequest {
    ReserveQuotaRequest { model: model.into(), service_tier: service_tier.into(), ..hold(trace, "rag", (3_000, 1_000)) }
}

#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reserve_and_a_commit_name_their_service_tier(#[values(MySql, Sqlite)] on: Backend) {
    let service = Service::start_with(on, MODELS).await;
    service.adjust("u", 1_000.0).await;
    let batch = reserve("of-reserve", "gpt-4.1", "batch");
    assert_eq!(service.hold_tokens(batch.clone()).await.unwrap().amount, 0.0525);
    assert!(service.hold_tokens(batch).await.unwrap().replayed);
    let other = service.hold_tokens(reserve("of-reserve", "gpt-4.1", "")).await.unwrap_err();
    assert!(other.message().ends_with("service_tier"), "{}", other.message());
    assert_eq!(service.found("of-reserve").await.service_tier, "batch");
    assert_eq!(service.committed("of-reserve", "", "").await.amount, 0.0525);
    assert_eq!(service.found("of-reserve").await.service_tier, "batch");

    assert_eq!(service.hold_tokens(reserve("of-commit", "gpt-4.1", "")).await.unwrap().amount, 0.105);
    assert_eq!(blamed(service.deliver(commit("of-commit", "", "flex")).await), blames("service_tier"));
    assert_eq!(service.committed("of-commit", "", "batch").await.amount, 0.0525);
    let without = service.deliver(commit("of-commit", "", "")).await.unwrap_err();
    assert!(without.message().ends_with("service_tier"), "{}", without.message());
    assert_eq!(service.found("of-commit").await.service_tier, "batch");

    assert_eq!(blamed(service.hold_tokens(reserve("none", "free", "batch")).await), blames("service_tier"));
    // The served model has no batch.
    service.hold_tokens(reserve("of-neither", "gpt-4.1", "batch")).await.unwrap();
    assert_eq!(service.committed("of-neither", "gpt-4.1-mini", "").await.amount, 0.021);
    assert_eq!(service.found("of-neither").await.service_tier, "");
    service.assert_audit_is_clean().await;
}

#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_served_model_is_priced_in_the_plan_of_the_reserve(#[values(MySql, Sqlite)] on: Backend) {
    let service = Service::start_with(on, MODELS).await;
    service.adjust("u", 1_000.0).await;
    let set = async |plan: &str| {
        let request = SetUserPlanRequest { user_id: "u".into(), plan: plan.into(), reason: String::new() };
        service.internal.clone().set_user_plan(request).await.unwrap();
    };
    service.hold_tokens(reserve("list", "free", "")).await.unwrap();
    set("reseller").await;
    assert_eq!(service.hold_tokens(reserve("plan", "free", "")).await.unwrap().amount, 0.0);
    set("default").await;
    assert_eq!(service.committed("list", "gpt-4.1", "batch").await.amount, 0.0525);
    assert_eq!(service.committed("plan", "gpt-4.1", "batch").await.amount, 0.063);
    let found = service.found("plan").await;
    assert_eq!((found.plan.as_str(), found.price_lines[0].factor), ("reseller", 0.6));
    service.assert_audit_is_clean().await;
}

#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_alias_keeps_the_version_of_the_reserve(#[values(MySql, Sqlite)] on: Backend) {
    let service = Service::start_with(on, MODELS).await;
    service.adjust("u", 1_000.0).await;
    let version = |id: &str, input, output| PutPriceVersionRequest {
        model: "gpt-x".into(),
        version_id: id.into(),
        input: Some(input),
        output: Some(output),
        aliases: vec!["gpt-x-2025*".into()],
        ..Default::default()
    };
    service.put(version("v1", 15.0, 60.0)).await.unwrap();
    for (trace, model) in [("a", "gpt-x-2025-04-14"), ("b", "gpt-x"), ("c", "gpt-x-2025-04-14"), ("d", "gpt-x")] {
        assert_eq!(service.hold_tokens(reserve(trace, model, "")).await.unwrap().amount, 0.105, "{trace}");
    }
    service.clock.advance(TimeDelta::hours(1));
    service.put(version("v2", 30.0, 120.0)).await.unwrap();
    assert_eq!(service.charged("now", call("rag", "gpt-x-2025-04-14", tokens(3_000, 0, 1_000))).await, 0.21);
    for (trace, model) in [("a", "gpt-x"), ("b", "gpt-x-2025-04-14"), ("c", ""), ("d", "gpt-x-2025-11-01")] {
        assert_eq!(service.committed(trace, model, "").await.amount, 0.105, "{trace}");
        assert_eq!(service.found(trace).await.price_version, "v1");
    }

    // An edited price without an instant replaces the one that the reserve saw.
    for (trace, model) in [("e", "gpt-4.1"), ("f", "gpt-4.1-2025-04-14"), ("g", "gpt-4.1"), ("h", "gpt-4.1")] {
        assert_eq!(service.hold_tokens(reserve(trace, model, "")).await.unwrap().amount, 0.105);
    }
    service.app.stop().await;
    let edited = ("billing.models", "{gpt-4.1: {input: 30, output: 120, aliases: ['gpt-4.1-2025*']}}");
    let changes: Vec<_> = MODELS.iter().copied().chain([edited]).collect();
    let service = Service::start_on(service.database, &changes).await;
    for (trace, model) in [("e", "gpt-4.1-2025-04-14"), ("f", "gpt-4.1"), ("g", "")] {
        assert_eq!(service.committed(trace, model, "").await.amount, 0.105, "{trace}");
    }
    // A name that is no alias any more.
    assert_eq!(blamed(service.deliver(commit("h", "gpt-4.1-2024", "")).await), blames("model"));
    assert_eq!(service.committed("h", "", "").await.amount, 0.105);
    service.assert_audit_is_clean().await;
}

#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tiers_count_all_calls_of_a_request_and_a_share_is_never_nothing(#[values(MySql, Sqlite)] on: Backend) {
    let quotas = ("billing.free_quotas", "{passport: 10, payment: 1000, asset: 1000, chat: 1000}");
    let changes: Vec<_> = MODELS.iter().copied().chain([quotas]).collect();
    let service = Service::start_with(on, &changes).await;
    service.adjust("u", 1_000.0).await;
    let three = DeductQuotaRequest { count: 3, ..call("rag", "long", tokens(300_000, 0, 0)) };
    assert_eq!(service.charged("three", three).await, 3.0);
    for trace in ["one", "two", "another"] {
        assert_eq!(service.charged(trace, call("rag", "long", tokens(100_000, 0, 0))).await, 0.5);
    }
    let tiny =
        PutPriceVersionRequest { input: Some(0.0006), tiers: Vec::new(), ..put("tiny", "v", service.clock.now(), 1.0) };
    service.put(tiny).await.unwrap();
    assert_eq!(service.charged("tiny", call("chat", "tiny", tokens(1_500, 0, 0))).await, 0.000001);
    let found = service.found("tiny").await;
    assert_eq!((found.free_count, found.paid_count), (1_000, 500));
    service.assert_audit_is_clean().await;
}

/// Usage of more than twice the largest call of the model, or than twice the estimate.
#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn usage_far_beyond_the_expected_one_is_charged_counted_and_logged(#[values(MySql, Sqlite)] on: Backend) {
    let database = Database::create(on).await;
    let changes = [MODELS, &[("billing.usage_sanity", "2")]].concat();
    let (server, mut log) = ServerProcess::start_logged(&database.config_file(&changes));
    let mut client =
        billing_service::service::proto::billing_internal_service_client::BillingInternalServiceClient::connect(
            server.grpc.clone(),
        )
        .await
        .unwrap();
    let http = crate::harness::http_client();
    let counted = async || {
        let text = http.get(format!("{}/metrics", server.grpc)).send().await.unwrap().text().await.unwrap();
        let line = text.lines().find_map(|line| line.strip_prefix("billing_usage_suspicious "));
        line.unwrap().parse::<u32>().unwrap()
    };
    let mut deduct = async |trace: &str, input, output| {
        let request = DeductQuotaRequest { delivered: true, ..call("rag", "written", tokens(input, 0, output)) };
        client.deduct_quota(traced(trace, request)).await.unwrap().into_inner().amount
    };
    assert_eq!(deduct("largest", 200_000, 200_000).await, 6.0);
    assert_eq!(counted().await, 0);
    assert_eq!(deduct("above", 200_001, 200_000).await, 6.000005);
    assert_eq!(counted().await, 1);
    // A repeat charges nothing.
    deduct("above", 200_001, 200_000).await;
    assert_eq!(counted().await, 1);
    let of = |trace: &'static str| {
        move |line: &serde_json::Value| {
            let fields = &line["fields"];
            fields["message"] == "usage far beyond the expected one charged" && fields["trace_id"] == trace
        }
    };
    let line = log.line(of("above"));
    assert_eq!((&line["level"], &line["fields"]["model"]), (&"WARN".into(), &"written".into()));

    let mut client =
        billing_service::service::proto::billing_internal_service_client::BillingInternalServiceClient::connect(
            server.grpc.clone(),
        )
        .await
        .unwrap();
    client.reserve_quota(ReserveQuotaRequest { model: "free".into(), ..hold("r", "rag", (50, 50)) }).await.unwrap();
    client.commit_reservation(delivered("r", tokens(100, 0, 101))).await.unwrap();
    assert_eq!(counted().await, 2);
    log.line(of("r"));
    assert_eq!([log.count(of("above")), log.count(of("largest"))], [1, 0]);
}

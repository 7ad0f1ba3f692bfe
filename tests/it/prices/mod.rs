//! Models priced by token: price versions, and the costs of calls.

mod book;
mod edges;
mod models;
mod served;
mod servers;

use billing_service::{
    app,
    biz::charge::prices::StoredVersion,
    service::proto::{
        CheckQuotaReply, CheckQuotaRequest, CommitReservationReply, CommitReservationRequest, DeductQuotaReply,
        DeductQuotaRequest, GetTransactionReply, GetTransactionRequest, ReleaseReservationRequest, ReserveQuotaReply,
        ReserveQuotaRequest, Usage,
    },
};
use chrono::{DateTime, TimeDelta, Utc};
use rstest::rstest;
use serde_json::json;
use tonic::{Code, Status};
use tonic_types::StatusExt;

use crate::harness::{Backend, Database, MySql, Service, Sqlite, charge, code_of, traced, wait::until};

/// Services priced by model. The free quota of `llm` counts calls, and that of `chat` counts tokens.
/// `rag` has no free quota.
const MODELS: &[(&str, &str)] = &[
    ("billing.model_services", "{llm: calls, chat: tokens, rag: calls}"),
    ("billing.free_quotas", "{passport: 10000, payment: 1000, asset: 1000, llm: 2, chat: 1000}"),
    ("billing.models", "{gpt-4.1: {input: 2, cached_input: 0.5, output: 8}}"),
    ("billing.price_refresh", "50ms"),
];

/// The usual start of price versions in these tests.
const OF_OLD: &str = "2026-01-01T00:00:00Z";

/// A row of `price_version`: model, start, id, and the prices in millionths. "NULL" stands for no price.
struct Row<'r>(&'r str, &'r str, &'r str, [&'r str; 3]);

impl Database {
    /// Writes a row, like an operator.
    async fn set_price(&self, Row(model, from, id, prices): Row<'_>) {
        let from: DateTime<Utc> = from.parse().unwrap();
        let (from, [input, cached, output]) = match self.backend {
            MySql => (format!("'{}'", from.naive_utc()), prices.map(|price| format!("{price} / 1000000"))),
            Sqlite => (from.timestamp_micros().to_string(), prices.map(str::to_owned)),
        };
        self.execute(&format!(
            "REPLACE INTO price_version \
             (model, effective_from, version_id, input_price, cached_input_price, output_price) \
             VALUES ('{model}', {from}, '{id}', {input}, {cached}, {output})"
        ))
        .await;
    }
}

#[rstest]
#[tokio::test]
async fn versions_of_the_database_are_read_to_the_last_digit(#[values(MySql, Sqlite)] on: Backend) {
    let database = Database::create(on).await;
    let store = app::connect(&database.config(&[])).await.unwrap();
    assert_eq!(store.price_versions().await.unwrap(), []);
    let largest = "999999999999999";
    database.set_price(Row("gpt-4.1", "2026-11-01T00:00:00.000001Z", "v 2", ["2000001", "500000", "8000000"])).await;
    database.set_price(Row("GPT-4.1", "1970-01-01T00:00:00Z", "v1", [largest, "NULL", "0"])).await;
    let found = store.price_versions().await.unwrap().into_iter();
    let mut found: Vec<StoredVersion> = found.map(Result::unwrap).collect();
    found.sort_by_key(|row| row.effective_from);
    let shown = |row: &StoredVersion| {
        let version = row.version.as_ref().unwrap();
        format!("{} {} {} {}", row.model, row.effective_from, version.id, version.prices)
    };
    assert_eq!(
        found.iter().map(shown).collect::<Vec<_>>(),
        [
            "GPT-4.1 1970-01-01 00:00:00 UTC v1 999999999.999999/999999999.999999/0",
            "gpt-4.1 2026-11-01 00:00:00.000001 UTC v 2 2.000001/0.5/8",
        ]
    );
    store.close().await;
}

fn tokens(input_tokens: i32, cached_input_tokens: i32, output_tokens: i32) -> Option<Usage> {
    Some(Usage { input_tokens, output_tokens, cached_input_tokens, ..Default::default() })
}

fn call(service: &str, model: &str, usage: Option<Usage>) -> DeductQuotaRequest {
    DeductQuotaRequest { model: model.into(), usage, ..charge("u", service, 1) }
}

fn hold(trace: &str, service: &str, (input, output): (i32, i32)) -> ReserveQuotaRequest {
    ReserveQuotaRequest {
        user_id: "u".into(),
        trace_id: trace.into(),
        service_name: service.into(),
        count: 1,
        model: "gpt-4.1".into(),
        estimated_input_tokens: input,
        estimated_output_tokens: output,
        ..Default::default()
    }
}

fn delivered(trace: &str, usage: Option<Usage>) -> CommitReservationRequest {
    CommitReservationRequest { user_id: "u".into(), trace_id: trace.into(), usage, ..Default::default() }
}

/// The code and the field of a refusal.
fn blamed<T: std::fmt::Debug>(answer: Result<T, Status>) -> (String, String) {
    let refused = answer.unwrap_err();
    let (code, error_code) = code_of(&refused);
    assert_eq!(code, Code::InvalidArgument);
    let field = refused.get_error_details().error_info().unwrap().metadata["field"].clone();
    (error_code, field)
}

fn blames(field: &str) -> (String, String) {
    ("10009".into(), field.into())
}

impl Service {
    async fn hold_tokens(&self, request: ReserveQuotaRequest) -> Result<ReserveQuotaReply, Status> {
        self.internal.clone().reserve_quota(request).await.map(|reply| reply.into_inner())
    }

    async fn deliver(&self, request: CommitReservationRequest) -> Result<CommitReservationReply, Status> {
        self.internal.clone().commit_reservation(request).await.map(|reply| reply.into_inner())
    }

    async fn estimate(&self, request: CheckQuotaRequest) -> Result<CheckQuotaReply, Status> {
        self.internal.clone().check_quota(request).await.map(|reply| reply.into_inner())
    }

    async fn found(&self, trace: &str) -> GetTransactionReply {
        let request = GetTransactionRequest { user_id: "u".into(), trace_id: trace.into() };
        self.internal.clone().get_transaction(request).await.unwrap().into_inner()
    }

    /// Waits until a million input tokens of `model` have the expected cost, or no price.
    async fn until_input_costs(&self, model: &str, expected: Option<f64>) {
        let request = CheckQuotaRequest {
            user_id: "watcher".into(),
            service_name: "rag".into(),
            count: 1,
            model: model.into(),
            estimated_input_tokens: 1_000_000,
            ..Default::default()
        };
        until(&format!("{model} costs {expected:?}"), async || match self.estimate(request.clone()).await {
            Ok(reply) => Some(reply.estimated_cost) == expected,
            Err(status) => expected.is_none() && code_of(&status).1 == "10009",
        })
        .await;
    }

    /// Uses up the free quotas of both services.
    async fn pay_all(&self, balance: f64) {
        self.deduct(DeductQuotaRequest { count: 2, ..call("llm", "gpt-4.1", tokens(1, 0, 0)) }).await;
        self.deduct(call("chat", "gpt-4.1", tokens(1000, 0, 0))).await;
        self.adjust("u", balance).await;
    }
}

#[rstest]
#[tokio::test]
async fn a_model_prices_a_call_by_its_tokens_and_calls_are_free_first(#[values(MySql, Sqlite)] on: Backend) {
    let service = Service::start_with(on, MODELS).await;
    service.adjust("u", 1.0).await;
    let usage = tokens(1000, 400, 250);
    let free = service.deduct(call("llm", "gpt-4.1", usage)).await;
    assert_eq!((free.free_count, free.paid_count, free.amount, free.free_remaining), (1, 0, 0.0, 1));
    // 600 * 2 + 400 * 0.5 + 250 * 8 millionths. One call of two is free.
    let mixed = service.deduct(DeductQuotaRequest { count: 2, ..call("llm", "gpt-4.1", usage) }).await;
    assert_eq!((mixed.free_count, mixed.paid_count, mixed.amount), (1, 1, 0.0017));
    let paid = service.deduct(traced("t", call("llm", "gpt-4.1", usage))).await;
    assert_eq!((paid.free_count, paid.paid_count, paid.amount, paid.balance), (0, 1, 0.0034, 0.9949));
    assert_eq!(service.found("t").await.price_version, "config:2/0.5/8");

    // A cost replaces the prices, even for a model without a price.
    let given = traced("g", DeductQuotaRequest { cost: 0.25, ..call("llm", "unpriced", None) });
    assert_eq!(service.deduct(given).await.amount, 0.25);
    let given = traced("k", DeductQuotaRequest { cost: 0.25, ..call("llm", "gpt-4.1", usage) });
    assert_eq!(service.deduct(given).await.amount, 0.25);
    for trace in ["g", "k"] {
        assert_eq!(service.found(trace).await.price_version, "", "{trace}");
    }
    // For other services, the model is only recorded.
    assert_eq!(service.deduct(call("passport", "unpriced", None)).await.free_count, 1);
    service.assert_audit_is_clean().await;
}

#[rstest]
#[tokio::test]
async fn tokens_are_the_units_where_the_free_quota_counts_them(#[values(MySql, Sqlite)] on: Backend) {
    let service = Service::start_with(on, MODELS).await;
    service.adjust("u", 1.0).await;
    let free = service.deduct(call("chat", "gpt-4.1", tokens(500, 500, 100))).await;
    assert_eq!((free.free_count, free.paid_count, free.free_remaining), (600, 0, 400));
    // 500 * 2 + 100 * 8 millionths. 200 tokens of 600 are paid.
    let request = traced("t", call("chat", "gpt-4.1", tokens(500, 0, 100)));
    let mixed = service.deduct(request.clone()).await;
    assert_eq!((mixed.free_count, mixed.paid_count, mixed.amount), (400, 200, 0.0006));
    let again = service.deduct(request).await;
    assert_eq!(again, DeductQuotaReply { replayed: true, ..mixed });
    let found = service.found("t").await;
    assert_eq!((found.count, found.free_count, found.paid_count), (1, 400, 200));
    let (_, stats) = service.get("/api/v1/billing/stats/today?user_id=u&service_name=chat").await;
    assert_eq!((&stats["free_count"], &stats["paid_count"]), (&json!(1000), &json!(200)));
    let poor = DeductQuotaRequest { user_id: "v".into(), ..call("chat", "gpt-4.1", tokens(1001, 0, 0)) };
    assert_eq!(code_of(&service.try_deduct(poor).await.unwrap_err()).1, "10001");
    service.assert_audit_is_clean().await;
}

#[rstest]
#[tokio::test]
async fn a_call_without_a_price_is_an_error_and_never_free(#[values(MySql, Sqlite)] on: Backend) {
    let models =
        "{late: {input: 1, output: 1, effective_from: '2100-01-01T00:00:00Z'}, gpt-4.1: {input: 1, output: 1}}";
    let changes: Vec<_> = MODELS.iter().copied().chain([("billing.models", models)]).collect();
    let service = Service::start_with(on, &changes).await;
    let usage = tokens(1, 0, 1);
    for id in ["", "with-an-id"] {
        for (request, field) in [
            (call("llm", "unheard-of", usage), "model"),
            (call("llm", "GPT-4.1", usage), "model"),
            (call("llm", "late", usage), "model"),
            (call("llm", "", usage), "model"),
            (call("llm", "gpt-4.1", None), "usage"),
            // Such as from a gateway with other field names.
            (call("llm", "gpt-4.1", tokens(0, 0, 0)), "usage"),
            (call("chat", "gpt-4.1", None), "usage"),
            (call("chat", "gpt-4.1", tokens(0, 0, 0)), "usage"),
            (DeductQuotaRequest { cost: 1.0, ..call("chat", "gpt-4.1", None) }, "usage"),
        ] {
            assert_eq!(blamed(service.try_deduct(traced(id, request.clone())).await), blames(field), "{request:?}");
        }
        let estimate = |model: &str, input| ReserveQuotaRequest { model: model.into(), ..hold(id, "llm", (input, 0)) };
        assert_eq!(blamed(service.hold_tokens(estimate("unheard-of", 1)).await), blames("model"));
        assert_eq!(blamed(service.hold_tokens(estimate("gpt-4.1", 0)).await), blames("estimated_input_tokens"));
    }
    let check = |model: &str, input| CheckQuotaRequest {
        user_id: "u".into(),
        service_name: "llm".into(),
        count: 1,
        model: model.into(),
        estimated_input_tokens: input,
        ..Default::default()
    };
    assert_eq!(blamed(service.estimate(check("unheard-of", 1)).await), blames("model"));
    assert_eq!(blamed(service.estimate(check("gpt-4.1", 0)).await), blames("estimated_input_tokens"));
    assert_eq!(service.estimate(check("gpt-4.1", 1)).await.unwrap().reason, "free");
    let account = service.account("u").await;
    assert!(account.quotas.iter().all(|quota| quota.used_quota == 0 && quota.held_quota == 0));
}

#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_version_takes_effect_at_its_time_without_a_restart(#[values(MySql, Sqlite)] on: Backend) {
    let service = Service::start_with(on, MODELS).await;
    service.clock.set("2026-11-10T00:00:00Z");
    service.pay_all(100.0).await;
    let million = |trace: &str, model: &str| traced(trace, call("llm", model, tokens(1_000_000, 0, 0)));
    assert_eq!(service.deduct(million("old", "gpt-4.1")).await.amount, 2.0);

    // A version of a new model, and a version that starts in an hour.
    service.database.set_price(Row("gpt-4.1", "2026-11-10T01:00:00Z", "dearer", ["3000000", "NULL", "9000000"])).await;
    service.database.set_price(Row("new/model", OF_OLD, "n1", ["5000000", "NULL", "0"])).await;
    service.until_input_costs("new/model", Some(5.0)).await;
    assert_eq!(service.deduct(million("new", "new/model")).await.amount, 5.0);
    assert_eq!(service.deduct(million("before", "gpt-4.1")).await.amount, 2.0);
    service.clock.advance(TimeDelta::minutes(61));
    assert_eq!(service.deduct(million("after", "gpt-4.1")).await.amount, 3.0);
    let versions = [("old", "config:2/0.5/8"), ("before", "config:2/0.5/8"), ("after", "dearer"), ("new", "n1")];
    for (trace, version) in versions {
        assert_eq!(service.found(trace).await.price_version, version);
    }

    // A replay gets its first answer, even if its price was deleted.
    service.database.execute("DELETE FROM price_version WHERE model = 'new/model'").await;
    service.until_input_costs("new/model", None).await;
    assert_eq!(blamed(service.try_deduct(million("", "new/model")).await), blames("model"));
    for (trace, model, amount) in [("old", "gpt-4.1", 2.0), ("new", "new/model", 5.0)] {
        let again = service.deduct(million(trace, model)).await;
        assert_eq!((again.replayed, again.amount), (true, amount));
    }
    let other = DeductQuotaRequest { usage: tokens(1_000_001, 0, 0), ..million("new", "new/model") };
    assert_eq!(code_of(&service.try_deduct(other).await.unwrap_err()).1, "10007");
    service.assert_audit_is_clean().await;
}

#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_commit_is_priced_by_the_version_of_its_reserve(#[values(MySql, Sqlite)] on: Backend) {
    let service = Service::start_with(on, MODELS).await;
    service.pay_all(100.0).await;
    // 1000 * 2 + 500 * 8 millionths.
    let held = service.hold_tokens(hold("r", "llm", (1000, 500))).await.unwrap();
    assert_eq!((held.free_count, held.paid_count, held.amount), (0, 1, 0.006));
    let held = service.hold_tokens(hold("s", "chat", (1000, 500))).await.unwrap();
    assert_eq!((held.free_count, held.paid_count, held.amount), (0, 1500, 0.006));
    assert_eq!(service.found("s").await.price_version, "config:2/0.5/8");
    assert_eq!(blamed(service.deliver(delivered("r", None)).await), blames("usage"));
    assert_eq!(blamed(service.deliver(delivered("r", tokens(0, 0, 0))).await), blames("usage"));
    assert_eq!(blamed(service.deliver(delivered("s", tokens(0, 0, 0))).await), blames("usage"));

    // The prices and the unit of the quota change before the commit.
    service.app.stop().await;
    let changes: Vec<_> = MODELS
        .iter()
        .copied()
        .chain([
            ("billing.models", "{other: {input: 1, output: 1}}"),
            ("billing.model_services", "{llm: tokens, chat: calls, rag: calls}"),
        ])
        .collect();
    let service = Service::start_on(service.database, &changes).await;
    let usage = tokens(1000, 400, 250);
    for (trace, paid_count) in [("r", 1), ("s", 1250)] {
        let committed = service.deliver(delivered(trace, usage)).await.unwrap();
        assert_eq!((committed.paid_count, committed.amount), (paid_count, 0.0034), "{trace}");
        let again = service.deliver(delivered(trace, usage)).await.unwrap();
        assert_eq!(again, CommitReservationReply { replayed: true, ..committed });
        let other = service.deliver(delivered(trace, tokens(1000, 401, 250))).await.unwrap_err();
        assert_eq!(code_of(&other).1, "10007");
        let found = service.found(trace).await;
        assert_eq!((found.price_version.as_str(), found.amount, found.usage), ("config:2/0.5/8", 0.0034, usage));
    }
    // A cost in the commit replaces the prices.
    service.database.set_price(Row("gpt-4.1", OF_OLD, "v1", ["1000000", "NULL", "0"])).await;
    service.until_input_costs("gpt-4.1", Some(1.0)).await;
    service.hold_tokens(hold("c", "llm", (1000, 0))).await.unwrap();
    let costly = CommitReservationRequest { cost: 0.5, ..delivered("c", usage) };
    assert_eq!(service.deliver(costly).await.unwrap().amount, 0.5);
    assert_eq!(service.found("c").await.price_version, "");
    assert_eq!(service.account("u").await.held, 0.0);
    service.assert_audit_is_clean().await;
}

#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_commit_charges_the_reserved_cost(#[values(MySql, Sqlite)] on: Backend) {
    let service = Service::start_with(on, MODELS).await;
    service.pay_all(100.0).await;
    for (trace, name, usage, amount) in [
        ("a", "llm", tokens(1000, 0, 0), 10.0),
        ("b", "llm", None, 10.0),
        // Half of the estimated tokens, and all of them.
        ("c", "chat", tokens(500, 0, 0), 5.0),
        ("d", "chat", None, 10.0),
    ] {
        let reserve = ReserveQuotaRequest { cost: 10.0, ..hold(trace, name, (1000, 0)) };
        assert_eq!(service.hold_tokens(reserve).await.unwrap().amount, 10.0);
        assert_eq!(service.found(trace).await.price_version, "");
        assert_eq!(service.deliver(delivered(trace, usage)).await.unwrap().amount, amount, "{trace}");
    }
    service.hold_tokens(hold("e", "chat", (1000, 0))).await.unwrap();
    let costly = CommitReservationRequest { cost: 0.5, ..delivered("e", None) };
    let committed = service.deliver(costly).await.unwrap();
    assert_eq!((committed.amount, committed.paid_count), (0.5, 1000));
    service.assert_audit_is_clean().await;
}

#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hold_of_tokens_is_freed_or_committed_in_tokens(#[values(MySql, Sqlite)] on: Backend) {
    let service = Service::start_with(on, MODELS).await;
    let free = async || {
        let quotas = service.account("u").await.quotas;
        let chat = quotas.into_iter().find(|quota| quota.service_name == "chat").unwrap();
        (chat.used_quota, chat.held_quota)
    };
    let held = service.hold_tokens(hold("r", "chat", (500, 200))).await.unwrap();
    assert_eq!((held.free_count, held.paid_count, free().await), (700, 0, (0, 700)));
    assert_eq!(
        service.hold_tokens(hold("r", "chat", (500, 200))).await.unwrap(),
        ReserveQuotaReply { replayed: true, ..held }
    );
    let other = service.hold_tokens(hold("r", "chat", (500, 201))).await.unwrap_err();
    assert!(other.message().ends_with("estimated_output_tokens"), "{}", other.message());
    assert_eq!(code_of(&service.hold_tokens(hold("s", "chat", (400, 0))).await.unwrap_err()).1, "10001");
    // The count of calls is not a number of tokens.
    let committed =
        service.deliver(CommitReservationRequest { count: Some(9), ..delivered("r", tokens(100, 0, 50)) }).await;
    assert_eq!((committed.unwrap().free_count, free().await), (150, (150, 0)));
    let again = service.deliver(delivered("r", tokens(100, 0, 50))).await.unwrap();
    assert!(again.replayed);
    service.hold_tokens(hold("s", "chat", (400, 0))).await.unwrap();
    assert_eq!(free().await, (150, 400));
    let release = ReleaseReservationRequest { user_id: "u".into(), trace_id: "s".into() };
    service.internal.clone().release_reservation(release).await.unwrap();
    assert_eq!(free().await, (150, 0));
    service.assert_audit_is_clean().await;
}

#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_estimate_is_checked_at_the_price_that_charges_it(#[values(MySql, Sqlite)] on: Backend) {
    let service = Service::start_with(on, MODELS).await;
    service.pay_all(0.006).await;
    let check = |service_name: &str, output| CheckQuotaRequest {
        user_id: "u".into(),
        service_name: service_name.into(),
        count: 1,
        model: "gpt-4.1".into(),
        estimated_input_tokens: 1000,
        estimated_output_tokens: output,
        ..Default::default()
    };
    for name in ["llm", "chat"] {
        let covered = service.estimate(check(name, 500)).await.unwrap();
        assert_eq!((covered.allowed, covered.reason.as_str(), covered.estimated_cost), (true, "balance", 0.006));
        let beyond = service.estimate(check(name, 501)).await.unwrap();
        assert_eq!((beyond.reason.as_str(), beyond.estimated_cost), ("insufficient balance", 0.006008));
        assert_eq!(code_of(&service.hold_tokens(hold("x", name, (1000, 501))).await.unwrap_err()).1, "10001");
    }
    // 1,000 of 1,500 tokens are free.
    let newcomer = |output| CheckQuotaRequest { user_id: "v".into(), ..check("chat", output) };
    assert_eq!(service.estimate(newcomer(0)).await.unwrap().reason, "free");
    let mixed = service.estimate(newcomer(500)).await.unwrap();
    assert_eq!(
        (mixed.reason.as_str(), mixed.estimated_cost, mixed.free_remaining),
        ("insufficient balance", 0.002, 1000)
    );
    let given = CheckQuotaRequest { estimated_cost: 0.001, ..check("chat", 501) };
    assert_eq!(service.estimate(given).await.unwrap().estimated_cost, 0.001);
}

#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_estimate_holds_tokens_of_the_key(#[values(MySql, Sqlite)] on: Backend) {
    let service = Service::start_with(on, MODELS).await;
    let quota = r#"{"quota_type":"tokens","period":"total","limit":1000}"#;
    service.post("/internal/v1/billing/api-keys/k/quota", quota).await;
    let used =
        async || service.internal_get("/internal/v1/billing/api-keys/k/quota").await.1["quotas"][0]["used"].clone();
    let keyed = |trace: &str, service: &str, input| ReserveQuotaRequest {
        api_key_id: "k".into(),
        ..hold(trace, service, (input, 100))
    };
    for (trace, name) in [("a", "llm"), ("b", "asset")] {
        service.hold_tokens(keyed(trace, name, 300)).await.unwrap();
    }
    assert_eq!(used().await, json!(800.0));
    let refused = service.hold_tokens(keyed("c", "llm", 101)).await.unwrap_err();
    assert_eq!(code_of(&refused), (Code::ResourceExhausted, "10002".into()));
    service.deliver(delivered("a", tokens(50, 0, 10))).await.unwrap();
    assert_eq!(used().await, json!(460.0));
    let release = ReleaseReservationRequest { user_id: "u".into(), trace_id: "b".into() };
    service.internal.clone().release_reservation(release).await.unwrap();
    assert_eq!(used().await, json!(60.0));
}

//! Traces, as a collector gets them.

mod bounds;
mod outages;

use std::collections::BTreeSet;

use billing_service::service::proto::{
    CheckQuotaRequest, DeductQuotaRequest, RechargeRequest, Usage,
    billing_internal_service_client::BillingInternalServiceClient, billing_service_client::BillingServiceClient,
};
use futures_util::future::join_all;
use rstest::rstest;
use serde_json::json;
use tonic::{Request, transport::Channel};

use crate::harness::{
    Backend, Database, MySql, Sqlite, charge,
    collector::{Collected, Collector},
    http_client,
    payments::recording_peer,
    process::{Log, ServerProcess},
};

/// A server that sends its traces to a collector.
struct Seen {
    collector: Collector,
    database: Database,
    server: ServerProcess,
    log: Log,
    internal: BillingInternalServiceClient<Channel>,
    public: BillingServiceClient<Channel>,
}

impl Seen {
    async fn start(on: Backend, changes: &[(&str, &str)]) -> Self {
        let (collector, database) = (Collector::start().await, Database::create(on).await);
        let endpoint = format!("'{}'", collector.endpoint);
        let mut all = vec![("telemetry.otlp_endpoint", endpoint.as_str())];
        all.extend(changes);
        let conf = database.config_file(&all);
        let starting = tokio::task::spawn_blocking(move || ServerProcess::start_logged(&conf));
        let (server, log) = starting.await.unwrap();
        let channel = Channel::from_shared(server.grpc.clone()).unwrap().connect().await.unwrap();
        let (internal, public) =
            (BillingInternalServiceClient::new(channel.clone()), BillingServiceClient::new(channel));
        Self { collector, database, server, log, internal, public }
    }
}

const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
const CALLER: &str = "b7ad6b7169203331";

fn parent(flags: &str) -> String {
    format!("00-{TRACE}-{CALLER}-{flags}")
}

fn below<M>(parent: &str, message: M) -> Request<M> {
    let mut request = Request::new(message);
    request.metadata_mut().insert("traceparent", parent.parse().unwrap());
    request
}

fn check(user: &str) -> CheckQuotaRequest {
    CheckQuotaRequest { user_id: user.into(), service_name: "asset".into(), count: 1, ..Default::default() }
}

fn named<'s>(spans: &'s [Collected], name: &str) -> Vec<&'s Collected> {
    spans.iter().filter(|span| span.name == name).collect()
}

fn one<'s>(spans: &'s [Collected], name: &str) -> &'s Collected {
    named(spans, name).first().copied().unwrap_or_else(|| panic!("no span {name} in {spans:#?}"))
}

/// Whether each span has its parent. A parent may come later than its child.
fn are_whole(spans: &[Collected]) -> bool {
    let has_parent = |span: &Collected| span.parent == CALLER || spans.iter().any(|other| other.id == span.parent);
    spans.iter().all(has_parent)
}

/// The names of the spans from `span` up to the caller.
fn path<'s>(spans: &'s [Collected], span: &'s Collected) -> Vec<&'s str> {
    let mut names = vec![span.name.as_str()];
    let mut at = span;
    while at.parent != CALLER && !at.parent.is_empty() {
        at = spans.iter().find(|other| other.id == at.parent).unwrap_or_else(|| panic!("{at:?} has no parent"));
        names.push(&at.name);
    }
    names
}

const CHECK: &str = "billing.v1.BillingInternalService/CheckQuota";
const DEDUCT: &str = "billing.v1.BillingInternalService/DeductQuota";
/// The way of a change to Redis.
const UPDATE: [&str; 3] = ["cache update", "settlement", DEDUCT];
const CREATE_PAYMENT: &str = "payment.v1.Payment/CreatePayment";

#[tokio::test]
async fn one_trace_leads_from_the_caller_to_the_database_to_redis_and_to_payment_service() {
    let (address, mut asked, peer) = recording_peer().await;
    let address: &str = &format!("'{address}'");
    let changes = [
        ("telemetry.sample_ratio", "0"),
        ("payment_service.grpc_addr", address),
        ("billing.models", "{gpt-4.1: {input: 1, output: 2}}"),
        ("billing.model_services", "{llm: tokens}"),
    ];
    let mut seen = Seen::start(MySql, &changes).await;
    let sampled = parent("01");
    seen.internal.check_quota(below(&sampled, check("u"))).await.unwrap();
    let call = DeductQuotaRequest {
        model: "gpt-4.1".into(),
        usage: Some(Usage { input_tokens: 30, output_tokens: 7, ..Default::default() }),
        ..charge("u", "llm", 1)
    };
    let refused = seen.internal.deduct_quota(below(&sampled, call)).await.unwrap_err();
    assert_eq!(refused.code(), tonic::Code::FailedPrecondition);
    // A user that the server does not know yet, so that its account is read.
    seen.internal.deduct_quota(below(&sampled, charge("v", "asset", 1))).await.unwrap();
    let top_up =
        RechargeRequest { user_id: "1001".into(), amount: 5.0, payment_method: "alipay".into(), ..Default::default() };
    seen.public.recharge(below(&sampled, top_up)).await.unwrap_err();
    let read = http_client().get(format!("{}/internal/v1/billing/transactions/u/unknown", seen.server.grpc));
    assert_eq!(read.header("traceparent", &sampled).send().await.unwrap().status(), 404);

    let spans = seen
        .collector
        .until("all spans have come", |spans| {
            let updates = spans.iter().filter(|span| span.get("db.stored_procedure.name") == "quota_deduct");
            roots(spans) == 5
                && are_whole(spans)
                && updates.into_iter().any(|update| path(spans, update)[1..] == UPDATE)
        })
        .await;
    assert!(spans.iter().all(|span| span.trace == TRACE), "{spans:#?}");
    // Each span has a way to the caller.
    spans.iter().for_each(|span| assert!(!path(&spans, span).is_empty()));

    let resource = &spans[0].resource;
    assert_eq!(resource["service.name"], "billing-service");
    assert!(!resource["service.instance.id"].is_empty());
    let server = seen.server.grpc.strip_prefix("http://").unwrap().rsplit_once(':').unwrap();
    let deduct = named(&spans, DEDUCT);
    let paid = deduct.iter().find(|span| span.get("rpc.response.status_code") == "OK").unwrap();
    assert_eq!((paid.kind, paid.has_error, paid.get("error.type")), (2, false, ""));
    for (name, value) in
        [("rpc.system.name", "grpc"), ("rpc.method", DEDUCT), ("server.address", server.0), ("server.port", server.1)]
    {
        assert_eq!(paid.get(name), value, "{name}");
    }
    let metered = deduct.iter().find(|span| span.get("gen_ai.request.model") == "gpt-4.1").unwrap();
    assert_eq!((metered.get("gen_ai.usage.input_tokens"), metered.get("gen_ai.usage.output_tokens")), ("30", "7"));
    // A refusal is no error of the server, but has its reason.
    assert_eq!((metered.get("error.type"), metered.has_error), ("", false));
    assert_eq!(metered.get("billing.reason"), "INSUFFICIENT_BALANCE");
    assert_eq!(metered.get("rpc.response.status_code"), "FAILED_PRECONDITION");

    // One command is no batch, and has its own name.
    for of_redis in spans.iter().filter(|span| span.get("db.system.name") == "redis") {
        assert_eq!(of_redis.name == "PIPELINE", !of_redis.get("db.operation.batch.size").is_empty(), "{of_redis:?}");
        assert_ne!(of_redis.get("db.operation.batch.size"), "1");
    }

    // The check has opened the account, by a settlement of its own.
    let below = |name: &str, above: &[&str]| {
        let found = named(&spans, name).into_iter().find(|span| path(&spans, span)[1..] == *above).cloned();
        found.unwrap_or_else(|| panic!("no {name} below {above:?} in {spans:#?}"))
    };
    let write = below("settlement write", &["settlement", DEDUCT]);
    assert_eq!((write.get("db.system.name"), write.kind, write.get("server.address")), ("mysql", 3, "127.0.0.1"));
    assert_eq!(write.get("db.operation.name"), "BATCH");
    assert!(!write.get("server.port").is_empty(), "{write:?}");
    below("settlement load", &["settlement", DEDUCT]);
    below("lane wait", &[DEDUCT]);
    let look = spans.iter().find(|span| span.get("db.stored_procedure.name") == "quota_check").unwrap();
    assert_eq!(path(&spans, look), ["EVALSHA", CHECK]);
    for (name, value) in
        [("db.system.name", "redis"), ("db.operation.name", "EVALSHA"), ("server.address", "127.0.0.1")]
    {
        assert_eq!(look.get(name), value, "{name}");
    }

    let asking = one(&spans, CREATE_PAYMENT);
    assert_eq!(path(&spans, asking), [CREATE_PAYMENT, "billing.v1.BillingService/Recharge"]);
    assert_eq!((asking.kind, asking.has_error, asking.get("error.type")), (3, true, "UNAVAILABLE"));
    let (headers, _) = asked.recv().await.unwrap();
    assert_eq!(headers["traceparent"].to_str().unwrap(), format!("00-{TRACE}-{}-01", asking.id));
    let failed = one(&spans, "billing.v1.BillingService/Recharge");
    assert_eq!((failed.has_error, failed.get("error.type")), (true, "PAYMENT_UNAVAILABLE"));

    let read = one(&spans, "GET /internal/v1/billing/transactions/{user_id}/{trace_id}");
    for (name, value) in [
        ("http.request.method", "GET"),
        ("http.route", "/internal/v1/billing/transactions/{user_id}/{trace_id}"),
        ("http.response.status_code", "404"),
        ("error.type", ""),
        ("billing.reason", "TRANSACTION_NOT_FOUND"),
    ] {
        assert_eq!(read.get(name), value, "{name}");
    }
    assert_names_no_one(&spans);
    peer.abort();
}

/// No attribute has a user, an amount or a statement.
fn assert_names_no_one(spans: &[Collected]) {
    for (name, value) in spans.iter().flat_map(|span| &span.attributes) {
        let is_text = value.contains("INSERT") && value.len() > 10;
        assert!(!["u", "v", "1001"].contains(&value.as_str()) && !is_text, "{name} is {value}");
        assert!(!["db.query.text", "url.path", "url.full"].contains(&name.as_str()), "{name}");
    }
}

#[tokio::test]
async fn the_trace_of_a_charge_on_sqlite_has_its_round_trips() {
    let mut seen = Seen::start(Sqlite, &[]).await;
    seen.internal.deduct_quota(below(&parent("01"), charge("u", "asset", 1))).await.unwrap();
    seen.public.get_account(below(&parent("01"), account("u"))).await.unwrap();
    let spans = seen.collector.until("both rpcs have come", |spans| roots(spans) == 2 && are_whole(spans)).await;
    let write = one(&spans, "write");
    assert_eq!(path(&spans, write), ["write", "settlement", DEDUCT]);
    let read = one(&spans, "SELECT");
    assert_eq!(path(&spans, read), ["SELECT", "billing.v1.BillingService/GetAccount"]);
    assert!([write, read].iter().all(|span| span.get("db.system.name") == "sqlite"));
    assert_names_no_one(&spans);
}

fn account(user: &str) -> billing_service::service::proto::GetAccountRequest {
    billing_service::service::proto::GetAccountRequest { user_id: user.into() }
}

fn roots(spans: &[Collected]) -> usize {
    spans.iter().filter(|span| span.parent == CALLER).count()
}

#[rstest]
#[tokio::test]
async fn a_settlement_links_to_each_traced_request_of_its_batch(#[values(MySql, Sqlite)] on: Backend) {
    let seen =
        Seen::start(on, &[("billing.settlement", "{lanes: 1}"), ("telemetry.parents_per_second", "100000")]).await;
    let mut number = 0_u64;
    // The first charge of a burst is settled alone, and the others share a batch.
    let shared = loop {
        let burst = (0..20).map(|_| {
            number += 1;
            let parent = format!("00-{number:032x}-{number:016x}-01");
            let mut client = seen.internal.clone();
            async move { client.deduct_quota(below(&parent, charge("u", "asset", 1))).await.unwrap() }
        });
        join_all(burst).await;
        let ended = |spans: &[Collected]| named(spans, DEDUCT).len() as u64 == number;
        let spans = seen.collector.until("all requests have come", ended).await;
        let settlements = named(&spans, "settlement");
        if let Some(shared) = settlements.iter().find(|span| span.links.len() >= 2) {
            break ((*shared).clone(), spans);
        }
        assert!(number < 400, "no two charges share a batch");
    };
    let (settlement, spans) = shared;
    assert_eq!(settlement.get("billing.batch.traced"), settlement.links.len().to_string());
    assert_eq!(settlement.get("billing.batch.size"), settlement.links.len().to_string());
    let rpc = |id: &String| named(&spans, DEDUCT).into_iter().find(|span| span.id == *id).cloned();
    let traces: BTreeSet<String> = settlement.links.iter().map(|link| rpc(link).unwrap().trace).collect();
    assert_eq!(traces.len(), settlement.links.len(), "each request has a trace of its own");
    assert!(traces.contains(&settlement.trace), "the settlement lies in the trace of one of them");
    // From the trace of each other request, a link leads to the settlement.
    let waits = named(&spans, "lane wait");
    let leads = |trace: &String| waits.iter().any(|wait| wait.trace == *trace && wait.links.contains(&settlement.id));
    assert!(traces.iter().all(leads), "{traces:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_parent_decides_and_without_one_the_ratio() {
    let mut seen = Seen::start(Sqlite, &[("telemetry.sample_ratio", "1")]).await;
    seen.internal.deduct_quota(below(&parent("00"), charge("u", "asset", 1))).await.unwrap();
    seen.internal.deduct_quota(below("malformed", charge("v", "asset", 1))).await.unwrap();
    let mut named_request = Request::new(charge("w", "asset", 1));
    named_request.metadata_mut().insert("x-request-id", "r-1".parse().unwrap());
    seen.internal.deduct_quota(named_request).await.unwrap();
    let line = seen.log.line(|line| line["message"] == "request answered" && line["request_id"] == "r-1");
    let rpcs = |spans: &[Collected]| named(spans, DEDUCT).len();
    let spans = seen.collector.until("two rpcs have come", |spans| rpcs(spans) == 2).await;
    assert!(spans.iter().all(|span| span.trace != TRACE), "the trace of a parent that is not sampled is not");
    // The line of a request leads to its trace.
    let logged: Vec<_> = spans.iter().filter(|span| line["trace_id"] == span.trace).collect();
    assert!(logged.iter().any(|span| span.name == DEDUCT && span.parent.is_empty()), "{line} {spans:#?}");
    let untraced = seen.log.line(|line| line["message"] == "request answered" && line["trace_id"] == TRACE);
    assert_eq!(untraced["rpc"], "DeductQuota");
}

#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_error_of_the_database_is_on_the_spans_above_it(#[values(MySql, Sqlite)] on: Backend) {
    let mut seen = Seen::start(on, &[]).await;
    seen.database.execute("DROP TABLE billing_transaction").await;
    let failed = seen.internal.deduct_quota(below(&parent("01"), charge("u", "asset", 1))).await.unwrap_err();
    assert_eq!(failed.code(), tonic::Code::Internal);
    let spans = seen.collector.until("the rpc has come", |spans| roots(spans) == 1 && are_whole(spans)).await;
    let rpc = one(&spans, DEDUCT);
    assert_eq!((rpc.has_error, rpc.get("error.type")), (true, "INTERNAL"));
    let settlement = one(&spans, "settlement");
    assert_eq!((settlement.has_error, settlement.get("error.type")), (true, "failed"));
    let below: Vec<_> = spans.iter().filter(|span| span.parent == settlement.id && span.has_error).collect();
    assert!(below.iter().any(|span| span.get("error.type") == "failed"), "{spans:#?}");
    let line = seen.log.line(|line| line["message"] == "internal error");
    assert_eq!(line["trace_id"], json!(TRACE));
}

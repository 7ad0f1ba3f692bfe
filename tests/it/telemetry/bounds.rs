//! The traces of one request stay small, and have no texts that a caller made up.

use billing_service::service::proto::{BatchDeductQuotaRequest, DeductQuotaRequest, Usage};
use rstest::rstest;

use super::{Seen, are_whole, below, named, one, parent, roots};
use crate::harness::{Backend, MySql, Sqlite, charge, http_client};

#[rstest]
#[tokio::test]
async fn a_batch_of_many_items_has_the_spans_of_one_request(#[values(MySql, Sqlite)] on: Backend) {
    let changes = [("billing.models", "{gpt-4.1: {input: 1, output: 2}}"), ("billing.model_services", "{llm: tokens}")];
    let mut seen = Seen::start(on, &changes).await;
    let item = |number: usize| DeductQuotaRequest {
        model: "gpt-4.1".into(),
        usage: Some(Usage { input_tokens: 30, output_tokens: 7, ..Default::default() }),
        ..charge(&format!("user-{}", number % 3), "asset", 1)
    };
    let batch = BatchDeductQuotaRequest { items: (0..1_000).map(item).collect() };
    let reply = seen.internal.batch_deduct_quota(below(&parent("01"), batch)).await.unwrap().into_inner();
    assert_eq!(reply.results.len(), 1_000);
    let spans = seen.collector.until("the batch has come", |spans| roots(spans) == 1 && are_whole(spans)).await;
    let rpc = one(&spans, "billing.v1.BillingInternalService/BatchDeductQuota");
    // The last attribute of a request is not dropped.
    assert_eq!((rpc.get("rpc.response.status_code"), rpc.get("gen_ai.request.model")), ("OK", ""));
    let settlements = named(&spans, "settlement");
    assert!(!settlements.is_empty());
    for settlement in settlements {
        assert_eq!((&settlement.links, settlement.get("billing.batch.traced")), (&vec![rpc.id.clone()], "1"));
    }
    assert_eq!(named(&spans, "lane wait").len(), 1, "{spans:#?}");
    assert!(named(&spans, "lock wait").len() < 100, "{spans:#?}");
}

#[tokio::test]
async fn no_span_has_a_method_or_a_long_host_that_a_caller_made_up() {
    let seen = Seen::start(Sqlite, &[]).await;
    let url = format!("{}/nowhere", seen.server.grpc);
    let request = http_client().request(reqwest::Method::from_bytes(b"BREW").unwrap(), url);
    let request = request.header("traceparent", parent("01")).header("host", "a".repeat(254));
    assert!(request.send().await.unwrap().status().is_client_error());
    let spans = seen.collector.until("the request has come", |spans| roots(spans) == 1).await;
    let span = one(&spans, "HTTP");
    assert_eq!((span.get("http.request.method"), span.get("server.address")), ("_OTHER", ""));
}

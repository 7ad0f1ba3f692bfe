//! The headers in the documents carry the ids that they say.

use billing_service::server::openapi::{Example, examples};
use serde_json::{Value, json};

use super::{
    documents, operations,
    replay::{Renamed, play, send, server},
};
use crate::harness::Sqlite;

/// The fields that a header may fill.
const IDS: [&str; 4] = ["trace_id", "adjustment_id", "refund_id", "idempotency_key"];

/// The header of a reference to a parameter.
fn header(parameter: &Value) -> Option<&'static str> {
    match parameter["$ref"].as_str()?.rsplit('/').next()? {
        "TraceId" => Some("x-trace-id"),
        "IdempotencyKey" => Some("idempotency-key"),
        _ => None,
    }
}

/// The example with its id in a header in place of its body. An id of a reservation stays: it must exist.
fn by_header(example: &Example, header: &str, is_of_reservation: bool) -> Example {
    let mut changed = example.clone();
    let body = changed.body.as_mut().unwrap().as_object_mut().unwrap();
    let own: Vec<Value> = IDS.iter().filter_map(|id| body.remove(*id)).collect();
    // RefundCharge names a charge beside its own id.
    if example.route.ends_with("/billing/refund") {
        body.insert("trace_id".into(), own[0].clone());
    }
    let id = if is_of_reservation { own[0].clone() } else { json!(format!("{} by {header}", example.name)) };
    changed.headers = [(header.to_owned(), id)].into_iter().collect();
    changed
}

#[tokio::test]
async fn a_header_of_a_document_carries_the_id_that_a_repeat_needs() {
    let paying = server(Sqlite).await;
    let renamed: Renamed = play(&paying.service).await;
    paying.service.adjust("user_001", 1_000.0).await;
    let (all, mut tried) = (examples().unwrap(), 0);
    for (_, document) in documents(&paying.service).await {
        for (method, path, entry) in operations(&document) {
            let headers: Vec<_> = entry["parameters"].as_array().into_iter().flatten().filter_map(header).collect();
            let is_of = |example: &&Example| example.method == method.as_str() && example.route == path;
            for header in &headers {
                let example = all.iter().filter(is_of).find(|example| example.status == 200).unwrap();
                let changed = by_header(example, header, headers == ["x-trace-id"]);
                let mut replies = Vec::new();
                for _ in 0..2 {
                    let response = send(&paying.service, &changed, &renamed).await;
                    let (status, mut reply) = (response.status(), response.json::<Value>().await.unwrap());
                    assert_eq!(status, 200, "{path} {header}: {reply}");
                    reply.as_object_mut().unwrap().remove("replayed");
                    replies.push(reply);
                }
                assert_eq!(replies[0], replies[1], "{path} {header}: a repeat did the work again");
                tried += 1;
            }
        }
    }
    assert_eq!(tried, 10);
}

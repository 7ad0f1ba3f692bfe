//! A panic of a handler only affects its own request.

use std::sync::Arc;

use axum::{
    Router,
    routing::{get, post},
};
use billing_service::{
    config::{Log, Style, TelemetryConfig},
    metrics::Metrics,
    server::{ListenerLimits, Sight, complete},
    service::proto::{CheckQuotaRequest, billing_internal_service_client::BillingInternalServiceClient},
};
use tokio::sync::Notify;
use tonic::{Code, transport::Channel};

use super::{Listener, get_request};
use crate::harness::code_of;

async fn panics() -> &'static str {
    panic!("a defect of a test")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_panic_is_an_internal_error_of_its_request() {
    let (metrics, answer) = (Arc::new(Metrics::new().unwrap()), Arc::<Notify>::default());
    let held = answer.clone();
    let slow = async move || {
        held.notified().await;
        "late"
    };
    let routes = Router::new()
        .route("/panics", get(panics))
        .route("/slow", get(slow))
        .route("/billing.v1.BillingInternalService/CheckQuota", post(panics));
    let app = complete(routes, Sight::new(metrics.clone(), &Log::default(), &TelemetryConfig::default()), Style::Plain);
    let listener = Listener::serving(app, ListenerLimits::default(), None).await;

    let (mut sender, _connection) = listener.http2().await;
    let slow = tokio::spawn(sender.send_request(get_request("/slow")));
    let reply = sender.send_request(get_request("/panics")).await.unwrap();
    assert_eq!(reply.status(), 500);
    assert!(reply.headers().contains_key("x-request-id"));
    let body = axum::body::to_bytes(axum::body::Body::new(reply.into_body()), 10_000).await.unwrap();
    let body: serde_json::Value = serde_json::from_slice(&body).unwrap();
    assert_eq!(body["metadata"]["error_code"], "10099", "{body}");
    assert!(!body.to_string().contains("defect"), "{body}");
    // The connection and its other requests go on.
    answer.notify_one();
    assert_eq!(slow.await.unwrap().unwrap().status(), 200);

    // An HTTP/1.1 connection stays usable, too.
    let (mut sender, _connection) = listener.http1().await;
    for _ in 0..2 {
        sender.ready().await.expect("the connection is open");
        let reply = sender.send_request(get_request("/panics")).await.unwrap();
        assert_eq!(reply.status(), 500);
        axum::body::to_bytes(axum::body::Body::new(reply.into_body()), 10_000).await.unwrap();
    }

    let channel = Channel::from_shared(format!("http://{}", listener.addr)).unwrap().connect().await.unwrap();
    let mut client = BillingInternalServiceClient::new(channel);
    let refused = client.check_quota(CheckQuotaRequest::default()).await.unwrap_err();
    assert_eq!(code_of(&refused), (Code::Internal, "10099".into()));
    let text = metrics.render().unwrap();
    let text = String::from_utf8(text).unwrap();
    assert!(text.contains("billing_panics_total 4\n"), "{text}");
    assert!(text.contains(r#"billing_requests_total{code="INTERNAL",protocol="grpc",rpc="CheckQuota"} 1"#), "{text}");
}

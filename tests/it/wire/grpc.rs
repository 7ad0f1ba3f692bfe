//! gRPC with gzip, and requests that look like gRPC and are not.

use std::{
    convert::Infallible,
    pin::Pin,
    task::{Context, Poll},
};

use billing_service::service::{
    proto::{
        CheckQuotaRequest, DeductQuotaReply, DeductQuotaRequest, GetUsageRequest, MeterStreamRequest,
        billing_internal_service_client::BillingInternalServiceClient, billing_service_client::BillingServiceClient,
        meter_stream_request::Event,
    },
    signature,
};
use chrono::Utc;
use hyper::body::{Body, Bytes, Frame};
use prost::Message;
use rstest::rstest;
use serde_json::{Value, json};
use tonic::{Code, Request, codec::CompressionEncoding::Gzip, transport::Channel};
use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};

use super::gzip;
use crate::harness::{
    Backend, MySql, Service, Sqlite, charge, code_of,
    payments::{Paying, SECRET, success},
    traced,
};

const DEDUCT: &str = "/billing.v1.BillingInternalService/DeductQuota";

async fn channel(service: &Service) -> Channel {
    Channel::from_shared(format!("http://{}", service.app.grpc_addr)).unwrap().connect().await.unwrap()
}

fn framed(flag: u8, message: &[u8]) -> Vec<u8> {
    let length = u32::try_from(message.len()).unwrap();
    [&[flag], length.to_be_bytes().as_slice(), message].concat()
}

#[rstest]
#[tokio::test]
async fn compressed_calls_are_answered_and_long_replies_are_compressed(#[values(MySql, Sqlite)] on: Backend) {
    let service = Service::start(on).await;
    let channel = channel(&service).await;
    let mut internal = BillingInternalServiceClient::new(channel.clone()).send_compressed(Gzip).accept_compressed(Gzip);
    let mut public = BillingServiceClient::new(channel.clone()).send_compressed(Gzip).accept_compressed(Gzip);
    let reply = internal.deduct_quota(traced("t", charge("u", "asset", 3))).await.unwrap().into_inner();
    assert_eq!(reply.free_remaining, 997);
    let refused = internal.deduct_quota(charge("u", "nothing", 1)).await.unwrap_err();
    assert_eq!(code_of(&refused), (Code::InvalidArgument, "10008".into()));
    let usage = GetUsageRequest { user_id: "u".into(), ..Default::default() };
    let usage = public.get_usage(usage).await.unwrap();
    assert_eq!(usage.metadata().get("grpc-encoding").unwrap(), "gzip");
    let series = usage.into_inner().series;
    assert_eq!(series.iter().flat_map(|series| &series.days).map(|day| day.total_count).sum::<i32>(), 3);
    let open = billing_service::service::proto::ReserveQuotaRequest {
        user_id: "u".into(),
        service_name: "asset".into(),
        count: 1,
        trace_id: "s".into(),
        ..Default::default()
    };
    let open = tokio_stream::iter([MeterStreamRequest { event: Some(Event::Open(open)) }]);
    let mut replies = internal.meter_stream(open).await.unwrap().into_inner();
    assert!(replies.message().await.unwrap().is_some());
    let mut health = HealthClient::new(channel).send_compressed(Gzip).accept_compressed(Gzip);
    health.check(HealthCheckRequest::default()).await.unwrap();
}

#[tokio::test]
async fn the_size_limit_of_a_compressed_message_is_for_its_content() {
    let service = Service::start(Sqlite).await;
    let mut client = BillingInternalServiceClient::new(channel(&service).await).send_compressed(Gzip);
    let bomb = DeductQuotaRequest { model: "x".repeat(2_000_000), ..charge("u", "asset", 1) };
    assert_eq!(code_of(&client.deduct_quota(bomb).await.unwrap_err()), (Code::InvalidArgument, "10009".into()));
    assert_eq!(service.state("u").await.1[2], 0);
}

#[rstest]
#[tokio::test]
async fn the_signature_of_a_compressed_callback_is_over_its_content(#[values(MySql, Sqlite)] on: Backend) {
    let paying = Paying::start(on).await;
    let mut client =
        BillingInternalServiceClient::new(channel(&paying.service).await).send_compressed(Gzip).accept_compressed(Gzip);
    let order = paying.recharge("u", 5.0).await.order_id;
    let callback = success(&order, "p-1", 5.0);
    let sign = |message: &[u8]| signature::sign(SECRET, Utc::now(), message).parse().unwrap();
    let mut wrong = Request::new(callback.clone());
    wrong.metadata_mut().insert(signature::HEADER, sign(&gzip(&callback.encode_to_vec())));
    let refused = client.recharge_callback(wrong).await.unwrap_err();
    assert_eq!(code_of(&refused), (Code::Unauthenticated, "10012".into()));
    let mut right = Request::new(callback.clone());
    right.metadata_mut().insert(signature::HEADER, sign(&callback.encode_to_vec()));
    client.recharge_callback(right).await.unwrap();
    paying.assert_books("u", 5.0).await;

    // The same over REST.
    let order = paying.recharge("u", 3.0).await.order_id;
    let body = json!({"order_id": order, "payment_order_id": "p-2", "amount": 3, "status": "SUCCESS"}).to_string();
    let url = format!("http://{}/internal/v1/billing/callback", paying.service.app.grpc_addr);
    let request = paying.service.http.post(url).header("content-encoding", "gzip");
    let signature = signature::sign(SECRET, Utc::now(), body.as_bytes());
    let request = request.header(signature::HEADER, signature).body(gzip(body.as_bytes()));
    assert_eq!(request.send().await.unwrap().status(), 200);
    paying.assert_books("u", 8.0).await;
}

#[rstest]
#[tokio::test]
async fn grpc_over_http1_and_grpc_web_are_refused_before_a_charge(#[values(MySql, Sqlite)] on: Backend) {
    let service = Service::start(on).await;
    let message = framed(0, &traced("t", charge("u", "asset", 1)).encode_to_vec());
    let url = format!("http://{}{DEDUCT}", service.app.grpc_addr);
    let http_2 = reqwest::Client::builder().http2_prior_knowledge().build().unwrap();
    for kind in [
        "application/grpc",
        "application/grpc+proto",
        "application/grpc-web",
        "application/grpc-web+proto",
        "application/json",
        "text/plain",
    ] {
        let sent = service.http.post(&url).header("content-type", kind).body(message.clone()).send().await.unwrap();
        assert_eq!((sent.status().as_u16(), sent.headers()["upgrade"].as_bytes()), (426, &b"HTTP/2.0"[..]), "{kind}");
        assert_eq!(sent.json::<Value>().await.unwrap()["reason"], "HTTP_2_REQUIRED");
    }
    assert_eq!(service.http.post(&url).body(message.clone()).send().await.unwrap().status(), 426);
    for kind in [
        "application/grpc-web",
        "application/grpc-web+proto",
        "application/grpc+json",
        "application/json",
        "text/plain",
    ] {
        let sent = http_2.post(&url).header("content-type", kind).body(message.clone()).send().await.unwrap();
        assert_eq!(sent.status(), 415, "{kind}");
    }
    assert_eq!(service.state("u").await.1[2], 0);
    let sent = http_2.post(&url).header("content-type", "application/grpc+proto").header("te", "trailers");
    let sent = sent.body(message).send().await.unwrap();
    let reply = DeductQuotaReply::decode(&sent.bytes().await.unwrap()[5..]).unwrap();
    assert_eq!(reply.free_remaining, 999);
}

/// A body that never ends after its first bytes.
struct Half(Option<Bytes>);

impl Body for Half {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.0.take().map_or(Poll::Pending, |data| Poll::Ready(Some(Ok(Frame::data(data)))))
    }
}

#[rstest]
#[tokio::test]
async fn an_incomplete_call_can_be_retried_and_is_no_unknown_outcome(#[values(MySql, Sqlite)] on: Backend) {
    let service = Service::start_with(on, &[("server.grpc.timeout", "300ms")]).await;
    let message = framed(0, &traced("t", charge("u", "asset", 1)).encode_to_vec());
    // The first half of the message, and then nothing.
    let body = reqwest::Body::wrap(Half(Some(message[..10].to_vec().into())));
    let client = reqwest::Client::builder().http2_prior_knowledge().build().unwrap();
    let url = format!("http://{}{DEDUCT}", service.app.grpc_addr);
    let request = client.post(url).header("content-type", "application/grpc").header("te", "trailers");
    let response = request.body(body).send().await.unwrap();
    let status = tonic::Status::from_header_map(response.headers()).unwrap();
    assert_eq!(code_of(&status), (Code::Unavailable, "10014".into()));
    assert!(!status.message().contains("unknown"), "{}", status.message());
    assert_eq!(service.state("u").await.1[2], 0);
}

#[tokio::test]
async fn requests_are_counted_by_rpc_protocol_and_code() {
    let service = Service::start(Sqlite).await;
    service.deduct(charge("u", "asset", 1)).await;
    let _ = service.try_deduct(charge("u", "nothing", 1)).await;
    let check = CheckQuotaRequest { user_id: "u".into(), service_name: "asset".into(), count: 1, ..Default::default() };
    service.internal.clone().check_quota(check).await.unwrap();
    let body = r#"{"user_id":"u","service_name":"asset","count":1}"#;
    service.post("/internal/v1/billing/deduct", body).await;
    service.post("/internal/v1/billing/deduct", "{}").await;
    service.get("/nowhere").await;
    let text = service.metrics().await;
    for line in [
        r#"billing_requests_total{code="OK",protocol="grpc",rpc="DeductQuota"} 1"#,
        r#"billing_requests_total{code="INVALID_ARGUMENT",protocol="grpc",rpc="DeductQuota"} 1"#,
        r#"billing_requests_total{code="OK",protocol="grpc",rpc="CheckQuota"} 1"#,
        r#"billing_requests_total{code="200",protocol="http",rpc="DeductQuota"} 1"#,
        r#"billing_requests_total{code="400",protocol="http",rpc="DeductQuota"} 1"#,
        r#"billing_requests_total{code="404",protocol="http",rpc="other"} 1"#,
        r#"billing_lane_queue_postings{lane="0"} 0"#,
        "billing_parked_accounts 0",
        "billing_parked_postings 0",
        &format!(r#"billing_build_info{{version="{}"}} 1"#, env!("CARGO_PKG_VERSION")),
    ] {
        assert!(text.lines().any(|found| found == line), "{line} is not in\n{text}");
    }
    for name in ["process_cpu_seconds_total", "process_open_fds", "process_resident_memory_bytes"] {
        assert!(text.lines().any(|line| line.starts_with(&format!("{name} "))), "{name}");
    }
}

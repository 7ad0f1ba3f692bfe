//! Streams that are refused.

use billing_service::service::proto::{
    ReserveQuotaRequest, StreamFinish, billing_internal_service_client::BillingInternalServiceClient,
    meter_stream_request::Event as Message,
};
use rstest::rstest;
use tonic::{Code, Request, Status, transport::Channel};
use tonic_types::StatusExt;

use super::{Gateway, MODELS, models_with, stream};
use crate::harness::{Backend, MySql, Service, Sqlite, code_of, wait::until};

async fn refused(service: &Service, open: ReserveQuotaRequest) -> Status {
    match Gateway::try_open(service.internal.clone(), open).await {
        Ok(_) => panic!("opened"),
        Err(refused) => refused,
    }
}

#[rstest]
#[tokio::test]
async fn a_stream_is_refused_like_its_reserve(#[values(MySql, Sqlite)] on: Backend) {
    let service = Service::start_with(on, MODELS).await;
    service.adjust("u", 10.0).await;
    let good = || stream("s", "rag", "dear", (3, 7));
    for (open, code, field) in [
        (ReserveQuotaRequest { user_id: String::new(), ..good() }, "10009", "user_id"),
        (ReserveQuotaRequest { model: "unknown".into(), ..good() }, "10009", "model"),
        (ReserveQuotaRequest { count: 0, ..good() }, "10009", "count"),
        (stream("s", "rag", "dear", (0, 0)), "10009", "estimated_input_tokens"),
        (ReserveQuotaRequest { service_name: "nothing".into(), ..good() }, "10008", ""),
        (stream("s", "rag", "dear", (3, 8)), "10001", ""),
    ] {
        let refused = refused(&service, open).await;
        assert_eq!(code_of(&refused).1, code, "{refused}");
        if !field.is_empty() {
            assert_eq!(refused.get_error_details().error_info().unwrap().metadata["field"], field);
        }
    }
    Gateway::open(&service, good()).await;
}

#[rstest]
#[tokio::test]
async fn a_stream_begins_with_one_open(#[values(MySql, Sqlite)] on: Backend) {
    let service = Service::start_with(on, MODELS).await;
    service.adjust("u", 100.0).await;
    let mut gateway = Gateway::call(service.internal.clone()).await;
    gateway.output("text").await;
    assert_eq!(code_of(&gateway.failure().await), (Code::InvalidArgument, "10009".into()));
    let mut gateway = Gateway::call(service.internal.clone()).await;
    gateway.send(Message::Finish(StreamFinish::default())).await;
    assert_eq!(code_of(&gateway.failure().await), (Code::InvalidArgument, "10009".into()));

    let open = stream("s", "rag", "dear", (3, 7));
    let (mut gateway, _) = Gateway::open(&service, open.clone()).await;
    gateway.send(Message::Open(open)).await;
    assert_eq!(code_of(&gateway.failure().await), (Code::InvalidArgument, "10009".into()));
    service.ended("s", "EXPIRED").await;
    service.assert_nothing_is_held("u").await;
}

#[rstest]
#[tokio::test]
async fn a_stream_above_the_limit_is_refused_and_holds_nothing(#[values(MySql, Sqlite)] on: Backend) {
    let service = Service::start_with(on, &models_with("server.limits", "{streams: 2}")).await;
    service.adjust("u", 100.0).await;
    let open = |trace| stream(trace, "rag", "dear", (3, 7));
    let (first, _) = Gateway::open(&service, open("first")).await;
    let (_second, _) = Gateway::open(&service, open("second")).await;
    assert_eq!(code_of(&refused(&service, open("third")).await), (Code::Unavailable, "10014".into()));
    until("the open stream is counted", async || {
        service.metric("billing_reserve_failure_total{reason=\"overloaded\"}").await == 1.0
    })
    .await;
    assert_eq!(service.account("u").await.held, 20.0);
    drop(first);
    until("a stream is admitted", async || Gateway::try_open(service.internal.clone(), open("third")).await.is_ok())
        .await;
}

#[rstest]
#[tokio::test]
async fn only_callers_with_a_token_may_meter_streams(#[values(MySql, Sqlite)] on: Backend) {
    let token = "a-token-of-the-gateway";
    let service =
        Service::start_with(on, &models_with("server.grpc.internal_tokens", "[a-token-of-the-gateway]")).await;
    let open = stream("s", "llm", "dear", (3, 7));
    let mut client = service.internal.clone();
    let refused = client.meter_stream(tokio_stream::empty()).await.err().unwrap();
    assert_eq!(code_of(&refused), (Code::Unauthenticated, "10012".into()));

    let channel = Channel::from_shared(format!("http://{}", service.app.grpc_addr)).unwrap().connect().await.unwrap();
    let authorized = BillingInternalServiceClient::with_interceptor(channel, move |mut request: Request<()>| {
        request.metadata_mut().insert("authorization", format!("Bearer {token}").parse().unwrap());
        Ok(request)
    });
    let first = billing_service::service::proto::MeterStreamRequest { event: Some(Message::Open(open)) };
    let mut replies = authorized.clone().meter_stream(tokio_stream::once(first)).await.unwrap().into_inner();
    assert!(replies.message().await.unwrap().is_some());
}

/// The metadata may carry the trace id.
#[rstest]
#[tokio::test]
async fn the_id_of_a_stream_may_be_in_its_metadata(#[values(MySql, Sqlite)] on: Backend) {
    let service = Service::start_with(on, MODELS).await;
    let open = Message::Open(stream("", "llm", "dear", (3, 7)));
    let first = billing_service::service::proto::MeterStreamRequest { event: Some(open) };
    let mut request = Request::new(tokio_stream::once(first));
    request.metadata_mut().insert("x-trace-id", "of-the-header".parse().unwrap());
    let mut replies = service.internal.clone().meter_stream(request).await.unwrap().into_inner();
    assert!(replies.message().await.unwrap().is_some());
    assert_eq!(service.metered("of-the-header").await.service_name, "llm");
}

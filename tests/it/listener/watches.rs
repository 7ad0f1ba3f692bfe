//! Streams without an end of their own: the watches of gRPC health, and reflection.

use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status, Streaming, transport::Channel};
use tonic_health::pb::{HealthCheckRequest, HealthCheckResponse, health_client::HealthClient};
use tonic_reflection::pb::v1::{
    ServerReflectionRequest, ServerReflectionResponse, server_reflection_client::ServerReflectionClient,
};

use crate::harness::{Service, Sqlite, code_of, wait::soon};

async fn channel(service: &Service) -> Channel {
    Channel::from_shared(format!("http://{}", service.app.grpc_addr)).unwrap().connect().await.unwrap()
}

/// A watch that has said that the service serves.
async fn watch(channel: Channel) -> Result<Streaming<HealthCheckResponse>, Status> {
    let mut watch = HealthClient::new(channel).watch(HealthCheckRequest::default()).await?.into_inner();
    assert_eq!(watch.message().await.unwrap().unwrap().status, 1);
    Ok(watch)
}

/// A stream of reflection whose client asks nothing, as long as the sender is there.
async fn reflection(channel: Channel) -> (mpsc::Sender<ServerReflectionRequest>, Streaming<ServerReflectionResponse>) {
    let (sender, requests) = mpsc::channel(1);
    let mut client = ServerReflectionClient::new(channel);
    let replies = client.server_reflection_info(ReceiverStream::new(requests)).await.unwrap();
    (sender, replies.into_inner())
}

/// The status with which a stream ends.
async fn end<T>(mut stream: Streaming<T>) -> Code {
    loop {
        match soon(stream.message()).await {
            Ok(Some(_)) => {}
            Ok(None) => return Code::Ok,
            Err(status) => return status.code(),
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn watches_and_reflection_hold_up_no_stop() {
    let service = Service::start_with(Sqlite, &[("server.limits.drain_timeout", "1h")]).await;
    let watch = watch(channel(&service).await).await.unwrap();
    let (_asking, reflection) = reflection(channel(&service).await).await;
    let ends = tokio::spawn(async { (end(watch).await, end(reflection).await) });
    soon(service.app.stop()).await;
    assert_eq!(ends.await.unwrap(), (Code::Unavailable, Code::Unavailable));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watch_ends_at_the_age_of_its_connection() {
    let service = Service::start_with(Sqlite, &[("server.limits.max_connection_age", "200ms")]).await;
    let watch = watch(channel(&service).await).await.unwrap();
    assert_eq!(end(watch).await, Code::Unavailable);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn watches_are_bounded_and_leave_checks_alone() {
    for limits in ["{watches: 1}", "{watches_per_address: 1}"] {
        let service = Service::start_with(Sqlite, &[("server.limits", limits)]).await;
        let channel = channel(&service).await;
        let first = watch(channel.clone()).await.unwrap();
        let refused = watch(channel.clone()).await.unwrap_err();
        assert_eq!(code_of(&refused), (Code::Unavailable, "10014".into()), "{limits}");
        HealthClient::new(channel.clone()).check(HealthCheckRequest::default()).await.unwrap();
        drop(first);
        crate::harness::wait::until("its place is free", async || watch(channel.clone()).await.is_ok()).await;
    }
}

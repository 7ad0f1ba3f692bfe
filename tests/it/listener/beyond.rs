//! A full port still answers health checks, and does not disturb other connections.

use std::net::SocketAddr;

use billing_service::service::proto::{
    CheckQuotaRequest, billing_internal_service_client::BillingInternalServiceClient,
};
use rstest::rstest;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpSocket, TcpStream},
};
use tonic::{Code, transport::Channel};
use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};

use crate::{
    access::sha256,
    harness::{
        Database, Service, Sqlite, code_of,
        wait::{soon, until},
    },
};

/// Opens connections that send nothing.
async fn fill(addr: SocketAddr, number: usize) -> Vec<TcpStream> {
    let mut silent = Vec::new();
    for _ in 0..number {
        silent.push(TcpStream::connect(addr).await.unwrap());
    }
    silent
}

/// A new connection from a local address.
async fn connect_from(local: &str, addr: SocketAddr) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(format!("{local}:0").parse().unwrap()).unwrap();
    socket.connect(addr).await.unwrap()
}

/// `GET` on a new connection from a local address: the status and the whole reply.
async fn get_from(local: &str, addr: SocketAddr, path: &str) -> (u16, String) {
    get_on(&mut connect_from(local, addr).await, path, "").await
}

/// `GET` with further lines of the head: the status and the whole reply.
async fn get_on(stream: &mut TcpStream, path: &str, lines: &str) -> (u16, String) {
    stream.write_all(format!("GET {path} HTTP/1.1\r\nhost: x\r\n{lines}\r\n").as_bytes()).await.unwrap();
    let mut reply = vec![0; 4_096];
    let length = soon(stream.read(&mut reply)).await.unwrap();
    let reply = String::from_utf8(reply[..length].to_vec()).unwrap();
    let status = reply.split(' ').nth(1).unwrap_or_else(|| panic!("{path}: {reply:?}"));
    (status.parse().unwrap(), reply)
}

const ACCOUNT: &str = "/api/v1/billing/account?user_id=u";

#[rstest]
#[case::port("{connections: 4, connections_per_address: 100}")]
#[case::address("{connections: 100, connections_per_address: 4}")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_port_answers_health_and_refuses_the_rest_at_once(#[case] limits: &str) {
    let service = Database::create(Sqlite).await;
    let config = service.config(&[("server.limits", limits)]);
    let app = billing_service::app::App::start(config).await.unwrap();
    let (http, grpc) = (app.http_addr, app.grpc_addr);
    // Ten times as many connections as allowed, so that health checks reuse the reserved connections.
    let silent = [fill(http, 4 + 10 * 64).await, fill(grpc, 4 + 10 * 64).await];
    for addr in [http, grpc] {
        for path in ["/health", "/ready"] {
            let (status, reply) = get_from("127.0.0.1", addr, path).await;
            assert_eq!(status, 200, "{reply}");
            assert!(reply.contains("connection: close"), "{reply}");
        }
    }
    assert_eq!(get_from("127.0.0.1", grpc, "/metrics").await.0, 200);
    let (status, reply) = get_from("127.0.0.1", http, ACCOUNT).await;
    assert!(status == 503 && reply.contains("10014"), "{reply}");

    let channel = Channel::from_shared(format!("http://{grpc}")).unwrap().connect_lazy();
    let health = HealthClient::new(channel.clone()).check(HealthCheckRequest::default()).await.unwrap();
    assert_eq!(health.into_inner().status, 1);
    let check = CheckQuotaRequest { user_id: "u".into(), service_name: "asset".into(), count: 1, ..Default::default() };
    let mut client = BillingInternalServiceClient::new(channel);
    let refused = client.check_quota(check.clone()).await.unwrap_err();
    assert_eq!(code_of(&refused), (Code::Unavailable, "10014".into()));
    if limits.contains("connections: 100,") {
        assert_eq!(get_from("127.0.0.2", http, ACCOUNT).await.0, 200, "another address has its own limit");
    }
    let metrics = get_from("127.0.0.1", grpc, "/metrics").await;
    assert_eq!(metrics.0, 200);

    drop(silent);
    until("connections are accepted again", async || {
        get_from("127.0.0.1", http, ACCOUNT).await.0 == 200 && client.check_quota(check.clone()).await.is_ok()
    })
    .await;
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_ports_have_separate_limits() {
    let service =
        Service::start_with(Sqlite, &[("server.limits", "{connections: 4, connections_per_address: 4}")]).await;
    let _silent = fill(service.app.http_addr, 100).await;
    assert!(service.check("u", "asset", 1).await.allowed);
    let fresh = Channel::from_shared(format!("http://{}", service.app.grpc_addr)).unwrap().connect().await.unwrap();
    let check = CheckQuotaRequest { user_id: "u".into(), service_name: "asset".into(), count: 1, ..Default::default() };
    assert!(BillingInternalServiceClient::new(fresh).check_quota(check).await.unwrap().into_inner().allowed);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn by_default_an_address_may_use_half_of_the_connections_of_a_port() {
    let service = Service::start_with(Sqlite, &[("server.limits.connections", "8")]).await;
    let addr = service.app.http_addr;
    let _silent = fill(addr, 8).await;
    assert_eq!(get_from("127.0.0.1", addr, ACCOUNT).await.0, 503);
    assert_eq!(get_from("127.0.0.2", addr, ACCOUNT).await.0, 200);
    let metrics = service.metrics().await;
    let refused = metrics
        .lines()
        .find(|line| line.starts_with(r#"billing_connections_ended_total{port="http",reason="address"}"#));
    assert!(refused.is_some(), "{metrics}");
    assert!(metrics.contains(r#"billing_connections{port="http"} "#), "{metrics}");
}

/// Two addresses that prove nothing take no place of a caller, wherever it comes from.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn peers_without_a_proof_fill_no_port() {
    const TOKEN: &str = "a-token-of-the-desk";
    const EVENTS: &str = "/internal/v1/billing/audit-events";
    let callers = format!("[{{name: desk, roles: [support], token_sha256: ['{}']}}]", sha256(TOKEN));
    let limits = ("server.limits", "{connections: 8, connections_per_address: 8}");
    let service = Service::start_with(Sqlite, &[limits, ("server.grpc.auth.callers", &callers)]).await;
    let (addr, proof) = (service.app.grpc_addr, format!("authorization: Bearer {TOKEN}\r\n"));
    let mut known = connect_from("127.0.0.2", addr).await;
    assert_eq!(get_on(&mut known, EVENTS, &proof).await.0, 200);
    let mut silent = Vec::new();
    for number in 0..40 {
        silent.push(connect_from(["127.0.0.3", "127.0.0.4"][number % 2], addr).await);
    }
    assert_eq!(get_on(&mut connect_from("127.0.0.5", addr).await, EVENTS, &proof).await.0, 200);
    assert_eq!(get_on(&mut known, EVENTS, &proof).await.0, 200, "its connection is kept");
    let ended = r#"billing_connections_ended_total{port="grpc",reason="unproven"} "#;
    let metrics = service.metrics().await;
    assert!(metrics.lines().any(|line| line.starts_with(ended)), "{metrics}");
}

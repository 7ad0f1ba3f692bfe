//! Types, encodings and ends of bodies over REST.

use rstest::rstest;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use super::gzip;
use crate::harness::{Backend, MySql, Service, Sqlite};

fn body(trace: &str) -> String {
    json!({"user_id": "u", "service_name": "asset", "count": 1, "trace_id": trace}).to_string()
}

/// Sends a deduct with headers to a port. Returns the status and the reply.
async fn deduct(
    service: &Service,
    addr: std::net::SocketAddr,
    headers: &[(&str, &str)],
    body: impl Into<reqwest::Body>,
) -> (u16, Value) {
    let mut request = service.http.post(format!("http://{addr}/internal/v1/billing/deduct"));
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let response = request.body(body).send().await.unwrap();
    (response.status().as_u16(), response.json().await.unwrap())
}

#[rstest]
#[tokio::test]
async fn a_body_of_a_named_type_must_be_json(#[values(MySql, Sqlite)] on: Backend) {
    let service = Service::start_with(on, &[("server.http.internal_routes", "true")]).await;
    for addr in [service.app.grpc_addr, service.app.http_addr] {
        for kind in [
            "text/plain",
            "text/plain;charset=UTF-8",
            "application/x-www-form-urlencoded",
            "multipart/form-data; boundary=b",
            "text/json",
            "application/grpc",
            "",
        ] {
            let (status, reply) = deduct(&service, addr, &[("content-type", kind)], body("t")).await;
            assert_eq!((status, &reply["reason"]), (415, &json!("UNSUPPORTED_MEDIA_TYPE")), "{kind}: {reply}");
        }
        for kind in ["application/json", "APPLICATION/JSON; charset=utf-8", "application/vnd.billing.v1+json"] {
            let (status, reply) = deduct(&service, addr, &[("content-type", kind)], body("json")).await;
            assert_eq!(status, 200, "{kind}: {reply}");
        }
        assert_eq!(deduct(&service, addr, &[], body("json")).await.0, 200, "an absent type means JSON");
    }
    let recharge = format!("http://{}/api/v1/billing/recharge", service.app.http_addr);
    let form = service.http.post(recharge).header("content-type", "text/plain").body("{}").send().await.unwrap();
    assert_eq!(form.status(), 415);
    assert_eq!(service.state("u").await.1[2], 1);
}

#[rstest]
#[tokio::test]
async fn a_compressed_body_has_the_size_limit_of_a_plain_one(#[values(MySql, Sqlite)] on: Backend) {
    let service = Service::start(on).await;
    let addr = service.app.grpc_addr;
    let coded = |coding| [("content-encoding", coding), ("content-type", "application/json")];
    assert_eq!(deduct(&service, addr, &coded("gzip"), gzip(body("g").as_bytes())).await.0, 200);
    assert_eq!(deduct(&service, addr, &coded("identity"), body("g")).await.1["replayed"], true);
    // Blanks are valid JSON. They are small when compressed, and exceed the size limit of a body.
    let bomb = format!("{}{}", " ".repeat(2_000_000), body("bomb"));
    for bad in [gzip(bomb.as_bytes()), body("plain").into_bytes(), gzip(b"{}")[..10].to_vec()] {
        let (status, reply) = deduct(&service, addr, &coded("gzip"), bad).await;
        assert_eq!((status, &reply["metadata"]["field"]), (400, &json!("body")), "{reply}");
    }
    for coding in ["br", "deflate", "zstd", "gzip, gzip"] {
        let url = format!("http://{addr}/internal/v1/billing/deduct");
        let sent = service.http.post(url).header("content-encoding", coding).body(body("t")).send().await.unwrap();
        assert_eq!((sent.status().as_u16(), sent.headers()["accept-encoding"].as_bytes()), (415, &b"gzip"[..]));
    }
    assert_eq!(service.state("u").await.1[2], 1);
}

/// Sends the head of a deduct over HTTP/1.1, and a part of a body of `length` bytes.
async fn begin(service: &Service, length: usize, begun: &str) -> TcpStream {
    let mut stream = TcpStream::connect(service.app.grpc_addr).await.unwrap();
    let head = format!(
        "POST /internal/v1/billing/deduct HTTP/1.1\r\nhost: b\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\r\n{begun}"
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    stream
}

#[rstest]
#[tokio::test]
async fn half_a_body_is_a_timeout_and_no_unknown_outcome(#[values(MySql, Sqlite)] on: Backend) {
    let service = Service::start_with(on, &[("server.grpc.timeout", "300ms")]).await;
    let whole = body("half");
    let mut stream = begin(&service, whole.len(), &whole[..20]).await;
    let mut reply = Vec::new();
    stream.read_to_end(&mut reply).await.unwrap();
    let reply = String::from_utf8(reply).unwrap();
    assert!(reply.starts_with("HTTP/1.1 408 ") && reply.contains("REQUEST_TIMEOUT"), "{reply}");
    assert!(!reply.contains("unknown"), "{reply}");
    assert_eq!(service.state("u").await.1[2], 0);
}

#[tokio::test]
async fn a_body_that_breaks_off_charges_nothing() {
    let service = Service::start(Sqlite).await;
    let whole = body("half");
    // A body that is complete JSON, but shorter than its content-length.
    let mut stream = begin(&service, whole.len() + 1, &whole).await;
    stream.shutdown().await.unwrap();
    let mut reply = Vec::new();
    stream.read_to_end(&mut reply).await.unwrap();
    let reply = String::from_utf8(reply).unwrap();
    assert!(reply.is_empty() || reply.starts_with("HTTP/1.1 408 "), "{reply}");
    assert_eq!(service.state("u").await.1[2], 0);
}

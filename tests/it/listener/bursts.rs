//! Streams that one connection opens at once, beside the request of another. One thread serves both.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering::SeqCst},
};

use axum::{Router, routing::get};
use billing_service::server::ListenerLimits;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use super::Listener;
use crate::harness::wait::soon;

const BURST: usize = 900;

/// A connection of HTTP/2 that the server reads.
async fn http2(listener: &Listener) -> TcpStream {
    let mut stream = listener.connect().await;
    stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").await.unwrap();
    stream.read_u8().await.unwrap();
    stream
}

/// HEADERS that open a stream and end it: GET, http, a path, the authority "a".
fn head(stream: u32, path: &str) -> Vec<u8> {
    let block = [b"\x82\x86\x04", [path.len() as u8].as_slice(), path.as_bytes(), b"\x01\x01a"].concat();
    [[0, 0, block.len() as u8, 1, 5].as_slice(), &stream.to_be_bytes(), &block].concat()
}

#[tokio::test]
async fn many_streams_of_one_connection_begin_beside_those_of_another() {
    let begun = Arc::<AtomicUsize>::default();
    let (of_burst, before) = (begun.clone(), begun.clone());
    let (told, mut begun_before) = tokio::sync::watch::channel(None);
    let routes = Router::new()
        .route("/burst", get(async move || of_burst.fetch_add(1, SeqCst).to_string()))
        .route("/one", get(async move || told.send(Some(before.load(SeqCst))).unwrap()));
    let listener = Listener::serving(routes, ListenerLimits::default(), None).await;
    let (many, one) = (http2(&listener).await, http2(&listener).await);
    // The server runs when all of this has arrived, because the test does not wait in between.
    let path = format!("/burst?{}", "x".repeat(50));
    let heads: Vec<u8> = (0..BURST).flat_map(|number| head(2 * number as u32 + 1, &path)).collect();
    assert_eq!(many.try_write(&heads).unwrap(), heads.len());
    one.try_write(&head(1, "/one")).unwrap();
    let before = soon(begun_before.wait_for(Option::is_some)).await.unwrap().unwrap();
    assert!(before < BURST / 2, "{before} of {BURST} began before the request that came with them");
    soon(async {
        while begun.load(SeqCst) < BURST {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

/// HTTP/1.1 is not read in turns: a short body is there when the reply is.
#[tokio::test]
async fn a_short_body_that_no_one_reads_keeps_its_connection() {
    let routes = Router::new().route("/one", get("hello").post("refused"));
    let listener = Listener::serving(routes, ListenerLimits::default(), None).await;
    let mut stream = listener.connect().await;
    let post = format!("POST /one HTTP/1.1\r\nhost: a\r\ncontent-length: 6000\r\n\r\n{}", "x".repeat(6_000));
    for (request, end) in [(post.as_str(), "refused"), ("GET /one HTTP/1.1\r\nhost: a\r\n\r\n", "hello")] {
        assert_eq!(stream.try_write(request.as_bytes()).unwrap(), request.len());
        let mut reply = String::new();
        while !reply.ends_with(end) {
            let mut part = [0; 1_024];
            let length = soon(stream.read(&mut part)).await.unwrap();
            assert!(length > 0, "the connection ended after {reply:?}");
            reply.push_str(std::str::from_utf8(&part[..length]).unwrap());
        }
    }
}

//! The limits of one connection. The tests move the clock.

use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use axum::{
    Router,
    body::{Body, Bytes},
    routing::get,
};
use billing_service::server::ListenerLimits;
use futures_util::Stream;
use http::header::CONNECTION;
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    sync::Notify,
};
use tokio_util::sync::{CancellationToken, DropGuard};

use super::{Listener, get_request, pass, within};

const IDLE: Duration = Duration::from_secs(40);
const WRITE: Duration = Duration::from_secs(30);
const AGE: Duration = Duration::from_secs(600);
/// The age with a jitter of a tenth.
const AGED: Duration = Duration::from_secs(670);

const LIMITS: ListenerLimits = ListenerLimits {
    connections: 10,
    connections_per_address: 10,
    idle_timeout: IDLE,
    write_timeout: WRITE,
    max_connection_age: AGE,
    ..ListenerLimits::DEFAULT
};

/// A body without an end. `dropped` is cancelled when it is dropped.
struct Endless {
    _guard: DropGuard,
}

impl Stream for Endless {
    type Item = io::Result<Bytes>;

    fn poll_next(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        Poll::Ready(Some(Ok(Bytes::from_static(&[b'x'; 64 * 1024]))))
    }
}

/// Answers `/` at once, and `/slow` when `answer` is notified. Sends `/endless` until `dropped`.
struct Routes {
    answer: Arc<Notify>,
    dropped: CancellationToken,
}

impl Routes {
    async fn start() -> (Listener, Self) {
        Self::start_with(LIMITS).await
    }

    async fn start_with(limits: ListenerLimits) -> (Listener, Self) {
        let (answer, dropped) = (Arc::<Notify>::default(), CancellationToken::new());
        let (held, token) = (answer.clone(), dropped.clone());
        let slow = async move || {
            held.notified().await;
            "late"
        };
        let endless = async move || Body::from_stream(Endless { _guard: token.clone().drop_guard() });
        let routes = Router::new().route("/", get("hello")).route("/slow", get(slow)).route("/endless", get(endless));
        (Listener::serving(routes, limits, None).await, Self { answer, dropped })
    }
}

#[tokio::test]
async fn an_idle_http1_connection_ends_at_its_limit() {
    let (listener, _routes) = Routes::start().await;
    let (mut sender, connection) = listener.http1().await;
    // A pause between the deadline of a head and the idle limit does not end the connection.
    for _ in 0..2 {
        assert_eq!(sender.send_request(get_request("/")).await.unwrap().status(), 200);
        pass(IDLE - Duration::from_secs(1)).await;
    }
    assert_eq!(sender.send_request(get_request("/")).await.unwrap().status(), 200);
    within(IDLE + Duration::from_secs(5), connection).await.expect("the connection ends").unwrap();
}

#[tokio::test]
async fn an_http2_connection_that_only_answers_pings_ends() {
    let (listener, _routes) = Routes::start().await;
    let (mut sender, connection) = listener.http2().await;
    assert_eq!(sender.send_request(get_request("/")).await.unwrap().status(), 200);
    within(IDLE + Duration::from_secs(5), connection).await.expect("the connection ends").unwrap();
}

#[tokio::test]
async fn an_open_request_is_not_idle() {
    let (listener, routes) = Routes::start().await;
    let (mut first, _first) = listener.http1().await;
    let (mut second, _second) = listener.http2().await;
    let first = tokio::spawn(first.send_request(get_request("/slow")));
    let second = tokio::spawn(second.send_request(get_request("/slow")));
    pass(IDLE * 10).await;
    routes.answer.notify_waiters();
    for reply in [first, second] {
        assert_eq!(reply.await.unwrap().unwrap().status(), 200);
    }
}

#[tokio::test]
async fn a_reply_that_is_never_read_ends_its_connection() {
    let (listener, routes) = Routes::start().await;
    let mut stream = listener.connect().await;
    stream.write_all(b"GET /endless HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    within(WRITE + Duration::from_secs(5), routes.dropped.cancelled()).await.expect("the reply is dropped");
    // The client keeps its connection open until here.
    drop(stream);
}

#[tokio::test]
async fn a_pipeline_whose_replies_are_never_read_ends_its_connection() {
    let day = Duration::from_hours(24);
    let (listener, _routes) =
        Routes::start_with(ListenerLimits { idle_timeout: day, max_connection_age: day, ..LIMITS }).await;
    let mut stream = listener.connect().await;
    let writes = async {
        // More data than all buffers hold. Time also passes while the buffers fill.
        let requests = "GET / HTTP/1.1\r\nhost: x\r\n\r\n".repeat(1_000);
        loop {
            if let Err(ended) = stream.write_all(requests.as_bytes()).await {
                return ended;
            }
        }
    };
    within(day / 2, writes).await.expect("the connection is closed");
}

#[tokio::test]
async fn an_unread_http2_stream_ends_and_its_connection_stays() {
    let (listener, routes) = Routes::start().await;
    let (mut sender, connection) = listener.http2().await;
    let unread = sender.send_request(get_request("/endless")).await.unwrap();
    let slow = tokio::spawn(sender.send_request(get_request("/slow")));
    within(WRITE + Duration::from_secs(5), routes.dropped.cancelled()).await.expect("the reply is dropped");
    // The other streams of the connection go on.
    assert_eq!(sender.send_request(get_request("/")).await.unwrap().status(), 200);
    routes.answer.notify_waiters();
    assert_eq!(slow.await.unwrap().unwrap().status(), 200);
    assert!(!connection.is_finished());
    drop(unread);
}

/// A reply that fits into a buffer is no exception: its last bytes wait for the client too.
#[tokio::test]
async fn a_short_reply_of_http2_that_is_never_read_is_given_up() {
    let (listener, _routes) = Routes::start().await;
    let stream = TokioIo::new(listener.connect().await);
    // Fewer bytes than "hello" has.
    let builder = http2::Builder::new(TokioExecutor::new());
    let (mut sender, connection) =
        { builder }.initial_stream_window_size(4).handshake::<_, Body>(stream).await.unwrap();
    tokio::spawn(async move { drop(connection.await) });
    let read = sender.send_request(get_request("/")).await.unwrap();
    assert_eq!(axum::body::to_bytes(Body::new(read.into_body()), 10).await.unwrap(), "hello");
    let unread = sender.send_request(get_request("/")).await.unwrap();
    pass(WRITE + Duration::from_secs(5)).await;
    assert!(axum::body::to_bytes(Body::new(unread.into_body()), 10).await.is_err(), "it was kept");
}

/// Reads a little now and then, each time before the limit.
#[tokio::test]
async fn a_slow_reader_keeps_its_reply() {
    let (listener, routes) = Routes::start().await;
    let mut stream = listener.connect().await;
    stream.write_all(b"GET /endless HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    let mut some = vec![0; 8 << 20];
    for _ in 0..5 {
        pass(WRITE / 2).await;
        stream.read_exact(&mut some).await.unwrap();
    }
    assert!(!routes.dropped.is_cancelled());
}

#[tokio::test]
async fn an_old_http1_connection_closes_after_a_reply() {
    /// Time between two requests.
    const PAUSE: Duration = Duration::from_secs(5);
    let (listener, _routes) = Routes::start().await;
    let (mut sender, connection) = listener.http1().await;
    let mut replies = 0;
    let last = loop {
        let reply = sender.send_request(get_request("/")).await.expect("no request is lost");
        if reply.headers().contains_key(CONNECTION) {
            break reply;
        }
        replies += 1;
        assert!(PAUSE * replies < AGED, "no reply has connection: close");
        pass(PAUSE).await;
    };
    assert_eq!(last.headers()[CONNECTION], "close");
    assert!(PAUSE * replies > AGE / 2, "{replies}");
    connection.await.unwrap();
}

#[tokio::test]
async fn an_old_http2_connection_finishes_its_open_requests_and_takes_no_new_ones() {
    let (listener, routes) = Routes::start().await;
    let (mut sender, connection) = listener.http2().await;
    let open = tokio::spawn(sender.send_request(get_request("/slow")));
    pass(AGE / 2).await;
    assert_eq!(sender.send_request(get_request("/")).await.unwrap().status(), 200);
    pass(AGE).await;
    assert!(sender.send_request(get_request("/")).await.is_err(), "the client got GOAWAY");
    let (mut next, _next) = listener.http2().await;
    assert_eq!(next.send_request(get_request("/")).await.unwrap().status(), 200);
    pass(AGE).await;
    routes.answer.notify_waiters();
    assert_eq!(open.await.unwrap().unwrap().status(), 200);
    within(Duration::from_secs(5), connection).await.expect("the connection ends with its last request").unwrap();
}

#[tokio::test]
async fn a_silent_connection_does_not_delay_a_stop() {
    let (listener, _routes) = Routes::start().await;
    let mut silent = listener.connect().await;
    // Sends the preface and empty settings, and answers no ping.
    silent.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").await.unwrap();
    let mut half = listener.connect().await;
    half.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await.unwrap();
    let (_idle, _connection) = listener.http1().await;
    assert_eq!(silent.read_u8().await.unwrap(), 0, "the server's settings");
    listener.stop.cancel();
    let mut listener = listener;
    within(Duration::from_secs(5), &mut listener.task).await.expect("the listener stops").unwrap();
}

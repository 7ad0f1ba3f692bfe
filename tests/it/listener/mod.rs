//! The listeners of both ports, over real sockets: TLS, limits of connections, panics, and the stop.

mod beyond;
mod bursts;
mod descriptors;
mod limits;
mod panics;
mod reload;
mod tls;
mod watches;

use std::{net::SocketAddr, pin::pin, time::Duration};

use axum::{Extension, Router, body::Body, routing::get};
use billing_service::{
    server::{self, ListenerLimits, Tls},
    service::origin::{Forwarding, PeerCertificate},
};
use http::Request;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::{
    net::{TcpListener, TcpStream},
    task::JoinHandle,
};
use tokio_util::sync::CancellationToken;

use crate::harness::tls::Files;

/// A listener of the test. It stops when it is dropped.
struct Listener {
    addr: SocketAddr,
    stop: CancellationToken,
    task: JoinHandle<()>,
}

impl Listener {
    /// Answers `/names` with the names of the client's certificate.
    async fn start(files: &Files) -> Self {
        let names = async |certificate: Option<Extension<PeerCertificate>>| match certificate {
            Some(Extension(PeerCertificate { names })) => names.join(" "),
            None => "no certificate".into(),
        };
        let routes = Router::new().route("/names", get(names));
        Self::serving(routes, ListenerLimits::default(), Some(files)).await
    }

    async fn serving(app: Router, limits: ListenerLimits, files: Option<&Files>) -> Self {
        let socket = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (addr, stop) = (socket.local_addr().unwrap(), CancellationToken::new());
        let tls = files.map(|files| Tls::start(files.paths(), stop.clone()).unwrap());
        let listener = server::Listener { socket, app, limits, tls, metrics: None, forwarding: Forwarding::default() };
        let task = tokio::spawn(listener.serve(stop.clone()));
        Self { addr, stop, task }
    }

    async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.addr).await.unwrap()
    }

    /// An HTTP/1.1 connection, and a task that ends with it.
    async fn http1(&self) -> (http1::SendRequest<Body>, JoinHandle<()>) {
        let (sender, connection) = http1::handshake(TokioIo::new(self.connect().await)).await.unwrap();
        (sender, tokio::spawn(async move { drop(connection.await) }))
    }

    /// An HTTP/2 connection that answers pings, and a task that ends with it.
    async fn http2(&self) -> (http2::SendRequest<Body>, JoinHandle<()>) {
        let stream = TokioIo::new(self.connect().await);
        let builder = http2::Builder::new(TokioExecutor::new());
        // The connection window has room beside an unread stream.
        let (sender, connection) = { builder }.initial_connection_window_size(1 << 24).handshake(stream).await.unwrap();
        (sender, tokio::spawn(async move { drop(connection.await) }))
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

/// Longest step of the clock. It is shorter than the time limit of a ping.
const STEP: Duration = Duration::from_secs(2);
/// Real time for data in flight on sockets, because a paused clock would run ahead.
const REAL: Duration = Duration::from_millis(15);

/// Advances the clock of the whole process.
async fn pass(time: Duration) {
    let _ = within(time, std::future::pending::<()>()).await;
}

/// Advances the clock until `end` completes. `None` if it has not completed after `time`.
async fn within<T>(time: Duration, end: impl Future<Output = T>) -> Option<T> {
    let mut end = pin!(end);
    let mut left = time;
    while !left.is_zero() {
        let step = left.min(STEP);
        tokio::time::pause();
        tokio::time::advance(step).await;
        tokio::time::resume();
        left -= step;
        if let Ok(ended) = tokio::time::timeout(REAL, &mut end).await {
            return Some(ended);
        }
    }
    None
}

fn get_request(path: &str) -> Request<Body> {
    Request::get(path).header("host", "localhost").body(Body::empty()).unwrap()
}

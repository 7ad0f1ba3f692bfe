//! One connection: the handshake, the protocol, and its requests until the end.

use std::{fmt::Display, io, net::SocketAddr, time::Duration};

use axum::Router;
use hyper::server::conn::{http1, http2};
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::graceful::Watcher,
};
use tokio::{net::TcpStream, time::timeout};
use tokio_util::sync::CancellationToken;

use super::{
    limits::ListenerLimits,
    requests::Requests,
    stream::{Protocol, Stream},
    tls::{Tls, peer_certificate},
};
use crate::service::origin::{Peer, PeerCertificate};

/// Deadline of a TLS handshake.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// Deadline for the first byte and for all headers of a client.
const HEADER_TIMEOUT: Duration = Duration::from_secs(10);
/// Interval of keep-alive pings on a silent HTTP/2 connection.
const KEEP_ALIVE: Duration = Duration::from_secs(20);
/// Most requests in flight on one HTTP/2 connection. h2 closes a connection with too many small unread
/// frames, which pile up under overload. This many requests stay below that bound.
const MAX_STREAMS: u32 = 1_024;

/// The parts that all connections of a port share.
pub struct Server {
    app: Router,
    tls: Option<Tls>,
    http1: http1::Builder,
    http2: http2::Builder<TokioExecutor>,
    stop: CancellationToken,
}

impl Server {
    pub fn new(app: Router, tls: Option<Tls>, limits: ListenerLimits, stop: CancellationToken) -> Self {
        let mut http1 = http1::Builder::new();
        http1.timer(TokioTimer::new()).header_read_timeout(HEADER_TIMEOUT);
        let mut http2 = http2::Builder::new(TokioExecutor::new());
        http2
            .timer(TokioTimer::new())
            .keep_alive_interval(KEEP_ALIVE)
            .keep_alive_timeout(KEEP_ALIVE)
            .initial_connection_window_size(limits.connection_window)
            .max_concurrent_streams(MAX_STREAMS);
        Self { app, tls, http1, http2, stop }
    }

    /// Serves one connection to its end.
    ///
    /// # Errors
    /// The fault that ended it early.
    pub async fn serve(&self, stream: TcpStream, peer: SocketAddr, watcher: Watcher) -> Result<(), String> {
        let begun = tokio::select! {
            begun = self.begin(stream) => begun?,
            () = self.stop.cancelled() => return Ok(()),
        };
        let Begun { stream, protocol, certificate } = begun;
        let requests = Requests { app: self.app.clone(), peer: Peer(peer), certificate };
        let io = TokioIo::new(stream);
        match protocol {
            Protocol::Http1 => watcher.watch(self.http1.serve_connection(io, requests)).await,
            Protocol::Http2 => watcher.watch(self.http2.serve_connection(io, requests)).await,
        }
        .map_err(text)
    }

    async fn begin(&self, stream: TcpStream) -> Result<Begun, String> {
        let (mut stream, certificate) = match &self.tls {
            None => (Stream::plain(stream), None),
            Some(tls) => {
                let stream = within(HANDSHAKE_TIMEOUT, tls.accept(stream)).await?;
                let certificate = peer_certificate(&stream);
                (Stream::tls(stream), certificate)
            }
        };
        let protocol = within(HEADER_TIMEOUT, stream.protocol()).await?;
        Ok(Begun { stream, protocol, certificate })
    }
}

/// A connection whose first bytes have shown its protocol.
struct Begun {
    stream: Stream,
    protocol: Protocol,
    certificate: Option<PeerCertificate>,
}

async fn within<T>(limit: Duration, step: impl Future<Output = io::Result<T>>) -> Result<T, String> {
    timeout(limit, step).await.map_err(text)?.map_err(text)
}

fn text(error: impl Display) -> String {
    error.to_string()
}

//! The accept loop: HTTP/1.1 and HTTP/2 on one port, with bounds on connections,
//! on slow clients and on the time a stop may take.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use axum::Router;
use http::Request;
use hyper::body::Incoming;
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::{conn::auto, graceful::GracefulShutdown},
    service::TowerToHyperService,
};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore},
    time::timeout,
};
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;

use crate::service::origin::Peer;

/// Bounds of one port.
#[derive(Debug, Clone, Copy)]
pub struct ListenerLimits {
    pub connections: usize,
    /// How long open requests may take once a stop was asked for.
    pub drain_timeout: Duration,
    /// What of one HTTP/2 connection may wait to be read, in bytes; hyper's default when absent.
    pub connection_window: Option<u32>,
}

/// A client that has not sent its first byte, or not all of its headers, by then is dropped.
const HEADER_TIMEOUT: Duration = Duration::from_secs(10);
/// A silent HTTP/2 connection is asked this often whether it lives.
const KEEP_ALIVE: Duration = Duration::from_secs(20);
/// Requests in flight on one HTTP/2 connection. h2 ends a connection on which too many
/// small frames wait to be read, as under too much load they do; this many can't be.
const MAX_STREAMS: u32 = 1_024;
/// The window of the port that meters streams. It is also what h2 counts those frames by: each
/// takes 255 bytes of half of it. The messages of metered streams are that small, and a thousand
/// streams that all wait a moment, as for the database, must not end their connection: this
/// is room for sixteen of each.
pub const METERING_WINDOW: u32 = 8 * 1024 * 1024;

/// The address by which this machine reaches what listens on `addr`: one that stands for
/// all of its addresses is none to connect to.
pub fn reachable(mut addr: SocketAddr) -> SocketAddr {
    match addr.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => addr.set_ip(Ipv4Addr::LOCALHOST.into()),
        // Not that of IPv4: a listener may be of IPv6 alone.
        IpAddr::V6(ip) if ip.is_unspecified() => addr.set_ip(Ipv6Addr::LOCALHOST.into()),
        _ => {}
    }
    addr
}

/// Serves `app` until `stop`, then lets open requests finish.
pub async fn serve(listener: TcpListener, app: Router, limits: ListenerLimits, stop: CancellationToken) {
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(HEADER_TIMEOUT);
    builder
        .http2()
        .timer(TokioTimer::new())
        .keep_alive_interval(KEEP_ALIVE)
        .keep_alive_timeout(KEEP_ALIVE)
        .initial_connection_window_size(limits.connection_window)
        .max_concurrent_streams(MAX_STREAMS);
    let builder = Arc::new(builder);
    let graceful = GracefulShutdown::new();
    let places = Arc::new(Semaphore::new(limits.connections));
    loop {
        let (place, stream, peer) = tokio::select! {
            accepted = accept(&listener, &places) => accepted,
            () = stop.cancelled() => break,
        };
        let watcher = graceful.watcher();
        let (builder, app, stop) = (builder.clone(), app.clone(), stop.clone());
        tokio::spawn(async move {
            // Held as long as the connection lives.
            let _place = place;
            if !shows_its_protocol(&stream, &stop).await {
                return;
            }
            let service = TowerToHyperService::new(app.map_request(move |mut request: Request<Incoming>| {
                request.extensions_mut().insert(Peer(peer));
                request
            }));
            let connection = builder.serve_connection_with_upgrades(TokioIo::new(stream), service).into_owned();
            if let Err(error) = watcher.watch(connection).await {
                tracing::debug!(?error, "connection ended");
            }
        });
    }
    drop(listener);
    if timeout(limits.drain_timeout, graceful.shutdown()).await.is_err() {
        tracing::warn!("requests were still open when the drain timeout ran out");
    }
}

/// Waits for a place first: beyond the limit clients queue in the kernel's backlog.
async fn accept(listener: &TcpListener, places: &Arc<Semaphore>) -> (OwnedSemaphorePermit, TcpStream, SocketAddr) {
    loop {
        let Ok(place) = places.clone().acquire_owned().await else {
            // The semaphore is never closed.
            std::future::pending().await
        };
        match listener.accept().await {
            Ok((stream, peer)) => {
                // Replies are small and complete; waiting to fill a packet only delays them.
                let _ = stream.set_nodelay(true);
                return (place, stream, peer);
            }
            Err(error) => {
                // Out of file descriptors, most likely; others will be closed.
                tracing::warn!(%error, "accept failed");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }
}

/// Waits until the first bytes show the protocol. hyper-util's detection has no timeout of its
/// own: it would wait for ever on a client that sends nothing, or only the beginning of HTTP/2's
/// preface.
async fn shows_its_protocol(stream: &TcpStream, stop: &CancellationToken) -> bool {
    const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    let detection = async {
        let mut start = [0; PREFACE.len()];
        let mut pause = Duration::from_millis(10);
        loop {
            pause = (pause * 2).min(Duration::from_millis(500));
            match stream.peek(&mut start).await {
                Ok(0) | Err(_) => return false,
                Ok(read) if read == PREFACE.len() || start[..read] != PREFACE[..read] => return true,
                // Peeking returns at once from now on.
                Ok(_) => tokio::time::sleep(pause).await,
            }
        }
    };
    tokio::select! {
        shown = timeout(HEADER_TIMEOUT, detection) => shown.unwrap_or(false),
        () = stop.cancelled() => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_listener_is_reached_on_this_machine() {
        for (listens, reached) in [
            ("0.0.0.0:9101", "127.0.0.1:9101"),
            ("[::]:9101", "[::1]:9101"),
            ("127.0.0.1:9101", "127.0.0.1:9101"),
            ("10.1.2.3:80", "10.1.2.3:80"),
            ("[fe80::1%3]:80", "[fe80::1%3]:80"),
        ] {
            assert_eq!(reachable(listens.parse().unwrap()), reached.parse().unwrap());
        }
    }
}

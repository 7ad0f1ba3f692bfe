//! The accept loop: HTTP/1.1 and HTTP/2 on one port, with bounds on connections, slow clients and the
//! time of a stop.

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
    /// Longest time of open requests after the stop.
    pub drain_timeout: Duration,
    /// The receive window of an HTTP/2 connection, in bytes; `None` means hyper's default.
    pub connection_window: Option<u32>,
}

/// Deadline for the first byte and for all headers of a client.
const HEADER_TIMEOUT: Duration = Duration::from_secs(10);
/// Interval of keep-alive pings on a silent HTTP/2 connection.
const KEEP_ALIVE: Duration = Duration::from_secs(20);
/// Most requests in flight on one HTTP/2 connection. h2 closes a connection with too many small unread
/// frames, which pile up under overload. This many requests stay below that bound.
const MAX_STREAMS: u32 = 1_024;
/// The receive window of the port that meters streams. h2 also bounds small unread frames by it: each
/// counts 255 bytes of half the window. Messages of metered streams are small, and a thousand streams
/// may wait for the database at once. The window has room for sixteen messages of each, so that the
/// connection is not closed.
pub const METERING_WINDOW: u32 = 8 * 1024 * 1024;

/// The local address of a listener on `addr`. An unspecified address can't be connected to, so it
/// becomes the loopback address.
pub fn reachable(mut addr: SocketAddr) -> SocketAddr {
    match addr.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => addr.set_ip(Ipv4Addr::LOCALHOST.into()),
        // The IPv6 loopback address, because the listener may accept IPv6 only.
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
            // The permit lives as long as the connection.
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
        tracing::warn!("drain timeout passed with requests open");
    }
}

/// Waits for a permit before it accepts. Clients beyond the limit queue in the kernel's backlog.
async fn accept(listener: &TcpListener, places: &Arc<Semaphore>) -> (OwnedSemaphorePermit, TcpStream, SocketAddr) {
    loop {
        let Ok(place) = places.clone().acquire_owned().await else {
            // The semaphore is never closed.
            std::future::pending().await
        };
        match listener.accept().await {
            Ok((stream, peer)) => {
                // Replies are small and complete, so a wait for a full packet only delays them.
                let _ = stream.set_nodelay(true);
                return (place, stream, peer);
            }
            Err(error) => {
                // The likely cause is a lack of file descriptors, which other connections free.
                tracing::warn!(%error, "accept failed");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }
}

/// Waits until the first bytes show the protocol. The detection of hyper-util has no timeout, so
/// it would wait for ever for a client that sends nothing or only a part of the HTTP/2 preface.
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
                // From now on a peek returns at once.
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

//! The accept loop: HTTP/1.1 and HTTP/2 on one port, plain or over TLS, with bounds on connections, slow
//! clients and the time of a stop.

mod connection;
mod limits;
mod requests;
mod stream;
mod tls;

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use axum::Router;
use hyper_util::server::graceful::GracefulShutdown;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore},
    time::timeout,
};
use tokio_util::sync::CancellationToken;

use self::connection::Server;
pub use self::{
    limits::{ListenerLimits, METERING_WINDOW},
    tls::{Tls, TlsFiles},
};

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

/// Serves `app` without TLS until `stop`, then lets open requests finish.
pub async fn serve(listener: TcpListener, app: Router, limits: ListenerLimits, stop: CancellationToken) {
    serve_with(listener, app, limits, None, stop).await;
}

/// As [`serve`], over TLS if `tls` is given.
pub async fn serve_with(
    listener: TcpListener,
    app: Router,
    limits: ListenerLimits,
    tls: Option<Tls>,
    stop: CancellationToken,
) {
    let server = Arc::new(Server::new(app, tls, limits, stop.clone()));
    let graceful = GracefulShutdown::new();
    let places = Arc::new(Semaphore::new(limits.connections));
    loop {
        let (place, stream, peer) = tokio::select! {
            accepted = accept(&listener, &places) => accepted,
            () = stop.cancelled() => break,
        };
        let (server, watcher) = (server.clone(), graceful.watcher());
        tokio::spawn(async move {
            // The permit lives as long as the connection.
            let _place = place;
            if let Err(error) = server.serve(stream, peer, watcher).await {
                tracing::debug!(error, "connection ended");
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

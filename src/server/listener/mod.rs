//! The accept loop: HTTP/1.1 and HTTP/2 on one port, plain or over TLS, with bounds on connections, slow
//! clients and the time of a stop.

mod activity;
mod connection;
mod handle;
mod limits;
mod observed;
mod pace;
mod places;
mod reply;
mod requests;
mod sending;
mod starts;
mod stream;
mod tls;

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use axum::Router;
use tokio::{
    net::{TcpListener, TcpStream},
    time::timeout,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use self::{
    connection::{Accepted, Server},
    pace::PaceRule,
    places::Places,
    requests::App,
};
pub use self::{
    handle::Connection,
    limits::{ListenerLimits, METERING_WINDOW},
    places::BEYOND_LIMIT,
    tls::{Tls, TlsFiles},
};
use crate::{metrics::ConnectionMetrics, service::origin::Forwarding};

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

/// Serves `app` until `stop`, without TLS, then lets open requests finish.
pub async fn serve(socket: TcpListener, app: Router, limits: ListenerLimits, stop: CancellationToken) {
    Listener { socket, app, limits, tls: None, metrics: None, forwarding: Forwarding::default() }.serve(stop).await;
}

/// One port and its routes.
pub struct Listener<S> {
    pub socket: TcpListener,
    pub app: S,
    pub limits: ListenerLimits,
    pub tls: Option<Tls>,
    /// The metrics, with the label of the port.
    pub metrics: Option<(ConnectionMetrics, &'static str)>,
    /// The proxies whose connections have the calls of many clients. Refused calls do not wait on them.
    pub forwarding: Forwarding,
}

impl<S: App> Listener<S> {
    /// Serves until `stop`, then lets open requests finish.
    pub async fn serve(self, stop: CancellationToken) {
        let Self { socket, app, limits, tls, metrics, forwarding } = self;
        let counts = metrics.clone();
        let count_end = move |reason| {
            if let Some((metrics, port)) = &counts {
                metrics.count_end(port, reason);
            }
        };
        let server = Arc::new(Server::new(app, tls, limits, count_end.clone()));
        let (places, connections) = (Places::new(&limits), TaskTracker::new());
        let counts = metrics.clone();
        let count_held = move || {
            if let Some((metrics, port)) = &counts {
                metrics.count_held_refusal(port);
            }
        };
        let pace = PaceRule::new(&limits, count_held);
        loop {
            let (stream, peer) = tokio::select! {
                accepted = accept(&socket) => accepted,
                () = stop.cancelled() => break,
            };
            let place = places.take(peer.ip());
            let evicted = CancellationToken::new();
            let unproven = match &place {
                Ok(place) => places.take_unproven(place, evicted.clone()),
                Err(full) => {
                    count_end(full.reason());
                    places.take_beyond(evicted.clone());
                    None
                }
            };
            let is_beyond_limit = place.is_err();
            let handle = Connection::new(unproven);
            let pace = (!forwarding.is_trusted(peer.ip())).then(|| pace.begin(peer, handle.clone()));
            let accepted = Accepted { stream, peer, is_beyond_limit, handle, pace, stop: stop.child_token() };
            let count_end = count_end.clone();
            let open = metrics.as_ref().map(|(metrics, port)| metrics.open(port));
            let server = server.clone();
            connections.spawn(async move {
                // The place is taken as long as the connection is open.
                let _held = (place, open);
                tokio::select! {
                    ended = server.serve(accepted) => {
                        if let Err(error) = ended {
                            tracing::debug!(error, "connection ended");
                        }
                    }
                    () = evicted.cancelled() => {
                        if !is_beyond_limit {
                            count_end("unproven");
                        }
                    }
                }
            });
        }
        drop(socket);
        connections.close();
        if timeout(limits.drain_timeout, connections.wait()).await.is_err() {
            tracing::warn!("drain timeout passed with requests open");
        }
    }
}

async fn accept(socket: &TcpListener) -> (TcpStream, SocketAddr) {
    loop {
        match socket.accept().await {
            Ok((stream, peer)) => {
                // Replies are small and complete, so a wait for a full packet only delays them.
                let _ = stream.set_nodelay(true);
                return (stream, peer);
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

//! The listeners of both ports, over real sockets: TLS, the limits of connections, and their stop.

mod reload;
mod tls;

use std::{net::SocketAddr, time::Duration};

use axum::{Extension, Router, routing::get};
use billing_service::{
    server::{ListenerLimits, Tls, serve_with},
    service::origin::PeerCertificate,
};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::harness::tls::Files;

/// A listener of the test's own, which stops when it is dropped.
struct Listener {
    addr: SocketAddr,
    stop: CancellationToken,
}

impl Listener {
    /// Answers `/names` with the names of the client's certificate.
    async fn start(files: &Files) -> Self {
        let names = async |certificate: Option<Extension<PeerCertificate>>| match certificate {
            Some(Extension(PeerCertificate { names })) => names.join(" "),
            None => "no certificate".into(),
        };
        Self::serving(files, Router::new().route("/names", get(names))).await
    }

    async fn serving(files: &Files, app: Router) -> Self {
        let limits =
            ListenerLimits { connections: 100, drain_timeout: Duration::from_secs(1), connection_window: None };
        let socket = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (addr, stop) = (socket.local_addr().unwrap(), CancellationToken::new());
        let tls = Tls::start(files.paths(), stop.clone()).unwrap();
        tokio::spawn(serve_with(socket, app, limits, Some(tls), stop.clone()));
        Self { addr, stop }
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

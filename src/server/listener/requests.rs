//! The requests of one connection, on their way to the routes.

use axum::Router;
use http::Request;
use hyper::{body::Incoming, service::Service};
use tower::{ServiceExt, util::Oneshot};

use crate::service::origin::{Peer, PeerCertificate};

/// The routes, as one connection calls them.
pub struct Requests {
    pub app: Router,
    pub peer: Peer,
    pub certificate: Option<PeerCertificate>,
}

impl Service<Request<Incoming>> for Requests {
    type Response = axum::response::Response;
    type Error = std::convert::Infallible;
    type Future = Oneshot<Router, Request<Incoming>>;

    fn call(&self, mut request: Request<Incoming>) -> Self::Future {
        let extensions = request.extensions_mut();
        extensions.insert(self.peer);
        if let Some(certificate) = &self.certificate {
            extensions.insert(certificate.clone());
        }
        self.app.clone().oneshot(request)
    }
}

//! The requests of one connection, on their way to the routes.

use std::{convert::Infallible, pin::Pin, sync::Arc};

use axum::{body::Body, extract, response};
use http::{HeaderValue, Request, Response, header::CONNECTION};
use hyper::body::Incoming;
use tower::ServiceExt;

use super::{activity::Activity, handle::Connection, pace::Pace, reply::Reply};
use crate::{
    server::overflow::BeyondLimit,
    service::{
        errors::Paced,
        origin::{Peer, PeerCertificate},
    },
};

/// The service behind a port. It gets each request of every connection.
pub trait App:
    tower::Service<extract::Request, Response = response::Response, Error = Infallible, Future: Send>
    + Clone
    + Send
    + Sync
    + 'static
{
}

impl<S> App for S where
    S: tower::Service<extract::Request, Response = response::Response, Error = Infallible, Future: Send>
        + Clone
        + Send
        + Sync
        + 'static
{
}

/// The routes, as one connection calls them.
pub struct Requests<S> {
    pub app: S,
    pub peer: Peer,
    pub certificate: Option<PeerCertificate>,
    pub is_beyond_limit: bool,
    pub connection: Connection,
    pub pace: Option<Arc<Pace>>,
    pub activity: Arc<Activity>,
}

impl<S: App> hyper::service::Service<Request<Incoming>> for Requests<S> {
    type Response = Response<Reply>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn call(&self, mut request: Request<Incoming>) -> Self::Future {
        let open = self.activity.open();
        let extensions = request.extensions_mut();
        extensions.insert(self.peer);
        extensions.insert(self.connection.clone());
        if let Some(certificate) = &self.certificate {
            extensions.insert(certificate.clone());
        }
        if self.is_beyond_limit {
            extensions.insert(BeyondLimit);
        }
        let is_http2 = !self.activity.is_http1();
        let answer = self.app.clone().oneshot(request.map(Body::new));
        let pace = self.pace.clone();
        Box::pin(async move {
            let mut response = answer.await?;
            if let Some(pace) = pace
                && response.extensions().get::<Paced>().is_some()
            {
                pace.refuse().await;
                if pace.is_ended() && !is_http2 {
                    open.close_connection();
                }
            }
            if open.closes_connection() {
                response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
            }
            Ok(response.map(|body| Reply::new(body, open, is_http2)))
        })
    }
}

//! A receiver of webhooks whose answers a test chooses.

use std::{
    collections::BTreeMap,
    convert::Infallible,
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};

use axum::body::{Body, Bytes, to_bytes};
use http::{HeaderMap, Request, Response, StatusCode, header::LOCATION};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpListener,
    sync::Semaphore,
};
use tokio_util::task::AbortOnDropHandle;

/// The answer to a delivery.
#[derive(Debug, Clone)]
pub enum Answer {
    Status(u16),
    Redirect(String),
    /// The connection ends without an answer.
    Close,
    /// No answer until the receiver is released.
    Hang,
    /// A good status, and a body of so many bytes.
    Body(usize),
}

/// A delivery as it arrived.
#[derive(Debug, Clone)]
pub struct Received {
    pub path: String,
    pub headers: HeaderMap,
    pub body: String,
    /// Whether the answer was a good one.
    pub accepted: bool,
}

impl Received {
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap()
    }

    pub fn header(&self, name: &str) -> &str {
        self.headers[name].to_str().unwrap()
    }

    /// The user, and the number that the test gave the event.
    pub fn event(&self) -> (String, i64) {
        let data = &self.json()["data"];
        (data["user_id"].as_str().unwrap_or_default().to_owned(), data["number"].as_i64().unwrap_or(-1))
    }
}

type Choice = dyn Fn(&Received, usize) -> Answer + Send + Sync;

struct Shared {
    received: Mutex<Vec<Received>>,
    /// The answers by path; others are accepted.
    choices: Mutex<BTreeMap<String, Arc<Choice>>>,
    connections: AtomicUsize,
    released: Semaphore,
}

/// A receiver on a free port. It ends when dropped.
pub struct Receiver {
    pub addr: SocketAddr,
    shared: Arc<Shared>,
    _serving: AbortOnDropHandle<()>,
}

impl Receiver {
    pub async fn start() -> Self {
        Self::start_at("127.0.0.1:0", None).await
    }

    /// A receiver at an address, with TLS if there is an acceptor.
    pub async fn start_at(addr: &str, tls: Option<tokio_rustls::TlsAcceptor>) -> Self {
        let listener = TcpListener::bind(addr).await.unwrap();
        let addr = listener.local_addr().unwrap();
        let shared = Arc::new(Shared {
            received: Mutex::default(),
            choices: Mutex::default(),
            connections: AtomicUsize::new(0),
            released: Semaphore::new(0),
        });
        let serving = {
            let shared = shared.clone();
            tokio::spawn(async move {
                loop {
                    let Ok((stream, _)) = listener.accept().await else { continue };
                    shared.connections.fetch_add(1, Ordering::SeqCst);
                    let (shared, tls) = (shared.clone(), tls.clone());
                    tokio::spawn(async move {
                        match tls {
                            None => serve(stream, shared).await,
                            Some(tls) => {
                                if let Ok(stream) = tls.accept(stream).await {
                                    serve(stream, shared).await;
                                }
                            }
                        }
                    });
                }
            })
        };
        Self { addr, shared, _serving: AbortOnDropHandle::new(serving) }
    }

    /// The URL of a path such as `/a`.
    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.addr)
    }

    /// Chooses the answers of a path by the delivery, and by the number of earlier ones.
    pub fn answer(&self, path: &str, choice: impl Fn(&Received, usize) -> Answer + Send + Sync + 'static) {
        self.shared.choices.lock().unwrap().insert(path.into(), Arc::new(choice));
    }

    /// Lets all answers that hang go.
    pub fn release(&self) {
        self.shared.released.close();
    }

    /// All deliveries to a path, in order.
    pub fn received(&self, path: &str) -> Vec<Received> {
        let all = self.shared.received.lock().unwrap();
        all.iter().filter(|received| received.path == path).cloned().collect()
    }

    /// The events of the accepted deliveries to a path.
    pub fn accepted(&self, path: &str) -> Vec<(String, i64)> {
        let received = self.received(path);
        received.iter().filter(|received| received.accepted).map(Received::event).collect()
    }

    pub fn connections(&self) -> usize {
        self.shared.connections.load(Ordering::SeqCst)
    }
}

async fn serve(stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static, shared: Arc<Shared>) {
    let service = service_fn(move |request| answer(request, shared.clone()));
    // A receiver that closes is an error of the connection.
    let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
}

async fn answer(request: Request<Incoming>, shared: Arc<Shared>) -> Result<Response<Body>, std::io::Error> {
    let (parts, body) = request.into_parts();
    let body = to_bytes(Body::new(body), usize::MAX).await.map_err(std::io::Error::other)?;
    let path = parts.uri.path().to_owned();
    let mut received = Received {
        path: path.clone(),
        headers: parts.headers,
        body: String::from_utf8(body.to_vec()).unwrap(),
        accepted: false,
    };
    let answer = {
        let earlier = shared.received.lock().unwrap().iter().filter(|other| other.path == path).count();
        let choice = shared.choices.lock().unwrap().get(&path).cloned();
        choice.map_or(Answer::Status(200), |choice| choice(&received, earlier))
    };
    received.accepted = matches!(answer, Answer::Status(200..=299) | Answer::Body(_));
    shared.received.lock().unwrap().push(received);
    let respond = |status, body: Body| {
        let mut response = Response::new(body);
        *response.status_mut() = StatusCode::from_u16(status).unwrap();
        response
    };
    match answer {
        Answer::Status(status) => Ok(respond(status, Body::empty())),
        Answer::Redirect(to) => {
            let mut response = respond(307, Body::empty());
            response.headers_mut().insert(LOCATION, to.parse().unwrap());
            Ok(response)
        }
        Answer::Close => Err(std::io::Error::other("the receiver closes")),
        Answer::Hang => {
            let _ = shared.released.acquire().await;
            Ok(respond(503, Body::empty()))
        }
        Answer::Body(bytes) => {
            let chunks = (0..bytes.div_ceil(1_024)).map(|_| Ok::<_, Infallible>(Bytes::from(vec![b'x'; 1_024])));
            Ok(respond(200, Body::from_stream(futures_util::stream::iter(chunks))))
        }
    }
}

//! Frames of gRPC, against a whole server in this process. Every call has an answer, and no answer is an internal
//! error.

use std::{
    future::poll_fn,
    io::Write,
    net::SocketAddr,
    pin::Pin,
    sync::{LazyLock, Mutex},
    time::Duration,
};

use axum::body::{Body, HttpBody};
use billing_service::{
    app::App,
    config::Config,
    service::{
        proto::DESCRIPTORS,
        routes::GRPC_CALLBACK_PATH,
        signature::{HEADER, sign},
    },
};
use chrono::Utc;
use flate2::{Compression, write::GzEncoder};
use http::{HeaderMap, Request, header::CONTENT_TYPE};
use hyper::client::conn::http2::{SendRequest, handshake};
use hyper_util::rt::{TokioExecutor, TokioIo};
use prost_reflect::DescriptorPool;
use tempfile::TempDir;
use tokio::{net::TcpStream, runtime::Runtime};
use tonic::{Code, Status};
use tonic_types::StatusExt;

/// The secret of callbacks.
const SECRET: &str = "a secret of the fuzz targets";
/// Deadline of an answer, above every deadline of the server.
const ANSWER: Duration = Duration::from_secs(20);
/// Codes that an error of the service may have although nothing is at fault: OVERLOADED, and payment-service.
const UNAVAILABLE: [&str; 2] = ["10014", "10006"];

/// The bits of the second byte of the input.
const UNFRAMED: u8 = 1;
const GZIP: u8 = 2;
const UNCOMPRESSED_GZIP: u8 = 4;
const TWO_FRAMES: u8 = 8;

/// The input is the number of an rpc, a byte with the form of the body, and a message or the frames themselves.
pub fn run(data: &[u8]) {
    static SERVER: LazyLock<Mutex<Server>> = LazyLock::new(|| Mutex::new(Server::start()));
    let [number, form, message @ ..] = data else { return };
    let mut server = SERVER.lock().expect("no panic before");
    let path = server.paths[usize::from(*number) % server.paths.len()].clone();
    let is_gzip = form & (GZIP | UNCOMPRESSED_GZIP) != 0;
    let mut request = Request::post(&path).header(CONTENT_TYPE, "application/grpc").header("te", "trailers");
    if is_gzip {
        request = request.header("grpc-encoding", "gzip");
    }
    if path == GRPC_CALLBACK_PATH {
        request = request.header(HEADER, sign(SECRET, Utc::now(), message));
    }
    let request = request.body(Body::from(frames(*form, message))).expect("a request");
    let status = server.call(request);
    let is_broken = match status.code() {
        Code::Internal | Code::Unknown | Code::DataLoss => true,
        Code::Unavailable => {
            let details = status.get_error_details();
            let code = details.error_info().and_then(|info| info.metadata.get("error_code"));
            !code.is_some_and(|code| UNAVAILABLE.contains(&code.as_str()))
        }
        _ => false,
    };
    assert!(!is_broken, "{path}: {status:?}");
}

fn frames(form: u8, message: &[u8]) -> Vec<u8> {
    if form & UNFRAMED != 0 {
        return message.to_vec();
    }
    let message = if form & GZIP != 0 { gzip(message) } else { message.to_vec() };
    let flag = u8::from(form & (GZIP | UNCOMPRESSED_GZIP) != 0);
    let frame = |message: &[u8]| {
        let length = u32::try_from(message.len()).expect("a short message");
        [&[flag][..], &length.to_be_bytes(), message].concat()
    };
    if form & TWO_FRAMES != 0 {
        let (first, second) = message.split_at(message.len() / 2);
        return [frame(first), frame(second)].concat();
    }
    frame(&message)
}

fn gzip(message: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(message).expect("memory takes all");
    encoder.finish().expect("memory takes all")
}

/// A server, and a connection to it.
struct Server {
    runtime: Runtime,
    addr: SocketAddr,
    /// The paths of all rpcs.
    paths: Vec<String>,
    connection: Option<SendRequest<Body>>,
    _app: App,
    _folder: TempDir,
}

impl Server {
    fn start() -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        let folder = tempfile::tempdir().expect("a temporary folder");
        let file = folder.path().join("config.yaml");
        std::fs::write(&file, config(&folder)).expect("a temporary folder can be written");
        let config = Config::load(&file).expect("the configuration is valid");
        let app = runtime.block_on(App::start(config)).expect("the server starts");
        let pool = DescriptorPool::decode(DESCRIPTORS).expect("the descriptors of the build");
        let methods = pool.services().flat_map(|service| service.methods().collect::<Vec<_>>());
        let rpcs = methods.map(|method| format!("/{}/{}", method.parent_service().full_name(), method.name()));
        let others = ["/grpc.health.v1.Health/Check", "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo"];
        let paths = rpcs.chain(others.map(str::to_owned)).collect();
        Self { runtime, addr: app.grpc_addr, paths, connection: None, _app: app, _folder: folder }
    }

    fn call(&mut self, request: Request<Body>) -> Status {
        let Self { runtime, addr, connection, .. } = self;
        let answer = async {
            if !connection.as_ref().is_some_and(SendRequest::is_ready) {
                *connection = Some(connect(*addr).await);
            }
            let connection = connection.as_mut().expect("it was made");
            let response = connection.send_request(request).await.expect("every call has an answer");
            let (head, body) = response.into_parts();
            if head.status != 200 {
                panic!("a call was answered with {}", head.status);
            }
            match Status::from_header_map(&head.headers) {
                Some(status) => status,
                None => Status::from_header_map(&trailers(body).await).expect("every answer has a status"),
            }
        };
        // The deadline is made inside of the runtime, whose clock it needs.
        runtime.block_on(async { tokio::time::timeout(ANSWER, answer).await }).expect("an answer in time")
    }
}

async fn connect(addr: SocketAddr) -> SendRequest<Body> {
    let stream = TcpStream::connect(addr).await.expect("the server listens");
    let handshake = handshake(TokioExecutor::new(), TokioIo::new(stream)).await;
    let (connection, task) = handshake.expect("the server speaks HTTP/2");
    tokio::spawn(task);
    connection
}

async fn trailers(mut body: hyper::body::Incoming) -> HeaderMap {
    while let Some(frame) = poll_fn(|context| Pin::new(&mut body).poll_frame(context)).await {
        if let Ok(trailers) = frame.expect("an answer is complete").into_trailers() {
            return trailers;
        }
    }
    panic!("an answer has no trailers");
}

fn config(folder: &TempDir) -> String {
    let database = folder.path().join("billing.db");
    format!(
        "data: {{database: {{driver: sqlite, source: '{}'}}}}\n\
         billing: {{prices: {{asset: 0.05, passport: 0.01}}, free_quotas: {{asset: 1000}}}}\n\
         server:\n\
         \x20 http: {{addr: '127.0.0.1:0'}}\n\
         \x20 grpc: {{addr: '127.0.0.1:0', timeout: 10s}}\n\
         \x20 limits: {{max_connection_age: 24h}}\n\
         payment_service: {{grpc_addr: '127.0.0.1:9', callback_auth: signed, callback_secrets: ['{SECRET}']}}\n",
        database.display()
    )
}

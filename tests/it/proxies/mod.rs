//! Proxies and gateways that ask the service: the rate limit service of Envoy, the route for ext_authz and
//! auth_request, and the examples, each in its own program.

mod authorize;
mod envoy;
mod gateways;
mod lossy;
mod nginx;
mod rate_limit;

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use axum::{Router, extract::Request};
use billing_service::server::{ListenerLimits, serve};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::{
    access::sha256,
    harness::{Service, Sqlite, private_server::PrivateServer, wait::until},
};

/// The token in examples/nginx/nginx.conf.
const TOKEN: &str = "the-token-of-this-gateway";

/// A service whose callers prove themselves, with two free units of `asset` for each user.
async fn guarded() -> Service {
    let callers = format!("[{{name: edge, roles: [gateway, admin], token_sha256: ['{}']}}]", sha256(TOKEN));
    let free = "{passport: 10000, payment: 1000, asset: 2}";
    Service::start_with(Sqlite, &[("server.grpc.auth.callers", &callers), ("billing.free_quotas", free)]).await
}

/// Posts to a route of the internal port with the token.
async fn post(service: &Service, route: &str, body: &str) {
    let url = format!("http://{}/internal/v1/billing/{route}", service.app.grpc_addr);
    let response = service.http.post(url).bearer_auth(TOKEN).body(body.to_owned()).send().await.unwrap();
    assert_eq!(response.status(), 200, "{}", response.text().await.unwrap());
}

fn example(path: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("examples").join(path)
}

/// The service behind a proxy. It answers its path, and the user and the length of the trace id that the proxy names.
struct Api {
    addr: SocketAddr,
    _stop: DropGuard,
}

impl Api {
    async fn start() -> Self {
        let shown = async |request: Request| {
            let header = |name| request.headers().get(name).map_or("", |value| value.to_str().unwrap());
            format!("{} of {} as {}", request.uri().path(), header("x-user-id"), header("x-trace-id").len())
        };
        let socket = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (addr, stop) = (socket.local_addr().unwrap(), CancellationToken::new());
        let limits = ListenerLimits { connections: 10, drain_timeout: Duration::from_secs(1), ..Default::default() };
        tokio::spawn(serve(socket, Router::new().fallback(shown), limits, stop.clone()));
        Self { addr, _stop: stop.drop_guard() }
    }
}

/// A proxy with the configuration of an example, in which each address of `changes` stands for another one.
/// `arguments` come before the path of the configuration.
async fn proxy(name: &str, file: &str, changes: &[(&str, &str)], arguments: &[&str], port: u16) -> PrivateServer {
    let folder = PrivateServer::folder_for(name);
    let mut text = std::fs::read_to_string(example(file)).unwrap();
    for (from, to) in changes {
        assert!(text.contains(from), "{file} has no {from}");
        text = text.replace(from, to);
    }
    let path = folder.join(PathBuf::from(file).file_name().unwrap());
    std::fs::write(&path, text).unwrap();
    let prefix = folder.display().to_string();
    let arguments = arguments.iter().map(|argument| argument.replace("{folder}", &prefix));
    let command: Vec<String> = arguments.chain([path.display().to_string()]).collect();
    let server = PrivateServer::start(folder, &command);
    until(&format!("{name} listens"), async || {
        assert!(!server.has_ended(), "{name} has ended: {}", server.log());
        TcpStream::connect(("127.0.0.1", port)).await.is_ok()
    })
    .await;
    server
}

/// Status, headers of the draft and of the refusal, and body.
struct Answer {
    status: u16,
    headers: reqwest::header::HeaderMap,
    body: String,
}

impl Answer {
    async fn to(request: reqwest::RequestBuilder) -> Self {
        let response = request.send().await.unwrap();
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        Self { status, headers, body: response.text().await.unwrap() }
    }

    fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }

    /// The error code in a JSON body.
    fn code(&self) -> String {
        self.member("error_code")
    }

    /// A member of the metadata of an error.
    fn member(&self, name: &str) -> String {
        let body: serde_json::Value = serde_json::from_str(&self.body).unwrap_or_default();
        body["metadata"][name].as_str().unwrap_or_default().to_owned()
    }
}

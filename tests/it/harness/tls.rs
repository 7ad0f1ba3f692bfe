//! Private certificates, servers with them, and clients that trust them.

use std::{net::SocketAddr, path::PathBuf, pin::pin, sync::Arc};

use anyhow::Context;
use axum::body::{Body, Bytes};
use billing_service::{app::App, server::TlsFiles};
use futures_util::FutureExt;
use http::{Request, Response};
use hyper::{
    body::Incoming,
    client::conn::{http1, http2},
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, ExtendedKeyUsagePurpose, IsCa, KeyPair, SanType};
use rustls::{
    ClientConfig, RootCertStore, SupportedProtocolVersion,
    crypto::aws_lc_rs,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject},
};
use tokio::{net::TcpStream, task::JoinHandle};
use tokio_rustls::{TlsConnector, client::TlsStream};
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity};

use super::{Backend, Database, wait::in_time};

/// The name in the server's certificate.
pub const HOST: &str = "localhost";

/// A certificate and its key, in PEM form.
pub struct Pair {
    pub cert: String,
    pub key: String,
}

/// An authority that signs the certificates of a test.
pub struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    pub fn new() -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    pub fn pem(&self) -> String {
        self.0.pem()
    }

    /// A certificate for [`HOST`] and the loopback address.
    pub fn server(&self) -> Pair {
        self.sign(&[HOST, "127.0.0.1"], ExtendedKeyUsagePurpose::ServerAuth)
    }

    /// A client certificate with these names. A name with `://` is a URI, any other is a DNS name.
    pub fn client(&self, names: &[&str]) -> Pair {
        self.sign(names, ExtendedKeyUsagePurpose::ClientAuth)
    }

    fn sign(&self, names: &[&str], usage: ExtendedKeyUsagePurpose) -> Pair {
        let (uris, others): (Vec<&str>, _) = names.iter().partition(|name| name.contains("://"));
        let others: Vec<String> = others.into_iter().map(str::to_owned).collect();
        let mut params = CertificateParams::new(others).unwrap();
        params.subject_alt_names.extend(uris.into_iter().map(|uri| SanType::URI(uri.try_into().unwrap())));
        params.extended_key_usages = vec![usage];
        let key = KeyPair::generate().unwrap();
        let cert = params.signed_by(&key, &self.0).unwrap();
        Pair { cert: cert.pem(), key: key.serialize_pem() }
    }
}

/// The files of `server.tls`.
pub struct Files {
    folder: tempfile::TempDir,
}

impl Files {
    /// Writes files for a server with `pair` that trusts the clients of `clients`.
    pub fn of(pair: &Pair, clients: &Authority) -> Self {
        let files = Self { folder: tempfile::tempdir().unwrap() };
        files.write("cert.pem", &pair.cert);
        files.write("key.pem", &pair.key);
        files.write("clients.pem", &clients.pem());
        files
    }

    /// Replaces a file in one step.
    pub fn write(&self, name: &str, content: &str) {
        let new = self.path("new");
        std::fs::write(&new, content).unwrap();
        std::fs::rename(new, self.path(name)).unwrap();
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// The paths for a listener of the test.
    pub fn paths(&self) -> TlsFiles {
        TlsFiles { cert: self.path("cert.pem"), key: self.path("key.pem"), client_ca: Some(self.path("clients.pem")) }
    }

    /// The value of the config key `server.tls`.
    pub fn config(&self) -> String {
        let path = |name| self.path(name).display().to_string();
        let (cert, key, clients) = (path("cert.pem"), path("key.pem"), path("clients.pem"));
        format!("{{cert_file: '{cert}', key_file: '{key}', client_ca_file: '{clients}'}}")
    }
}

/// A service with TLS on both ports. Its authority signs the server and the clients.
pub struct TlsService {
    pub database: Database,
    pub app: App,
    pub authority: Authority,
    pub files: Files,
}

impl TlsService {
    pub async fn start_with(backend: Backend, changes: &[(&str, &str)]) -> Self {
        let authority = Authority::new();
        let files = Files::of(&authority.server(), &authority);
        let (database, tls) = (Database::create(backend).await, files.config());
        let changes: Vec<_> = changes.iter().copied().chain([("server.tls", tls.as_str())]).collect();
        let app = App::start(database.config(&changes)).await.unwrap();
        Self { database, app, authority, files }
    }

    /// A REST client that trusts the server, and shows `pair` if it is given.
    pub fn https(&self, pair: Option<&Pair>) -> Https {
        Https::trusting(&self.authority, pair)
    }

    /// A gRPC connection that trusts the server, and shows `pair` if it is given.
    pub async fn channel(&self, pair: Option<&Pair>) -> Channel {
        self.endpoint(pair).connect().await.unwrap()
    }

    pub fn endpoint(&self, pair: Option<&Pair>) -> Endpoint {
        let mut tls = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(self.authority.pem()));
        if let Some(Pair { cert, key }) = pair {
            tls = tls.identity(Identity::from_pem(cert, key));
        }
        let url = format!("https://{HOST}:{}", self.app.grpc_addr.port());
        Channel::from_shared(url).unwrap().tls_config(tls).unwrap()
    }
}

/// A REST client over TLS. Each request has a new connection. The client of the other tests would load
/// the authorities of the system, which a machine may not have.
#[derive(Clone)]
pub struct Https(ClientConfig);

impl Https {
    pub fn trusting(authority: &Authority, pair: Option<&Pair>) -> Self {
        Self::with_versions(authority, pair, rustls::ALL_VERSIONS)
    }

    pub fn with_versions(
        authority: &Authority,
        pair: Option<&Pair>,
        versions: &[&'static SupportedProtocolVersion],
    ) -> Self {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(authority.pem().as_bytes()).unwrap()).unwrap();
        let builder = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()));
        let builder = builder.with_protocol_versions(versions).unwrap().with_root_certificates(roots);
        Self(match pair {
            None => builder.with_no_client_auth(),
            Some(Pair { cert, key }) => {
                let chain = vec![CertificateDer::from_pem_slice(cert.as_bytes()).unwrap()];
                builder.with_client_auth_cert(chain, PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap()).unwrap()
            }
        })
    }

    /// With the ALPN protocol `h2` or `http/1.1`.
    pub fn speaking(mut self, protocol: &str) -> Self {
        self.0.alpn_protocols = vec![protocol.into()];
        self
    }

    /// Connects, and completes the handshake.
    pub async fn connect(&self, addr: SocketAddr) -> std::io::Result<TlsStream<TcpStream>> {
        let stream = TcpStream::connect(addr).await?;
        let connector = TlsConnector::from(Arc::new(self.0.clone()));
        connector.connect(ServerName::try_from(HOST).unwrap(), stream).await
    }

    /// Sends a request on a new connection. `Err` if it gets no reply. Fails the test if the connection
    /// neither replies nor ends.
    pub async fn send(&self, addr: SocketAddr, request: Request<Body>) -> anyhow::Result<Response<Bytes>> {
        let stream = in_time("the handshake of TLS", self.connect(addr)).await?;
        let reply = in_time("the request", Self::exchange(stream, request)).await?;
        let (head, body) = reply.into_parts();
        let body = in_time("the body", axum::body::to_bytes(Body::new(body), usize::MAX)).await?;
        Ok(Response::from_parts(head, body))
    }

    async fn exchange(stream: TlsStream<TcpStream>, request: Request<Body>) -> anyhow::Result<Response<Incoming>> {
        let is_h2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
        let io = TokioIo::new(stream);
        if is_h2 {
            let (mut sender, connection) = http2::handshake(TokioExecutor::new(), io).await?;
            reply_of(sender.send_request(request), tokio::spawn(connection)).await
        } else {
            let (mut sender, connection) = http1::handshake(io).await?;
            reply_of(sender.send_request(request), tokio::spawn(connection)).await
        }
    }

    /// `GET`. Returns the status and the body.
    pub async fn get(&self, addr: SocketAddr, path: &str) -> anyhow::Result<(u16, String)> {
        let request = Request::get(format!("https://{HOST}{path}")).header("host", HOST).body(Body::empty())?;
        let reply = self.send(addr, request).await?;
        Ok((reply.status().as_u16(), String::from_utf8(reply.body().to_vec())?))
    }
}

/// The reply to a request, or an error if the connection ends without one. A request that is sent while its connection
/// ends may stay in the queue of the client: then the client itself says nothing.
async fn reply_of(
    reply: impl Future<Output = hyper::Result<Response<Incoming>>>,
    connection: JoinHandle<hyper::Result<()>>,
) -> anyhow::Result<Response<Incoming>> {
    let mut reply = pin!(reply);
    tokio::select! {
        biased;
        reply = &mut reply => return Ok(reply?),
        _ = connection => {}
    }
    // It may have come with the end.
    Ok(reply.now_or_never().context("the connection has ended")??)
}

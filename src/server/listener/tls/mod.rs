//! TLS of both ports: the files that name the server and the authorities of its clients, the handshake,
//! and the names of a verified client.

mod config;
mod files;
mod reload;

use std::{io, sync::Arc};

use rustls::ServerConfig;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    sync::watch,
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};
use tokio_util::sync::CancellationToken;
use webpki::EndEntityCert;

pub use self::files::TlsFiles;
use self::{config::server_config, reload::Reload};
use crate::service::origin::PeerCertificate;

/// TLS as the files say now. Clones see the same reloads.
#[derive(Clone)]
pub struct Tls(watch::Receiver<Arc<ServerConfig>>);

impl Tls {
    /// Loads the files, and follows their changes until `stop`.
    ///
    /// # Errors
    /// A file is unreadable or unusable; the error names the key and the file.
    pub fn start(files: TlsFiles, stop: CancellationToken) -> anyhow::Result<Self> {
        let contents = files.read()?;
        let config = server_config(&files, &contents)?;
        let (sender, current) = watch::channel(config);
        tokio::spawn(Reload::new(files, contents, sender).run(stop));
        Ok(Self(current))
    }

    /// Shakes hands with a client. It has no deadline.
    ///
    /// # Errors
    /// The client speaks no TLS, none of ours, or has a certificate that does not verify.
    pub async fn accept<S: AsyncRead + AsyncWrite + Unpin>(&self, stream: S) -> io::Result<TlsStream<S>> {
        let config = self.0.borrow().clone();
        TlsAcceptor::from(config).accept(stream).await
    }
}

/// The names of the client, if it has shown a certificate. The handshake has verified it.
pub fn peer_certificate<S>(stream: &TlsStream<S>) -> Option<PeerCertificate> {
    let certificate = stream.get_ref().1.peer_certificates()?.first()?;
    let certificate = EndEntityCert::try_from(certificate).ok()?;
    let names = certificate.valid_dns_names().chain(certificate.valid_uri_names());
    Some(PeerCertificate { names: names.map(str::to_owned).collect() })
}

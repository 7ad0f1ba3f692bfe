//! TLS to payment-service: the sandbox behind a listener with TLS.

use std::{net::SocketAddr, sync::Arc};

use billing_service::sandbox::Switches;
use rustls::{
    RootCertStore, ServerConfig,
    crypto::aws_lc_rs,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    server::WebPkiClientVerifier,
};
use tokio::{
    io::copy_bidirectional,
    net::{TcpListener, TcpStream},
};
use tokio_rustls::TlsAcceptor;

use super::certificates::Certificates;
use crate::harness::{
    Database, Service, Sqlite,
    payments::{Paying, sandbox, settings},
};

/// Starts a TLS proxy to `target` for the rest of the test.
async fn front(target: SocketAddr, certificates: &Certificates, asks_clients: bool) -> String {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let builder = ServerConfig::builder_with_provider(provider.clone()).with_safe_default_protocol_versions().unwrap();
    let builder = if asks_clients {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(&certificates.pem("ca.pem")).unwrap()).unwrap();
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build().unwrap();
        builder.with_client_cert_verifier(verifier)
    } else {
        builder.with_no_client_auth()
    };
    let chain = vec![CertificateDer::from_pem_slice(&certificates.pem("server.pem")).unwrap()];
    let key = PrivateKeyDer::from_pem_slice(&certificates.pem("server-key.pem")).unwrap();
    let mut config = builder.with_single_cert(chain, key).unwrap();
    config.alpn_protocols = vec![b"h2".to_vec()];
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                // A client that refuses the certificate breaks the handshake.
                let Ok(mut stream) = acceptor.accept(stream).await else { return };
                let mut plain = TcpStream::connect(target).await.unwrap();
                let _ = copy_bidirectional(&mut stream, &mut plain).await;
            });
        }
    });
    addr.to_string()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_top_up_is_opened_only_over_verified_tls() {
    let (certificates, others) = (Certificates::new(), Certificates::new());
    let ca = certificates.file("ca.pem");
    let (cert, key) = (certificates.file("client.pem"), certificates.file("client-key.pem"));
    let other = others.file("ca.pem");
    let identity = [("payment_service.cert_file", &*cert), ("payment_service.key_file", &*key)];
    for (asks_clients, keys, is_opened) in [
        (false, vec![("payment_service.tls", "true"), ("payment_service.ca_file", &*ca)], true),
        (false, vec![("payment_service.tls", "true"), ("payment_service.ca_file", &*other)], false),
        (false, vec![], false),
        (
            true,
            vec![("payment_service.tls", "true"), ("payment_service.ca_file", &*ca), identity[0], identity[1]],
            true,
        ),
        (true, vec![("payment_service.tls", "true"), ("payment_service.ca_file", &*ca)], false),
    ] {
        let sandbox = sandbox(Switches::default()).await;
        let addr = format!("'{}'", front(sandbox.addr, &certificates, asks_clients).await);
        let mut changes = settings(&sandbox, &[("payment_service.grpc_addr", &addr)]);
        changes.extend(keys.iter().copied());
        if !is_opened {
            changes.push(("payment_service.timeout", "2s"));
        }
        let service = Service::start_on(Database::create(Sqlite).await, &changes).await;
        let paying = Paying { service, sandbox };
        let opened = paying.try_recharge("u", 5.0).await;
        assert_eq!(opened.is_ok(), is_opened, "{keys:?}: {opened:?}");
    }
}

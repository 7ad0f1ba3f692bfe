//! The configuration of rustls, from the contents of the files.

use std::sync::Arc;

use rustls::{
    RootCertStore, ServerConfig,
    crypto::aws_lc_rs,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    server::WebPkiClientVerifier,
    version::{TLS12, TLS13},
};

use super::files::{Contents, TlsFiles};

/// The protocols that a client may choose, the preferred one first.
const ALPN: [&[u8]; 2] = [b"h2", b"http/1.1"];

/// The configuration of a port.
///
/// # Errors
/// A content is unusable, or the key is not that of the certificate.
pub fn server_config(files: &TlsFiles, contents: &Contents) -> anyhow::Result<Arc<ServerConfig>> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let chain = certificates(&contents.cert).map_err(|why| files.bad_cert(why))?;
    let key = PrivateKeyDer::from_pem_slice(&contents.key).map_err(|why| files.bad_key(why))?;
    let builder = ServerConfig::builder_with_provider(provider.clone()).with_protocol_versions(&[&TLS13, &TLS12])?;
    let builder = match &contents.client_ca {
        None => builder.with_no_client_auth(),
        Some(pem) => {
            let roots = roots(pem).map_err(|why| files.bad_client_ca(why))?;
            // A client without a certificate has a token.
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
            let verifier = verifier.allow_unauthenticated().build();
            builder.with_client_cert_verifier(verifier.map_err(|why| files.bad_client_ca(why))?)
        }
    };
    let mut config = builder.with_single_cert(chain, key).map_err(|why| match why {
        rustls::Error::InconsistentKeys(_) => {
            files.bad_key("is not the key of the certificate in server.tls.cert_file")
        }
        rustls::Error::InvalidCertificate(why) => files.bad_cert(why),
        why => files.bad_key(why),
    })?;
    config.alpn_protocols = ALPN.map(Vec::from).into();
    Ok(Arc::new(config))
}

/// At least one certificate.
fn certificates(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, String> {
    let certificates: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    match certificates {
        Ok(certificates) if certificates.is_empty() => Err("has no certificate in PEM form".into()),
        Ok(certificates) => Ok(certificates),
        Err(why) => Err(why.to_string()),
    }
}

fn roots(pem: &[u8]) -> Result<RootCertStore, String> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(pem)? {
        roots.add(certificate).map_err(|why| why.to_string())?;
    }
    Ok(roots)
}

//! TLS and tokens of callers: the server's part of the configuration, and the client's trust.

use std::path::Path;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use sha2::{Digest, Sha256};
use tonic::transport::{Certificate, ClientTlsConfig};

/// The header of every call.
pub const AUTHORIZATION: &str = "Bearer 0123456789abcdef-load-benchmark";

/// Writes a certificate of the loopback address to `folder`. Returns the members of `server` that use it and
/// that ask for the token, and a client that trusts it.
///
/// # Errors
/// A file can't be written.
pub fn prepare(folder: &Path) -> anyhow::Result<(String, ClientTlsConfig)> {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let authority = CertifiedIssuer::self_signed(params, KeyPair::generate()?)?;
    let key = KeyPair::generate()?;
    let certificate = CertificateParams::new(vec!["127.0.0.1".into()])?.signed_by(&key, &authority)?;
    let (cert_file, key_file) = (folder.join("cert.pem"), folder.join("key.pem"));
    std::fs::write(&cert_file, certificate.pem())?;
    std::fs::write(&key_file, key.serialize_pem())?;
    let token = AUTHORIZATION.trim_start_matches("Bearer ");
    let hash: String = Sha256::digest(token).iter().map(|byte| format!("{byte:02x}")).collect();
    let server = format!(
        "  tls: {{cert_file: '{}', key_file: '{}'}}\n  grpc: {{addr: '127.0.0.1:0', timeout: 30s, auth: {{callers: \
         [{{name: bench, roles: [gateway, admin], token_sha256: ['{hash}']}}]}}}}\n",
        cert_file.display(),
        key_file.display()
    );
    let client = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(authority.pem()));
    Ok((server, client))
}

//! TLS to other servers: the authorities that this process trusts, and its own certificate.

use std::{
    fmt,
    fs::File,
    io::Read,
    path::{Path, PathBuf},
};

use base64::{Engine, engine::general_purpose::STANDARD};
use rustls::{
    ClientConfig, RootCertStore,
    crypto::aws_lc_rs,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
};

/// Size limit of a file, in bytes.
const MAX_BYTES: u64 = 1024 * 1024;
/// Characters in a line of PEM.
const PEM_LINE: usize = 64;

/// The configured files. Without `ca` the authorities of the system are trusted.
#[derive(Debug, Clone, Copy)]
pub struct TlsFiles<'f> {
    pub ca: &'f Option<PathBuf>,
    pub cert: &'f Option<PathBuf>,
    pub key: &'f Option<PathBuf>,
}

/// The checked contents of the files, in PEM form.
#[derive(Clone)]
pub struct ClientTls {
    pub authorities: Vec<u8>,
    pub identity: Option<ClientIdentity>,
}

/// The certificate of this process with its intermediates, and its key, in PEM form.
#[derive(Clone)]
pub struct ClientIdentity {
    pub cert: Vec<u8>,
    pub key: Vec<u8>,
}

/// The key with a defect, relative to its section, and the defect. It shows no content of a file.
#[derive(Debug, PartialEq, Eq)]
pub struct TlsDefect {
    pub key: &'static str,
    pub why: String,
}

impl fmt::Debug for ClientTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientTls").field("has_identity", &self.identity.is_some()).finish_non_exhaustive()
    }
}

impl TlsFiles<'_> {
    /// Whether no file is configured.
    pub fn is_empty(&self) -> bool {
        self.ca.is_none() && self.cert.is_none() && self.key.is_none()
    }

    /// Reads and checks the files, or the certificate store of the system.
    ///
    /// # Errors
    /// A file is missing, unreadable, too large or not in PEM form; the key is not that of the
    /// certificate; the system has no certificate store.
    pub fn read(&self) -> Result<ClientTls, TlsDefect> {
        let (roots, authorities) = match self.ca {
            Some(path) => {
                let pem = read("ca_file", path)?;
                (roots_of(path, &pem)?, pem)
            }
            None => system_roots()?,
        };
        Ok(ClientTls { authorities, identity: self.identity(roots)? })
    }

    fn identity(&self, roots: RootCertStore) -> Result<Option<ClientIdentity>, TlsDefect> {
        let (cert_path, key_path) = match (self.cert, self.key) {
            (None, None) => return Ok(None),
            (Some(cert), Some(key)) => (cert, key),
            (Some(_), None) => return Err(defect("cert_file", "needs key_file")),
            (None, Some(_)) => return Err(defect("key_file", "needs cert_file")),
        };
        let (cert, key) = (read("cert_file", cert_path)?, read("key_file", key_path)?);
        let chain = certificates("cert_file", cert_path, &cert)?;
        let no_key = |_| defect("key_file", format!("{} has no private key in PEM form", key_path.display()));
        let private = PrivateKeyDer::from_pem_slice(&key).map_err(no_key)?;
        let unusable = |error: rustls::Error| {
            defect("key_file", format!("{} does not fit {}: {error}", key_path.display(), cert_path.display()))
        };
        ClientConfig::builder_with_provider(aws_lc_rs::default_provider().into())
            .with_safe_default_protocol_versions()
            .map_err(unusable)?
            .with_root_certificates(roots)
            .with_client_auth_cert(chain, private)
            .map_err(unusable)?;
        Ok(Some(ClientIdentity { cert, key }))
    }
}

fn defect(key: &'static str, why: impl Into<String>) -> TlsDefect {
    TlsDefect { key, why: why.into() }
}

fn read(key: &'static str, path: &Path) -> Result<Vec<u8>, TlsDefect> {
    let unreadable = |error| defect(key, format!("can't read {}: {error}", path.display()));
    let mut bytes = Vec::new();
    let file = File::open(path).map_err(unreadable)?;
    file.take(MAX_BYTES + 1).read_to_end(&mut bytes).map_err(unreadable)?;
    if bytes.len() as u64 > MAX_BYTES {
        return Err(defect(key, format!("{} has more than {MAX_BYTES} bytes", path.display())));
    }
    Ok(bytes)
}

fn certificates(key: &'static str, path: &Path, pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, TlsDefect> {
    match CertificateDer::pem_slice_iter(pem).collect::<Result<Vec<_>, _>>() {
        Ok(found) if !found.is_empty() => Ok(found),
        _ => Err(defect(key, format!("{} has no certificate in PEM form", path.display()))),
    }
}

fn roots_of(path: &Path, pem: &[u8]) -> Result<RootCertStore, TlsDefect> {
    let mut roots = RootCertStore::empty();
    for authority in certificates("ca_file", path, pem)? {
        let unusable = |error| defect("ca_file", format!("{} has an unusable certificate: {error}", path.display()));
        roots.add(authority).map_err(unusable)?;
    }
    Ok(roots)
}

/// The authorities of the system's certificate store. Operators add their own authorities there, and
/// updates of the system replace it without a new release of this service.
fn system_roots() -> Result<(RootCertStore, Vec<u8>), TlsDefect> {
    let (mut roots, mut pem) = (RootCertStore::empty(), String::new());
    for authority in rustls_native_certs::load_native_certs().certs {
        // A store may have old certificates that rustls does not accept. They vouch for nothing.
        let text = STANDARD.encode(&authority);
        if roots.add(authority).is_err() {
            continue;
        }
        pem += "-----BEGIN CERTIFICATE-----\n";
        for start in (0..text.len()).step_by(PEM_LINE) {
            pem += text.get(start..text.len().min(start + PEM_LINE)).unwrap_or_default();
            pem.push('\n');
        }
        pem += "-----END CERTIFICATE-----\n";
    }
    if roots.is_empty() {
        let why = "the system has no certificate store; install ca-certificates, or name an authority in ca_file";
        return Err(defect("tls", why));
    }
    Ok((roots, pem.into_bytes()))
}

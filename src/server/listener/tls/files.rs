//! The files of TLS and their contents. Errors name the key and the file, and never show a content.

use std::{
    fmt::Display,
    fs::File,
    io::Read,
    path::{Path, PathBuf},
};

use anyhow::anyhow;

/// Size limit of a file, in bytes.
const MAX_BYTES: u64 = 1024 * 1024;

/// The files of `server.tls`.
#[derive(Debug, Clone)]
pub struct TlsFiles {
    /// The certificate of the server and its intermediates, in PEM form.
    pub cert: PathBuf,
    /// The private key of the certificate, in PEM form.
    pub key: PathBuf,
    /// The authorities of client certificates, in PEM form.
    pub client_ca: Option<PathBuf>,
}

/// The contents of the files.
#[derive(Clone, PartialEq, Eq)]
pub struct Contents {
    pub cert: Vec<u8>,
    pub key: Vec<u8>,
    pub client_ca: Option<Vec<u8>>,
}

impl TlsFiles {
    /// # Errors
    /// A file is missing, unreadable or too large.
    pub fn read(&self) -> anyhow::Result<Contents> {
        Ok(Contents {
            cert: read(&self.cert).map_err(|why| self.bad_cert(why))?,
            key: read(&self.key).map_err(|why| self.bad_key(why))?,
            client_ca: match &self.client_ca {
                Some(path) => Some(read(path).map_err(|why| self.bad_client_ca(why))?),
                None => None,
            },
        })
    }

    pub fn bad_cert(&self, why: impl Display) -> anyhow::Error {
        bad("cert_file", &self.cert, why)
    }

    pub fn bad_key(&self, why: impl Display) -> anyhow::Error {
        bad("key_file", &self.key, why)
    }

    pub fn bad_client_ca(&self, why: impl Display) -> anyhow::Error {
        bad("client_ca_file", self.client_ca.as_deref().unwrap_or(Path::new("")), why)
    }
}

fn bad(key: &str, path: &Path, why: impl Display) -> anyhow::Error {
    anyhow!("config key server.tls.{key}: {}: {why}", path.display())
}

fn read(path: &Path) -> Result<Vec<u8>, String> {
    let mut bytes = Vec::new();
    let read = File::open(path).and_then(|file| file.take(MAX_BYTES + 1).read_to_end(&mut bytes));
    match read {
        Err(why) => Err(why.to_string()),
        Ok(read) if read as u64 > MAX_BYTES => Err(format!("is larger than {MAX_BYTES} bytes")),
        Ok(_) => Ok(bytes),
    }
}

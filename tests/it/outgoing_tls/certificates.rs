//! A private authority of a test, and the files of its certificates.

use std::{fs, path::PathBuf};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};

/// An authority, and files with its certificates for `127.0.0.1`.
pub struct Certificates {
    folder: tempfile::TempDir,
}

impl Certificates {
    pub fn new() -> Self {
        // All names differ: certificates with the name of their authority, or authorities with the same
        // name, would be confused.
        let name = uuid::Uuid::now_v7().to_string();
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, format!("authority {name}"));
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let authority = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let certificates = Self { folder: tempfile::tempdir().unwrap() };
        certificates.write("ca.pem", &authority.pem());
        for name in ["server", "client"] {
            let key = KeyPair::generate().unwrap();
            let mut params = CertificateParams::new(["127.0.0.1".to_owned()]).unwrap();
            params.distinguished_name.push(DnType::CommonName, name);
            certificates.write(&format!("{name}.pem"), &params.signed_by(&key, &authority).unwrap().pem());
            certificates.write(&format!("{name}-key.pem"), &key.serialize_pem());
        }
        certificates
    }

    fn write(&self, name: &str, pem: &str) {
        fs::write(self.folder.path().join(name), pem).unwrap();
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Like [`Self::path`], as text for a configuration or an argument.
    pub fn file(&self, name: &str) -> String {
        self.path(name).display().to_string()
    }

    pub fn pem(&self, name: &str) -> Vec<u8> {
        fs::read(self.path(name)).unwrap()
    }
}

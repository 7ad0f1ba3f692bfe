//! TLS to other servers: the keys `tls`, `ca_file`, `cert_file` and `key_file` of a section.

use anyhow::{anyhow, bail};

use super::{Database, Driver, PaymentServiceConfig, Redis};
use crate::data::{
    dsn::{self, Tls},
    tls::{ClientTls, TlsDefect, TlsFiles},
};

impl Redis {
    /// The authorities and the certificate for TLS to Redis; `None` without TLS.
    ///
    /// # Errors
    /// The key and its defect.
    pub fn client_tls(&self) -> anyhow::Result<Option<ClientTls>> {
        let files = TlsFiles { ca: &self.ca_file, cert: &self.cert_file, key: &self.key_file };
        switched("data.redis", self.tls, files)
    }
}

impl PaymentServiceConfig {
    /// The authorities and the certificate for TLS to payment-service; `None` without TLS.
    ///
    /// # Errors
    /// The key and its defect.
    pub fn client_tls(&self) -> anyhow::Result<Option<ClientTls>> {
        let files = TlsFiles { ca: &self.ca_file, cert: &self.cert_file, key: &self.key_file };
        if self.tls && self.sandbox {
            bail!("config key payment_service.tls: payment-sandbox serves no TLS; remove the key, or sandbox");
        }
        switched("payment_service", self.tls, files)
    }
}

impl Database {
    /// The authorities and the certificate for TLS to the database; `None` if `source` asks for no
    /// verified TLS.
    ///
    /// # Errors
    /// The key and its defect.
    pub fn client_tls(&self) -> anyhow::Result<Option<ClientTls>> {
        const SECTION: &str = "data.database";
        let files = TlsFiles { ca: &self.ca_file, cert: &self.cert_file, key: &self.key_file };
        let tls = match self.driver {
            Driver::Mysql => dsn::tls(self.source.reveal()),
            Driver::Sqlite => None,
        };
        match tls {
            Some(Tls::Custom) if files.ca.is_none() => {
                bail!("config key {SECTION}.ca_file: tls=custom in {SECTION}.source needs it")
            }
            Some(Tls::System) if files.ca.is_some() => {
                bail!("config key {SECTION}.ca_file: needs tls=custom in {SECTION}.source, in place of tls=true")
            }
            Some(Tls::Custom | Tls::System) => read(SECTION, files).map(Some),
            None if files.is_empty() => Ok(None),
            None if files.ca.is_some() => bail!("config key {SECTION}.ca_file: needs tls=custom in {SECTION}.source"),
            None => bail!("config key {SECTION}.cert_file: needs tls=true or tls=custom in {SECTION}.source"),
        }
    }
}

fn switched(section: &str, is_on: bool, files: TlsFiles<'_>) -> anyhow::Result<Option<ClientTls>> {
    match is_on {
        true => read(section, files).map(Some),
        false if files.is_empty() => Ok(None),
        false => bail!("config key {section}.tls: must be true, because ca_file, cert_file or key_file is there"),
    }
}

fn read(section: &str, files: TlsFiles<'_>) -> anyhow::Result<ClientTls> {
    files.read().map_err(|TlsDefect { key, why }| match (section, key) {
        // The database has no key `tls`.
        ("data.database", "tls") => anyhow!("config key data.database.source: {why}, with tls=custom"),
        _ => anyhow!("config key {section}.{key}: {why}"),
    })
}

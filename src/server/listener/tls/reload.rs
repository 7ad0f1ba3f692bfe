//! Follows changes of the TLS files. A connection keeps the certificate of its handshake, so a reload
//! ends none.

use std::{sync::Arc, time::Duration};

use rustls::ServerConfig;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::{
    config::server_config,
    files::{Contents, TlsFiles},
};

/// Interval of looks at the files. A change is used at the second look that finds it, so within twice
/// this time.
const INTERVAL: Duration = Duration::from_secs(2);

pub struct Reload {
    files: TlsFiles,
    /// The contents in use.
    used: Contents,
    /// The contents at the last look. Contents that still change are not used: a chain whose end is
    /// not yet written looks complete.
    seen: Option<Contents>,
    /// The last refusal, so that it is logged once.
    refusal: Option<String>,
    sender: watch::Sender<Arc<ServerConfig>>,
}

impl Reload {
    pub fn new(files: TlsFiles, used: Contents, sender: watch::Sender<Arc<ServerConfig>>) -> Self {
        Self { files, used, seen: None, refusal: None, sender }
    }

    /// Looks at the files until `stop`.
    pub async fn run(mut self, stop: CancellationToken) {
        loop {
            tokio::select! {
                () = tokio::time::sleep(INTERVAL) => {}
                () = stop.cancelled() => return,
            }
            let files = self.files.clone();
            // A network file system may be slow.
            match tokio::task::spawn_blocking(move || files.read()).await {
                Ok(read) => self.look(read),
                Err(error) => tracing::error!(%error, "look at the TLS files ended abnormally"),
            }
        }
    }

    fn look(&mut self, read: anyhow::Result<Contents>) {
        let contents = match read {
            Ok(contents) => contents,
            Err(why) => return self.refuse(&why),
        };
        if contents == self.used {
            self.refusal = None;
        } else if self.seen.as_ref() == Some(&contents) {
            match server_config(&self.files, &contents) {
                Ok(config) => {
                    self.sender.send_replace(config);
                    self.used = contents.clone();
                    self.refusal = None;
                    tracing::info!("TLS files reloaded");
                }
                Err(why) => self.refuse(&why),
            }
        }
        self.seen = Some(contents);
    }

    fn refuse(&mut self, why: &anyhow::Error) {
        let why = why.to_string();
        if self.refusal.as_ref() != Some(&why) {
            tracing::error!(error = why, "changed TLS files are unusable; the previous ones stay in use");
            self.refusal = Some(why);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn contents(cert: &str) -> Contents {
        Contents { cert: cert.into(), key: Vec::new(), client_ca: None }
    }

    /// A chain whose end is not yet written looks complete. So contents are judged when they stood still.
    #[test]
    fn contents_are_used_at_the_second_look_that_finds_them() {
        let config = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()));
        let config = config.with_safe_default_protocol_versions().unwrap().with_no_client_auth();
        let config = config.with_cert_resolver(Arc::new(rustls::server::ResolvesServerCertUsingSni::new()));
        let (sender, _current) = watch::channel(Arc::new(config));
        let files = TlsFiles { cert: "cert.pem".into(), key: "key.pem".into(), client_ca: None };
        let mut reload = Reload::new(files, contents("in use"), sender);
        for growing in ["a", "ab", "abc", "in use", "abc"] {
            reload.look(Ok(contents(growing)));
            assert_eq!(reload.refusal, None, "{growing} was judged");
        }
        reload.look(Ok(contents("abc")));
        assert!(reload.refusal.is_some(), "it is no certificate");
    }
}

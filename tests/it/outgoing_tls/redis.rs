//! TLS to Redis in its three modes.

use std::path::Path;

use redis::cmd;
use rstest::rstest;

use super::certificates::Certificates;
use crate::harness::{
    Service, Sqlite, charge,
    private_server::{PORTS, free_port, free_port_where, is_free},
    redis::OwnRedis,
    wait::until,
};

const MASTER: &str = "billing";

/// A Redis with two ports: one without TLS for the test, and one with TLS for the service.
struct TlsRedis {
    data: OwnRedis,
    _sentinel: Option<OwnRedis>,
    /// The keys of `data.redis` with its address, without the keys of certificates.
    reach: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    Single,
    Sentinel,
    Cluster,
}

impl TlsRedis {
    async fn start(mode: Mode, certificates: &Certificates, asks_clients: bool) -> Self {
        let has_bus = mode == Mode::Cluster;
        let port = free_port_where(|port| !has_bus || is_free(port + PORTS));
        let options = tls_options(port, certificates, asks_clients);
        let mut arguments: Vec<String> = Vec::new();
        for (name, value) in &options {
            arguments.extend([format!("--{name}"), value.clone()]);
        }
        if has_bus {
            for argument in ["--cluster-enabled", "yes", "--tls-cluster", "yes", "--cluster-announce-ip", "127.0.0.1"] {
                arguments.push(argument.into());
            }
        }
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        let data = OwnRedis::start_with(&arguments).await;
        match mode {
            Mode::Single => Self { data, _sentinel: None, reach: format!("addr: '127.0.0.1:{port}'") },
            Mode::Sentinel => {
                let own = free_port();
                let options = tls_options(own, certificates, asks_clients);
                let command = |folder: &Path, plain: u16| {
                    let mut lines =
                        format!("port {plain}\nbind 127.0.0.1\ndir {}\ntls-replication yes\n", folder.display());
                    options.iter().for_each(|(name, value)| lines += &format!("{name} {value}\n"));
                    lines += &format!("sentinel monitor {MASTER} 127.0.0.1 {port} 1\n");
                    let file = folder.join("sentinel.conf");
                    std::fs::write(&file, lines).unwrap();
                    vec!["redis-server".to_owned(), file.display().to_string(), "--sentinel".to_owned()]
                };
                let sentinel = OwnRedis::start_as(free_port, command).await;
                let reach = format!("addr: '127.0.0.1:{own}', mode: sentinel, master: {MASTER}");
                Self { data, _sentinel: Some(sentinel), reach }
            }
            Mode::Cluster => {
                let mut connection = data.connection().await;
                let () =
                    cmd("CLUSTER").arg("ADDSLOTSRANGE").arg(0).arg(16_383).query_async(&mut connection).await.unwrap();
                until("the cluster is whole", async || {
                    let info: String = cmd("CLUSTER").arg("INFO").query_async(&mut connection).await.unwrap();
                    info.contains("cluster_state:ok")
                })
                .await;
                Self { data, _sentinel: None, reach: format!("addr: '127.0.0.1:{port}', mode: cluster") }
            }
        }
    }

    /// A service that uses this Redis, with further keys of `data.redis`.
    async fn service(&self, keys: &str) -> Service {
        let redis = format!("{{{}, read_timeout: 5s, write_timeout: 5s, check_timeout: 5s{keys}}}", self.reach);
        Service::start_with(Sqlite, &[("data.redis", &redis)]).await
    }
}

fn tls_options(port: u16, certificates: &Certificates, asks_clients: bool) -> Vec<(&'static str, String)> {
    vec![
        ("tls-port", port.to_string()),
        ("tls-cert-file", certificates.file("server.pem")),
        ("tls-key-file", certificates.file("server-key.pem")),
        ("tls-ca-cert-file", certificates.file("ca.pem")),
        ("tls-auth-clients", if asks_clients { "yes" } else { "no" }.into()),
    ]
}

async fn is_up(service: &Service) -> bool {
    service.metrics().await.lines().any(|line| line == "billing_redis_up 1")
}

fn trusting(certificates: &Certificates) -> String {
    format!(", tls: true, ca_file: '{}'", certificates.file("ca.pem"))
}

#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_mode_of_redis_works_over_tls(#[values(Mode::Single, Mode::Sentinel, Mode::Cluster)] mode: Mode) {
    let certificates = Certificates::new();
    let redis = TlsRedis::start(mode, &certificates, true).await;
    let identity = format!(
        ", cert_file: '{}', key_file: '{}'",
        certificates.file("client.pem"),
        certificates.file("client-key.pem")
    );
    let service = redis.service(&(trusting(&certificates) + &identity)).await;
    until("redis is up", async || is_up(&service).await).await;
    service.deduct(charge("u", "asset", 1)).await;
    let prefix = service.database.cache_prefix().await;
    // A check from the near cache stores nothing in Redis.
    until("a check stores an entry", async || {
        assert!(service.check("u", "asset", 1).await.allowed);
        !redis.data.hashes(&format!("{prefix}*")).await.is_empty()
    })
    .await;
    service.database.assert_audit_is_clean().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_redis_with_a_failed_handshake_is_not_used_and_checks_go_on() {
    let (certificates, others) = (Certificates::new(), Certificates::new());
    let redis = TlsRedis::start(Mode::Single, &certificates, true).await;
    for keys in [
        // Another authority, no client certificate, and no TLS.
        format!(
            "{}, cert_file: '{}', key_file: '{}'",
            trusting(&others),
            certificates.file("client.pem"),
            certificates.file("client-key.pem")
        ),
        trusting(&certificates),
        String::new(),
    ] {
        let service = redis.service(&keys).await;
        assert!(service.check("u", "asset", 1).await.allowed);
        assert_eq!(service.deduct(charge("u", "asset", 1)).await.free_remaining, 999);
        assert!(!is_up(&service).await, "{keys}");
        assert!(redis.data.hashes("billing:*").await.is_empty(), "{keys}");
    }
}

//! Handshakes: versions, protocols, certificates, and silent clients.

use std::time::Duration;

use billing_service::{
    app::App,
    service::proto::{
        CheckQuotaRequest, GetAccountRequest, billing_internal_service_client::BillingInternalServiceClient,
        billing_service_client::BillingServiceClient,
    },
};
use rstest::rstest;
use rustls::version::{TLS12, TLS13};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};

use super::{Listener, within};
use crate::harness::{
    Backend, Database, MySql, Sqlite,
    tls::{Authority, Files, Https, TlsService},
    wait::soon,
};

#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn both_ports_accept_only_tls(#[values(MySql, Sqlite)] on: Backend) {
    let service = TlsService::start_with(on, &[]).await;
    let https = service.https(None);
    for addr in [service.app.http_addr, service.app.grpc_addr] {
        for client in [https.clone(), https.clone().speaking("h2"), https.clone().speaking("http/1.1")] {
            for path in ["/health", "/ready"] {
                assert_eq!(client.get(addr, path).await.unwrap().0, 200, "{path}");
            }
        }
        let plain = reqwest::get(format!("http://{addr}/health")).await;
        assert!(plain.is_err(), "{plain:?}");
    }
    let channel = service.channel(None).await;
    let check = CheckQuotaRequest { user_id: "u".into(), service_name: "asset".into(), count: 1, ..Default::default() };
    let checked = BillingInternalServiceClient::new(channel.clone()).check_quota(check).await.unwrap();
    assert!(checked.into_inner().allowed);
    let account = GetAccountRequest { user_id: "u".into() };
    let account = BillingServiceClient::new(channel.clone()).get_account(account).await.unwrap();
    assert_eq!(account.into_inner().user_id, "u");
    let health = HealthClient::new(channel).check(HealthCheckRequest::default()).await.unwrap();
    assert_eq!(health.into_inner().status, 1);
    let (status, account) = https.get(service.app.http_addr, "/api/v1/billing/account?user_id=u").await.unwrap();
    assert_eq!(status, 200, "{account}");
    service.app.stop().await;
}

#[tokio::test]
async fn a_client_may_use_both_versions_and_both_protocols() {
    let authority = Authority::new();
    let listener = Listener::start(&Files::of(&authority.server(), &authority)).await;
    for version in [&TLS12, &TLS13] {
        for protocol in ["h2", "http/1.1"] {
            let client = Https::with_versions(&authority, None, &[version]).speaking(protocol);
            let stream = client.connect(listener.addr).await.unwrap();
            let session = stream.get_ref().1;
            assert_eq!(session.protocol_version(), Some(version.version));
            assert_eq!(session.alpn_protocol(), Some(protocol.as_bytes()));
            assert_eq!(client.get(listener.addr, "/names").await.unwrap(), (200, "no certificate".into()));
        }
    }
    let other = Https::trusting(&authority, None).speaking("spdy/3");
    assert!(other.connect(listener.addr).await.is_err());
}

/// Types of records.
const ALERT: u8 = 21;
const HANDSHAKE: u8 = 22;
/// The suites of ECDHE with AES 128, and CBC or GCM.
const SUITES: [u16; 2] = [0xc009, 0xc02b];

/// A ClientHello of the version 3.`minor`, which a server of that version accepts.
fn client_hello(minor: u8, suites: &[u16]) -> Vec<u8> {
    // The groups, the format of their points, and the signatures: P-256 with ECDSA and SHA-256.
    let extensions = [0, 10, 0, 4, 0, 2, 0, 23, 0, 11, 0, 2, 1, 0, 0, 13, 0, 4, 0, 2, 4, 3];
    let mut body = vec![3, minor];
    body.extend([7; 32]);
    // No session; the suites; no compression.
    body.extend([0, 0, 2 * suites.len() as u8]);
    body.extend(suites.iter().flat_map(|suite| suite.to_be_bytes()));
    body.extend([1, 0, 0, extensions.len() as u8]);
    body.extend(extensions);
    let length = body.len() as u8;
    let handshake = [&[1, 0, 0, length], &body[..]].concat();
    [&[22, 3, 1, 0, length + 4], &handshake[..]].concat()
}

#[tokio::test]
async fn an_older_version_of_tls_is_refused() {
    let authority = Authority::new();
    let listener = Listener::start(&Files::of(&authority.server(), &authority)).await;
    for (minor, answer) in [(0, ALERT), (1, ALERT), (2, ALERT), (3, HANDSHAKE)] {
        let mut stream = TcpStream::connect(listener.addr).await.unwrap();
        stream.write_all(&client_hello(minor, &SUITES)).await.unwrap();
        assert_eq!(soon(stream.read_u8()).await.unwrap(), answer, "3.{minor}");
        if answer == ALERT {
            let mut rest = Vec::new();
            soon(stream.read_to_end(&mut rest)).await.expect("the connection ends");
        }
    }
}

/// The first byte of the answer to a ClientHello.
async fn answer_to(listener: &Listener, hello: &[u8]) -> u8 {
    let mut stream = TcpStream::connect(listener.addr).await.unwrap();
    stream.write_all(hello).await.unwrap();
    soon(stream.read_u8()).await.unwrap()
}

#[tokio::test]
async fn no_weak_suite_is_taken() {
    let authority = Authority::new();
    let listener = Listener::start(&Files::of(&authority.server(), &authority)).await;
    assert_eq!(answer_to(&listener, &client_hello(3, &[0xc02b])).await, HANDSHAKE);
    for (suite, name) in [
        (0x0001, "RSA, no encryption"),
        (0x0003, "RSA export, RC4 40"),
        (0x0005, "RSA, RC4"),
        (0x000a, "RSA, 3DES"),
        (0x002f, "RSA, AES CBC"),
        (0x009c, "RSA, AES GCM: no forward secrecy"),
        (0x006d, "anonymous DH"),
        (0x009e, "DHE, AES GCM"),
        (0xc006, "ECDHE, no encryption"),
        (0xc007, "ECDHE, RC4"),
        (0xc008, "ECDHE, 3DES"),
        (0xc009, "ECDHE, AES CBC with SHA-1"),
        (0xc023, "ECDHE, AES CBC with SHA-256"),
        (0xc015, "anonymous ECDH, no encryption"),
        (0xc0ac, "ECDHE, AES CCM"),
    ] {
        assert_eq!(answer_to(&listener, &client_hello(3, &[suite])).await, ALERT, "{name}");
    }
}

#[tokio::test]
async fn a_client_certificate_gives_its_names_or_ends_the_handshake() {
    let (authority, clients) = (Authority::new(), Authority::new());
    let listener = Listener::start(&Files::of(&authority.server(), &clients)).await;
    let names = ["payment.internal", "*.pay.internal", "spiffe://example.com/payment", "10.0.0.1"];
    let known = clients.client(&names);
    for version in [&TLS12, &TLS13] {
        for protocol in ["h2", "http/1.1"] {
            let client = Https::with_versions(&authority, Some(&known), &[version]).speaking(protocol);
            let (status, body) = client.get(listener.addr, "/names").await.unwrap();
            assert_eq!((status, body), (200, names[..3].join(" ")), "an address is not a name");
        }
        // A certificate of another authority, and a server certificate.
        for unknown in [Authority::new().client(&names), clients.server()] {
            let client = Https::with_versions(&authority, Some(&unknown), &[version]);
            let reply = client.get(listener.addr, "/names").await;
            assert!(reply.is_err(), "{reply:?}");
        }
    }
}

#[tokio::test]
async fn without_authorities_no_client_certificate_is_requested() {
    let authority = Authority::new();
    let files = Files::of(&authority.server(), &authority);
    let service = Database::create(Sqlite).await;
    let tls = files.config();
    let (tls, _) = tls.rsplit_once(", client_ca_file").unwrap();
    let app = App::start(service.config(&[("server.tls", &format!("{tls}}}"))])).await.unwrap();
    let client = Https::trusting(&authority, Some(&Authority::new().client(&["unknown"])));
    assert_eq!(client.get(app.http_addr, "/health").await.unwrap().0, 200);
    app.stop().await;
}

#[tokio::test]
async fn an_unusable_file_is_an_error_at_the_start_that_names_it() {
    let authority = Authority::new();
    let database = Database::create(Sqlite).await;
    let (pair, other) = (authority.server(), authority.server());
    let half = &pair.cert[..pair.cert.len() / 2];
    for (name, content, key) in [
        ("cert.pem", "", "cert_file"),
        ("cert.pem", "no PEM", "cert_file"),
        ("cert.pem", half, "cert_file"),
        ("cert.pem", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", "cert_file"),
        ("key.pem", "", "key_file"),
        ("key.pem", &pair.cert, "key_file"),
        ("key.pem", &other.key, "key_file"),
        ("clients.pem", "", "client_ca_file"),
        ("clients.pem", half, "client_ca_file"),
        ("clients.pem", &pair.key, "client_ca_file"),
        ("cert.pem", &"x".repeat(1024 * 1024 + 1), "cert_file"),
    ] {
        let files = Files::of(&pair, &authority);
        files.write(name, content);
        let refused = App::start(database.config(&[("server.tls", &files.config())])).await.err();
        let why = format!("{:#}", refused.unwrap_or_else(|| panic!("{name} {content}")));
        let path = files.path(name).display().to_string();
        assert!(why.contains(&format!("config key server.tls.{key}: {path}: ")), "{why}");
        assert!(!why.contains("PRIVATE KEY"), "{why}");
    }
    let files = Files::of(&pair, &authority);
    for (name, key) in [("cert.pem", "cert_file"), ("key.pem", "key_file"), ("clients.pem", "client_ca_file")] {
        let missing = files.config().replace(name, "missing.pem");
        let why = format!("{:#}", App::start(database.config(&[("server.tls", &missing)])).await.err().unwrap());
        assert!(why.contains(&format!("config key server.tls.{key}: ")) && why.contains("missing.pem"), "{why}");
    }
}

#[tokio::test]
async fn a_silent_client_in_a_handshake_is_dropped() {
    let authority = Authority::new();
    let listener = Listener::start(&Files::of(&authority.server(), &authority)).await;
    let hello = client_hello(3, &SUITES);
    for length in [0, 1, hello.len() - 1] {
        let mut stream = TcpStream::connect(listener.addr).await.unwrap();
        stream.write_all(&hello[..length]).await.unwrap();
        let mut rest = Vec::new();
        let closed = within(Duration::from_secs(15), stream.read_to_end(&mut rest)).await;
        assert!(closed.is_some(), "a client with {length} bytes was kept");
    }
    for protocol in ["h2", "http/1.1"] {
        let mut stream = Https::trusting(&authority, None).speaking(protocol).connect(listener.addr).await.unwrap();
        let mut rest = Vec::new();
        let closed = within(Duration::from_secs(15), stream.read_to_end(&mut rest)).await;
        assert!(closed.is_some(), "a silent client after the handshake was kept: {protocol}");
    }
}

#[tokio::test]
async fn unfinished_handshakes_do_not_delay_others() {
    let authority = Authority::new();
    let listener = Listener::start(&Files::of(&authority.server(), &authority)).await;
    let mut silent = Vec::new();
    for _ in 0..50 {
        silent.push(TcpStream::connect(listener.addr).await.unwrap());
    }
    let client = Https::trusting(&authority, None);
    // Sooner than the deadline of the unfinished handshakes.
    let answered = tokio::time::timeout(Duration::from_secs(5), client.get(listener.addr, "/names")).await;
    assert_eq!(answered.unwrap().unwrap().0, 200);
}

//! Certificates that change while the server runs.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
};

use billing_service::service::proto::{
    CheckQuotaRequest, billing_internal_service_client::BillingInternalServiceClient,
};
use futures_util::future::join_all;
use rustls::pki_types::{CertificateDer, pem::PemObject};
use tokio_util::sync::CancellationToken;
use tonic::transport::Channel;

use super::Listener;
use crate::harness::{
    Database, Sqlite,
    process::ServerProcess,
    tls::{Authority, Files, Https, Pair, TlsService},
    wait::until,
};

/// Whether new connections see this certificate.
async fn shows(client: &Https, addr: SocketAddr, pair: &Pair) -> bool {
    let stream = client.connect(addr).await.unwrap();
    let shown = stream.get_ref().1.peer_certificates().unwrap()[0].clone();
    shown == CertificateDer::from_pem_slice(pair.cert.as_bytes()).unwrap()
}

fn check() -> CheckQuotaRequest {
    CheckQuotaRequest { user_id: "u".into(), service_name: "asset".into(), count: 1, ..Default::default() }
}

/// Makes calls until `stop`, and counts them. Each must succeed.
async fn call(channel: Channel, calls: Arc<AtomicUsize>, stop: CancellationToken) {
    let mut client = BillingInternalServiceClient::new(channel);
    while !stop.is_cancelled() {
        client.check_quota(check()).await.unwrap();
        calls.fetch_add(1, SeqCst);
    }
}

/// Like [`call`], with a new connection for each call.
async fn connect(client: Https, addr: SocketAddr, calls: Arc<AtomicUsize>, stop: CancellationToken) {
    while !stop.is_cancelled() {
        let (status, _) = client.get(addr, "/api/v1/billing/account?user_id=u").await.unwrap();
        assert_eq!(status, 200);
        calls.fetch_add(1, SeqCst);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn certificates_change_under_load_and_no_request_fails() {
    let service = TlsService::start_with(Sqlite, &[]).await;
    let (https, addr) = (service.https(None), service.app.http_addr);
    let (stop, on_old, on_new) = (CancellationToken::new(), Arc::<AtomicUsize>::default(), Arc::default());
    let mut callers = Vec::new();
    for protocol in ["h2", "http/1.1"] {
        callers.push(tokio::spawn(call(service.channel(None).await, on_old.clone(), stop.clone())));
        let client = https.clone().speaking(protocol);
        callers.push(tokio::spawn(connect(client, addr, Arc::clone(&on_new), stop.clone())));
    }
    // Twice, to test a reload after a reload.
    for _ in 0..2 {
        let next = service.authority.server();
        service.files.write("cert.pem", &next.cert);
        service.files.write("key.pem", &next.key);
        until("new connections see the new certificate", async || shows(&https, addr, &next).await).await;
        assert!(shows(&https, service.app.grpc_addr, &next).await, "both ports reload");
        let before = (on_old.load(SeqCst), on_new.load(SeqCst));
        until("both kinds of callers go on", async || {
            on_old.load(SeqCst) > before.0 + 10 && on_new.load(SeqCst) > before.1 + 10
        })
        .await;
    }
    stop.cancel();
    for caller in join_all(callers).await {
        caller.expect("no request failed, and no connection was lost");
    }
    service.database.assert_audit_is_clean().await;
    service.app.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn half_written_files_change_nothing_and_are_logged_once() {
    let (authority, database) = (Authority::new(), Database::create(Sqlite).await);
    let first = authority.server();
    let files = Files::of(&first, &authority);
    let conf = database.config_file(&[("server.tls", &files.config())]);
    let (server, mut log) = ServerProcess::start_logged(&conf);
    let addr: SocketAddr = server.grpc.strip_prefix("http://").unwrap().parse().unwrap();
    let client = Https::trusting(&authority, None);
    let is = |message: &'static str| move |line: &serde_json::Value| line["fields"]["message"] == message;
    const REFUSED: &str = "changed TLS files are unusable; the previous ones stay in use";
    const RELOADED: &str = "TLS files reloaded";

    let next = authority.server();
    files.write("cert.pem", &next.cert);
    let line = log.line(is(REFUSED));
    assert!(line["fields"]["error"].as_str().unwrap().contains("server.tls.key_file"), "{line}");
    assert!(shows(&client, addr, &first).await);
    files.write("key.pem", &next.key);
    log.line(is(RELOADED));
    assert!(shows(&client, addr, &next).await);
    assert_eq!(log.count(is(REFUSED)), 1);

    // A missing file has the same effect.
    std::fs::remove_file(files.path("key.pem")).unwrap();
    let missing = move |line: &serde_json::Value| {
        is(REFUSED)(line) && line["fields"]["error"].as_str().is_some_and(|error| error.contains("No such file"))
    };
    log.line(missing);
    assert!(shows(&client, addr, &next).await);
    files.write("cert.pem", &first.cert);
    files.write("key.pem", &first.key);
    until("the first certificate is back", async || shows(&client, addr, &first).await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn authorities_of_clients_change_for_new_connections() {
    let (authority, clients, others) = (Authority::new(), Authority::new(), Authority::new());
    let files = Files::of(&authority.server(), &clients);
    let listener = Listener::start(&files).await;
    // This client could resume a session from before the change.
    let before = Https::trusting(&authority, Some(&clients.client(&["before"])));
    let after = Https::trusting(&authority, Some(&others.client(&["after"])));
    assert_eq!(before.get(listener.addr, "/names").await.unwrap().1, "before");
    assert!(after.get(listener.addr, "/names").await.is_err());
    files.write("clients.pem", &others.pem());
    until("the new authority is trusted", async || after.get(listener.addr, "/names").await.is_ok()).await;
    assert_eq!(after.get(listener.addr, "/names").await.unwrap().1, "after");
    let reply = before.get(listener.addr, "/names").await;
    assert!(reply.is_err(), "{reply:?}");
}

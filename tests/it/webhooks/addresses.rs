//! Addresses that are not public, names that change their address, and certificates.

use std::{
    collections::VecDeque,
    io,
    net::IpAddr,
    sync::{Arc, Mutex},
};

use async_trait::async_trait;
use billing_service::{
    biz::webhooks::{
        delivery::{Failure, Outcome, Post, Sender},
        url::WebhookUrl,
    },
    data::webhooks::{
        resolver::{Lookup, Resolver},
        sender::HttpSender,
    },
};
use chrono::Utc;
use rstest::rstest;
use rustls::{
    ServerConfig,
    crypto::aws_lc_rs,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
};
use serde_json::json;
use tokio_rustls::TlsAcceptor;
use uuid::Uuid;

use super::{KEY, deliveries, put, put_request, receiver::Receiver, write_events};
use crate::harness::{
    Backend, MySql, Service, Sqlite, code_of,
    tls::{Authority, HOST, Pair},
    wait::until,
};

#[rstest]
#[tokio::test]
async fn addresses_that_are_not_public_are_refused_when_they_are_put_and_at_each_delivery(
    #[values(MySql, Sqlite)] on: Backend,
) {
    let service = Service::start_with(on, &[("billing.webhooks.key", KEY)]).await;
    let receiver = Receiver::start().await;
    for url in [
        receiver.url("/a"),
        format!("https://{}/", receiver.addr),
        "https://[::1]/".into(),
        "https://10.1.2.3/".into(),
        "https://169.254.169.254/latest/meta-data".into(),
        "https://[::ffff:127.0.0.1]/".into(),
        "http://example.com/".into(),
    ] {
        let refused = service.internal.clone().put_webhook(put_request("w", &url)).await.unwrap_err();
        assert_eq!(code_of(&refused).1, "10009", "{url}");
        assert!(refused.message().starts_with("url:") && !refused.message().contains("127.0.0.1"), "{refused:?}");
    }
    // A name is looked up when events are sent.
    put(&service.internal, "w", &format!("https://localhost:{}/", receiver.addr.port())).await;
    write_events(&service.database, [("u", 0)]).await;
    until("the delivery is refused", async || !deliveries(&service.internal, "w", "failed").await.is_empty()).await;
    assert_eq!(deliveries(&service.internal, "w", "").await[0].failure, "address");
    assert_eq!(receiver.connections(), 0);
}

/// Gives the addresses of a list, one at each look-up, and then the last one again.
struct Changing(Mutex<VecDeque<IpAddr>>);

#[async_trait]
impl Lookup for Changing {
    async fn addresses(&self, host: &str) -> io::Result<Vec<IpAddr>> {
        assert_eq!(host, "rebinding.example");
        let mut left = self.0.lock().unwrap();
        let next = if left.len() > 1 { left.pop_front() } else { left.front().copied() };
        Ok(vec![next.unwrap()])
    }
}

fn post(url: &str) -> Post {
    Post {
        url: WebhookUrl::from_stored(url),
        id: Uuid::now_v7(),
        at: Utc::now(),
        signature: "v1,test".into(),
        body: json!({"data": {}}).to_string(),
        trace: None,
    }
}

/// The address that counts as public in these tests, and one that does not.
const PUBLIC: &str = "127.0.0.1";
const PRIVATE: &str = "127.0.0.2";

#[rstest]
// The name leads to a private address from the second delivery on.
#[case(&[PUBLIC, PRIVATE], &[None, Some(Failure::Address), Some(Failure::Address)])]
// It leads to a private address at first.
#[case(&[PRIVATE, PUBLIC], &[Some(Failure::Address), None])]
// It changes to and fro.
#[case(&[PUBLIC, PRIVATE, PUBLIC, PRIVATE], &[None, Some(Failure::Address), None, Some(Failure::Address)])]
#[tokio::test]
async fn a_name_that_changes_its_address_never_leads_to_a_private_one(
    #[case] answers: &[&str],
    #[case] expected: &[Option<Failure>],
) {
    let public = Receiver::start_at(&format!("{PUBLIC}:0"), None).await;
    let private = Receiver::start_at(&format!("{PRIVATE}:{}", public.addr.port()), None).await;
    let lookup = Changing(Mutex::new(answers.iter().map(|answer| answer.parse().unwrap()).collect()));
    let resolver = Resolver::of(Arc::new(lookup), |address| address.to_string() == PUBLIC);
    let sender = HttpSender::new(resolver, None, false).unwrap();
    let url = format!("http://rebinding.example:{}/a", public.addr.port());
    for expected in expected {
        let outcome = sender.send(post(&url)).await;
        assert_eq!(outcome.failure, *expected);
    }
    assert_eq!(private.connections(), 0, "the private address was reached");
    let accepted = expected.iter().filter(|failure| failure.is_none()).count();
    assert_eq!(public.received("/a").len(), accepted);
}

#[tokio::test]
async fn one_private_address_among_public_ones_refuses_a_host() {
    struct Both;
    #[async_trait]
    impl Lookup for Both {
        async fn addresses(&self, _: &str) -> io::Result<Vec<IpAddr>> {
            Ok([PUBLIC, PRIVATE].map(|address| address.parse().unwrap()).into())
        }
    }
    let public = Receiver::start().await;
    let sender =
        HttpSender::new(Resolver::of(Arc::new(Both), |address| address.to_string() == PUBLIC), None, false).unwrap();
    let outcome = sender.send(post(&format!("http://both.example:{}/", public.addr.port()))).await;
    assert_eq!(outcome, Outcome::failed(Failure::Address));
    // A literal address is never looked up, and checked all the same.
    let outcome = sender.send(post(&format!("http://{PRIVATE}:{}/", public.addr.port()))).await;
    assert_eq!(outcome, Outcome::failed(Failure::Address));
    assert_eq!(public.connections(), 0);
}

fn acceptor(pair: &Pair) -> TlsAcceptor {
    let chain = CertificateDer::pem_slice_iter(pair.cert.as_bytes()).collect::<Result<_, _>>().unwrap();
    let key = PrivateKeyDer::from_pem_slice(pair.key.as_bytes()).unwrap();
    let config = ServerConfig::builder_with_provider(aws_lc_rs::default_provider().into())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .unwrap();
    TlsAcceptor::from(Arc::new(config))
}

#[rstest]
#[tokio::test]
async fn a_certificate_must_be_valid_for_the_host(#[values(MySql, Sqlite)] on: Backend) {
    let (authority, other) = (Authority::new(), Authority::new());
    let folder = tempfile::tempdir().unwrap();
    let ca_file = folder.path().join("ca.pem");
    std::fs::write(&ca_file, authority.pem()).unwrap();
    let settings = [
        ("billing.webhooks.key", KEY),
        ("billing.webhooks.allow_private", "true"),
        ("billing.webhooks.ca_file", ca_file.to_str().unwrap()),
    ];
    let service = Service::start_with(on, &settings).await;
    let good = Receiver::start_at("127.0.0.1:0", Some(acceptor(&authority.server()))).await;
    let foreign = Receiver::start_at("127.0.0.1:0", Some(acceptor(&other.server()))).await;
    let misnamed = Receiver::start_at("127.0.0.1:0", Some(acceptor(&authority.client(&["other.example"])))).await;
    for (name, receiver) in [("good", &good), ("foreign", &foreign), ("misnamed", &misnamed)] {
        put(&service.internal, name, &format!("https://{HOST}:{}/a", receiver.addr.port())).await;
    }
    write_events(&service.database, [("u", 0)]).await;
    until("the good one gets it", async || good.received("/a").len() == 1).await;
    for (name, receiver) in [("foreign", &foreign), ("misnamed", &misnamed)] {
        until("the attempt fails", async || !deliveries(&service.internal, name, "failed").await.is_empty()).await;
        assert_eq!(deliveries(&service.internal, name, "").await[0].failure, "tls", "{name}");
        assert!(receiver.received("/a").is_empty());
    }
}

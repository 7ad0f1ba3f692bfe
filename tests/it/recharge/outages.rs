//! payment-service refuses, is down, is slow, or answers nonsense. The order fails, the user gets an
//! error, and a later payment is still credited.

use std::collections::BTreeSet;

use axum::{Router, http::HeaderValue, response::Response};
use billing_service::{
    data::payment::proto::{CreateRefundRequest, GetPaymentRequest, GetRefundRequest, payment_client::PaymentClient},
    sandbox::{Options, Sandbox},
};
use rstest::rstest;
use serde_json::json;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
};
use tonic::Code;

use crate::harness::{
    Backend, Database, MySql, Service, Sqlite, code_of,
    payments::{Paying, failed, post_callback, recording_peer, success},
};

fn unavailable() -> (Code, String) {
    (Code::Unavailable, "10006".into())
}

/// Makes a top-up that fails with an error. Returns its order.
async fn fails(paying: &Paying, user: &str) -> String {
    let refused = paying.try_recharge(user, 5.0).await.unwrap_err();
    assert_eq!(code_of(&refused), unavailable());
    let orders = paying.orders(user).await;
    assert_eq!(orders[0].status, "failed", "{orders:?}");
    orders[0].order_id.clone()
}

#[rstest]
#[case::refused(json!({"create": "refuse"}))]
#[case::out_of_order(json!({"create": "unavailable"}))]
#[case::nonsense(json!({"create": "garbage_reply"}))]
#[tokio::test]
async fn a_payment_that_is_not_opened_fails_its_order(
    #[values(MySql, Sqlite)] on: Backend,
    #[case] switches: serde_json::Value,
) {
    let paying = Paying::start(on).await;
    paying.switch(switches);
    let order = fails(&paying, "u").await;
    paying.assert_books("u", 0.0).await;
    // The user pays although the order failed.
    paying.notify(success(&order, "p-1", 5.0)).await.unwrap();
    paying.assert_books("u", 5.0).await;
    // The next top-up succeeds.
    paying.sandbox.set_switches(Default::default());
    paying.recharge("u", 5.0).await;
}

#[rstest]
#[tokio::test]
async fn a_payment_opened_too_late_is_credited_when_it_is_paid(#[values(MySql, Sqlite)] on: Backend) {
    let paying = Paying::start_with(on, &[("payment_service.timeout", "5s")]).await;
    paying.recharge("u", 1.0).await;
    paying.switch(json!({"create_delay_ms": 30_000}));
    let order = fails(&paying, "u").await;
    // The payment exists, and only its reply was late.
    let mut payments = PaymentClient::connect(format!("http://{}", paying.sandbox.addr)).await.unwrap();
    let request = GetPaymentRequest { order_id: order.clone(), payment_id: String::new() };
    let payment = payments.get_payment(request).await.unwrap().into_inner().payment_id;
    paying.press(&format!("http://{}/pay/{payment}", paying.sandbox.addr), "SUCCESS").await;
    paying.until_order_is(&order, "success").await;
    paying.assert_books("u", 5.0).await;
}

#[rstest]
#[tokio::test]
async fn an_answer_within_the_payment_timeout_is_waited_for(#[values(MySql, Sqlite)] on: Backend) {
    // Longer than the deadline of other requests, and shorter than the timeout of payment-service.
    let changes = [("server.http.timeout", "200ms"), ("server.grpc.timeout", "200ms")];
    let paying = Paying::start_with(on, &changes).await;
    paying.switch(json!({"create_delay_ms": 1_000}));
    assert!(!paying.recharge("u", 5.0).await.payment_url.is_empty());
    let url = format!("http://{}/api/v1/billing/recharge", paying.service.app.http_addr);
    let body = json!({"user_id": "u", "amount": 5, "payment_method": "alipay"});
    let reply = paying.service.http.post(url).body(body.to_string()).send().await.unwrap();
    assert_eq!(reply.status(), 200);
}

#[rstest]
#[tokio::test]
async fn a_slow_payment_service_is_an_error_before_the_deadline_of_the_request(#[values(MySql, Sqlite)] on: Backend) {
    // As in the defaults, the timeout of payment-service is longer than the deadline of a request. Both
    // are long enough for a busy machine to create the order and to fail it.
    let timeouts = [("server.http.timeout", "6s"), ("server.grpc.timeout", "6s"), ("payment_service.timeout", "7s")];
    let paying = Paying::start_with(on, &timeouts).await;
    paying.recharge("u", 1.0).await;
    paying.switch(json!({"create_delay_ms": 30_000}));
    fails(&paying, "u").await;
    paying.assert_books("u", 0.0).await;
}

#[rstest]
#[tokio::test]
async fn one_connection_serves_all_calls(#[values(MySql, Sqlite)] on: Backend) {
    let sandbox = crate::harness::payments::sandbox(Default::default()).await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (service, behind) = (with_payment_service_at(on, listener.local_addr().unwrap(), "60s").await, sandbox.addr);
    let (accepted, mut connections) = tokio::sync::mpsc::unbounded_channel();
    let line = tokio::spawn(async move {
        loop {
            let (mut near, _) = listener.accept().await.unwrap();
            accepted.send(()).unwrap();
            let mut far = tokio::net::TcpStream::connect(behind).await.unwrap();
            tokio::spawn(async move { tokio::io::copy_bidirectional(&mut near, &mut far).await });
        }
    });
    let paying = Paying { service, sandbox };
    for _ in 0..3 {
        futures_util::future::join_all((0..10).map(|_| paying.recharge("u", 5.0))).await;
    }
    connections.recv().await.unwrap();
    assert!(connections.try_recv().is_err(), "there is more than one connection");
    line.abort();
}

#[rstest]
#[tokio::test]
async fn a_payment_service_is_used_again_after_an_outage(#[values(MySql, Sqlite)] on: Backend) {
    let paying = Paying::start(on).await;
    paying.recharge("u", 5.0).await;
    let (service, address) = (paying.service, paying.sandbox.addr);
    paying.sandbox.stop().await;
    let start = async || {
        let options = Options { addr: address.to_string(), ..Options::default() };
        Sandbox::start(options).await.unwrap()
    };
    let body = json!({"user_id": "u", "amount": 5, "payment_method": "alipay"}).to_string();
    let recharge = async || {
        let url = format!("http://{}/api/v1/billing/recharge", service.app.http_addr);
        service.http.post(url).body(body.clone()).send().await.unwrap().status().as_u16()
    };
    assert_eq!(recharge().await, 503);
    assert_eq!(recharge().await, 503);
    let sandbox = start().await;
    let paying = Paying { service, sandbox };
    paying.recharge("u", 5.0).await;
    let statuses: Vec<_> = paying.orders("u").await.into_iter().map(|order| order.status).collect();
    assert_eq!(statuses, ["pending", "failed", "failed", "pending"]);
    paying.assert_books("u", 0.0).await;
}

/// Starts a service with the address and the timeout of its payment-service.
async fn with_payment_service_at(on: Backend, address: std::net::SocketAddr, timeout: &str) -> Service {
    let address: &str = &format!("'{address}'");
    let changes = [
        ("payment_service.grpc_addr", address),
        ("payment_service.timeout", timeout),
        ("payment_service.callback_auth", "none"),
        ("payment_service.forward_metadata", "[x-app-id, x-absent]"),
        ("server.trusted_proxies", "[127.0.0.1, 10.0.0.0/8]"),
    ];
    Service::start_on(Database::create(on).await, &changes).await
}

/// A top-up fails, and its callback is still credited.
async fn assert_it_fails_and_recovers(service: &Service) {
    let url = format!("http://{}/api/v1/billing/recharge", service.app.http_addr);
    let body = json!({"user_id": "u", "amount": 5, "payment_method": "alipay"});
    let reply = service.http.post(url).body(body.to_string()).send().await.unwrap();
    assert_eq!(reply.status(), 503);
    let error: serde_json::Value = reply.json().await.unwrap();
    assert_eq!(error["reason"], "PAYMENT_UNAVAILABLE", "{error}");
    let (_, list) = service.get("/api/v1/billing/recharges?user_id=u").await;
    assert_eq!((&list["total"], &list["orders"][0]["status"]), (&json!(1), &json!("failed")), "{list}");
    let callback = success(list["orders"][0]["order_id"].as_str().unwrap(), "p-1", 5.0);
    let body = json!({"order_id": callback.order_id, "payment_order_id": "p-1", "amount": 5, "status": "SUCCESS"});
    assert_eq!(post_callback(service, &body.to_string(), &[]).await.0, 200);
    assert_eq!(service.account("u").await.balance, 5.0);
    service.assert_audit_is_clean().await;
}

#[rstest]
#[case::that_speaks_another_protocol(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nno")]
#[case::that_sends_noise(&[0xff; 64])]
#[case::that_hangs_up(b"")]
#[tokio::test]
async fn a_peer_that_is_no_payment_service_fails_the_top_up(
    #[values(MySql, Sqlite)] on: Backend,
    #[case] says: &'static [u8],
) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let service = with_payment_service_at(on, listener.local_addr().unwrap(), "1s").await;
    let peer = tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let _ = stream.read(&mut [0; 1_024]).await;
            let _ = stream.write_all(says).await;
        }
    });
    assert_it_fails_and_recovers(&service).await;
    peer.abort();
}

#[rstest]
#[tokio::test]
async fn a_silent_peer_fails_the_top_up(#[values(MySql, Sqlite)] on: Backend) {
    // Connections wait in the queue of the kernel.
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let service = with_payment_service_at(on, listener.local_addr().unwrap(), "1s").await;
    assert_it_fails_and_recovers(&service).await;
}

#[rstest]
#[case::with_details_that_are_not_base64(("grpc-status-details-bin", "!!!"), b"")]
#[case::with_a_message_that_can_not_be_decoded(("x-nothing", "0"), b"\0\0\0\0\x02\xff\xff")]
#[case::with_a_message_that_never_ends(("x-nothing", "0"), b"\0\xff\xff\xff\xff")]
#[tokio::test]
async fn a_malformed_answer_fails_the_top_up(
    #[values(MySql, Sqlite)] on: Backend,
    #[case] header: (&'static str, &'static str),
    #[case] body: &'static [u8],
) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let service = with_payment_service_at(on, listener.local_addr().unwrap(), "1s").await;
    let answer = async move || {
        let mut response = Response::new(axum::body::Body::from(body));
        let headers = response.headers_mut();
        headers.insert("content-type", HeaderValue::from_static("application/grpc"));
        if body.is_empty() {
            headers.insert("grpc-status", HeaderValue::from_static("3"));
        }
        headers.insert(header.0, HeaderValue::from_static(header.1));
        response
    };
    let app = Router::new().fallback(answer);
    let limits = billing_service::server::ListenerLimits {
        connections: 10,
        drain_timeout: std::time::Duration::from_secs(1),
        ..Default::default()
    };
    let peer = tokio::spawn(billing_service::server::serve(listener, app, limits, Default::default()));
    assert_it_fails_and_recovers(&service).await;
    peer.abort();
}

/// Anyone can send a callback without a proof.
#[tokio::test]
async fn an_unproven_callback_chooses_no_header_of_the_question_that_confirms_it() {
    for (auth, forwards) in [("confirm", false), ("none", true)] {
        let (address, mut sees, peer) = recording_peer().await;
        let address: &str = &format!("'{address}'");
        let changes = [
            ("payment_service.grpc_addr", address),
            ("payment_service.callback_auth", auth),
            ("payment_service.forward_metadata", "[x-app-id]"),
        ];
        let service = Service::start_on(Database::create(Sqlite).await, &changes).await;
        let trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
        let headers = [("x-app-id", "chosen"), ("traceparent", trace)];
        let url = format!("http://{}/api/v1/billing/recharge", service.app.http_addr);
        let body = json!({"user_id": "u", "amount": 5, "payment_method": "alipay"}).to_string();
        assert_eq!(service.http.post(url).body(body).send().await.unwrap().status(), 503);
        sees.recv().await.unwrap();
        let (_, list) = service.get("/api/v1/billing/recharges?user_id=u").await;
        // A report that names no payment is asked about even if it is trusted.
        let report =
            json!({"order_id": list["orders"][0]["order_id"], "refund_id": "r", "amount": 5, "status": "REFUNDED"});
        assert_eq!(post_callback(&service, &report.to_string(), &headers).await.0, 503);
        let (seen, _) = sees.recv().await.unwrap();
        assert_eq!((seen.contains_key("x-app-id"), seen["traceparent"].to_str().unwrap()), (forwards, trace), "{auth}");
        peer.abort();
    }
}

#[rstest]
#[tokio::test]
async fn the_trace_and_the_client_reach_payment_service(#[values(MySql, Sqlite)] on: Backend) {
    let (address, mut sees, peer) = recording_peer().await;
    let service = with_payment_service_at(on, address, "60s").await;
    let trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    let url = format!("http://{}/api/v1/billing/recharge", service.app.http_addr);
    let body = json!({"user_id": "1001", "amount": 19.9, "payment_method": "alipay"});
    let request =
        service.http.post(url).header("traceparent", trace).header("x-forwarded-for", "203.0.113.7, 10.0.0.1");
    let request = request.header("x-app-id", "app-1").header("x-other", "stays");
    assert_eq!(request.body(body.to_string()).send().await.unwrap().status(), 503);

    let (headers, frame) = sees.recv().await.unwrap();
    assert_eq!((headers["traceparent"].to_str().unwrap(), headers["x-app-id"].to_str().unwrap()), (trace, "app-1"));
    assert!(!headers.contains_key("x-other") && !headers.contains_key("x-absent"));
    assert!(headers.contains_key("grpc-timeout"));
    let message: billing_service::data::payment::proto::CreatePaymentRequest =
        prost::Message::decode(&frame[5..]).unwrap();
    assert_eq!((message.user_id, message.amount, message.client_ip.as_str()), (1_001, 1_990, "203.0.113.7"));
    assert_eq!((message.currency.as_str(), message.method), ("CNY", 1));
    // The call may have succeeded, so it was not repeated.
    assert!(sees.try_recv().is_err());
    peer.abort();
}

/// Of a top-up, and of an unapplied payment.
#[rstest]
#[tokio::test]
async fn the_metadata_of_a_refund_reaches_payment_service(#[values(MySql, Sqlite)] on: Backend) {
    let (address, mut sees, peer) = recording_peer().await;
    let service = with_payment_service_at(on, address, "60s").await;
    assert_it_fails_and_recovers(&service).await;
    sees.recv().await.unwrap();
    let (_, list) = service.get("/api/v1/billing/recharges?user_id=u").await;
    let order = list["orders"][0]["order_id"].as_str().unwrap();
    let stray = json!({"order_id": "stray", "payment_order_id": "p-stray", "amount": 5, "status": "SUCCESS"});
    assert_eq!(post_callback(&service, &stray.to_string(), &[]).await.0, 404);
    for (path, body, id) in [
        (format!("recharge/{order}/refund"), json!({"refund_id": "r-1", "amount": 5, "reason": "x"}), "r-1"),
        ("unapplied-payments/p-stray".into(), json!({"action": "refund", "reason": "x"}), "unapplied_p-stray_1"),
    ] {
        // The first call requests the refund, and its repeat asks about it.
        for app in ["app-1", "app-2"] {
            let url = format!("http://{}/internal/v1/billing/{path}", service.app.grpc_addr);
            let request = service.http.post(url).header("x-app-id", app).header("x-other", "stays");
            assert_eq!(request.body(body.to_string()).send().await.unwrap().status(), 200, "{path}");
            // A question without an answer is sent again.
            let mut ids = BTreeSet::new();
            while let Ok((headers, frame)) = sees.try_recv() {
                assert_eq!(headers["x-app-id"].to_str().unwrap(), app, "{path}");
                assert!(!headers.contains_key("x-other") && !headers.contains_key("x-absent"));
                ids.insert(if app == "app-1" {
                    <CreateRefundRequest as prost::Message>::decode(&frame[5..]).unwrap().refund_id
                } else {
                    <GetRefundRequest as prost::Message>::decode(&frame[5..]).unwrap().refund_id
                });
            }
            assert_eq!(ids, BTreeSet::from([id.to_owned()]), "{path}");
        }
    }
    peer.abort();
}

#[rstest]
#[tokio::test]
async fn a_callback_during_a_failed_top_up_is_settled(#[values(MySql, Sqlite)] on: Backend) {
    let paying = Paying::start(on).await;
    let order = paying.recharge("u", 5.0).await.order_id;
    paying.switch(json!({"create": "unavailable", "get": "unavailable"}));
    paying.notify(failed(&order, "p-1", 5.0)).await.unwrap();
    paying.notify(success(&order, "p-1", 5.0)).await.unwrap();
    paying.assert_books("u", 5.0).await;
}

//! The proofs of callbacks.

use billing_service::service::{proto::RechargeCallbackRequest, signature};
use chrono::{TimeDelta, Utc};
use rstest::rstest;
use serde_json::{Value, json};
use tonic::{Code, Request};

use crate::harness::{
    Backend, Database, MySql, Service, Sqlite, charge, code_of,
    payments::{Paying, SECRET, failed, post_callback, signed, success},
    process::{SERVER, run},
    wait::until,
};

const CONFIRM: (&str, &str) = ("payment_service.callback_auth", "confirm");
const NONE: (&str, &str) = ("payment_service.callback_auth", "none");

fn body(order: &str, payment: &str) -> String {
    json!({"order_id": order, "payment_order_id": payment, "amount": 5, "status": "SUCCESS"}).to_string()
}

#[rstest]
#[tokio::test]
async fn only_a_fresh_signature_over_the_exact_bytes_is_accepted(#[values(MySql, Sqlite)] on: Backend) {
    let paying = Paying::start(on).await;
    let order = paying.recharge("u", 5.0).await.order_id;
    let good = body(&order, "p-1");
    let now = Utc::now();
    let sign = |secret: &str, message: &str| signature::sign(secret, now, message.as_bytes());
    let old = signature::sign(SECRET, now - TimeDelta::seconds(310), good.as_bytes());
    let early = signature::sign(SECRET, now + TimeDelta::seconds(310), good.as_bytes());
    for (name, signature) in [
        ("empty", String::new()),
        ("garbage", "garbage".into()),
        ("of another secret", sign("another secret than the one", &good)),
        ("of no secret", sign("", &good)),
        ("of another body", sign(SECRET, &good.replace("p-1", "p-2"))),
        ("of the same body with a space", sign(SECRET, &format!("{good} "))),
        ("too old", old),
        ("too early", early),
    ] {
        let (status, reply) = post_callback(&paying.service, &good, &[(signature::HEADER, &signature)]).await;
        assert_eq!((status, &reply["metadata"]["error_code"]), (401, &json!("10012")), "{name}: {reply}");
    }
    let (status, reply) = post_callback(&paying.service, &good, &[]).await;
    assert_eq!((status, &reply["reason"]), (401, &json!("UNAUTHENTICATED")), "{reply}");
    assert_eq!(paying.counted("refused").await, 9);
    let metrics = paying.service.metrics().await;
    for (reason, count) in [("invalid", 8), ("missing", 1)] {
        let line = format!("billing_access_refused_total{{caller=\"unknown\",reason=\"{reason}\"}} {count}");
        assert!(metrics.contains(&line), "{line} is not in\n{metrics}");
    }
    paying.assert_books("u", 0.0).await;

    let (status, reply) = post_callback(&paying.service, &good, &[(signature::HEADER, &sign(SECRET, &good))]).await;
    assert_eq!((status, reply), (200, json!({"success": true})));
    paying.assert_books("u", 5.0).await;
}

#[rstest]
#[tokio::test]
async fn over_grpc_the_signature_is_over_the_encoded_message(#[values(MySql, Sqlite)] on: Backend) {
    let paying = Paying::start(on).await;
    let order = paying.recharge("u", 5.0).await.order_id;
    let callback = success(&order, "p-1", 5.0);
    let mut internal = paying.service.internal.clone();
    let of_another = signed(success(&order, "p-2", 5.0), Utc::now());
    let mut other = Request::new(callback.clone());
    *other.metadata_mut() = of_another.metadata().clone();
    for request in [Request::new(callback.clone()), other, signed(callback.clone(), Utc::now() - TimeDelta::hours(1))] {
        let refused = internal.recharge_callback(request).await.unwrap_err();
        assert_eq!(code_of(&refused), (Code::Unauthenticated, "10012".into()));
    }
    paying.assert_books("u", 0.0).await;
    internal.recharge_callback(signed(callback, Utc::now())).await.unwrap();
    paying.assert_books("u", 5.0).await;
}

#[rstest]
#[tokio::test]
async fn an_invalid_signed_callback_is_refused_and_counted(#[values(MySql, Sqlite)] on: Backend) {
    let paying = Paying::start(on).await;
    for body in ["not json", "[]", r#"{"order_id":"o","amount":"abc"}"#, r#"{"order_id":7}"#] {
        let signature = signature::sign(SECRET, Utc::now(), body.as_bytes());
        let (status, reply) = post_callback(&paying.service, body, &[(signature::HEADER, &signature)]).await;
        assert_eq!((status, &reply["metadata"]["error_code"]), (400, &json!("10009")), "{body}: {reply}");
    }
    assert_eq!(paying.counted("refused").await, 4);
    // Over gRPC: a message of another type. Its first field is a number.
    let other = billing_service::data::payment::proto::GetPaymentReply { amount: 7, ..Default::default() };
    let bytes = prost::Message::encode_to_vec(&other);
    let mut request = Request::new(other);
    let signature = signature::sign(SECRET, Utc::now(), &bytes);
    request.metadata_mut().insert(signature::HEADER, signature.parse().unwrap());
    let address = format!("http://{}", paying.service.app.grpc_addr);
    let channel = tonic::transport::Channel::from_shared(address).unwrap().connect().await.unwrap();
    let mut client = tonic::client::Grpc::new(channel);
    client.ready().await.unwrap();
    let path = "/billing.v1.BillingInternalService/RechargeCallback".parse().unwrap();
    let codec = tonic_prost::ProstCodec::<_, billing_service::service::proto::RechargeCallbackReply>::default();
    let refused = client.unary(request, path, codec).await.unwrap_err();
    assert_eq!(code_of(&refused), (Code::InvalidArgument, "10009".into()));
    assert_eq!(paying.counted("refused").await, 5);
}

#[rstest]
#[tokio::test]
async fn during_a_change_of_the_secret_both_secrets_are_accepted(#[values(MySql, Sqlite)] on: Backend) {
    let secrets = &format!("['a new secret for all callbacks', '{SECRET}']");
    let paying = Paying::start_with(on, &[("payment_service.callback_secrets", secrets)]).await;
    for (number, secret) in ["a new secret for all callbacks", SECRET].into_iter().enumerate() {
        let order = paying.recharge("u", 5.0).await.order_id;
        let body = body(&order, &format!("p-{number}"));
        let signature = signature::sign(secret, Utc::now(), body.as_bytes());
        assert_eq!(post_callback(&paying.service, &body, &[(signature::HEADER, &signature)]).await.0, 200);
    }
    paying.assert_books("u", 10.0).await;
}

#[rstest]
#[tokio::test]
async fn an_unsigned_callback_counts_only_if_payment_service_confirms_it(#[values(MySql, Sqlite)] on: Backend) {
    let paying = Paying::start_with(on, &[CONFIRM]).await;
    let opened = paying.recharge("u", 5.0).await;
    let order = paying.order(&opened.order_id).await;
    let (id, payment) = (order.order_id.as_str(), order.payment_order_id.as_str());
    let send = async |callback: RechargeCallbackRequest| {
        paying.hint(callback).await.map(|reply| reply.success).map_err(|status| code_of(&status).1)
    };
    // The payment is not paid.
    assert_eq!(send(success(id, payment, 5.0)).await, Err("10006".into()));
    assert_eq!(send(failed(id, payment, 5.0)).await, Err("10006".into()));
    assert_eq!(send(success(id, payment, 6.0)).await, Err("10006".into()));
    assert_eq!(paying.order(id).await.status, "pending");
    paying.assert_books("u", 0.0).await;

    // The callback is lost, and a stranger sends guesses. The real payment is credited, and
    // the guessed one is refused.
    paying.switch(json!({"lose": true}));
    paying.press(&opened.payment_url, "SUCCESS").await;
    assert_eq!(send(success(id, "guessed", 5.0)).await, Err("10004".into()));
    assert_eq!(paying.order(id).await.payment_order_id, payment);
    paying.assert_books("u", 5.0).await;
    assert_eq!(send(success(id, payment, 5.0)).await, Ok(true));
    assert_eq!(send(failed(id, payment, 5.0)).await, Ok(true));
    paying.assert_books("u", 5.0).await;
}

#[rstest]
#[tokio::test]
async fn forty_concurrent_unsigned_callbacks_credit_once(#[values(MySql, Sqlite)] on: Backend) {
    let paying = Paying::start_with(on, &[CONFIRM]).await;
    let opened = paying.recharge("u", 5.0).await;
    paying.switch(json!({"duplicates": 39}));
    paying.press(&opened.payment_url, "SUCCESS").await;
    paying.until_reported().await;
    assert_eq!((paying.counted("success").await, paying.counted("repeated").await), (1, 39));
    paying.assert_books("u", 5.0).await;
}

#[rstest]
#[tokio::test]
async fn a_failure_is_confirmed_by_a_look_up_too(#[values(MySql, Sqlite)] on: Backend) {
    let paying = Paying::start_with(on, &[CONFIRM]).await;
    let opened = paying.recharge("u", 5.0).await;
    paying.press(&opened.payment_url, "FAILED").await;
    paying.until_order_is(&opened.order_id, "failed").await;
    let lie = success(&opened.order_id, "p-1", 5.0);
    let refused = paying.hint(lie).await.unwrap_err();
    assert_eq!(code_of(&refused), (Code::Unavailable, "10006".into()));
    paying.assert_books("u", 0.0).await;
}

#[rstest]
#[tokio::test]
async fn an_unsigned_callback_without_a_confirmation_must_be_sent_again(#[values(MySql, Sqlite)] on: Backend) {
    let paying = Paying::start_with(on, &[CONFIRM]).await;
    let opened = paying.recharge("u", 5.0).await;
    paying.switch(json!({"get": "unavailable"}));
    paying.press(&opened.payment_url, "SUCCESS").await;
    let hint = success(&opened.order_id, "p-1", 5.0);
    let refused = paying.hint(hint).await.unwrap_err();
    // Not confirmed, or looked up a moment ago for the callback of the sandbox.
    assert!(["10006", "10014"].contains(&code_of(&refused).1.as_str()), "{refused:?}");
    paying.assert_books("u", 0.0).await;
    // The sandbox repeats callbacks without an answer.
    paying.sandbox.set_switches(Default::default());
    paying.until_order_is(&opened.order_id, "success").await;
    paying.assert_books("u", 5.0).await;
}

#[rstest]
#[tokio::test]
async fn without_callback_auth_every_callback_is_accepted(#[values(MySql, Sqlite)] on: Backend) {
    let paying = Paying::start_with(on, &[NONE]).await;
    let order = paying.recharge("u", 5.0).await.order_id;
    assert_eq!(post_callback(&paying.service, &body(&order, "p-1"), &[]).await, (200, json!({"success": true})));
    paying.assert_books("u", 5.0).await;
}

#[tokio::test]
async fn every_start_without_callback_auth_logs_a_warning() {
    // The address of the sandbox is taken, so that the start ends soon.
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address: &str = &format!("'{}'", taken.local_addr().unwrap());
    let sandbox = [("payment_service.grpc_addr", address), ("payment_service.sandbox", "true")];
    let database = Database::create(Sqlite).await;
    let says_so = async |auth: (&str, &str)| {
        let conf = database.config_file(&[sandbox[0], sandbox[1], auth]);
        let running = move || run(SERVER, &["-conf", conf.to_str().unwrap()], &[]);
        let ended = tokio::task::spawn_blocking(running).await.unwrap();
        String::from_utf8(ended.stderr).unwrap().contains("payment_service.callback_auth is none")
    };
    assert!(says_so(NONE).await && says_so(NONE).await);
    assert!(!says_so(CONFIRM).await);
}

#[rstest]
#[tokio::test]
async fn a_signed_callback_needs_no_token(#[values(MySql, Sqlite)] on: Backend) {
    let tokens = ("server.grpc.internal_tokens", "[a-token-of-the-gateway]");
    let paying = Paying::start_with(on, &[tokens]).await;
    let service = &paying.service;
    let order = recharge_over_rest(service).await["order_id"].as_str().unwrap().to_owned();
    paying.notify(success(&order, "p-1", 5.0)).await.unwrap();
    let pressed = recharge_over_rest(service).await;
    paying.press(pressed["payment_url"].as_str().unwrap(), "SUCCESS").await;
    let path = format!("/api/v1/billing/recharge/{}", pressed["order_id"].as_str().unwrap());
    until("the order is paid", async || service.get(&path).await.1["status"] == "success").await;
    let refused = service.try_deduct(charge("u", "asset", 1)).await.unwrap_err();
    assert_eq!(code_of(&refused), (Code::Unauthenticated, "10012".into()));
    assert_eq!(service.get("/api/v1/billing/account/u").await.1["balance"], 10.0);
    service.assert_audit_is_clean().await;

    let open = Paying::start_with(on, &[tokens, NONE]).await;
    let order = recharge_over_rest(&open.service).await["order_id"].as_str().unwrap().to_owned();
    assert_eq!(post_callback(&open.service, &body(&order, "p-1"), &[]).await.0, 401);
    let bearer = [("authorization", "Bearer a-token-of-the-gateway")];
    assert_eq!(post_callback(&open.service, &body(&order, "p-1"), &bearer).await.0, 200);
    assert_eq!(open.service.get("/api/v1/billing/account/u").await.1["balance"], 5.0);
}

/// Starts a top-up of 5 on the public port, which needs no token here.
async fn recharge_over_rest(service: &Service) -> Value {
    let url = format!("http://{}/api/v1/billing/recharge", service.app.http_addr);
    let request = service.http.post(url).body(r#"{"user_id": "u", "amount": 5, "payment_method": "alipay"}"#);
    request.send().await.unwrap().json().await.unwrap()
}

#[rstest]
#[tokio::test]
async fn the_public_port_takes_callbacks_if_configured(#[values(MySql, Sqlite)] on: Backend) {
    let paying = Paying::start_with(on, &[("server.http.internal_routes", "true")]).await;
    let order = paying.recharge("u", 5.0).await.order_id;
    let url = format!("http://{}/internal/v1/billing/callback", paying.service.app.http_addr);
    let body = body(&order, "p-1");
    let unsigned = paying.service.http.post(&url).body(body.clone()).send().await.unwrap();
    assert_eq!(unsigned.status(), 401);
    let signature = signature::sign(SECRET, Utc::now(), body.as_bytes());
    let signed = paying.service.http.post(&url).header(signature::HEADER, signature).body(body).send().await.unwrap();
    assert_eq!(signed.status(), 200);
    paying.assert_books("u", 5.0).await;
}

#[rstest]
#[tokio::test]
async fn an_oversized_callback_is_refused_before_it_is_read(#[values(MySql, Sqlite)] on: Backend) {
    let paying = Paying::start(on).await;
    let large = "x".repeat(2 * 1024 * 1024);
    let url = format!("http://{}/internal/v1/billing/callback", paying.service.app.grpc_addr);
    let signature = signature::sign(SECRET, Utc::now(), large.as_bytes());
    let sent = paying.service.http.post(url).header(signature::HEADER, signature).body(large).send().await;
    // The connection may be closed while the client is still sending.
    assert!(sent.is_err() || sent.is_ok_and(|response| response.status().is_client_error()));
    let metrics = paying.counted("refused").await;
    assert_eq!(metrics, 1);
}

/// A forged callback for an order that is known and pending is a question to payment-service.
#[tokio::test]
async fn forged_callbacks_for_a_pending_order_ask_payment_service_once_in_an_interval() {
    // The look-ups have a bound of their own, which must not be the one that refuses.
    let paying = Paying::start_with(Sqlite, &[CONFIRM, ("server.limits.callback_lookups", "1000000")]).await;
    let order = paying.recharge("u", 5.0).await.order_id;
    // Without the time between callbacks that `hint` lets pass.
    let refused = async || {
        let mut internal = paying.service.internal.clone();
        let refused = internal.recharge_callback(success(&order, "p-1", 5.0)).await.unwrap_err();
        (code_of(&refused).1, refused.message().to_owned())
    };
    assert_eq!(refused().await.0, "10006", "payment-service was asked");
    until("a callback is refused without a question", async || {
        let (code, message) = refused().await;
        code == "10014" && message.contains("asked a moment ago")
    })
    .await;
}

/// Whoever forges callbacks costs the database a bounded number of looks, and shows in a metric.
#[tokio::test]
async fn forged_callbacks_look_for_orders_at_a_bounded_rate() {
    let forged = success("o-forged", "p-1", 5.0);
    let refused = async |paying: &Paying| {
        let mut internal = paying.service.internal.clone();
        code_of(&internal.recharge_callback(forged.clone()).await.unwrap_err()).1
    };
    for (lookups, most) in [("1000000", 20), ("1", 5)] {
        let changes = [CONFIRM, ("server.limits.callback_lookups", lookups)];
        let paying = Paying::start_with(Sqlite, &changes).await;
        let mut looks = 0;
        while refused(&paying).await == "10003" {
            looks += 1;
            assert!(looks <= most + 5, "{lookups}: they are looked for without a bound");
        }
        let metrics = paying.service.metrics().await;
        let line = "billing_access_refused_total{caller=\"unknown\",reason=\"callbacks\"} 1";
        assert!(metrics.contains(line), "{metrics}");
    }
}

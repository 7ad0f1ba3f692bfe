//! Top-ups, from the request to the credit. The sandbox is the payment-service, with its real
//! contract.

mod answers;
mod auth;
mod browser;
mod callbacks;
pub mod crash;
mod currencies;
mod events;
mod keeping;
mod late_returns;
mod listing;
mod outages;
mod reconcile;
mod refunds;
mod repeats;
mod returned;
mod unapplied;

use std::{pin::pin, time::Duration};

use billing_service::service::proto::RechargeRequest;
use http::StatusCode;
use rstest::rstest;
use serde_json::{Value, json};
use tokio::time::timeout;
use tonic::Code;

use crate::harness::{
    Backend, Database, MySql, Service, Sqlite, code_of,
    payments::{Paying, press, settings},
    redis::Proxy,
    wait::until,
};

#[rstest]
#[tokio::test]
async fn a_top_up_paid_on_the_page_is_credited(#[values(MySql, Sqlite)] on: Backend) {
    let paying = Paying::start(on).await;
    let url = format!("http://{}/api/v1/billing/recharge", paying.service.app.http_addr);
    let body = json!({"userId": "42", "amount": "19.99", "paymentMethod": "wechat", "currency": "CNY"});
    let reply = paying.service.http.post(url).body(body.to_string()).send().await.unwrap();
    assert_eq!(reply.status(), StatusCode::OK);
    let reply: Value = reply.json().await.unwrap();
    let order_id = reply["order_id"].as_str().unwrap();
    assert!(order_id.starts_with("recharge_42_") && order_id.len() <= 64, "{order_id}");

    let order = paying.order(order_id).await;
    assert_eq!((order.status.as_str(), order.amount, order.currency.as_str()), ("pending", 19.99, "CNY"));
    assert_eq!((order.user_id.as_str(), order.payment_method.as_str()), ("42", "wechatpay"));
    assert_eq!(order.payment_url, reply["payment_url"].as_str().unwrap());
    let payment = order.payment_order_id;
    assert!(!payment.is_empty() && order.payment_url.ends_with(&payment));
    paying.assert_books("42", 0.0).await;

    paying.press(&order.payment_url, "SUCCESS").await;
    paying.until_order_is(order_id, "success").await;
    assert_eq!(paying.order(order_id).await.payment_order_id, payment);
    paying.assert_books("42", 19.99).await;
}

#[rstest]
#[tokio::test]
async fn a_top_up_failed_on_the_page_is_not_credited(#[values(MySql, Sqlite)] on: Backend) {
    let paying = Paying::start(on).await;
    let reply = paying.recharge("u", 5.0).await;
    paying.press(&reply.payment_url, "FAILED").await;
    paying.until_order_is(&reply.order_id, "failed").await;
    paying.assert_books("u", 0.0).await;
}

#[rstest]
#[tokio::test]
async fn a_callback_may_come_over_grpc(#[values(MySql, Sqlite)] on: Backend) {
    // The address is known only after the start. So the sandbox of the second service calls the
    // first service, on the same database.
    let paying = Paying::start(on).await;
    let notify: &str = &format!("'grpc://{}'", paying.service.app.grpc_addr);
    let config = paying.service.database.config(&settings(&paying.sandbox, &[("payment_service.notify_url", notify)]));
    let app = billing_service::app::App::start(config).await.unwrap();
    let url = format!("http://{}/api/v1/billing/recharge", app.http_addr);
    let body = json!({"user_id": "u", "amount": 5, "payment_method": "stripe"});
    let reply = paying.service.http.post(url).body(body.to_string()).send().await.unwrap();
    let reply: Value = reply.json().await.unwrap();
    paying.press(reply["payment_url"].as_str().unwrap(), "SUCCESS").await;
    paying.until_order_is(reply["order_id"].as_str().unwrap(), "success").await;
    app.stop().await;
    paying.assert_books("u", 5.0).await;
}

#[rstest]
#[tokio::test]
async fn an_invalid_top_up_is_refused_and_makes_no_order(#[values(MySql, Sqlite)] on: Backend) {
    let paying = Paying::start_with(on, &[("billing.max_recharge", "500")]).await;
    let good = RechargeRequest {
        user_id: "u".into(),
        amount: 5.0,
        payment_method: "alipay".into(),
        currency: "CNY".into(),
        ..Default::default()
    };
    for (request, field) in [
        (RechargeRequest { user_id: String::new(), ..good.clone() }, "user_id"),
        (RechargeRequest { user_id: "a b".into(), ..good.clone() }, "user_id"),
        (RechargeRequest { amount: 0.0, ..good.clone() }, "amount"),
        (RechargeRequest { amount: -1.0, ..good.clone() }, "amount"),
        (RechargeRequest { amount: 1.001, ..good.clone() }, "amount"),
        (RechargeRequest { amount: 500.01, ..good.clone() }, "amount"),
        (RechargeRequest { amount: f64::NAN, ..good.clone() }, "amount"),
        (RechargeRequest { amount: f64::INFINITY, ..good.clone() }, "amount"),
        (RechargeRequest { amount: 1e300, ..good.clone() }, "amount"),
        (RechargeRequest { payment_method: String::new(), ..good.clone() }, "payment_method"),
        (RechargeRequest { payment_method: "cash".into(), ..good.clone() }, "payment_method"),
        (RechargeRequest { currency: "USD".into(), ..good.clone() }, "currency"),
    ] {
        let refused = paying.service.public.clone().recharge(request).await.unwrap_err();
        assert_eq!(code_of(&refused), (Code::InvalidArgument, "10009".into()), "{refused:?}");
        assert!(refused.message().starts_with(&format!("{field}:")), "{refused:?}");
    }
    assert_eq!(paying.orders("u").await, vec![]);
    assert!(paying.service.public.clone().recharge(good).await.is_ok());
    paying.recharge("u", 500.0).await;
}

#[rstest]
#[tokio::test]
async fn two_top_ups_in_one_second_are_two_orders(#[values(MySql, Sqlite)] on: Backend) {
    let paying = Paying::start(on).await;
    let longest = "u".repeat(36);
    let all = futures_util::future::join_all((0..20).map(|_| paying.recharge(&longest, 1.0))).await;
    let ids: std::collections::BTreeSet<_> = all.iter().map(|reply| &reply.order_id).collect();
    assert_eq!(ids.len(), 20);
    assert!(ids.iter().all(|id| id.len() <= 64), "{ids:?}");
}

#[rstest]
#[tokio::test]
async fn the_server_can_run_the_sandbox_itself(#[values(MySql, Sqlite)] on: Backend) {
    let changes = [
        ("environment", "development"),
        ("payment_service.sandbox", "true"),
        ("payment_service.grpc_addr", "'127.0.0.1:0'"),
        ("payment_service.callback_secrets", "[one-secret-of-the-sandbox, another-secret-of-it]"),
    ];
    let service = Service::start_on(Database::create(on).await, &changes).await;
    let request =
        RechargeRequest { user_id: "u".into(), amount: 5.0, payment_method: "alipay".into(), ..Default::default() };
    let reply = service.public.clone().recharge(request).await.unwrap().into_inner();
    press(&service.http, &reply.payment_url, "SUCCESS").await;
    until("the top-up is credited", async || service.account("u").await.balance == 5.0).await;
    service.app.stop().await;
    assert!(service.http.get(&reply.payment_url).send().await.is_err(), "the sandbox ends with the server");
    service.database.assert_audit_is_clean().await;
}

#[tokio::test]
async fn without_a_payment_service_top_ups_are_refused() {
    let service = Service::start(Sqlite).await;
    let request =
        RechargeRequest { user_id: "u".into(), amount: 5.0, payment_method: "alipay".into(), ..Default::default() };
    let refused = service.public.clone().recharge(request).await.unwrap_err();
    assert_eq!(code_of(&refused), (Code::Unavailable, "10006".into()));
    let (_, list) = service.get("/api/v1/billing/recharges?user_id=u").await;
    assert_eq!(list["total"], 0);
}

/// Begins a top-up, and drops the call before the answer of payment-service.
async fn begin_and_drop(paying: &Paying, proxy: &Proxy) {
    proxy.stall_replies(true);
    tokio::select! {
        _ = paying.try_recharge("u", 5.0) => panic!("answered before the call was dropped"),
        () = until("the order exists", async || !paying.orders("u").await.is_empty()) => {}
    }
}

#[rstest]
#[tokio::test]
async fn an_order_of_a_dropped_call_gets_its_payment(#[values(MySql, Sqlite)] on: Backend) {
    let (paying, proxy) = Paying::start_behind_proxy(on).await;
    begin_and_drop(&paying, &proxy).await;
    proxy.stall_replies(false);
    until("the order has its payment", async || !paying.orders("u").await[0].payment_order_id.is_empty()).await;
    let order = paying.orders("u").await.remove(0);
    paying.press(&order.payment_url, "SUCCESS").await;
    paying.until_order_is(&order.order_id, "success").await;
    paying.assert_books("u", 5.0).await;
}

#[rstest]
#[tokio::test]
async fn a_stop_waits_for_the_top_up_of_a_dropped_call(#[values(MySql, Sqlite)] on: Backend) {
    let (paying, proxy) = Paying::start_behind_proxy(on).await;
    begin_and_drop(&paying, &proxy).await;
    let mut stopping = pin!(paying.service.app.stop());
    assert!(timeout(Duration::from_secs(2), &mut stopping).await.is_err(), "the stop waits for the payment");
    proxy.stall_replies(false);
    stopping.await;
    let noted = "FROM recharge_order WHERE user_id = 'u' AND payment_order_id IS NOT NULL";
    assert_eq!(paying.service.database.rows(&["status"], noted).await, [["pending"]]);
}

#[rstest]
#[tokio::test]
async fn the_metrics_of_top_ups_count_each_outcome(#[values(MySql, Sqlite)] on: Backend) {
    let paying = Paying::start(on).await;
    let (paid, failing) = (paying.recharge("u", 5.5).await, paying.recharge("u", 2.0).await);
    paying.press(&paid.payment_url, "SUCCESS").await;
    paying.press(&failing.payment_url, "FAILED").await;
    paying.until_order_is(&paid.order_id, "success").await;
    paying.until_order_is(&failing.order_id, "failed").await;
    paying.until_reported().await;
    let url = format!("http://{}/metrics", paying.service.app.grpc_addr);
    let text = paying.service.http.get(url).send().await.unwrap().text().await.unwrap();
    for line in [
        "billing_recharge_total{status=\"success\"} 1",
        "billing_recharge_total{status=\"failed\"} 1",
        "billing_recharge_amount{status=\"pending\"} 7.5",
        "billing_recharge_amount{status=\"success\"} 5.5",
        "billing_recharge_amount{status=\"failed\"} 2",
        "billing_recharge_duration_seconds_count{operation=\"recharge\"} 2",
        "billing_recharge_duration_seconds_count{operation=\"callback\"} 2",
        "billing_recharge_order_total{status=\"pending\"} 2",
        "billing_recharge_order_total{status=\"success\"} 1",
        "billing_recharge_order_create_duration_seconds_count 2",
        "billing_recharge_failed_total 1",
    ] {
        assert!(text.lines().any(|found| found == line), "{line} is not in\n{text}");
    }
    // No label names an order, a payment or a user.
    assert!(!text.contains(&paid.order_id) && !text.contains("user_id"));
}

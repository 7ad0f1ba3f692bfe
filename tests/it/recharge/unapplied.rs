//! Payments that were reported and not credited, and what becomes of them.

use billing_service::{
    app,
    data::payment::proto::{CreatePaymentRequest, PaymentMethod, payment_client::PaymentClient},
    service::proto::{
        ListAuditEventsRequest, ListUnappliedPaymentsRequest, RechargeCallbackRequest, ResolvePaymentReply,
        ResolvePaymentRequest, UnappliedPayment,
    },
};
use futures_util::future::join_all;
use rstest::rstest;
use serde_json::json;
use tonic::{Code, Status};

use super::{
    reconcile::{NEXT_DAY, reconcile_with},
    refunds::second_server,
};
use crate::harness::{
    Backend, MySql, Sqlite, code_of,
    payments::{Paying, press, success},
};

pub(super) async fn list(paying: &Paying, status: &str) -> Vec<UnappliedPayment> {
    let request = ListUnappliedPaymentsRequest { status: status.into(), page_size: 100, ..Default::default() };
    paying.service.internal.clone().list_unapplied_payments(request).await.unwrap().into_inner().payments
}

pub(super) async fn resolve(
    paying: &Paying,
    payment: &str,
    action: &str,
    user: &str,
) -> Result<ResolvePaymentReply, Status> {
    let request = ResolvePaymentRequest {
        payment_order_id: payment.into(),
        action: action.into(),
        user_id: user.into(),
        reason: "looked into it".into(),
    };
    paying.service.internal.clone().resolve_payment(request).await.map(|reply| reply.into_inner())
}

/// The count behind the gauge.
pub(super) async fn counted(paying: &Paying) -> u64 {
    let store = app::connect(&paying.service.database.config(&[])).await.unwrap();
    let count = store.count_unapplied().await.unwrap();
    app::close(&*store).await;
    count
}

/// Opens a payment over 7 at the sandbox for an order that billing does not have, and pays it.
pub(super) async fn stray(paying: &Paying, order: &str) -> String {
    stray_in(paying, order, "CNY").await
}

/// As [`stray`], in a currency.
pub(super) async fn stray_in(paying: &Paying, order: &str, currency: &str) -> String {
    let address = format!("http://{}", paying.sandbox.addr);
    let mut payments = PaymentClient::connect(address).await.unwrap();
    let request = CreatePaymentRequest {
        order_id: order.into(),
        amount: 700,
        currency: currency.into(),
        method: PaymentMethod::Alipay.into(),
        notify_url: format!("http://{}/internal/v1/billing/callback", paying.service.app.grpc_addr),
        ..Default::default()
    };
    let payment = payments.create_payment(request).await.unwrap().into_inner();
    press(&paying.service.http, &payment.pay_url, "SUCCESS").await;
    paying.until_reported().await;
    payment.payment_id
}

#[rstest]
#[tokio::test]
async fn each_cause_is_one_row_however_often_it_is_reported(#[values(MySql, Sqlite)] on: Backend) {
    let paying = Paying::start(on).await;
    let (order, other) = (paying.recharge("u", 5.0).await.order_id, paying.recharge("v", 5.0).await.order_id);
    paying.notify(success(&order, "p-1", 5.0)).await.unwrap();
    let usd = RechargeCallbackRequest { currency: "USD".into(), ..success(&other, "p-usd", 5.0) };
    let reports = [
        (success("recharge_nobody_1", "p-unknown", 5.0), "unknown order", "10003"),
        (success(&other, "p-amount", 4.99), "other amount", "10005"),
        (usd, "other currency", "10005"),
        (success(&order, "p-2", 5.0), "second payment", "10004"),
        (success(&other, "p-1", 5.0), "payment of another order", "10004"),
    ];
    for _ in 0..3 {
        let answers = join_all(reports.iter().map(|(report, ..)| paying.notify(report.clone()))).await;
        for (answer, (.., code)) in answers.into_iter().zip(&reports) {
            assert_eq!(code_of(&answer.unwrap_err()).1, *code);
        }
    }
    let mut found: Vec<_> = list(&paying, "").await;
    found.sort_by(|one, other| one.reason.cmp(&other.reason));
    let shown: Vec<_> = found
        .iter()
        .map(|payment| {
            let UnappliedPayment { payment_order_id, amount, currency, reason, times_seen, .. } = payment;
            (payment_order_id.as_str(), *amount, currency.as_str(), reason.as_str(), *times_seen)
        })
        .collect();
    assert_eq!(
        shown,
        [
            ("p-amount", 4.99, "CNY", "other amount", 3),
            ("p-usd", 5.0, "USD", "other currency", 3),
            ("p-1", 5.0, "CNY", "payment of another order", 3),
            ("p-2", 5.0, "CNY", "second payment", 3),
            ("p-unknown", 5.0, "CNY", "unknown order", 3),
        ]
    );
    assert_eq!(counted(&paying).await, 5);
    paying.assert_books("u", 5.0).await;
    paying.assert_books("v", 0.0).await;

    // Over REST, page by page.
    let (status, first) = paying.service.internal_get("/internal/v1/billing/unapplied-payments?page_size=3").await;
    let token = first["next_page_token"].as_str().unwrap();
    let path = format!("/internal/v1/billing/unapplied-payments?page_size=3&page_token={token}");
    let (_, second) = paying.service.internal_get(&path).await;
    let number = |page: &serde_json::Value| page["payments"].as_array().unwrap().len();
    assert_eq!((status, number(&first), number(&second)), (200, 3, 2));

    // The right report comes after all. Its payment is no longer open.
    paying.notify(success(&other, "p-amount", 5.0)).await.unwrap();
    assert_eq!(list(&paying, "applied").await[0].payment_order_id, "p-amount");
    assert_eq!(counted(&paying).await, 4);
    paying.assert_books("v", 5.0).await;
}

#[rstest]
#[tokio::test]
async fn a_payment_is_credited_or_dismissed_once(#[values(MySql, Sqlite)] on: Backend) {
    let paying = Paying::start(on).await;
    let order = paying.recharge("u", 5.0).await.order_id;
    paying.notify(success(&order, "p-1", 5.0)).await.unwrap();
    for report in [success(&order, "p-2", 5.0), success(&order, "p-3", 5.0), success("nobody", "p-1", 5.0)] {
        paying.notify(report).await.unwrap_err();
    }
    // Two operators at once.
    let credits = join_all((0..10).map(|_| resolve(&paying, "p-2", "credit", "w"))).await;
    let replayed = credits.into_iter().map(|credit| credit.unwrap().replayed);
    assert_eq!(replayed.filter(|replayed| !replayed).count(), 1);
    paying.assert_books("w", 5.0).await;
    for (action, user) in [("credit", "u"), ("dismiss", ""), ("refund", "")] {
        let refused = resolve(&paying, "p-2", action, user).await.unwrap_err();
        assert_eq!(code_of(&refused).1, "10011", "{action}");
    }
    // Credited once means that it pays no order any more.
    let late = paying.recharge("u", 5.0).await.order_id;
    assert_eq!(code_of(&paying.notify(success(&late, "p-2", 5.0)).await.unwrap_err()).1, "10004");

    let dismissed = resolve(&paying, "p-3", "dismiss", "").await.unwrap();
    assert_eq!((dismissed.success, dismissed.payment.unwrap().status.as_str()), (true, "dismissed"));
    assert!(resolve(&paying, "p-3", "dismiss", "").await.unwrap().replayed);
    assert_eq!(code_of(&resolve(&paying, "p-3", "credit", "u").await.unwrap_err()).1, "10011");

    // p-1 has credited an order.
    for (action, user, code) in [("credit", "u", "10004"), ("refund", "", "10004")] {
        assert_eq!(code_of(&resolve(&paying, "p-1", action, user).await.unwrap_err()).1, code);
    }
    for (payment, action, user, code) in [
        ("p-9", "dismiss", "", "10003"),
        ("p-3", "forget", "", "10009"),
        ("p-3", "credit", "", "10009"),
        ("p-3", "dismiss", "u", "10009"),
    ] {
        assert_eq!(code_of(&resolve(&paying, payment, action, user).await.unwrap_err()).1, code, "{action}");
    }
    resolve(&paying, "p-1", "dismiss", "").await.unwrap();
    assert_eq!((counted(&paying).await, list(&paying, "all").await.len()), (0, 3));
    paying.assert_books("u", 5.0).await;
    let events = ListAuditEventsRequest { rpc: "ResolvePayment".into(), ..Default::default() };
    let events = paying.service.internal.clone().list_audit_events(events).await.unwrap().into_inner().events;
    let mut users: Vec<_> = events.iter().map(|event| event.user_id.as_str()).collect();
    users.sort_unstable();
    assert_eq!(users, ["", "", "w"]);
}

#[rstest]
#[tokio::test]
async fn operators_on_two_servers_resolve_a_payment_in_one_way(#[values(MySql, Sqlite)] on: Backend) {
    let paying = Paying::start(on).await;
    let (other, second) = second_server(&paying).await;
    let mut credited = 0.0;
    for round in 0..4 {
        let payment = stray(&paying, &format!("stray-{round}")).await;
        let decisions = (0..12).map(|number: usize| {
            let mut client = if number.is_multiple_of(2) { paying.service.internal.clone() } else { second.clone() };
            // Each action comes from both servers.
            let action = ["credit", "refund", "dismiss"][number / 2 % 3];
            let request = ResolvePaymentRequest {
                payment_order_id: payment.clone(),
                action: action.into(),
                user_id: if action == "credit" { "w".into() } else { String::new() },
                reason: "looked into it".into(),
            };
            async move { (action, client.resolve_payment(request).await.map(|reply| reply.into_inner())) }
        });
        let answers = join_all(decisions).await;
        let made: Vec<_> =
            answers.iter().filter_map(|(action, answer)| Some((action, answer.as_ref().ok()?))).collect();
        assert_eq!(made.iter().filter(|(_, reply)| !reply.replayed).count(), 1, "{answers:?}");
        let (winner, _) = made[0];
        assert!(made.iter().all(|(action, _)| action == &winner), "{answers:?}");
        for refused in answers.iter().filter_map(|(_, answer)| answer.as_ref().err()) {
            assert_eq!(code_of(refused).1, "10011", "{answers:?}");
        }
        paying.until_reported().await;
        let (status, returned) = match *winner {
            "credit" => ("credited", 0.0),
            "refund" => ("refunded", 7.0),
            _ => ("dismissed", 0.0),
        };
        let rows = list(&paying, "all").await;
        let row = rows.iter().find(|row| row.payment_order_id == payment).unwrap();
        assert_eq!((row.status.as_str(), row.returned_amount), (status, returned));
        credited += if status == "credited" { 7.0 } else { 0.0 };
    }
    paying.assert_books("w", credited).await;
    other.stop().await;
}

#[rstest]
#[tokio::test]
async fn a_stray_payment_is_given_back_once(#[values(MySql, Sqlite)] on: Backend) {
    let paying = Paying::start(on).await;
    let payment = stray(&paying, "stray").await;
    assert_eq!(list(&paying, "open").await[0].reason, "unknown order");
    paying.switch(json!({"refund": "refuse"}));
    let refused = resolve(&paying, &payment, "refund", "").await.unwrap();
    assert_eq!((refused.success, refused.payment.unwrap().status.as_str()), (false, "open"));
    // The answer is lost, and so is the callback.
    paying.switch(json!({"refund": "lose_reply", "get_refund": "unavailable", "lose": true}));
    let lost = resolve(&paying, &payment, "refund", "").await.unwrap();
    assert_eq!((lost.success, lost.payment.unwrap().status.as_str()), (true, "refunding"));
    assert_eq!(code_of(&resolve(&paying, &payment, "credit", "u").await.unwrap_err()).1, "10011");
    paying.switch(json!({}));
    let reconciled = reconcile_with(&paying, NEXT_DAY, &[]).await.unwrap();
    assert_eq!(reconciled.refunded, 1);
    assert!(resolve(&paying, &payment, "refund", "").await.unwrap().replayed);
    assert_eq!(list(&paying, "refunded").await[0].payment_order_id, payment);

    // A refund at once, whose callback names an order that billing does not have.
    let payment = stray(&paying, "stray-2").await;
    let done = resolve(&paying, &payment, "refund", "").await.unwrap();
    assert_eq!((done.replayed, done.payment.unwrap().status.as_str()), (false, "refunded"));
    paying.until_reported().await;
    let refused = paying.sandbox.callbacks().into_iter().filter(|attempt| attempt.status == "REFUNDED");
    assert!(refused.into_iter().all(|attempt| attempt.answer == billing_service::sandbox::Answer::Http(200)));
    paying.service.assert_audit_is_clean().await;
}

#[rstest]
#[tokio::test]
async fn a_report_without_a_proof_is_kept_if_payment_service_knows_the_payment(#[values(MySql, Sqlite)] on: Backend) {
    let paying = Paying::start_with(on, &[("payment_service.callback_auth", "confirm")]).await;
    let order = paying.recharge("u", 5.0).await.order_id;
    for forged in [success("nobody", "p-1", 5.0), success(&order, "p-1", 4.0)] {
        paying.hint(forged).await.unwrap_err();
    }
    assert_eq!(list(&paying, "all").await, []);
    let payment = stray(&paying, "stray").await;
    let unknown = paying.hint(success("stray", &payment, 1.0)).await.unwrap_err();
    assert_eq!(code_of(&unknown), (Code::NotFound, "10003".into()));
    let kept = list(&paying, "open").await;
    // The word of payment-service counts, and not that of the report.
    assert_eq!((kept.len(), kept[0].amount, kept[0].payment_order_id.as_str()), (1, 7.0, payment.as_str()));
    // Another order's report of the same payment is not believed.
    paying.hint(success("nobody", &payment, 7.0)).await.unwrap_err();
    assert_eq!(list(&paying, "open").await[0].times_seen, kept[0].times_seen);
}

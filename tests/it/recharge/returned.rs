//! Money that goes back late, by itself, or of a payment that was not credited.

use billing_service::{
    biz::recharge::reconcile::ReconciledOrders,
    data::payment::proto::{CreateRefundRequest, payment_client::PaymentClient},
    service::proto::RechargeCallbackRequest,
};
use rstest::rstest;
use serde_json::json;

use super::{
    reconcile::{NEXT_DAY, reconcile_with},
    refunds::Paid,
    unapplied::{counted, list, resolve, stray},
};
use crate::harness::{
    Backend, MySql, Sqlite, code_of,
    payments::{Paying, success},
};

fn returned(status: &str, order: &str, id: &str, payment: &str, amount: f64) -> RechargeCallbackRequest {
    RechargeCallbackRequest { status: status.into(), refund_id: id.into(), ..success(order, payment, amount) }
}

/// Refunds a payment at the sandbox without billing.
async fn refund_there(paying: &Paying, payment: &str, id: &str, amount: i64) {
    let request =
        CreateRefundRequest { payment_id: payment.into(), refund_id: id.into(), amount, ..Default::default() };
    let mut payments = PaymentClient::connect(format!("http://{}", paying.sandbox.addr)).await.unwrap();
    payments.create_refund(request).await.unwrap();
    paying.until_reported().await;
}

async fn status_of(paying: &Paying, payment: &str) -> String {
    let all = list(paying, "all").await;
    all.into_iter().find(|row| row.payment_order_id == payment).unwrap().status
}

/// A stray payment over 7 whose first refund has failed.
async fn failed_once(paying: &Paying, order: &str) -> String {
    paying.switch(json!({}));
    let payment = stray(paying, order).await;
    paying.switch(json!({"refund": "fail"}));
    let failed = resolve(paying, &payment, "refund", "").await.unwrap();
    assert_eq!(failed.payment.unwrap().status, "open");
    paying.switch(json!({"refund": "pending", "lose": true}));
    payment
}

#[rstest]
#[tokio::test]
async fn a_late_success_of_an_attempt_is_noted(#[values(MySql, Sqlite)] on: Backend) {
    let paying = Paying::start(on).await;
    let late = |order: &str, payment: &str| {
        let id = format!("unapplied_{payment}_1");
        paying.notify(returned("REFUNDED", order, &id, payment, 7.0))
    };
    // While it is open, and while a second attempt is under way.
    let open = failed_once(&paying, "stray-1").await;
    late("stray-1", &open).await.unwrap();
    let under_way = failed_once(&paying, "stray-2").await;
    assert_eq!(resolve(&paying, &under_way, "refund", "").await.unwrap().payment.unwrap().status, "refunding");
    late("stray-2", &under_way).await.unwrap();
    for payment in [&open, &under_way] {
        assert_eq!(status_of(&paying, payment).await, "refunded");
        assert_eq!(code_of(&resolve(&paying, payment, "credit", "u").await.unwrap_err()).1, "10011");
    }
    // After its credit.
    let credited = failed_once(&paying, "stray-3").await;
    resolve(&paying, &credited, "credit", "u").await.unwrap();
    assert_eq!(counted(&paying).await, 0);
    late("stray-3", &credited).await.unwrap();
    late("stray-3", &credited).await.unwrap();
    let conflict = list(&paying, "conflict").await;
    assert_eq!((conflict.len(), conflict[0].resolution.as_str()), (1, "7 went back. looked into it"));
    assert_eq!(counted(&paying).await, 1);
    paying.assert_books("u", 7.0).await;
    paying.service.adjust("u", -7.0).await;
    assert_eq!(resolve(&paying, &credited, "dismiss", "").await.unwrap().payment.unwrap().status, "refunded");
    assert_eq!(counted(&paying).await, 0);
    paying.assert_books("u", 0.0).await;
}

#[tokio::test]
async fn a_refund_that_was_made_after_its_refusal_is_found_before_a_credit() {
    let paying = Paying::start(Sqlite).await;
    let payment = stray(&paying, "stray").await;
    paying.switch(json!({"refund": "refuse"}));
    resolve(&paying, &payment, "refund", "").await.unwrap();
    assert_eq!(status_of(&paying, &payment).await, "open");
    paying.switch(json!({"lose": true}));
    refund_there(&paying, &payment, &format!("unapplied_{payment}_1"), 700).await;
    assert_eq!(code_of(&resolve(&paying, &payment, "credit", "u").await.unwrap_err()).1, "10011");
    assert_eq!(status_of(&paying, &payment).await, "refunded");
    paying.assert_books("u", 0.0).await;
}

#[tokio::test]
async fn a_refund_is_found_although_its_payment_is_held_under_another_order() {
    let paying = Paying::start(Sqlite).await;
    paying.switch(json!({"lose": true}));
    let payment = stray(&paying, "held-under").await;
    paying.notify(success("named", &payment, 7.0)).await.unwrap_err();
    paying.switch(json!({"refund": "lose_reply", "get_refund": "unavailable", "lose": true}));
    resolve(&paying, &payment, "refund", "").await.unwrap();
    paying.switch(json!({"lose": true}));
    assert_eq!(reconcile_with(&paying, NEXT_DAY, &[]).await.unwrap().refunded, 1);
    assert_eq!(status_of(&paying, &payment).await, "refunded");
}

#[tokio::test]
async fn money_of_an_unapplied_payment_that_goes_back_by_itself_can_not_be_credited() {
    let paying = Paying::start(Sqlite).await;
    let (order, pending) = (paying.recharge("u", 5.0).await.order_id, paying.recharge("u", 5.0).await.order_id);
    paying.notify(success(&order, "p-1", 5.0)).await.unwrap();
    for report in [
        success(&order, "second", 5.0),
        success("nobody", "unknown", 5.0),
        success(&pending, "other", 4.0),
        success(&order, "part", 5.0),
        success(&order, "credited", 5.0),
    ] {
        paying.notify(report).await.unwrap_err();
    }
    resolve(&paying, "credited", "credit", "v").await.unwrap();
    for (order, payment, amount, status) in [
        (order.as_str(), "second", 5.0, "refunded"),
        ("nobody", "unknown", 5.0, "refunded"),
        (pending.as_str(), "other", 4.0, "refunded"),
        (order.as_str(), "part", 2.0, "conflict"),
        (order.as_str(), "credited", 5.0, "conflict"),
    ] {
        let report = returned("CHARGEBACK", order, &format!("c-{payment}"), payment, amount);
        for _ in 0..2 {
            paying.notify(report.clone()).await.unwrap();
        }
        assert_eq!(status_of(&paying, payment).await, status, "{payment}");
        assert_eq!(code_of(&resolve(&paying, payment, "credit", "u").await.unwrap_err()).1, "10011", "{payment}");
    }
    assert_eq!(counted(&paying).await, 2);
    // The payment of the order is still that of the order.
    paying.notify(returned("CHARGEBACK", &order, "c-1", "p-1", 5.0)).await.unwrap();
    paying.assert_books("u", 0.0).await;
    paying.assert_books("v", 5.0).await;
}

#[tokio::test]
async fn money_of_a_payment_that_credited_an_order_is_debited_there() {
    let paying = Paying::start(Sqlite).await;
    let (own, other) = (paying.recharge("u", 5.0).await.order_id, paying.recharge("v", 5.0).await.order_id);
    paying.notify(success(&own, "p-1", 5.0)).await.unwrap();
    paying.notify(success(&other, "p-1", 5.0)).await.unwrap_err();
    assert_eq!(list(&paying, "open").await[0].reason, "payment of another order");
    let wrong = paying.notify(returned("CHARGEBACK", &other, "c", "p-1", 5.0)).await.unwrap_err();
    assert_eq!(code_of(&wrong).1, "10004");
    assert_eq!(status_of(&paying, "p-1").await, "open");
    paying.notify(returned("CHARGEBACK", &own, "c", "p-1", 5.0)).await.unwrap();
    paying.assert_books("u", 0.0).await;
}

#[tokio::test]
async fn the_refund_of_a_second_payment_debits_no_order() {
    for auth in ["confirm", "signed"] {
        let paying = Paying::start_with(Sqlite, &[("payment_service.callback_auth", auth)]).await;
        paying.legacy_order("twice", "u", 7).await;
        let credited = "UPDATE recharge_order SET status = 'success', payment_order_id = 'p-1'";
        paying.service.database.execute(credited).await;
        paying.service.adjust("u", 7.0).await;
        let second = stray(&paying, "twice").await;
        assert_eq!(list(&paying, "open").await[0].reason, "second payment");
        paying.switch(json!({"lose": true}));
        refund_there(&paying, &second, "r-second", 700).await;
        // A report that names no payment, and one that names the payment of the order.
        let bare = returned("CHARGEBACK", "twice", "r-second", "", 7.0);
        paying.notify(bare).await.unwrap();
        assert_eq!(status_of(&paying, &second).await, "refunded", "{auth}");
        let lie = returned("REFUNDED", "twice", "r-second", "p-1", 7.0);
        if auth == "confirm" {
            paying.notify(lie).await.unwrap();
        }
        assert_eq!(paying.order("twice").await.refunded_amount, 0.0, "{auth}");
        assert_eq!(paying.service.account("u").await.balance, 7.0, "{auth}");
    }
}

#[rstest]
#[tokio::test]
async fn the_job_finds_a_failed_refund_whose_money_went_back(#[values(MySql, Sqlite)] on: Backend) {
    let paid = Paid::start(on).await;
    paid.paying.switch(json!({"refund": "refuse", "lose": true}));
    assert_eq!(paid.refund("late", 5.0).await.status, "failed");
    assert_eq!(paid.refund("never", 5.0).await.status, "failed");
    paid.paying.switch(json!({"lose": true}));
    refund_there(&paid.paying, &paid.payment().await, "late", 500).await;
    let found = ReconciledOrders { refunded: 1, ..Default::default() };
    let soon = super::reconcile::SOON;
    assert_eq!(reconcile_with(&paid.paying, soon, &[]).await.unwrap(), found);
    assert_eq!(reconcile_with(&paid.paying, soon, &[]).await.unwrap(), ReconciledOrders::default());
    assert_eq!(paid.state().await, (15.0, 0.0, 5.0));
}

#[tokio::test]
async fn an_order_without_an_answer_blocks_no_refund() {
    let paid = Paid::start(Sqlite).await;
    paid.paying.switch(json!({"refund": "lose_reply", "get_refund": "unavailable", "lose": true}));
    assert_eq!(paid.refund("lost", 5.0).await.status, "pending");
    let payment = stray(&paid.paying, "stray").await;
    paid.paying.notify(success("stray", &payment, 7.0)).await.unwrap_err();
    resolve(&paid.paying, &payment, "refund", "").await.unwrap();
    let waiting = paid.paying.recharge("u", 5.0).await;
    paid.paying.switch(json!({"get": "unavailable", "lose": true}));
    let error = reconcile_with(&paid.paying, NEXT_DAY, &[]).await.unwrap_err();
    assert!(error.to_string().contains("payment-service does not answer"), "{error}");
    assert_eq!(paid.paying.order(&waiting.order_id).await.status, "pending");
    assert_eq!(paid.state().await, (15.0, 0.0, 5.0));
    assert_eq!(status_of(&paid.paying, &payment).await, "refunded");
}

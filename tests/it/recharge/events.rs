//! Events of top-ups: paid, failed, expired, and given back. And of payments that cannot be credited.

use rstest::rstest;
use serde_json::{Value, json};

use super::{
    reconcile::{NEXT_DAY, reconcile_with},
    refunds::Paid,
};
use crate::{
    events::{all, data, types},
    harness::{
        Backend, MySql, Sqlite,
        payments::{Paying, failed, success},
    },
};

#[rstest]
#[tokio::test]
async fn a_failed_and_an_expired_top_up_leave_events(#[values(MySql, Sqlite)] on: Backend) {
    let paying = Paying::start(on).await;
    let order = paying.recharge("u", 20.0).await;
    let payment = paying.order(&order.order_id).await.payment_order_id;
    for _ in 0..3 {
        paying.notify(failed(&order.order_id, &payment, 20.0)).await.unwrap();
    }
    let left = paying.recharge("u", 30.0).await;
    for _ in 0..2 {
        reconcile_with(&paying, NEXT_DAY, &[]).await.unwrap();
    }
    let events = all(&paying.service.internal).await;
    assert_eq!(types(&events), ["recharge.failed", "recharge.expired"]);
    let of = |index: usize| [&data(&events[index])["order_id"], &data(&events[index])["amount"]].map(Value::clone);
    assert_eq!(of(0), [json!(order.order_id), json!("20")]);
    assert_eq!(of(1), [json!(left.order_id), json!("30")]);
}

#[rstest]
#[tokio::test]
async fn money_of_a_top_up_that_goes_back_leaves_an_event_each_time(#[values(MySql, Sqlite)] on: Backend) {
    let paid = Paid::start(on).await;
    paid.refund("r-1", 5.0).await;
    // The sandbox reports the refund, too.
    paid.paying.until_reported().await;
    paid.refund("r-1", 5.0).await;
    let payment = paid.payment().await;
    for _ in 0..3 {
        paid.paying.notify(paid.returned("CHARGEBACK", "c-1", 15.0, &payment)).await.unwrap();
    }
    let events = all(&paid.paying.service.internal).await;
    assert_eq!(types(&events), ["recharge.succeeded", "recharge.refunded", "recharge.charged_back"]);
    let (refunded, charged_back) = (data(&events[1]), data(&events[2]));
    assert_eq!(
        refunded,
        json!({"user_id": "u", "order_id": paid.order, "refund_id": "r-1", "amount": "5", "balance": "15"})
    );
    assert_eq!(
        charged_back,
        json!({"user_id": "u", "order_id": paid.order, "refund_id": "c-1", "amount": "15", "balance": "0"})
    );
}

#[rstest]
#[tokio::test]
async fn a_top_up_and_a_stray_payment_leave_events(#[values(MySql, Sqlite)] on: Backend) {
    let paying = Paying::start(on).await;
    let order = paying.recharge("u", 20.0).await;
    paying.press(&order.payment_url, "SUCCESS").await;
    paying.until_order_is(&order.order_id, "success").await;
    for _ in 0..3 {
        let _ = paying.notify(success("no-such-order", "stray-1", 5.0)).await;
    }
    let events = all(&paying.service.internal).await;
    assert_eq!(types(&events), ["recharge.succeeded", "payment.unapplied"]);
    let credited = data(&events[0]);
    assert_eq!((&credited["order_id"], &credited["amount"]), (&json!(order.order_id), &json!("20")));
    assert_eq!((&credited["balance"], &credited["user_id"]), (&json!("20"), &json!("u")));
    assert_eq!(data(&events[1])["payment_order_id"], "stray-1");
}

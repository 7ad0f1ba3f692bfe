//! Late, refused and invalid answers of payment-service to look-ups: no order is credited or
//! expires, and a later answer settles it.

use billing_service::biz::recharge::reconcile::ReconciledOrders;
use futures_util::future::join_all;
use rstest::rstest;
use serde_json::{Value, json};

use super::{
    reconcile::{NEXT_DAY, SOON, reconcile_with},
    unapplied::list,
};
use crate::harness::{
    Backend, MySql, Sqlite, code_of,
    payments::{Paying, success},
};

/// The timeout of payment-service. If it does not answer, the timeout is short, but long enough for
/// a busy machine.
fn timeout(switches: &Value) -> (&'static str, &'static str) {
    ("payment_service.timeout", if switches["get_delay_ms"].is_null() { "60s" } else { "5s" })
}

#[rstest]
#[case::late(json!({"get_delay_ms": 30_000}), "10006")]
#[case::none(json!({"get": "unavailable"}), "10006")]
#[case::a_refusal(json!({"get": "refuse"}), "10006")]
#[case::of_another_order(json!({"get": "wrong_order"}), "10006")]
#[case::of_another_amount(json!({"get": "wrong_amount"}), "10005")]
#[case::of_another_currency(json!({"get": "wrong_currency"}), "10005")]
#[tokio::test]
async fn an_unsigned_callback_is_not_confirmed_by_an_answer_that_is(
    #[values(MySql, Sqlite)] on: Backend,
    #[case] switches: Value,
    #[case] error: &str,
) {
    let paying = Paying::start_with(on, &[("payment_service.callback_auth", "confirm"), timeout(&switches)]).await;
    let opened = paying.recharge("u", 5.0).await;
    paying.switch(json!({"lose": true}));
    paying.press(&opened.payment_url, "SUCCESS").await;
    let payment = paying.order(&opened.order_id).await.payment_order_id;
    paying.switch(switches);
    let refused = paying.hint(success(&opened.order_id, &payment, 5.0)).await.unwrap_err();
    assert_eq!(code_of(&refused).1, error);
    assert_eq!(paying.order(&opened.order_id).await.status, "pending");
    paying.assert_books("u", 0.0).await;

    paying.sandbox.set_switches(Default::default());
    paying.hint(success(&opened.order_id, &payment, 5.0)).await.unwrap();
    paying.assert_books("u", 5.0).await;
}

/// More orders than are looked up at once.
const ORDERS: u64 = 20;

#[rstest]
#[case::refusals(json!({"get": "refuse"}))]
#[case::of_other_orders(json!({"get": "wrong_order"}))]
#[tokio::test]
async fn an_invalid_answer_is_an_error_of_its_order(#[values(MySql, Sqlite)] on: Backend, #[case] switches: Value) {
    let paying = paid_and_not_reported(on).await;
    let timeout = timeout(&switches);
    paying.switch(switches);
    let reconciled = reconcile_with(&paying, NEXT_DAY, &[timeout]).await.unwrap();
    assert_eq!(reconciled, ReconciledOrders { errors: ORDERS, ..Default::default() });
    assert_later_answers_credit(paying).await;
}

/// Their payments are kept, so the orders need no further look-up.
#[rstest]
#[case::amount(json!({"get": "wrong_amount", "lose": true}), 5.01, "CNY")]
#[case::currency(json!({"get": "wrong_currency", "lose": true}), 5.0, "USD")]
#[tokio::test]
async fn orders_that_were_paid_with_another(
    #[values(MySql, Sqlite)] on: Backend,
    #[case] switches: Value,
    #[case] amount: f64,
    #[case] currency: &str,
) {
    let paying = paid_and_not_reported(on).await;
    paying.switch(switches);
    for _ in 0..2 {
        let waiting = ReconciledOrders { left: ORDERS, ..Default::default() };
        assert_eq!(reconcile_with(&paying, SOON, &[]).await.unwrap(), waiting);
    }
    let expired = ReconciledOrders { expired: ORDERS, ..Default::default() };
    assert_eq!(reconcile_with(&paying, NEXT_DAY, &[]).await.unwrap(), expired);
    assert_eq!(reconcile_with(&paying, NEXT_DAY, &[]).await.unwrap(), ReconciledOrders::default());
    let kept = list(&paying, "open").await;
    assert_eq!(kept.len(), 20);
    assert!(kept.iter().all(|kept| (kept.amount, kept.currency.as_str(), kept.times_seen) == (amount, currency, 1)));
    paying.assert_books("u", 0.0).await;
    // The right report comes after all.
    paying.notify(success(&kept[0].order_id, &kept[0].payment_order_id, 5.0)).await.unwrap();
    assert_eq!(list(&paying, "applied").await.len(), 1);
    paying.assert_books("u", 5.0).await;
}

#[rstest]
#[case::late(json!({"get_delay_ms": 30_000}))]
#[case::none(json!({"get": "unavailable"}))]
#[tokio::test]
async fn no_answers_at_all_end_the_run(#[values(MySql, Sqlite)] on: Backend, #[case] switches: Value) {
    let paying = paid_and_not_reported(on).await;
    let timeout = timeout(&switches);
    paying.switch(switches);
    let error = reconcile_with(&paying, NEXT_DAY, &[timeout]).await.unwrap_err();
    assert!(error.to_string().contains("payment-service does not answer"), "{error}");
    assert_later_answers_credit(paying).await;
}

async fn paid_and_not_reported(on: Backend) -> Paying {
    let paying = Paying::start(on).await;
    paying.switch(json!({"lose": true}));
    for reply in join_all((0..ORDERS).map(|_| paying.recharge("u", 5.0))).await {
        paying.press(&reply.payment_url, "SUCCESS").await;
    }
    paying
}

async fn assert_later_answers_credit(paying: Paying) {
    assert!(paying.orders("u").await.iter().all(|order| order.status == "pending"));
    paying.assert_books("u", 0.0).await;
    paying.sandbox.set_switches(Default::default());
    let reconciled = reconcile_with(&paying, NEXT_DAY, &[]).await.unwrap();
    assert_eq!(reconciled, ReconciledOrders { credited: ORDERS, ..Default::default() });
    paying.assert_books("u", 100.0).await;
}

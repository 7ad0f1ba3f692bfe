//! Reports of payments that can't be credited: those that come again, and those without a proof.

use billing_service::service::proto::RechargeCallbackRequest;
use rstest::rstest;
use serde_json::json;

use super::unapplied::{counted, list, resolve, stray};
use crate::harness::{
    Backend, MySql, Sqlite, code_of,
    payments::{Paying, success},
};

const CONFIRM: (&str, &str) = ("payment_service.callback_auth", "confirm");

async fn hint(paying: &Paying, report: &RechargeCallbackRequest) -> String {
    code_of(&paying.hint(report.clone()).await.unwrap_err()).1
}

#[rstest]
#[tokio::test]
async fn the_last_report_of_an_open_payment_decides_its_amount(#[values(MySql, Sqlite)] on: Backend) {
    let paying = Paying::start(on).await;
    paying.notify(success("first", "p-1", 7.0)).await.unwrap_err();
    let last = RechargeCallbackRequest { currency: "cny".into(), ..success("second", "p-1", 20.0) };
    paying.notify(last).await.unwrap_err();
    let kept = &list(&paying, "open").await[0];
    assert_eq!((kept.order_id.as_str(), kept.amount, kept.times_seen), ("second", 20.0, 2));
    resolve(&paying, "p-1", "credit", "u").await.unwrap();
    paying.assert_books("u", 20.0).await;
    // A report after the decision only counts.
    paying.notify(success("third", "p-1", 21.0)).await.unwrap_err();
    let kept = &list(&paying, "credited").await[0];
    assert_eq!((kept.order_id.as_str(), kept.amount, kept.times_seen), ("second", 20.0, 3));
}

#[rstest]
#[tokio::test]
async fn a_report_without_a_proof_comes_again_until_payment_service_has_answered(#[values(MySql, Sqlite)] on: Backend) {
    let paying = Paying::start_with(on, &[CONFIRM]).await;
    paying.switch(json!({"lose": true}));
    let payment = stray(&paying, "stray").await;
    let report = success("stray", &payment, 7.0);
    for fault in ["unavailable", "refuse"] {
        paying.switch(json!({"get": fault, "lose": true}));
        assert_eq!(hint(&paying, &report).await, "10006", "{fault}");
        // At once, or, on a busy machine, after another question.
        let again = paying.service.internal.clone().recharge_callback(report.clone()).await.unwrap_err();
        assert!(["10006", "10014"].contains(&code_of(&again).1.as_str()), "{fault}: {again:?}");
    }
    assert_eq!(list(&paying, "all").await, []);
    paying.switch(json!({"lose": true}));
    assert_eq!(hint(&paying, &report).await, "10003");
    assert_eq!(list(&paying, "open").await[0].payment_order_id, payment);
    // It is kept, so a repeat is final at once.
    let again = paying.service.internal.clone().recharge_callback(report).await.unwrap_err();
    assert_eq!(code_of(&again).1, "10003");
}

#[rstest]
#[tokio::test]
async fn a_wrong_report_of_a_right_payment_keeps_nothing(#[values(MySql, Sqlite)] on: Backend) {
    let paying = Paying::start_with(on, &[CONFIRM]).await;
    paying.switch(json!({"lose": true}));
    let opened = paying.recharge("u", 5.0).await;
    let payment = paying.order(&opened.order_id).await.payment_order_id;
    let wrong = success(&opened.order_id, &payment, 4.0);
    assert_eq!(hint(&paying, &wrong).await, "10006", "the payment is not decided");
    paying.press(&opened.payment_url, "SUCCESS").await;
    // payment-service names the amount of the order, which is credited, and the report is refused.
    assert_eq!(hint(&paying, &wrong).await, "10005");
    assert_eq!(paying.order(&opened.order_id).await.status, "success");
    assert_eq!(hint(&paying, &wrong).await, "10005");
    assert_eq!((list(&paying, "all").await, counted(&paying).await), (vec![], 0));
    assert_eq!(paying.counted("success").await, 0);
    paying.assert_books("u", 5.0).await;
}

//! payment-service gets and returns amounts in the minor unit of the currency.

use billing_service::{
    biz::recharge::reconcile::ReconciledOrders,
    data::payment::proto::{GetPaymentRequest, payment_client::PaymentClient},
    service::proto::{RechargeCallbackRequest, RechargeRequest, RefundRechargeRequest},
};
use rstest::rstest;
use serde_json::json;
use tonic::Code;

use super::reconcile::{NEXT_DAY, reconcile_with};
use crate::harness::{
    Backend, MySql, Sqlite, code_of,
    payments::{Paying, success},
};

#[rstest]
#[case("JPY", 80.0, 80, "80", (80.5, "999999"))]
#[case("KWD", 1.005, 1_005, "1.005", (1.0005, "999999.99"))]
#[case("CNY", 19.99, 1_999, "19.99", (19.999, "999999.99"))]
#[tokio::test]
async fn an_amount_has_the_decimal_places_of_its_currency_on_every_path(
    #[values(MySql, Sqlite)] on: Backend,
    #[values("signed", "confirm")] auth: &str,
    #[case] currency: &str,
    #[case] amount: f64,
    #[case] minor: i64,
    #[case] shown: &str,
    #[case] refused: (f64, &str),
) {
    let (too_fine, largest) = refused;
    let changes = [("billing.currency", currency), ("payment_service.callback_auth", auth)];
    let paying = Paying::start_with(on, &changes).await;
    for (bad, why) in [
        (too_fine, format!("decimal places, as {currency} has")),
        (1_000_000.0, format!("at most {largest}")),
        (0.0, "above 0".to_owned()),
    ] {
        let refused = paying.try_recharge("u", bad).await.unwrap_err();
        assert_eq!(code_of(&refused), (Code::InvalidArgument, "10009".into()));
        assert!(refused.message().starts_with("amount:") && refused.message().contains(&why), "{refused:?}");
    }
    let named = RechargeRequest {
        user_id: "u".into(),
        amount,
        payment_method: "stripe".into(),
        currency: currency.into(),
        ..Default::default()
    };
    let opened = paying.service.public.clone().recharge(named).await.unwrap().into_inner();
    let mut client = PaymentClient::connect(format!("http://{}", paying.sandbox.addr)).await.unwrap();
    let asked = GetPaymentRequest { order_id: opened.order_id.clone(), ..Default::default() };
    let asked = client.get_payment(asked).await.unwrap().into_inner();
    assert_eq!((asked.amount, asked.currency.as_str()), (minor, currency));
    let page = paying.service.http.get(&opened.payment_url).send().await.unwrap().text().await.unwrap();
    assert!(page.contains(&format!(">{shown} {currency}<")), "{page}");

    // A callback with too many decimal places is refused by its field.
    let fine = paying.notify(success(&opened.order_id, &asked.payment_id, too_fine)).await.unwrap_err();
    assert_eq!(code_of(&fine), (Code::InvalidArgument, "10009".into()));
    assert!(fine.message().starts_with("amount:"), "{fine:?}");
    let dollars =
        RechargeCallbackRequest { currency: "USD".into(), ..success(&opened.order_id, &asked.payment_id, amount) };
    // Without a proof it is to come again, because payment-service has not decided the payment.
    let refused = if auth == "signed" { "10005" } else { "10006" };
    assert_eq!(code_of(&paying.notify(dollars).await.unwrap_err()).1, refused);

    paying.press(&opened.payment_url, "SUCCESS").await;
    paying.until_order_is(&opened.order_id, "success").await;
    assert_eq!(paying.order(&opened.order_id).await.amount, amount);

    // The job credits the order if the callback is lost.
    let lost = paying.recharge("u", amount).await;
    paying.switch(json!({"lose": true}));
    paying.press(&lost.payment_url, "SUCCESS").await;
    let credited = ReconciledOrders { credited: 1, ..Default::default() };
    assert_eq!(reconcile_with(&paying, NEXT_DAY, &changes).await.unwrap(), credited);
    paying.assert_books("u", amount * 2.0).await;
}

/// The legacy service stored two decimal places, whatever the currency.
#[tokio::test]
async fn a_refund_that_payment_service_could_not_make_holds_nothing() {
    let paying = Paying::start_with(Sqlite, &[("billing.currency", "JPY")]).await;
    paying.legacy_order("legacy", "u", 25).await;
    let odd = "UPDATE recharge_order SET amount = 25500000, status = 'success'";
    paying.service.database.execute(odd).await;
    paying.service.adjust("u", 100.0).await;
    let request = RefundRechargeRequest {
        order_id: "legacy".into(),
        refund_id: "all".into(),
        reason: "asked for it".into(),
        ..Default::default()
    };
    let refused = paying.service.internal.clone().refund_recharge(request).await.unwrap_err();
    assert_eq!(code_of(&refused), (Code::InvalidArgument, "10009".into()));
    assert_eq!(paying.service.account("u").await.held, 0.0);
}

//! Repeated, late, early, concurrent, reordered and wrong callbacks.

use billing_service::{app::App, service::proto::RechargeCallbackRequest};
use futures_util::future::join_all;
use rstest::rstest;
use serde_json::json;
use tonic::Code;

use crate::harness::{
    Backend, MySql, Sqlite, code_of,
    payments::{Paying, failed, settings, signed, success},
    wait::until,
};

fn duplicate() -> (Code, String) {
    (Code::AlreadyExists, "10004".into())
}

fn mismatch() -> (Code, String) {
    (Code::InvalidArgument, "10005".into())
}

#[rstest]
#[tokio::test]
async fn forty_equal_callbacks_at_once_credit_once(#[values(MySql, Sqlite)] on: Backend) {
    let paying = Paying::start(on).await;
    let order = paying.recharge("u", 12.34).await.order_id;
    let callbacks = (0..40).map(|_| paying.notify(success(&order, "p-1", 12.34)));
    for answer in join_all(callbacks).await {
        assert!(answer.unwrap().success);
    }
    assert_eq!((paying.counted("success").await, paying.counted("repeated").await), (1, 39));
    paying.assert_books("u", 12.34).await;
}

#[rstest]
#[tokio::test]
async fn forty_equal_callbacks_to_two_servers_credit_once(#[values(MySql, Sqlite)] on: Backend) {
    let paying = Paying::start(on).await;
    let order = paying.recharge("u", 12.34).await.order_id;
    let config = paying.service.database.config(&settings(&paying.sandbox, &[]));
    let other = App::start(config).await.unwrap();
    let mut clients = vec![paying.service.internal.clone()];
    let other_url = format!("http://{}", other.grpc_addr);
    clients.push(crate::harness::caller::Client::connect(other_url).await.unwrap());
    let callbacks = (0..40).map(|number| {
        let mut client = clients[number % 2].clone();
        let callback = signed(success(&order, "p-1", 12.34), chrono::Utc::now());
        async move { client.recharge_callback(callback).await }
    });
    for answer in join_all(callbacks).await {
        assert!(answer.unwrap().into_inner().success);
    }
    other.stop().await;
    paying.assert_books("u", 12.34).await;
}

#[rstest]
#[tokio::test]
async fn a_second_payment_of_one_order_is_refused(#[values(MySql, Sqlite)] on: Backend) {
    let paying = Paying::start(on).await;
    let order = paying.recharge("u", 5.0).await.order_id;
    paying.notify(success(&order, "p-1", 5.0)).await.unwrap();
    let refused = paying.notify(success(&order, "p-2", 5.0)).await.unwrap_err();
    assert_eq!(code_of(&refused), duplicate());
    assert_eq!(paying.order(&order).await.payment_order_id, "p-1");
    assert_eq!(paying.counted("refused").await, 1);
    paying.assert_books("u", 5.0).await;
}

#[rstest]
#[tokio::test]
async fn of_two_payments_at_once_one_credits(#[values(MySql, Sqlite)] on: Backend) {
    let paying = Paying::start(on).await;
    let order = paying.recharge("u", 5.0).await.order_id;
    let payments: Vec<String> = (0..20).map(|number| format!("p-{number}")).collect();
    let answers = join_all(payments.iter().map(|payment| paying.notify(success(&order, payment, 5.0)))).await;
    let (taken, refused): (Vec<_>, Vec<_>) = answers.into_iter().partition(Result::is_ok);
    assert_eq!((taken.len(), refused.len()), (1, 19));
    assert!(refused.into_iter().all(|refused| code_of(&refused.unwrap_err()) == duplicate()));
    paying.assert_books("u", 5.0).await;
}

#[rstest]
#[tokio::test]
async fn one_payment_pays_for_one_order(#[values(MySql, Sqlite)] on: Backend) {
    let paying = Paying::start(on).await;
    let (first, second) = (paying.recharge("u", 5.0).await.order_id, paying.recharge("other", 5.0).await.order_id);
    paying.notify(success(&first, "p-1", 5.0)).await.unwrap();
    for callback in [success(&second, "p-1", 5.0), failed(&second, "p-1", 5.0)] {
        let refused = paying.notify(callback).await.unwrap_err();
        assert_eq!(code_of(&refused), duplicate());
    }
    assert_eq!(paying.order(&second).await.status, "pending");
    // The payment that was opened for one order can't pay another order either.
    let opened = paying.order(&second).await.payment_order_id;
    let third = paying.recharge("u", 5.0).await.order_id;
    let refused = paying.notify(success(&third, &opened, 5.0)).await.unwrap_err();
    assert_eq!(code_of(&refused), duplicate());
    paying.assert_books("u", 5.0).await;
    paying.assert_books("other", 0.0).await;
}

#[rstest]
#[tokio::test]
async fn one_payment_for_many_orders_at_once_pays_for_one(#[values(MySql, Sqlite)] on: Backend) {
    let paying = Paying::start(on).await;
    let users: Vec<String> = (0..16).map(|number| format!("u{number}")).collect();
    let orders = join_all(users.iter().map(|user| paying.recharge(user, 5.0))).await;
    let answers = join_all(orders.iter().map(|order| paying.notify(success(&order.order_id, "p-1", 5.0)))).await;
    let (taken, refused): (Vec<_>, Vec<_>) = answers.into_iter().partition(Result::is_ok);
    assert_eq!((taken.len(), refused.len()), (1, 15), "{refused:?}");
    assert!(refused.into_iter().all(|refused| code_of(&refused.unwrap_err()) == duplicate()));
    let mut total = 0.0;
    for user in &users {
        total += paying.service.account(user).await.balance;
    }
    assert_eq!(total, 5.0);
    paying.service.assert_audit_is_clean().await;
}

#[rstest]
#[tokio::test]
async fn another_amount_or_currency_is_refused(#[values(MySql, Sqlite)] on: Backend) {
    let paying = Paying::start(on).await;
    let order = paying.recharge("u", 5.0).await.order_id;
    let usd = RechargeCallbackRequest { currency: "USD".into(), ..success(&order, "p-1", 5.0) };
    for wrong in [
        success(&order, "p-1", 5.01),
        success(&order, "p-1", 4.99),
        success(&order, "p-1", 0.0),
        success(&order, "p-1", -5.0),
        failed(&order, "p-1", 5.01),
        usd,
    ] {
        let refused = paying.notify(wrong).await.unwrap_err();
        assert_eq!(code_of(&refused), mismatch());
    }
    assert_eq!((paying.order(&order).await.status.as_str(), paying.counted("refused").await), ("pending", 6));
    paying.assert_books("u", 0.0).await;
    let cny = RechargeCallbackRequest { currency: "CNY".into(), ..success(&order, "p-1", 5.0) };
    paying.notify(cny).await.unwrap();
    // A repeat for a settled order with another amount is refused, too.
    assert_eq!(code_of(&paying.notify(success(&order, "p-1", 6.0)).await.unwrap_err()), mismatch());
    paying.assert_books("u", 5.0).await;
}

#[rstest]
#[tokio::test]
async fn a_success_after_a_failure_credits(#[values(MySql, Sqlite)] on: Backend) {
    let paying = Paying::start(on).await;
    let order = paying.recharge("u", 5.0).await.order_id;
    // A failed payment has no amount.
    paying.notify(failed(&order, "p-1", 0.0)).await.unwrap();
    paying.notify(failed(&order, "p-1", 0.0)).await.unwrap();
    assert_eq!(paying.order(&order).await.status, "failed");
    paying.assert_books("u", 0.0).await;
    paying.notify(success(&order, "p-2", 5.0)).await.unwrap();
    let order = paying.order(&order).await;
    assert_eq!((order.status.as_str(), order.payment_order_id.as_str()), ("success", "p-2"));
    paying.assert_books("u", 5.0).await;
}

#[rstest]
#[tokio::test]
async fn a_failure_after_a_success_takes_nothing_back(#[values(MySql, Sqlite)] on: Backend) {
    let paying = Paying::start(on).await;
    let order = paying.recharge("u", 5.0).await.order_id;
    paying.notify(success(&order, "p-1", 5.0)).await.unwrap();
    paying.notify(failed(&order, "p-1", 5.0)).await.unwrap();
    paying.notify(failed(&order, "", 0.0)).await.unwrap();
    assert_eq!(code_of(&paying.notify(failed(&order, "p-2", 5.0)).await.unwrap_err()), duplicate());
    assert_eq!(paying.order(&order).await.status, "success");
    paying.assert_books("u", 5.0).await;
}

#[rstest]
#[tokio::test]
async fn success_and_failure_at_once_end_in_success(#[values(MySql, Sqlite)] on: Backend) {
    let paying = Paying::start(on).await;
    let order = paying.recharge("u", 5.0).await.order_id;
    let callbacks = (0..40).map(|number| {
        let status = if number % 2 == 0 { success } else { failed };
        paying.notify(status(&order, "p-1", 5.0))
    });
    for answer in join_all(callbacks).await {
        assert!(answer.unwrap().success);
    }
    assert_eq!(paying.order(&order).await.status, "success");
    paying.assert_books("u", 5.0).await;
}

#[rstest]
#[case::doubled(json!({"duplicates": 5}))]
#[case::late(json!({"callback_delay_ms": 200}))]
#[tokio::test]
async fn duplicate_and_late_callbacks_of_the_sandbox_credit_once(
    #[values(MySql, Sqlite)] on: Backend,
    #[case] switches: serde_json::Value,
) {
    let paying = Paying::start(on).await;
    paying.switch(switches);
    let reply = paying.recharge("u", 5.0).await;
    paying.press(&reply.payment_url, "SUCCESS").await;
    paying.until_reported().await;
    assert_eq!(paying.order(&reply.order_id).await.status, "success");
    paying.assert_books("u", 5.0).await;
}

#[rstest]
#[tokio::test]
async fn callbacks_in_reverse_order_end_in_success(#[values(MySql, Sqlite)] on: Backend) {
    let paying = Paying::start(on).await;
    paying.switch(json!({"reorder": true}));
    let reply = paying.recharge("u", 5.0).await;
    // The sandbox sends the failure after the answer to the success.
    paying.press(&reply.payment_url, "FAILED").await;
    paying.press(&reply.payment_url, "SUCCESS").await;
    paying.until_reported().await;
    let sent: Vec<_> = paying.sandbox.callbacks().iter().map(|attempt| attempt.status.to_string()).collect();
    assert_eq!(sent, ["SUCCESS", "FAILED"]);
    assert_eq!(paying.order(&reply.order_id).await.status, "success");
    paying.assert_books("u", 5.0).await;
}

#[rstest]
#[case::forged(json!({"forge": true}))]
#[case::of_another_amount(json!({"wrong_amount": true}))]
#[tokio::test]
async fn wrong_callbacks_of_the_sandbox_are_refused_and_credit_nothing(
    #[values(MySql, Sqlite)] on: Backend,
    #[case] switches: serde_json::Value,
) {
    let paying = Paying::start(on).await;
    paying.switch(switches);
    let reply = paying.recharge("u", 5.0).await;
    paying.press(&reply.payment_url, "SUCCESS").await;
    paying.until_reported().await;
    assert_eq!(paying.counted("refused").await, 1);
    assert_eq!(paying.order(&reply.order_id).await.status, "pending");
    paying.assert_books("u", 0.0).await;
}

#[rstest]
#[tokio::test]
async fn a_callback_may_come_before_the_reply_with_its_payment(#[values(MySql, Sqlite)] on: Backend) {
    let (paying, proxy) = Paying::start_behind_proxy(on).await;
    paying.switch(json!({"pay_at_once": "SUCCESS"}));
    proxy.stall_replies(true);
    let mut recharging = std::pin::pin!(paying.recharge("u", 5.0));
    let credited = until("the order is credited", async || paying.service.account("u").await.balance == 5.0);
    tokio::select! {
        _ = &mut recharging => panic!("answered before the callback came"),
        () = credited => {}
    }
    proxy.stall_replies(false);
    let reply = recharging.await;
    assert!(!reply.payment_url.is_empty());
    assert_eq!(paying.order(&reply.order_id).await.status, "success");
    paying.assert_books("u", 5.0).await;
}

#[rstest]
#[tokio::test]
async fn a_callback_for_an_unknown_order_or_an_invalid_one_is_refused(#[values(MySql, Sqlite)] on: Backend) {
    let paying = Paying::start(on).await;
    let order = paying.recharge("u", 5.0).await.order_id;
    let unknown = paying.notify(success("recharge_u_1_ffffff", "p-1", 5.0)).await.unwrap_err();
    assert_eq!(code_of(&unknown), (Code::NotFound, "10003".into()));
    let paid = RechargeCallbackRequest { status: "PAID".into(), ..success(&order, "p-1", 5.0) };
    for (wrong, field) in [
        (success("", "p-1", 5.0), "order_id"),
        (success(&"x".repeat(65), "p-1", 5.0), "order_id"),
        (success(&order, "", 5.0), "payment_order_id"),
        (success(&order, &"p".repeat(65), 5.0), "payment_order_id"),
        (success(&order, "p\n1", 5.0), "payment_order_id"),
        (success(&order, "p-1", f64::NAN), "amount"),
        (success(&order, "p-1", 5.000_000_1), "amount"),
        (paid, "status"),
    ] {
        let refused = paying.notify(wrong).await.unwrap_err();
        assert_eq!(code_of(&refused), (Code::InvalidArgument, "10009".into()));
        assert!(refused.message().starts_with(&format!("{field}:")), "{refused:?}");
    }
    paying.assert_books("u", 0.0).await;
    let lower = RechargeCallbackRequest { status: "success".into(), ..success(&order, "p-1", 5.0) };
    paying.notify(lower).await.unwrap();
    paying.assert_books("u", 5.0).await;
}

#[rstest]
#[tokio::test]
async fn ids_that_differ_only_in_case_are_different(#[values(MySql, Sqlite)] on: Backend) {
    let paying = Paying::start(on).await;
    let (first, second) = (paying.recharge("u", 5.0).await.order_id, paying.recharge("u", 5.0).await.order_id);
    let unknown = paying.notify(success(&first.to_uppercase(), "p", 5.0)).await.unwrap_err();
    assert_eq!(code_of(&unknown), (Code::NotFound, "10003".into()));
    paying.notify(success(&first, "p", 5.0)).await.unwrap();
    paying.notify(success(&second, "P", 5.0)).await.unwrap();
    paying.assert_books("u", 10.0).await;
}

#[rstest]
#[tokio::test]
async fn a_payment_beyond_the_largest_balance_stays_uncredited(#[values(MySql, Sqlite)] on: Backend) {
    let paying = Paying::start(on).await;
    let order = paying.recharge("u", 5.0).await.order_id;
    paying.service.adjust("u", 999_999_999.0).await;
    let refused = paying.notify(success(&order, "p-1", 5.0)).await.unwrap_err();
    assert_eq!(code_of(&refused), (Code::InvalidArgument, "10009".into()));
    assert_eq!(paying.order(&order).await.status, "pending");
    paying.service.adjust("u", -999_999_999.0).await;
    paying.notify(success(&order, "p-1", 5.0)).await.unwrap();
    paying.assert_books("u", 5.0).await;
}

#[rstest]
#[tokio::test]
async fn an_order_of_the_legacy_service_is_credited(#[values(MySql, Sqlite)] on: Backend) {
    let paying = Paying::start(on).await;
    paying.legacy_order("recharge_1001_1793491200", "1001", 25).await;
    let order = paying.order("recharge_1001_1793491200").await;
    assert_eq!((order.payment_method.as_str(), order.payment_url.as_str()), ("", ""));
    paying.notify(success("recharge_1001_1793491200", "p-1", 25.0)).await.unwrap();
    paying.assert_books("1001", 25.0).await;
}

#[rstest]
#[tokio::test]
async fn top_ups_charges_and_adjustments_of_one_account_add_up(#[values(MySql, Sqlite)] on: Backend) {
    let paying = Paying::start(on).await;
    paying.service.use_up_free_quota("u", "asset").await;
    let orders = join_all((0..30).map(|_| paying.recharge("u", 2.0))).await;
    let settle = orders.iter().enumerate().map(|(number, order)| {
        let (paying, id) = (&paying, &order.order_id);
        async move {
            let payment = format!("p-{number}");
            let status = if number % 3 == 0 { failed } else { success };
            paying.notify(status(id, &payment, 2.0)).await.unwrap();
            paying.service.adjust("u", 0.5).await;
            // Some of these charges are refused.
            let _ = paying.service.try_deduct(crate::harness::charge("u", "asset", 7)).await;
        }
    });
    join_all(settle).await;
    let balance = paying.service.account("u").await.balance;
    // 20 top-ups and 30 adjustments, minus a whole number of charges of 0.35.
    let charged = ((20.0 * 2.0 + 30.0 * 0.5 - balance) * 100.0_f64).round() as i64;
    assert_eq!(charged % 35, 0, "{balance}");
    paying.service.assert_audit_is_clean().await;
}

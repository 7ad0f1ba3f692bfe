//! Money that goes back late, by itself, or of a payment that was not credited.

use billing_service::{
    app,
    biz::recharge::reconcile::ReconciledOrders,
    data::payment::proto::{CreateRefundRequest, payment_client::PaymentClient},
    service::proto::{ListUnappliedPaymentsRequest, RechargeCallbackRequest, UnappliedPayment},
};
use futures_util::future::join_all;
use rstest::rstest;
use serde_json::json;

use super::{
    reconcile::{NEXT_DAY, reconcile_with},
    refunds::Paid,
    unapplied::{counted, list, resolve, stray},
};
use crate::harness::{
    Backend, Database, MySql, Service, Sqlite, code_of,
    payments::{Paying, success},
};

pub(super) fn returned(status: &str, order: &str, id: &str, payment: &str, amount: f64) -> RechargeCallbackRequest {
    RechargeCallbackRequest { status: status.into(), refund_id: id.into(), ..success(order, payment, amount) }
}

/// Refunds a payment at the sandbox without billing.
pub(super) async fn refund_there(paying: &Paying, payment: &str, id: &str, amount: i64) {
    let request =
        CreateRefundRequest { payment_id: payment.into(), refund_id: id.into(), amount, ..Default::default() };
    let mut payments = PaymentClient::connect(format!("http://{}", paying.sandbox.addr)).await.unwrap();
    payments.create_refund(request).await.unwrap();
    paying.until_reported().await;
}

pub(super) async fn row_of(paying: &Paying, payment: &str) -> Option<UnappliedPayment> {
    list(paying, "all").await.into_iter().find(|row| row.payment_order_id == payment)
}

pub(super) async fn status_of(paying: &Paying, payment: &str) -> String {
    row_of(paying, payment).await.unwrap().status
}

/// Status, amount, sum that went back, number of reports, and resolution.
pub(super) async fn shown(paying: &Paying, payment: &str) -> (String, f64, f64, i64, String) {
    let UnappliedPayment { status, amount, returned_amount, times_seen, resolution, .. } =
        row_of(paying, payment).await.unwrap();
    (status, amount, returned_amount, times_seen, resolution)
}

/// A stray payment over 7 whose first refund has failed.
pub(super) async fn failed_once(paying: &Paying, order: &str) -> String {
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

#[rstest]
#[tokio::test]
async fn a_refund_that_was_made_after_its_refusal_is_found_before_a_credit(#[values(MySql, Sqlite)] on: Backend) {
    let paying = Paying::start(on).await;
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

#[rstest]
#[tokio::test]
async fn a_refund_is_found_although_its_payment_is_held_under_another_order(#[values(MySql, Sqlite)] on: Backend) {
    let paying = Paying::start(on).await;
    paying.switch(json!({"lose": true}));
    let payment = stray(&paying, "held-under").await;
    paying.notify(success("named", &payment, 7.0)).await.unwrap_err();
    paying.switch(json!({"refund": "lose_reply", "get_refund": "unavailable", "lose": true}));
    resolve(&paying, &payment, "refund", "").await.unwrap();
    paying.switch(json!({"lose": true}));
    assert_eq!(reconcile_with(&paying, NEXT_DAY, &[]).await.unwrap().refunded, 1);
    assert_eq!(status_of(&paying, &payment).await, "refunded");
}

#[rstest]
#[tokio::test]
async fn money_of_an_unapplied_payment_that_goes_back_by_itself_can_not_be_credited(
    #[values(MySql, Sqlite)] on: Backend,
) {
    let paying = Paying::start(on).await;
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

#[rstest]
#[tokio::test]
async fn money_of_a_payment_that_credited_an_order_is_debited_there(#[values(MySql, Sqlite)] on: Backend) {
    let paying = Paying::start(on).await;
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

#[rstest]
#[tokio::test]
async fn the_refund_of_a_second_payment_debits_no_order(#[values(MySql, Sqlite)] on: Backend) {
    for auth in ["confirm", "signed"] {
        let paying = Paying::start_with(on, &[("payment_service.callback_auth", auth)]).await;
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

#[rstest]
#[tokio::test]
async fn an_order_without_an_answer_blocks_no_refund(#[values(MySql, Sqlite)] on: Backend) {
    let paid = Paid::start(on).await;
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

/// The order is credited by another payment, or is not known here.
#[rstest]
#[tokio::test]
async fn a_return_that_comes_before_the_report_of_its_payment_is_kept_once(#[values(MySql, Sqlite)] on: Backend) {
    let paying = Paying::start(on).await;
    let order = paying.recharge("u", 5.0).await.order_id;
    paying.notify(success(&order, "p-1", 5.0)).await.unwrap();
    for (order, payment, reason, code) in
        [(order.as_str(), "second", "second payment", "10004"), ("nobody", "unknown", "unknown order", "10003")]
    {
        let back = returned("CHARGEBACK", order, &format!("c-{payment}"), payment, 5.0);
        // One of those at once may find the row locked, and comes again.
        join_all((0..8).map(|_| paying.notify(back.clone()))).await;
        paying.notify(back.clone()).await.unwrap();
        let told = "5 went back.".to_owned();
        assert_eq!(shown(&paying, payment).await, ("refunded".into(), 5.0, 5.0, 0, told.clone()));
        assert_eq!(row_of(&paying, payment).await.unwrap().reason, reason);
        for times in 1..3 {
            let refused = paying.notify(success(order, payment, 5.0)).await.unwrap_err();
            assert_eq!(code_of(&refused).1, code);
            assert_eq!(shown(&paying, payment).await, ("refunded".into(), 5.0, 5.0, times, told.clone()));
        }
        paying.notify(back).await.unwrap();
        assert_eq!(code_of(&resolve(&paying, payment, "credit", "v").await.unwrap_err()).1, "10011");
    }
    assert_eq!(counted(&paying).await, 0);

    // A part of it, and then another, before the report of the whole.
    for (id, amount) in [("c-2", 2.0), ("c-1", 1.0)] {
        paying.notify(returned("REFUNDED", &order, id, "part", amount)).await.unwrap();
    }
    assert_eq!(shown(&paying, "part").await, ("refunded".into(), 3.0, 3.0, 0, "3 went back.".into()));
    paying.notify(success(&order, "part", 5.0)).await.unwrap_err();
    assert_eq!(shown(&paying, "part").await, ("conflict".into(), 5.0, 3.0, 1, "3 went back.".into()));
    assert_eq!(counted(&paying).await, 1);
    paying.notify(returned("CHARGEBACK", &order, "c-3", "part", 2.0)).await.unwrap();
    assert_eq!(shown(&paying, "part").await, ("refunded".into(), 5.0, 5.0, 1, "5 went back.".into()));
    assert_eq!(counted(&paying).await, 0);
    paying.assert_books("u", 5.0).await;
    // The money of an order that a callback names by a wrong order is that of its own order.
    let other = paying.recharge("v", 5.0).await.order_id;
    paying.notify(success(&other, "p-other", 5.0)).await.unwrap();
    let wrong = paying.notify(returned("CHARGEBACK", &order, "c-other", "p-other", 5.0)).await.unwrap_err();
    assert_eq!(code_of(&wrong).1, "10004");
    assert!(row_of(&paying, "p-other").await.is_none());
    paying.notify(returned("CHARGEBACK", &other, "c-other", "p-other", 5.0)).await.unwrap();
    paying.assert_books("v", 0.0).await;
}

#[rstest]
#[tokio::test]
async fn parts_of_an_unapplied_payment_that_go_back_are_summed_up(#[values(MySql, Sqlite)] on: Backend) {
    let paying = Paying::start(on).await;
    let order = paying.recharge("u", 9.0).await.order_id;
    paying.notify(success(&order, "p-1", 9.0)).await.unwrap();
    for payment in ["open", "credited"] {
        paying.notify(success(&order, payment, 9.0)).await.unwrap_err();
    }
    resolve(&paying, "credited", "credit", "v").await.unwrap();
    let statuses = [["conflict"; 3], ["conflict", "conflict", "refunded"]];
    for (payment, statuses, by_operator) in [("credited", statuses[0], " looked into it"), ("open", statuses[1], "")] {
        for ((number, part), status) in [2.0, 3.5, 3.5].into_iter().enumerate().zip(statuses) {
            let report = returned("REFUNDED", &order, &format!("r-{payment}-{number}"), payment, part);
            let at_once = join_all((0..4).map(|_| paying.notify(report.clone()))).await;
            assert!(at_once.iter().any(Result::is_ok), "{at_once:?}");
            let sum = [2.0, 5.5, 9.0][number];
            let told = format!("{sum} went back.{by_operator}");
            assert_eq!(shown(&paying, payment).await, (status.into(), 9.0, sum, 1, told), "{payment}");
        }
    }
    assert_eq!(counted(&paying).await, 1);
    // More than it is.
    paying.notify(returned("CHARGEBACK", &order, "c-open", "open", 9.0)).await.unwrap();
    assert_eq!(shown(&paying, "open").await, ("conflict".into(), 9.0, 18.0, 1, "18 went back.".into()));
    assert_eq!(counted(&paying).await, 2);
    paying.assert_books("u", 9.0).await;
}

#[rstest]
#[tokio::test]
async fn a_hint_about_an_unknown_payment_is_kept_if_payment_service_confirms_it(#[values(MySql, Sqlite)] on: Backend) {
    let paying = Paying::start_with(on, &[("payment_service.callback_auth", "confirm")]).await;
    paying.switch(json!({"lose": true}));
    let payment = stray(&paying, "stray").await;
    refund_there(&paying, &payment, "r-stray", 300).await;
    for (id, code) in [("r-none", "10003"), ("r-none", "10003")] {
        let refused = paying.notify(returned("REFUNDED", "stray", id, &payment, 3.0)).await.unwrap_err();
        assert_eq!(code_of(&refused).1, code);
    }
    assert!(row_of(&paying, &payment).await.is_none());
    paying.notify(returned("CHARGEBACK", "stray", "r-stray", "", 3.0)).await.unwrap();
    assert_eq!(shown(&paying, &payment).await, ("refunded".into(), 3.0, 3.0, 0, "3 went back.".into()));
    // The payment itself is not reported yet. While payment-service does not answer, its report must come again.
    paying.switch(json!({"get": "unavailable", "lose": true}));
    let report = success("stray", &payment, 7.0);
    let unanswered = paying.hint(report.clone()).await.unwrap_err();
    let at_once = paying.service.internal.clone().recharge_callback(report.clone()).await.unwrap_err();
    for refused in [unanswered, at_once] {
        let code = code_of(&refused).1;
        assert!(["10006", "10014"].contains(&code.as_str()), "{code}");
    }
    paying.switch(json!({"lose": true}));
    assert_eq!(code_of(&paying.hint(report).await.unwrap_err()).1, "10003");
    assert_eq!(shown(&paying, &payment).await, ("conflict".into(), 7.0, 3.0, 1, "3 went back.".into()));
}

/// A refund that is debited at its order proves nothing about the money of another payment.
#[rstest]
#[tokio::test]
async fn the_id_of_a_known_refund_moves_no_other_payment(
    #[values(MySql, Sqlite)] on: Backend,
    #[values("confirm", "signed")] auth: &str,
) {
    let paid = Paid::start_with(on, &[("payment_service.callback_auth", auth)]).await;
    let paying = &paid.paying;
    assert_eq!(paid.refund("known", 5.0).await.status, "success");
    paying.until_reported().await;
    let second = stray(paying, "stray").await;
    let pending = paying.recharge("v", 7.0).await;
    let opened = paying.order(&pending.order_id).await.payment_order_id;
    for payment in [&second, &opened] {
        let lie = returned("REFUNDED", "nobody", "known", payment, 7.0);
        let answer = if auth == "signed" { paying.notify(lie).await } else { paying.hint(lie).await };
        assert_eq!(code_of(&answer.unwrap_err()).1, "10003", "{payment}");
    }
    assert_eq!(status_of(paying, &second).await, "open");
    assert!(row_of(paying, &opened).await.is_none());
    assert_eq!(counted(paying).await, 1);
    paying.press(&pending.payment_url, "SUCCESS").await;
    paying.until_order_is(&pending.order_id, "success").await;
    paying.assert_books("v", 7.0).await;
}

#[rstest]
#[tokio::test]
async fn a_return_is_kept_whole_or_not_at_all_and_its_money_is_not_given_out(#[values(MySql, Sqlite)] on: Backend) {
    let paying = Paying::start(on).await;
    let database = &paying.service.database;
    let (refuse, admit) = match on {
        MySql => (
            "ALTER TABLE unapplied_return ADD CONSTRAINT no_returns CHECK (amount < 0)",
            "ALTER TABLE unapplied_return DROP CONSTRAINT no_returns",
        ),
        Sqlite => (
            "CREATE TRIGGER no_returns BEFORE INSERT ON unapplied_return BEGIN SELECT RAISE(ABORT, 'no'); END",
            "DROP TRIGGER no_returns",
        ),
    };
    let back = returned("CHARGEBACK", "nobody", "c-1", "p-1", 5.0);
    database.execute(refuse).await;
    paying.notify(back.clone()).await.unwrap_err();
    assert!(row_of(&paying, "p-1").await.is_none());
    database.execute(admit).await;
    paying.notify(back).await.unwrap();
    assert_eq!(shown(&paying, "p-1").await, ("refunded".into(), 5.0, 5.0, 0, "5 went back.".into()));

    // A server that stopped between the row and its return left it open.
    database.execute("UPDATE unapplied_payment SET status = 'open', returned_amount = 0, resolved_at = NULL").await;
    for action in ["credit", "refund"] {
        let user = if action == "credit" { "u" } else { "" };
        assert_eq!(code_of(&resolve(&paying, "p-1", action, user).await.unwrap_err()).1, "10011", "{action}");
    }
    assert_eq!(status_of(&paying, "p-1").await, "open");
    paying.service.assert_audit_is_clean().await;
}

#[rstest]
#[tokio::test]
async fn the_return_of_a_second_payment_in_another_currency_is_kept(#[values(MySql, Sqlite)] on: Backend) {
    let paying = Paying::start(on).await;
    let order = paying.recharge("u", 5.0).await.order_id;
    paying.notify(success(&order, "p-1", 5.0)).await.unwrap();
    let usd = |report: RechargeCallbackRequest| RechargeCallbackRequest { currency: "USD".into(), ..report };
    for _ in 0..2 {
        paying.notify(usd(returned("CHARGEBACK", &order, "c-usd", "p-usd", 5.0))).await.unwrap();
    }
    assert_eq!(shown(&paying, "p-usd").await, ("refunded".into(), 5.0, 5.0, 0, "5 went back.".into()));
    assert_eq!(row_of(&paying, "p-usd").await.unwrap().currency, "USD");
    paying.notify(usd(success(&order, "p-usd", 5.0))).await.unwrap_err();
    assert_eq!(shown(&paying, "p-usd").await, ("refunded".into(), 5.0, 5.0, 1, "5 went back.".into()));
    assert_eq!(counted(&paying).await, 0);
    // The payment of the order has the currency of the account.
    let own = paying.notify(usd(returned("CHARGEBACK", &order, "c-own", "p-1", 5.0))).await.unwrap_err();
    assert_eq!(code_of(&own).1, "10005");
    paying.assert_books("u", 5.0).await;
}

/// The hint names no payment, or the second one.
#[rstest]
#[tokio::test]
async fn payment_service_is_asked_about_the_return_of_a_second_payment_in_another_currency(
    #[values(MySql, Sqlite)] on: Backend,
) {
    let paying = Paying::start_with(on, &[("payment_service.callback_auth", "confirm")]).await;
    let opened = paying.recharge("u", 5.0).await;
    paying.press(&opened.payment_url, "SUCCESS").await;
    paying.until_order_is(&opened.order_id, "success").await;
    let named = returned("REFUNDED", &opened.order_id, "r-none", "p-usd", 5.0);
    for payment in ["p-usd", ""] {
        let hint =
            RechargeCallbackRequest { currency: "USD".into(), payment_order_id: payment.into(), ..named.clone() };
        // The refund is not known at payment-service, which was asked.
        assert_eq!(code_of(&paying.hint(hint).await.unwrap_err()).1, "10006", "{payment}");
    }
    paying.assert_books("u", 5.0).await;
}

/// Of a refunded payment all went back. The resolution of one in conflict begins with the amount.
#[rstest]
#[tokio::test]
async fn the_sums_of_an_earlier_release_follow_from_its_rows(#[values(MySql, Sqlite)] on: Backend) {
    let database = Database::create(on).await;
    app::connect(&database.config(&[])).await.unwrap().close().await;
    if on == Sqlite {
        database.execute("DROP INDEX idx_refund_status_updated").await;
        database.execute("DROP VIEW settled_transaction").await;
        for (table, column) in [
            ("tenant_quota", "fired_daily"),
            ("tenant_quota", "fired_monthly"),
            ("api_key_quota", "fired"),
            ("user_balance", "exhausted_month"),
            ("user_balance", "alerts"),
            ("billing_transaction", "reports"),
        ] {
            database.execute(&format!("ALTER TABLE {table} DROP COLUMN {column}")).await;
        }
    }
    database.execute("ALTER TABLE unapplied_payment DROP COLUMN returned_amount").await;
    database.execute("DROP TABLE unapplied_return").await;
    database.execute("DELETE FROM _sqlx_migrations WHERE version >= 24").await;
    let (amount, time) = if on == MySql { ("7", "'2026-11-01 00:00:00'") } else { ("7000000", "0") };
    for (status, reason) in
        [("open", ""), ("refunded", ""), ("conflict", "1.500001 went back. she paid twice"), ("dismissed", "x")]
    {
        let columns =
            "payment_order_id, order_id, amount, currency, cause, status, reason, first_seen_at, last_seen_at";
        let values =
            format!("'{status}', 'o', {amount}, 'CNY', 'unknown order', '{status}', '{reason}', {time}, {time}");
        database.execute(&format!("INSERT INTO unapplied_payment ({columns}) VALUES ({values})")).await;
    }
    let service = Service::start_on(database, &[]).await;
    let request = ListUnappliedPaymentsRequest { status: "all".into(), page_size: 100, ..Default::default() };
    let rows = service.internal.clone().list_unapplied_payments(request).await.unwrap().into_inner().payments;
    let mut sums: Vec<_> = rows.iter().map(|row| (row.status.as_str(), row.returned_amount)).collect();
    sums.sort_by_key(|(status, _)| status.to_owned());
    assert_eq!(sums, [("conflict", 1.500001), ("dismissed", 0.0), ("open", 0.0), ("refunded", 7.0)]);
}

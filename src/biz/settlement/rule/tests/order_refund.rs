//! Refunds and chargebacks of a top-up over 20.

use super::account::{TestAccount, commit_of, order_refund, order_refund_event, units, yuan};
use crate::biz::{
    settlement::{
        order::OrderStatus::{Pending, Success},
        order_refund::OrderRefundContent,
        posting::{OrderRefundRequest, Posting, RefundEvent, ReportedRefund},
    },
    values::ids::{OrderId, PaymentId},
};

use RefundEvent::{Failed, Succeeded};

/// An account whose order over 20 was credited by the payment `p`, and that has spent some of it.
fn credited(spent: &str) -> TestAccount {
    let account = TestAccount::with("0");
    account.keep_order(Pending, None);
    let payment = PaymentId::from_stored("p");
    let paid = crate::biz::settlement::posting::PaymentUpdate::Paid { payment, amount: yuan("20") };
    assert_eq!(account.settle(super::account::update_order(paid)), "success, p");
    if spent != "0" {
        account.settle(super::account::adjust("spent", &format!("-{spent}")));
    }
    account
}

fn begin(id: &str, amount: Option<&str>) -> Posting {
    Posting::RefundOrder(order_refund(id, amount))
}

fn forced(id: &str, amount: &str) -> Posting {
    let request = order_refund(id, Some(amount));
    let content = OrderRefundContent { is_forced: true, ..request.content };
    Posting::RefundOrder(OrderRefundRequest { content, ..request })
}

fn reported(id: &str, amount: &str, is_chargeback: bool, payment: Option<&str>) -> Posting {
    let payment = payment.map(PaymentId::from_stored);
    order_refund_event(id, RefundEvent::Reported(ReportedRefund { is_chargeback, payment, amount: yuan(amount) }))
}

fn chargeback(id: &str, amount: &str) -> Posting {
    reported(id, amount, true, Some("p"))
}

/// The balance and its holds; the books are audited.
fn balance(account: &TestAccount) -> String {
    account.state().split(';').next().unwrap().to_owned()
}

#[test]
fn a_refund_holds_its_amount_and_takes_it_when_the_money_went_back() {
    let account = credited("0");
    assert_eq!(account.settle(begin("r", Some("5"))), "pending of 5, order success with 0 back");
    assert_eq!(balance(&account), "balance 20, held 5");
    assert_eq!(account.settle(order_refund_event("r", Succeeded)), "success of 5, order success with 5 back");
    assert_eq!(balance(&account), "balance 15, held 0");
    assert_eq!(account.settle(begin("s", None)), "pending of 15, order success with 5 back");
    assert_eq!(account.settle(order_refund_event("s", Succeeded)), "success of 15, order refunded with 20 back");
    assert_eq!(balance(&account), "balance 0, held 0");
}

#[test]
fn a_failed_refund_frees_its_amount() {
    let account = credited("0");
    account.settle(begin("r", None));
    assert_eq!(account.settle(order_refund_event("r", Failed)), "failed of 20, order success with 0 back");
    assert_eq!(balance(&account), "balance 20, held 0");
    // The rest of the order can be refunded again, by another id.
    assert_eq!(account.settle(begin("r", None)), "unchanged: failed of 20, order success with 0 back");
    assert_eq!(account.settle(begin("s", None)), "pending of 20, order success with 0 back");
}

#[test]
fn answers_that_come_twice_or_in_another_order_settle_once() {
    let account = credited("0");
    account.settle(begin("r", Some("5")));
    account.settle(order_refund_event("r", Succeeded));
    let same = "unchanged: success of 5, order success with 5 back";
    assert_eq!(account.settle(order_refund_event("r", Succeeded)), same);
    assert_eq!(account.settle(order_refund_event("r", Failed)), same);
    // A callback about the same refund.
    assert_eq!(account.settle(reported("r", "5", false, Some("p"))), same);
    account.settle(begin("s", Some("5")));
    account.settle(order_refund_event("s", Failed));
    assert_eq!(account.settle(order_refund_event("s", Failed)), "unchanged: failed of 5, order success with 5 back");
    // The money went back after all.
    assert_eq!(account.settle(order_refund_event("s", Succeeded)), "success of 5, order success with 10 back");
    assert_eq!(balance(&account), "balance 10, held 0");
}

/// An order over 20 whose whole refund `r` has failed, and was requested again as `s`.
fn failed_and_pending() -> TestAccount {
    let account = credited("0");
    account.settle(begin("r", None));
    account.settle(order_refund_event("r", Failed));
    account.settle(begin("s", None));
    account
}

#[test]
fn a_late_success_waits_for_a_pending_refund_and_is_debited_if_that_fails() {
    for late in [order_refund_event("r", Succeeded), reported("r", "20", false, Some("p"))] {
        let account = failed_and_pending();
        let not_yet = "refused: payment is unavailable: a refund of the order is pending; send the report again";
        assert_eq!(account.settle(late.clone()), not_yet);
        assert_eq!(balance(&account), "balance 20, held 20");
        account.settle(order_refund_event("s", Failed));
        assert_eq!(account.settle(late), "success of 20, order refunded with 20 back");
        assert_eq!(balance(&account), "balance 0, held 0");
    }
}

#[test]
fn a_late_success_is_refused_if_another_refund_took_all_of_the_order() {
    let account = failed_and_pending();
    account.settle(order_refund_event("s", Succeeded));
    let refused = "refused: amount: the order is over 20, of which 20 went back before";
    assert_eq!(account.settle(order_refund_event("r", Succeeded)), refused);
    assert_eq!(balance(&account), "balance 0, held 0");
}

#[test]
fn a_kind_that_was_not_proven_does_not_refuse_the_proven_report() {
    let account = credited("0");
    account.settle(reported("c", "5", false, Some("p")));
    let same = "unchanged: success of 5, order success with 5 back";
    assert_eq!(account.settle(chargeback("c", "5")), same);
    assert_eq!(account.settle(reported("c", "5", false, Some("p"))), same);
    assert_eq!(balance(&account), "balance 15, held 0");
}

#[test]
fn a_refund_takes_only_what_is_free_unless_it_is_forced() {
    let account = credited("12");
    let refused = "refused: balance is not enough: 8.000001 needed, 8 available";
    assert_eq!(account.settle(begin("r", Some("8.000001"))), refused);
    assert_eq!(account.settle(begin("r", Some("3"))), "pending of 3, order success with 0 back");
    let refused = "refused: balance is not enough: 6 needed, 5 available";
    assert_eq!(account.settle(begin("s", Some("6"))), refused);
    assert_eq!(account.settle(forced("s", "6")), "pending of 6, order success with 0 back");
    assert_eq!(balance(&account), "balance 8, held 9");
    account.settle(order_refund_event("r", Succeeded));
    account.settle(order_refund_event("s", Succeeded));
    assert_eq!(balance(&account), "balance -1, held 0");
}

#[test]
fn refunds_in_sum_never_exceed_the_order() {
    let account = credited("0");
    account.settle(super::account::adjust("more", "100"));
    account.settle(begin("r", Some("12")));
    let refused = "refused: amount: must be above 0 and at most 8, which is left of order o";
    assert_eq!(account.settle(begin("s", Some("8.000001"))), refused);
    account.settle(begin("s", Some("8")));
    let refused = "refused: amount: must be above 0 and at most 0, which is left of order o";
    assert_eq!(account.settle(begin("t", None)), refused);
    account.settle(order_refund_event("r", Failed));
    assert_eq!(account.settle(begin("t", None)), "pending of 12, order success with 0 back");
}

#[test]
fn a_refund_is_repeated_by_its_id_and_content() {
    let account = credited("0");
    let request = order_refund("r", Some("5"));
    assert_eq!(account.settle(Posting::RefundOrder(request.clone())), "pending of 5, order success with 0 back");
    // The very request, whose answer was lost.
    assert_eq!(account.settle(Posting::RefundOrder(request)), "pending of 5, order success with 0 back");
    assert_eq!(account.settle(begin("r", Some("5"))), "unchanged: pending of 5, order success with 0 back");
    let conflict =
        |fields| format!("refused: refund_id was used before with other content; these fields differ: {fields}");
    assert_eq!(account.settle(begin("r", Some("6"))), conflict("amount"));
    assert_eq!(account.settle(begin("r", None)), conflict("amount"));
    assert_eq!(account.settle(forced("r", "5")), conflict("force"));
    assert_eq!(account.settle(chargeback("r", "5")), conflict("status"));
    account.settle(chargeback("c", "1"));
    assert_eq!(account.settle(begin("c", Some("1"))), conflict("rpc, reason, force"));
    assert_eq!(balance(&account), "balance 19, held 5");
    let events = account.books.audit_events();
    let of_refunds: Vec<_> = events.iter().filter(|event| event.rpc == "RefundRecharge").collect();
    assert_eq!(of_refunds.len(), 1);
    let after = r#"{"amount":"5","balance":"20","force":false,"held":"5","order_id":"o","refund_id":"r"}"#;
    assert_eq!(of_refunds[0].after.as_deref(), Some(after));
}

#[test]
fn only_a_credited_order_can_be_refunded() {
    let account = TestAccount::with("50");
    assert_eq!(account.settle(begin("r", None)), "refused: order o not found");
    account.keep_order(Pending, Some("p"));
    assert_eq!(account.settle(begin("r", None)), "refused: order o is pending: only a credited order can be refunded");
    let not_yet = "refused: payment is unavailable: the order is not credited yet; send the report again";
    assert_eq!(account.settle(chargeback("c", "20")), not_yet);
}

#[test]
fn a_chargeback_of_spent_money_takes_the_balance_below_zero_once() {
    let account = credited("20");
    assert_eq!(account.settle(chargeback("c", "20")), "success of 20, order refunded with 20 back");
    assert_eq!(account.settle(chargeback("c", "20")), "unchanged: success of 20, order refunded with 20 back");
    assert_eq!(balance(&account), "balance -20, held 0");
    let refused = "refused: amount: the order is over 20, of which 20 went back before";
    assert_eq!(account.settle(chargeback("d", "0.000001")), refused);
    // A top-up pays the debt first.
    account.settle(super::account::adjust("top-up", "25"));
    assert_eq!(balance(&account), "balance 5, held 0");
}

#[test]
fn a_chargeback_leaves_holds_and_waits_for_a_pending_refund() {
    let account = credited("0");
    account.reserve(units(12));
    account.settle(begin("r", Some("5")));
    let not_yet = "refused: payment is unavailable: a refund of the order is pending; send the report again";
    assert_eq!(account.settle(chargeback("c", "15.000001")), not_yet);
    assert_eq!(account.settle(chargeback("c", "15")), "success of 15, order success with 15 back");
    assert_eq!(balance(&account), "balance 5, held 13");
    account.settle(order_refund_event("r", Succeeded));
    account.settle(commit_of(7));
    assert_eq!(balance(&account), "balance -3, held 0");
}

#[test]
fn money_of_a_payment_that_was_not_credited_is_not_debited() {
    let account = credited("0");
    let refused = "refused: payment_order_id: order o was settled by another payment";
    assert_eq!(account.settle(reported("c", "5", true, Some("q"))), refused);
    assert_eq!(account.settle(reported("c", "0", true, None)), "refused: amount: must be above 0");
    assert_eq!(account.settle(reported("c", "5", false, None)), "success of 5, order success with 5 back");
}

#[test]
fn the_time_of_the_credit_outlives_a_refund() {
    let mut account = credited("0");
    let order = || OrderId::from_stored("o");
    let credited_at = account.at.utc;
    account.pass(chrono::TimeDelta::days(40));
    account.settle(begin("r", None));
    let stored = account.books.order(&order()).unwrap();
    assert_eq!((stored.credited_at, stored.updated_at), (Some(credited_at), account.at.utc));
    // An older release kept the time of the credit as that of the last change.
    let account = TestAccount::with("50");
    account.keep_order(Success, Some("p"));
    account.settle(begin("r", None));
    assert_eq!(account.books.order(&order()).unwrap().credited_at, Some(chrono::DateTime::UNIX_EPOCH));
}

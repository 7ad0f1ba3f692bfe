//! The credit of an unapplied payment, and its order.

use super::account::{TestAccount, update_order, user, yuan};
use crate::biz::{
    audit_trail::RESOLVE_PAYMENT,
    settlement::{
        order::OrderStatus::{Pending, Success},
        posting::{PaymentCredit, PaymentUpdate, Posting},
        unapplied::{UnappliedCause, UnappliedPayment, UnappliedStatus},
    },
    values::ids::{PaymentId, UserId},
};

fn keep(account: &TestAccount, payment: &str, status: UnappliedStatus) {
    let cause = UnappliedCause::OtherAmount;
    let reported = UnappliedPayment::reported(payment, yuan("7"));
    account.books.keep_unapplied(UnappliedPayment { cause, status, ..reported });
}

fn credit(payment: &str, user: &str) -> Posting {
    let call = super::histories::postings::call(RESOLVE_PAYMENT);
    Posting::CreditPayment(PaymentCredit::new(UserId::from_stored(user), PaymentId::from_stored(payment), call))
}

fn paid(payment: &str) -> Posting {
    update_order(PaymentUpdate::Paid { payment: PaymentId::from_stored(payment), amount: yuan("20") })
}

fn status(account: &TestAccount, payment: &str) -> UnappliedStatus {
    account.books.unapplied(&PaymentId::from_stored(payment)).unwrap().status
}

#[test]
fn an_unapplied_payment_is_credited_once() {
    let account = TestAccount::with("0");
    keep(&account, "p", UnappliedStatus::Open);
    assert_eq!(account.settle(credit("p", "u")), "credited");
    assert_eq!(account.settle(credit("p", "u")), "unchanged: credited");
    let refused = "refused: payment p was resolved before: it is credited";
    assert_eq!(account.settle(credit("p", "v")), refused);
    assert_eq!(account.state(), "balance 7, held 0; free 0, held 0");
    let events = account.books.audit_events();
    let before = r#"{"amount":"7","balance":"0","currency":"CNY","payment_order_id":"p","status":"open"}"#;
    assert_eq!((events.len(), events[0].before.as_deref()), (1, Some(before)));
    assert_eq!(events[0].user, Some(user()));
}

#[test]
fn the_very_request_is_no_repeat() {
    let account = TestAccount::with("0");
    keep(&account, "p", UnappliedStatus::Open);
    let credit = credit("p", "u");
    assert_eq!(account.settle(credit.clone()), "credited");
    assert_eq!(account.settle(credit), "credited");
}

#[test]
fn an_adjustment_by_hand_with_the_id_of_the_credit_is_no_credit() {
    let account = TestAccount::with("0");
    keep(&account, "p", UnappliedStatus::Open);
    account.settle(super::account::adjust("unapplied payment p", "7"));
    let conflict = "refused: adjustment_id was used before with other content; these fields differ: rpc";
    assert_eq!(account.settle(credit("p", "u")), conflict);
    assert_eq!(account.state(), "balance 7, held 0; free 0, held 0");
    assert_eq!(status(&account, "p"), UnappliedStatus::Open);
}

#[test]
fn only_an_open_payment_is_credited() {
    let account = TestAccount::with("0");
    let refused = "refused: payment p not found among the unapplied payments";
    assert_eq!(account.settle(credit("p", "u")), refused);
    for (status, shown) in [
        (UnappliedStatus::Dismissed, "dismissed"),
        (UnappliedStatus::Refunding, "refunding"),
        (UnappliedStatus::Refunded, "refunded"),
        (UnappliedStatus::Conflict, "conflict"),
        (UnappliedStatus::Applied, "applied"),
    ] {
        keep(&account, "p", status);
        let refused = format!("refused: payment p was resolved before: it is {shown}");
        assert_eq!(account.settle(credit("p", "u")), refused);
    }
}

#[test]
fn the_payment_of_a_credited_order_is_not_credited_again() {
    let account = TestAccount::with("0");
    account.keep_order(Success, Some("p"));
    keep(&account, "p", UnappliedStatus::Open);
    let refused = "refused: payment_order_id: p was credited with an order; refund that order instead";
    assert_eq!(account.settle(credit("p", "u")), refused);
}

#[test]
fn a_payment_that_is_credited_with_its_order_after_all_is_closed() {
    let account = TestAccount::with("0");
    account.keep_order(Pending, Some("p"));
    keep(&account, "p", UnappliedStatus::Open);
    // In one batch, the credit of the order comes first.
    let refused = "refused: payment_order_id: p was credited with an order; refund that order instead";
    assert_eq!(account.settle_all([paid("p"), credit("p", "u")]), ["success, p", refused]);
    assert_eq!(status(&account, "p"), UnappliedStatus::Applied);
    assert_eq!(account.state(), "balance 20, held 0; free 0, held 0");
}

#[test]
fn an_order_is_not_credited_by_a_payment_whose_money_left() {
    use UnappliedStatus::{Conflict, Credited, Refunded, Refunding};
    for left in [Credited, Refunding, Refunded, Conflict] {
        let account = TestAccount::with("0");
        account.keep_order(Pending, None);
        keep(&account, "p", left);
        let refused = "refused: payment_order_id: p was resolved as an unapplied payment";
        assert_eq!(account.settle(paid("p")), refused);
        assert_eq!(status(&account, "p"), left);
    }
    let account = TestAccount::with("0");
    account.keep_order(Pending, None);
    keep(&account, "p", UnappliedStatus::Dismissed);
    assert_eq!(account.settle(paid("p")), "success, p");
    assert_eq!(status(&account, "p"), UnappliedStatus::Applied, "a return at the same time finds its money here");
}

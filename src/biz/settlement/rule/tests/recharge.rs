//! Top-up orders: the states, and the credit.

use super::account::{TestAccount, update_order, yuan};
use crate::biz::{
    settlement::{
        order::OrderStatus::{self, Expired, Failed, Pending, Success},
        posting::{OrderUpdate, PaymentUpdate, Posting},
    },
    values::ids::{OrderId, PaymentId},
};

fn opened(payment: &str) -> PaymentUpdate {
    PaymentUpdate::Opened { payment: PaymentId::from_stored(payment), url: "https://pay".into() }
}

fn paid(payment: &str, amount: &str) -> PaymentUpdate {
    PaymentUpdate::Paid { payment: PaymentId::from_stored(payment), amount: yuan(amount) }
}

fn failed(payment: Option<&str>, amount: Option<&str>) -> PaymentUpdate {
    PaymentUpdate::Failed { payment: payment.map(PaymentId::from_stored), amount: amount.map(yuan) }
}

/// An order over 20 in a state with a payment, the update, the answer, and the balance after.
type Case = (OrderStatus, Option<&'static str>, PaymentUpdate, &'static str, &'static str);

fn check(cases: impl IntoIterator<Item = Case>) {
    for (status, payment, update, answer, balance) in cases {
        let account = TestAccount::with("0");
        account.keep_order(status, payment);
        let before = if status == Success { "20" } else { "0" };
        if status == Success {
            account.settle(super::account::adjust("before", before));
        }
        assert_eq!(account.settle(update_order(update.clone())), answer, "{status} {payment:?} {update:?}");
        let amount = account.books.balance(&super::account::user()).amount;
        assert_eq!(amount, yuan(balance), "{status} {payment:?} {update:?}");
    }
}

#[test]
fn money_that_is_in_credits_an_order_once_from_every_state() {
    check([
        (Pending, None, paid("p1", "20"), "success, p1", "20"),
        (Failed, Some("p1"), paid("p1", "20"), "success, p1", "20"),
        (Expired, Some("p1"), paid("p2", "20"), "success, p2", "20"),
        (Success, Some("p1"), paid("p1", "20"), "unchanged: success, p1", "20"),
        (
            Success,
            Some("p1"),
            paid("p2", "20"),
            "refused: payment_order_id: order o was settled by another payment",
            "20",
        ),
    ]);
}

#[test]
fn another_amount_than_that_of_the_order_is_refused() {
    check([
        (Pending, None, paid("p1", "19.999999"), "refused: amount: must be 20, the amount of the order", "0"),
        (Pending, None, failed(None, Some("21")), "refused: amount: must be 20, the amount of the order", "0"),
        (Pending, None, failed(None, Some("20")), "failed, no payment", "0"),
    ]);
}

#[test]
fn a_payment_is_opened_for_an_order_that_waits_without_one() {
    check([
        (Pending, None, opened("p1"), "pending, p1", "0"),
        (Pending, Some("p1"), opened("p2"), "unchanged: pending, p1", "0"),
        (Failed, None, opened("p1"), "unchanged: failed, no payment", "0"),
        (Success, Some("p1"), opened("p1"), "unchanged: success, p1", "20"),
    ]);
}

#[test]
fn a_payment_fails_unless_it_came_in() {
    check([
        (Pending, None, failed(None, None), "failed, no payment", "0"),
        (Pending, None, failed(Some("p1"), None), "failed, p1", "0"),
        (Expired, Some("p1"), failed(Some("p2"), None), "failed, p1", "0"),
        (Failed, Some("p1"), failed(Some("p1"), None), "unchanged: failed, p1", "0"),
        (Success, Some("p1"), failed(None, None), "unchanged: success, p1", "20"),
        (Success, Some("p1"), failed(Some("p1"), None), "unchanged: success, p1", "20"),
        (
            Success,
            Some("p1"),
            failed(Some("p2"), None),
            "refused: payment_order_id: order o was settled by another payment",
            "20",
        ),
    ]);
}

#[test]
fn an_order_expires_while_it_waits() {
    check([
        (Pending, Some("p1"), PaymentUpdate::Expired, "expired, p1", "0"),
        (Failed, None, PaymentUpdate::Expired, "unchanged: failed, no payment", "0"),
        (Success, Some("p1"), PaymentUpdate::Expired, "unchanged: success, p1", "20"),
    ]);
}

#[test]
fn a_payment_pays_for_one_order() {
    let account = TestAccount::with("0");
    account.keep_order(Pending, None);
    account.keep_order_of("other", Pending, Some("p1"));
    let refused = "refused: payment_order_id: p1 belongs to another order";
    assert_eq!(account.settle(update_order(paid("p1", "20"))), refused);
}

#[test]
fn a_payment_that_an_order_gave_up_stays_its_own_until_the_batch_is_over() {
    let account = TestAccount::with("0");
    account.keep_order(Pending, Some("p1"));
    account.keep_order_of("other", Pending, None);
    let of_other = |update| {
        let order = OrderId::from_stored("other");
        Posting::UpdateOrder(OrderUpdate { user: super::account::user(), order, payment_update: update })
    };
    let answers = account.settle_all([update_order(paid("p2", "20")), of_other(paid("p1", "20"))]);
    assert_eq!(answers, ["success, p2", "refused: payment_order_id: p1 belongs to another order"]);
    assert_eq!(account.settle(of_other(paid("p2", "20"))), "refused: payment_order_id: p2 belongs to another order");
    assert_eq!(account.settle(of_other(paid("p1", "20"))), "success, p1");
}

#[test]
fn an_order_that_is_not_there_is_not_found() {
    assert_eq!(TestAccount::with("0").settle(update_order(paid("p1", "20"))), "refused: order o not found");
}

#[test]
fn a_top_up_does_not_take_the_balance_beyond_the_largest_amount() {
    let account = TestAccount::with("999999980");
    account.keep_order(Pending, None);
    let refused = "refused: amount: would raise the balance above 999999999.999999";
    assert_eq!(account.settle(update_order(paid("p1", "20"))), refused);
}

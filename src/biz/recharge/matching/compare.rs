//! Compares one line of a settlement file with the database.

use std::collections::BTreeMap;

use super::file::SettlementLine;
use crate::biz::{
    settlement::{
        order::Order,
        unapplied::{UnappliedPayment, UnappliedStatus},
    },
    values::{ids::PaymentId, money::Money},
};

/// The result of a comparison, with the difference.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Comparison {
    Same,
    Missing(String),
    Differs(String),
}

/// Compares the line of a payment with the order that it names. `is_second` says whether the payment had a
/// line before.
pub(super) fn compare(
    line: &SettlementLine,
    order: Option<&Order>,
    unapplied: Option<&UnappliedPayment>,
    is_second: bool,
) -> Comparison {
    if let Some(order) = order
        && line.payment.is_some()
        && !is_second
        && order.status.is_credited()
        && is_of(line, order, unapplied)
    {
        return compare_amount(line, order.amount);
    }
    if let Some(unapplied) = unapplied {
        return match unapplied.status {
            _ if is_second => Comparison::Differs("a further line of the payment".into()),
            UnappliedStatus::Credited | UnappliedStatus::Refunded => compare_amount(line, unapplied.amount),
            status => Comparison::Missing(format!("it is an unapplied payment, {status}")),
        };
    }
    match (order, is_second) {
        (None, _) => Comparison::Missing("no such order".into()),
        (Some(_), true) => Comparison::Differs("a further line of the order".into()),
        (Some(order), _) if !order.status.is_credited() => {
            Comparison::Missing(format!("the order is {} and not credited", order.status))
        }
        (Some(order), _) => match (&order.payment, &line.payment) {
            (Some(known), Some(_)) => Comparison::Differs(format!("the order was credited by payment {known}")),
            _ => compare_amount(line, order.amount),
        },
    }
}

/// The lines of refunds that were the same, by payment and amount.
pub(super) type GivenBack<'l> = BTreeMap<(&'l PaymentId, Money), usize>;

/// Compares the line of a refund with the unapplied payment that it names, and with the amounts of its
/// `returns`, each of which has one line. `None` if it is no refund of that payment alone, and may be one of an
/// order.
pub(super) fn compare_refund<'l>(
    line: &'l SettlementLine,
    unapplied: Option<&UnappliedPayment>,
    returns: &[Money],
    given_back: &mut GivenBack<'l>,
) -> Option<Comparison> {
    let (payment, unapplied) = (line.payment.as_ref()?, unapplied?);
    let amount = -line.amount;
    // An earlier release did not store the returns of a refunded payment.
    let is_earlier = returns.is_empty() && unapplied.status == UnappliedStatus::Refunded && unapplied.amount == amount;
    let known = returns.iter().filter(|returned| **returned == amount).count() + usize::from(is_earlier);
    let lines = given_back.entry((payment, amount)).or_default();
    (*lines < known).then(|| {
        *lines += 1;
        Comparison::Same
    })
}

/// Whether a line is about the payment of an order. If one of them names no payment, it is, unless the
/// payment is known as an unapplied one.
pub(super) fn is_of(line: &SettlementLine, order: &Order, unapplied: Option<&UnappliedPayment>) -> bool {
    match (&order.payment, &line.payment) {
        (Some(known), Some(named)) => known == named,
        _ => unapplied.is_none(),
    }
}

fn compare_amount(line: &SettlementLine, amount: Money) -> Comparison {
    if line.amount == amount { Comparison::Same } else { Comparison::Differs(format!("credited was {amount}")) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::biz::{
        recharge::matching::tests::{line, order, unapplied},
        settlement::order::OrderStatus,
    };

    fn text(comparison: Comparison) -> String {
        match comparison {
            Comparison::Same => "same".into(),
            Comparison::Missing(why) => format!("missing: {why}"),
            Comparison::Differs(why) => format!("differs: {why}"),
        }
    }

    #[test]
    fn a_line_is_the_same_if_order_payment_and_amount_are() {
        let credited = order(OrderStatus::Success, Some("p"));
        let of = |line: &SettlementLine, order: &Order| text(compare(line, Some(order), None, false));
        assert_eq!(of(&line("p", "20"), &credited), "same");
        assert_eq!(of(&line("p", "20"), &order(OrderStatus::Refunded, Some("p"))), "same");
        assert_eq!(of(&line("", "20"), &credited), "same");
        assert_eq!(of(&line("p", "20"), &order(OrderStatus::Success, None)), "same");
        assert_eq!(of(&line("p", "20.01"), &credited), "differs: credited was 20");
        assert_eq!(of(&line("q", "20"), &credited), "differs: the order was credited by payment p");
        let pending = order(OrderStatus::Pending, Some("p"));
        assert_eq!(of(&line("p", "20"), &pending), "missing: the order is pending and not credited");
        assert_eq!(text(compare(&line("p", "20"), None, None, false)), "missing: no such order");
        assert_eq!(
            text(compare(&line("p", "20"), Some(&credited), None, true)),
            "differs: a further line of the order"
        );
    }

    #[test]
    fn an_unapplied_payment_is_missing_until_it_is_credited() {
        let (second, order) = (line("q", "7"), order(OrderStatus::Success, Some("p")));
        let of = |status| text(compare(&second, Some(&order), Some(&unapplied(status)), false));
        assert_eq!(of(UnappliedStatus::Open), "missing: it is an unapplied payment, open");
        assert_eq!(of(UnappliedStatus::Credited), "same");
        let less = line("q", "6");
        let credited = unapplied(UnappliedStatus::Credited);
        assert_eq!(text(compare(&less, None, Some(&credited), false)), "differs: credited was 7");
        assert_eq!(
            text(compare(&second, Some(&order), Some(&credited), true)),
            "differs: a further line of the payment"
        );
        // An order of the legacy service has no payment.
        let legacy = self::order(OrderStatus::Success, None);
        assert_eq!(text(compare(&second, Some(&legacy), Some(&credited), false)), "same");
    }

    #[test]
    fn a_refunded_payment_has_a_line_for_each_way() {
        let (paid, back, part) = (line("q", "7"), line("q", "-7"), line("q", "-6"));
        let refunded = unapplied(UnappliedStatus::Refunded);
        assert_eq!(text(compare(&paid, None, Some(&refunded), false)), "same");
        let mut given_back = GivenBack::new();
        assert_eq!(compare_refund(&part, Some(&refunded), &[], &mut given_back), None);
        assert_eq!(compare_refund(&back, Some(&refunded), &[], &mut given_back), Some(Comparison::Same));
        assert_eq!(compare_refund(&back, Some(&refunded), &[], &mut given_back), None, "it went back once");
        let credited = unapplied(UnappliedStatus::Credited);
        assert_eq!(compare_refund(&line("q", "-7"), Some(&credited), &[], &mut GivenBack::new()), None);
    }

    #[test]
    fn each_return_of_a_payment_has_one_line() {
        let (conflict, sum) = (unapplied(UnappliedStatus::Conflict), line("q", "-7"));
        let lines = [line("q", "-3.5"), line("q", "-2"), line("q", "-3.5"), line("q", "-3.5")];
        let returns = ["2", "3.5", "3.5"].map(|amount| amount.parse().unwrap());
        let mut given_back = GivenBack::new();
        let mut is_same =
            |line| compare_refund(line, Some(&conflict), &returns, &mut given_back) == Some(Comparison::Same);
        assert_eq!(lines.each_ref().map(&mut is_same), [true, true, true, false]);
        assert!(!is_same(&sum), "it went back in parts");
    }
}

//! Compares the credited top-ups and their refunds with a settlement file of payment-service. Writes
//! nothing.
//!
//! A line with an amount above zero is a payment, and one below zero a refund or chargeback. The file
//! covers the days from its first to its last date.

mod compare;
mod file;
mod missing;
mod store;

use std::collections::BTreeSet;

use self::{
    compare::{Comparison, GivenBack, compare, compare_refund, is_of},
    file::Refunds,
    missing::{missing_credits, missing_payments, missing_refunds},
};
pub use self::{
    file::{Matched, SettlementLine},
    store::SettlementStore,
};
use crate::biz::{
    settlement::{order::Order, unapplied::UnappliedPayment},
    values::{
        calendar::{Calendar, DaySpan},
        error::StoreError,
        ids::{OrderId, PaymentId},
    },
};

/// The content of the lines so far.
#[derive(Default)]
struct Seen<'l> {
    /// The orders whose own payment has a line.
    orders: BTreeSet<&'l OrderId>,
    /// The unapplied payments with a line, and the lines of their refunds.
    payments: BTreeSet<&'l PaymentId>,
    given_back: GivenBack<'l>,
    refunds: Refunds<'l>,
}

impl<'l> Seen<'l> {
    /// Notes a line of a payment. Whether the same payment had a line before.
    fn notes_again(
        &mut self,
        line: &'l SettlementLine,
        order: Option<&Order>,
        unapplied: Option<&UnappliedPayment>,
    ) -> bool {
        // A line of another payment says nothing about that of the order.
        if order.is_some_and(|order| is_of(line, order, unapplied)) {
            return !self.orders.insert(&line.order);
        }
        match &line.payment {
            Some(payment) if unapplied.is_some() => !self.payments.insert(payment),
            _ => false,
        }
    }
}

/// Compares the lines of a file with the database. `report` gets each difference.
///
/// # Errors
/// [`StoreError::Unavailable`], [`StoreError::Failed`].
pub async fn match_settlements(
    store: &dyn SettlementStore,
    calendar: &Calendar,
    lines: &[SettlementLine],
    report: &mut dyn FnMut(String),
) -> Result<Matched, StoreError> {
    let mut matched = Matched { lines: lines.len() as u64, ..Matched::default() };
    matched.amount = lines.iter().map(|line| line.amount).sum();
    matched.fee = lines.iter().map(|line| line.fee).sum();
    let days = lines.iter().map(|line| line.day);
    let Some((first, last)) = days.clone().min().zip(days.max()) else { return Ok(matched) };
    let span = DaySpan { first, last };
    matched.days = Some(span);
    let mut seen = Seen::default();
    for line in lines {
        let unapplied = match &line.payment {
            Some(payment) => store.unapplied_payment(payment).await?,
            None => None,
        };
        let compared = if line.amount.is_negative() {
            let returns = match &unapplied {
                Some(unapplied) => store.returns_of_unapplied(&unapplied.payment).await?,
                None => Vec::new(),
            };
            let Some(compared) = compare_refund(line, unapplied.as_ref(), &returns, &mut seen.given_back) else {
                seen.refunds.entry((line.order.clone(), -line.amount)).or_default().push(line);
                continue;
            };
            compared
        } else {
            let order = store.order(&line.order).await?;
            let is_second = seen.notes_again(line, order.as_ref(), unapplied.as_ref());
            compare(line, order.as_ref(), unapplied.as_ref(), is_second)
        };
        match compared {
            Comparison::Same => matched.matched += 1,
            Comparison::Missing(why) => {
                matched.missing_here += 1;
                report(format!("missing here: {}: {why}", shown(line)));
            }
            Comparison::Differs(why) => {
                matched.differing += 1;
                report(format!("different: {}: {why}", shown(line)));
            }
        }
    }
    let between = calendar.bounds(span);
    missing_payments(store, calendar, between, &seen.orders, (&mut matched, report)).await?;
    missing_credits(store, calendar, between, &seen.payments, (&mut matched, report)).await?;
    missing_refunds(store, between, &mut seen.refunds, (&mut matched, report)).await?;
    let mut left: Vec<_> = seen.refunds.into_values().flatten().collect();
    left.sort_by_key(|line| line.number);
    for line in left {
        matched.missing_here += 1;
        report(format!("missing here: {}: no such refund in these days", shown(line)));
    }
    Ok(matched)
}

fn shown(line: &SettlementLine) -> String {
    let payment = line.payment.as_ref().map_or("-", PaymentId::as_str);
    format!("line {}, order {}, payment {payment}, {}", line.number, line.order, line.amount)
}

#[cfg(test)]
mod tests {
    use chrono::{DateTime, NaiveDate};

    use super::*;
    use crate::biz::{
        settlement::{
            order::OrderStatus,
            unapplied::{UnappliedCause, UnappliedStatus},
        },
        values::{ids::UserId, money::Money},
    };

    pub(super) fn line(payment: &str, amount: &str) -> SettlementLine {
        SettlementLine {
            number: 1,
            order: OrderId::from_stored("o"),
            payment: PaymentId::parse_optional("payment_id", payment).unwrap(),
            amount: amount.parse().unwrap(),
            fee: Money::ZERO,
            day: NaiveDate::default(),
        }
    }

    pub(super) fn order(status: OrderStatus, payment: Option<&str>) -> Order {
        Order {
            id: OrderId::from_stored("o"),
            user: UserId::from_stored("u"),
            amount: "20".parse().unwrap(),
            method: None,
            status,
            payment: payment.map(PaymentId::from_stored),
            payment_url: None,
            idempotency_key: None,
            refunded: Money::ZERO,
            refunding: Money::ZERO,
            credited_at: None,
            created_at: DateTime::UNIX_EPOCH,
            updated_at: DateTime::UNIX_EPOCH,
        }
    }

    pub(super) fn unapplied(status: UnappliedStatus) -> UnappliedPayment {
        let cause = UnappliedCause::SecondPayment;
        UnappliedPayment { cause, status, ..UnappliedPayment::reported("q", "7".parse().unwrap()) }
    }

    #[test]
    fn a_line_of_another_payment_says_nothing_about_that_of_the_order() {
        let (own, other, bare) = (line("p", "20"), line("q", "7"), line("", "20"));
        let (order, unapplied) = (order(OrderStatus::Success, Some("p")), unapplied(UnappliedStatus::Credited));
        let mut seen = Seen::default();
        assert!(!seen.notes_again(&other, Some(&order), Some(&unapplied)));
        assert!(seen.orders.is_empty(), "the payment of the order has no line yet");
        assert!(seen.notes_again(&other, Some(&order), Some(&unapplied)), "a second line");
        assert!(!seen.notes_again(&own, Some(&order), None));
        assert!(seen.notes_again(&bare, Some(&order), None), "a line without a payment is of the order");
        assert_eq!((seen.orders.len(), seen.payments.len()), (1, 1));
    }
}

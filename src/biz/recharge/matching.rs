//! Compares the credited top-ups and their refunds with a settlement file of payment-service. Writes
//! nothing.
//!
//! A line with an amount above zero is a payment, and one below zero a refund or chargeback. The file
//! covers the days from its first to its last date.

use std::collections::{BTreeSet, HashMap};

use async_trait::async_trait;
use chrono::{DateTime, NaiveDate, Utc};

use super::RechargeStore;
use crate::biz::{
    settlement::{
        order::Order,
        order_refund::OrderRefund,
        unapplied::{UnappliedPayment, UnappliedStatus},
    },
    values::{
        calendar::{Calendar, DaySpan},
        error::StoreError,
        ids::{OrderId, PaymentId, RefundId},
        money::Money,
    },
};

/// Orders and refunds that are read at once.
const CHUNK: u32 = 1_000;

/// A line of a settlement file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SettlementLine {
    /// From 1.
    pub number: u64,
    pub order: OrderId,
    /// `None` if the line names no payment.
    pub payment: Option<PaymentId>,
    /// Below zero for a refund or chargeback.
    pub amount: Money,
    pub fee: Money,
    pub day: NaiveDate,
}

/// The refunds of a file by order and amount.
type Refunds<'l> = HashMap<(OrderId, Money), Vec<&'l SettlementLine>>;

/// The sums of a comparison.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Matched {
    pub lines: u64,
    pub matched: u64,
    /// Lines of the file without a match in the database.
    pub missing_here: u64,
    /// Top-ups and refunds of the database without a line in the file.
    pub missing_there: u64,
    /// Lines whose amount or payment differs.
    pub differing: u64,
    pub amount: Money,
    pub fee: Money,
    pub days: Option<DaySpan>,
}

impl Matched {
    pub fn is_good(&self) -> bool {
        self.missing_here + self.missing_there + self.differing == 0
    }
}

/// Reads the credited orders and the refunds of a span of time.
#[async_trait]
pub trait SettlementStore: RechargeStore {
    /// At most `limit` orders that were credited from the first instant to before the second one, in
    /// the order of their ids, after `after`.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`], [`StoreError::Failed`].
    async fn credited_orders(
        &self,
        between: (DateTime<Utc>, DateTime<Utc>),
        after: Option<&OrderId>,
        limit: u32,
    ) -> Result<Vec<Order>, StoreError>;

    /// As [`Self::credited_orders`], the refunds and chargebacks that were debited.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`], [`StoreError::Failed`].
    async fn debited_refunds(
        &self,
        between: (DateTime<Utc>, DateTime<Utc>),
        after: Option<&RefundId>,
        limit: u32,
    ) -> Result<Vec<OrderRefund>, StoreError>;
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
    let mut paid: BTreeSet<&OrderId> = BTreeSet::new();
    let mut refunded: Refunds<'_> = HashMap::new();
    for line in lines {
        if line.amount.is_negative() {
            refunded.entry((line.order.clone(), -line.amount)).or_default().push(line);
            continue;
        }
        let is_second = !paid.insert(&line.order);
        let order = store.order(&line.order).await?;
        let unapplied = match &line.payment {
            Some(payment) => store.unapplied_payment(payment).await?,
            None => None,
        };
        match compare(line, order.as_ref(), unapplied.as_ref(), is_second) {
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
    missing_payments(store, calendar, between, &paid, (&mut matched, report)).await?;
    missing_refunds(store, between, &mut refunded, (&mut matched, report)).await?;
    let mut left: Vec<_> = refunded.into_values().flatten().collect();
    left.sort_by_key(|line| line.number);
    for line in left {
        matched.missing_here += 1;
        report(format!("missing here: {}: no such refund in these days", shown(line)));
    }
    Ok(matched)
}

/// Reports the orders that the file lacks.
async fn missing_payments(
    store: &dyn SettlementStore,
    calendar: &Calendar,
    between: (DateTime<Utc>, DateTime<Utc>),
    paid: &BTreeSet<&OrderId>,
    (matched, report): (&mut Matched, &mut dyn FnMut(String)),
) -> Result<(), StoreError> {
    let mut last: Option<OrderId> = None;
    // Ends, because each chunk begins after the last one.
    loop {
        let orders = store.credited_orders(between, last.as_ref(), CHUNK).await?;
        let Some(end) = orders.last() else { return Ok(()) };
        last = Some(end.id.clone());
        for order in orders.iter().filter(|order| !paid.contains(&order.id)) {
            matched.missing_there += 1;
            let payment = order.payment.as_ref().map_or("-", PaymentId::as_str);
            let day = calendar.at(order.credited_at.unwrap_or(order.updated_at)).day;
            let (id, amount) = (&order.id, order.amount);
            report(format!("missing in the file: order {id}, payment {payment}, {amount}, credited on {day}"));
        }
    }
}

/// Reports the refunds that the file lacks, and takes the others out of `refunded`.
async fn missing_refunds(
    store: &dyn SettlementStore,
    between: (DateTime<Utc>, DateTime<Utc>),
    refunded: &mut Refunds<'_>,
    (matched, report): (&mut Matched, &mut dyn FnMut(String)),
) -> Result<(), StoreError> {
    let mut last: Option<RefundId> = None;
    // Ends, because each chunk begins after the last one.
    loop {
        let refunds = store.debited_refunds(between, last.as_ref(), CHUNK).await?;
        let Some(end) = refunds.last() else { return Ok(()) };
        last = Some(end.id.clone());
        for refund in &refunds {
            if refunded.get_mut(&(refund.order.clone(), refund.amount)).and_then(Vec::pop).is_some() {
                matched.matched += 1;
                continue;
            }
            matched.missing_there += 1;
            let (kind, id, order, amount) = (refund.kind.name(), &refund.id, &refund.order, -refund.amount);
            report(format!("missing in the file: refund {id} ({kind}) of order {order}, {amount}"));
        }
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Comparison {
    Same,
    Missing(String),
    Differs(String),
}

/// Compares the line of a payment with the order that it names.
fn compare(
    line: &SettlementLine,
    order: Option<&Order>,
    unapplied: Option<&UnappliedPayment>,
    is_second: bool,
) -> Comparison {
    if let (Some(order), Some(payment)) = (order, &line.payment)
        && !is_second
        && order.status.is_credited()
        && order.payment.as_ref().is_none_or(|known| known == payment)
    {
        return compare_amount(line, order.amount);
    }
    if let Some(unapplied) = unapplied {
        return match unapplied.status {
            UnappliedStatus::Credited => compare_amount(line, unapplied.amount),
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

fn compare_amount(line: &SettlementLine, amount: Money) -> Comparison {
    if line.amount == amount { Comparison::Same } else { Comparison::Differs(format!("credited was {amount}")) }
}

fn shown(line: &SettlementLine) -> String {
    let payment = line.payment.as_ref().map_or("-", PaymentId::as_str);
    format!("line {}, order {}, payment {payment}, {}", line.number, line.order, line.amount)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::biz::{
        settlement::{order::OrderStatus, unapplied::UnappliedCause},
        values::ids::UserId,
    };

    fn line(payment: &str, amount: &str) -> SettlementLine {
        SettlementLine {
            number: 1,
            order: OrderId::from_stored("o"),
            payment: PaymentId::parse_optional("payment_id", payment).unwrap(),
            amount: amount.parse().unwrap(),
            fee: Money::ZERO,
            day: NaiveDate::default(),
        }
    }

    fn order(status: OrderStatus, payment: Option<&str>) -> Order {
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

    fn unapplied(status: UnappliedStatus) -> UnappliedPayment {
        UnappliedPayment {
            payment: PaymentId::from_stored("q"),
            order: OrderId::from_stored("o"),
            amount: "7".parse().unwrap(),
            currency: "CNY".into(),
            cause: UnappliedCause::SecondPayment,
            times_seen: 1,
            first_seen_at: DateTime::UNIX_EPOCH,
            last_seen_at: DateTime::UNIX_EPOCH,
            status,
            user: None,
            reason: String::new(),
            refunds: 0,
            resolved_at: None,
        }
    }

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
        let of = |status| text(compare(&second, Some(&order), Some(&unapplied(status)), true));
        assert_eq!(of(UnappliedStatus::Open), "missing: it is an unapplied payment, open");
        assert_eq!(of(UnappliedStatus::Credited), "same");
        let less = line("q", "6");
        let credited = unapplied(UnappliedStatus::Credited);
        assert_eq!(text(compare(&less, None, Some(&credited), false)), "differs: credited was 7");
    }
}

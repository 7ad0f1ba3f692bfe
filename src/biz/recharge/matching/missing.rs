//! Reports the entries of the database that a settlement file lacks.

use std::collections::BTreeSet;

use chrono::{DateTime, Utc};

use super::{
    file::{Matched, Refunds},
    store::SettlementStore,
};
use crate::biz::{
    settlement::unapplied::UnappliedPayment,
    values::{
        calendar::Calendar,
        error::StoreError,
        ids::{OrderId, PaymentId, RefundId},
        paging::Cursor,
    },
};

/// Entries that are read at once.
const CHUNK: u32 = 1_000;

/// Reports the orders that the file lacks.
pub(super) async fn missing_payments(
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

/// Reports the unapplied payments that were credited to a user and that the file lacks. They belong to the
/// day of their first report.
pub(super) async fn missing_credits(
    store: &dyn SettlementStore,
    calendar: &Calendar,
    (from, before): (DateTime<Utc>, DateTime<Utc>),
    paid: &BTreeSet<&PaymentId>,
    (matched, report): (&mut Matched, &mut dyn FnMut(String)),
) -> Result<(), StoreError> {
    let mut last = Cursor { created_at: before, id: String::new() };
    // Ends, because each chunk begins after the last one, and goes to older payments.
    loop {
        // Of every status, because a credited one whose money went back is in conflict, and then refunded.
        let payments = store.unapplied_payments(None, Some(&last), CHUNK).await?;
        let Some(end) = payments.last() else { return Ok(()) };
        last = Cursor { created_at: end.first_seen_at, id: end.payment.to_string() };
        for unapplied in &payments {
            if unapplied.first_seen_at < from {
                return Ok(());
            }
            if unapplied.user.is_none() || paid.contains(&unapplied.payment) {
                continue;
            }
            matched.missing_there += 1;
            let UnappliedPayment { payment, order, amount, .. } = unapplied;
            let day = calendar.at(unapplied.first_seen_at).day;
            report(format!(
                "missing in the file: unapplied payment {payment}, order {order}, {amount}, credited to a user, first \
                 reported on {day}"
            ));
        }
    }
}

/// Reports the refunds that the file lacks, and takes the others out of `refunded`.
pub(super) async fn missing_refunds(
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

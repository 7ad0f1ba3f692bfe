//! The refund of a top-up: the hold while it is pending, the debit, and reports of money that went
//! back without a request.

use uuid::Uuid;

use super::{Book, recharge::check_repeat};
use crate::biz::{
    account::Balance,
    settlement::{
        audit_events,
        order::{Order, OrderStatus},
        order_refund::{OrderRefund, RefundKind, RefundStatus},
        posting::{OrderRefundRequest, OrderRefundUpdate, Outcome, RefundEvent, ReportedRefund},
    },
    values::{
        error::Error,
        ids::{OrderId, UserId},
        invalid::Invalid,
        money::Money,
    },
};

impl Book<'_> {
    /// Begins a refund: holds its amount.
    pub(super) fn refund_order(&mut self, request: &OrderRefundRequest) -> Result<Outcome, Error> {
        if let Some(first) = self.state.order_refunds.get(&request.id) {
            let mut fields = request.content.differences(first);
            if first.kind != RefundKind::Requested {
                fields.insert(0, "rpc");
            }
            if !fields.is_empty() {
                return Err(conflict(fields));
            }
            let (refund, changed) = (first.clone(), first.request == request.request);
            let order = self.order_of(&request.user, &refund.order)?;
            return Ok(Outcome::OrderRefunded { refund, order, changed });
        }
        let order = self.order_of(&request.user, &request.content.order)?;
        if !order.status.is_credited() {
            let why = format!("order {} is {}: only a credited order can be refunded", order.id, order.status);
            return Err(Error::TransactionState(why));
        }
        let left = order.unrefunded();
        let amount = request.content.amount.unwrap_or(left);
        if amount <= Money::ZERO || amount > left {
            let why = format!("must be above 0 and at most {left}, which is left of order {}", order.id);
            return Err(Invalid::new("amount", why).into());
        }
        let balance = self.balance_of(&request.user)?;
        let before = *balance;
        if amount > balance.available() && !request.content.is_forced {
            return Err(Error::InsufficientBalance { needed: amount, available: balance.available() });
        }
        if balance.available().checked_add(-amount).is_none() {
            return Err(beyond_the_lowest());
        }
        balance.held = balance.held.plus(amount);
        let after = *balance;
        let at = self.batch.at.utc;
        let refund = OrderRefund {
            id: request.id.clone(),
            order: order.id.clone(),
            user: request.user.clone(),
            kind: RefundKind::Requested,
            status: RefundStatus::Pending,
            amount,
            asked: request.content.amount,
            is_forced: request.content.is_forced,
            reason: request.content.reason.clone(),
            request: request.request,
            balance_after: after.amount,
            created_at: at,
            updated_at: at,
            settled_at: None,
        };
        let order = Order { refunding: order.refunding.plus(amount), ..order };
        self.audit_events.push(audit_events::of_order_refund(request, (before, after), (&order, &refund)));
        Ok(self.note_refund(order, refund, true))
    }

    /// Settles a refund by an event of payment-service.
    pub(super) fn update_order_refund(&mut self, update: &OrderRefundUpdate) -> Result<Outcome, Error> {
        let order = self.order_of(&update.user, &update.order)?;
        let known = self.state.order_refunds.get(&update.id).cloned();
        match (&update.event, known) {
            (RefundEvent::Reported(report), None) => self.refund_reported(order, update, report),
            (RefundEvent::Reported(report), Some(refund)) => {
                check_report(report, &order, &refund)?;
                self.refund_succeeded(order, refund)
            }
            (RefundEvent::Succeeded, Some(refund)) if refund.order == order.id => self.refund_succeeded(order, refund),
            (RefundEvent::Failed, Some(refund)) if refund.order == order.id => self.refund_failed(order, refund),
            (RefundEvent::Succeeded | RefundEvent::Failed, _) => {
                Err(Error::Internal(format!("refund {} of order {} was not stored", update.id, order.id)))
            }
        }
    }

    /// The money went back. A refund that had failed before is debited too, below zero if need be.
    fn refund_succeeded(&mut self, order: Order, refund: OrderRefund) -> Result<Outcome, Error> {
        if refund.status == RefundStatus::Success {
            return Ok(Outcome::OrderRefunded { refund, order, changed: false });
        }
        let was_pending = refund.status == RefundStatus::Pending;
        if !was_pending {
            check_left(&order, refund.amount)?;
        }
        let amount = refund.amount;
        let balance = self.balance_of(&order.user)?;
        balance.amount = balance.amount.checked_add(-amount).ok_or_else(beyond_the_lowest)?;
        let mut refunding = order.refunding;
        if was_pending {
            balance.held = balance.held.minus(amount);
            refunding = refunding.minus(amount);
        }
        let (balance_after, at) = (balance.amount, self.batch.at.utc);
        let order = refunded(Order { refunding, ..order }, amount);
        let (status, settled_at) = (RefundStatus::Success, Some(at));
        let refund = OrderRefund { status, settled_at, updated_at: at, balance_after, ..refund };
        Ok(self.note_refund(order, refund, false))
    }

    /// No money went back: the hold is freed.
    fn refund_failed(&mut self, order: Order, refund: OrderRefund) -> Result<Outcome, Error> {
        if refund.status != RefundStatus::Pending {
            return Ok(Outcome::OrderRefunded { refund, order, changed: false });
        }
        let balance = self.balance_of(&order.user)?;
        balance.held = balance.held.minus(refund.amount);
        let (balance_after, updated_at) = (balance.amount, self.batch.at.utc);
        let order = Order { refunding: order.refunding.minus(refund.amount), ..order };
        let refund = OrderRefund { status: RefundStatus::Failed, updated_at, balance_after, ..refund };
        Ok(self.note_refund(order, refund, false))
    }

    /// Debits money that went back without a request, below zero if need be.
    fn refund_reported(
        &mut self,
        order: Order,
        update: &OrderRefundUpdate,
        report: &ReportedRefund,
    ) -> Result<Outcome, Error> {
        if !order.status.is_credited() {
            return Err(not_yet("the order is not credited yet"));
        }
        // Orders of the legacy service may have no payment.
        if let (Some(payment), Some(_)) = (&report.payment, &order.payment) {
            check_repeat(&order, payment)?;
        }
        if report.amount <= Money::ZERO {
            return Err(Invalid::new("amount", "must be above 0").into());
        }
        check_left(&order, report.amount)?;
        let balance = self.balance_of(&order.user)?;
        balance.amount = balance.amount.checked_add(-report.amount).ok_or_else(beyond_the_lowest)?;
        let (balance_after, at) = (balance.amount, self.batch.at.utc);
        let refund = OrderRefund {
            id: update.id.clone(),
            order: order.id.clone(),
            user: order.user.clone(),
            kind: if report.is_chargeback { RefundKind::Chargeback } else { RefundKind::Reported },
            status: RefundStatus::Success,
            amount: report.amount,
            asked: Some(report.amount),
            is_forced: true,
            reason: String::new(),
            request: Uuid::nil(),
            balance_after,
            created_at: at,
            updated_at: at,
            settled_at: Some(at),
        };
        let order = refunded(order, report.amount);
        Ok(self.note_refund(order, refund, true))
    }

    /// Notes a refund and its order for the writes.
    fn note_refund(&mut self, order: Order, refund: OrderRefund, is_new: bool) -> Outcome {
        let order = Order {
            // The last change of an order that an older release has credited was the credit.
            credited_at: order.credited_at.or(Some(order.updated_at)),
            updated_at: self.batch.at.utc,
            ..order
        };
        self.note_order_refund(&refund);
        self.changed.insert(order.user.clone());
        self.changed_orders.insert(order.id.clone());
        self.changed_order_refunds.entry(refund.id.clone()).or_insert(is_new);
        self.state.orders.insert(order.id.clone(), order.clone());
        self.state.order_refunds.insert(refund.id.clone(), refund.clone());
        Outcome::OrderRefunded { refund, order, changed: true }
    }

    fn order_of(&self, user: &UserId, id: &OrderId) -> Result<Order, Error> {
        let found = self.state.orders.get(id).filter(|order| order.user == *user);
        found.cloned().ok_or_else(|| Error::OrderNotFound(id.to_string()))
    }

    fn balance_of(&mut self, user: &UserId) -> Result<&mut Balance, Error> {
        let balance = self.state.balances.get_mut(user);
        balance.ok_or_else(|| Error::Internal(format!("the balance of {user} was not loaded")))
    }
}

/// Checks that an amount that went back is left of its order. A pending refund may still fail and free
/// its part, so the report must come again.
fn check_left(order: &Order, amount: Money) -> Result<(), Error> {
    if amount > order.amount.minus(order.refunded) {
        return Err(beyond_the_order(order));
    }
    if amount > order.unrefunded() {
        return Err(not_yet("a refund of the order is pending"));
    }
    Ok(())
}

/// Checks that a report is about a stored refund: the same order and amount.
fn check_report(report: &ReportedRefund, order: &Order, refund: &OrderRefund) -> Result<(), Error> {
    // A refund that was requested here is no chargeback. The kind of any other stored refund may come
    // from a report that did not prove it, so a report with another kind is a repeat.
    let is_same_kind = !(report.is_chargeback && refund.kind == RefundKind::Requested);
    let differs =
        [("order_id", refund.order != order.id), ("status", !is_same_kind), ("amount", refund.amount != report.amount)];
    let fields: Vec<_> = differs.into_iter().filter_map(|(field, differs)| differs.then_some(field)).collect();
    if fields.is_empty() { Ok(()) } else { Err(conflict(fields)) }
}

/// The order after an amount of it went back.
fn refunded(order: Order, amount: Money) -> Order {
    let refunded = order.refunded.plus(amount);
    let status = if refunded == order.amount { OrderStatus::Refunded } else { order.status };
    Order { refunded, status, ..order }
}

fn conflict(fields: Vec<&'static str>) -> Error {
    Error::IdempotencyConflict { id_field: "refund_id", fields }
}

fn not_yet(why: &str) -> Error {
    Error::PaymentUnavailable(format!("{why}; send the report again"))
}

fn beyond_the_order(order: &Order) -> Error {
    let (amount, refunded) = (order.amount, order.refunded);
    Error::AmountMismatch(format!("amount: the order is over {amount}, of which {refunded} went back before"))
}

fn beyond_the_lowest() -> Error {
    Invalid::new("amount", format!("takes the balance beyond -{}", Money::MAX)).into()
}

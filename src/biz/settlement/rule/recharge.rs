//! The states of a top-up order, their transitions, and the credit.

use super::Book;
use crate::biz::{
    settlement::{
        audit_events,
        order::{Order, OrderStatus},
        posting::{Adjusted, AdjustmentContent, OrderUpdate, Outcome, PaymentCredit, PaymentUpdate},
        unapplied::{UnappliedPayment, UnappliedStatus},
    },
    values::{
        error::{Duplicate, Error},
        ids::{OrderId, PaymentId},
        invalid::Invalid,
        money::Money,
    },
};

impl Book<'_> {
    pub(super) fn update_order(&mut self, update: &OrderUpdate) -> Result<Outcome, Error> {
        let found = self.state.orders.get(&update.order);
        let order = found.ok_or_else(|| Error::OrderNotFound(update.order.to_string()))?.clone();
        if let Some(payment) = update.payment_update.payment() {
            self.check_payment(&order.id, payment)?;
        }
        let changed = match &update.payment_update {
            PaymentUpdate::Opened { payment, url } => opened(&order, payment, url),
            PaymentUpdate::Paid { payment, amount } => self.paid(&order, payment, *amount)?,
            PaymentUpdate::Failed { payment, amount } => failed(&order, payment.as_ref(), *amount)?,
            PaymentUpdate::Expired => expired(&order),
        };
        let Some(changed) = changed else { return Ok(Outcome::OrderUpdated { order, changed: false }) };
        let order = Order { updated_at: self.batch.at.utc, ..changed };
        // A payment that the order had before stays in use for the whole batch. The rows are
        // written in another order, and must not violate the unique key in between.
        if let Some(payment) = &order.payment {
            self.state.payments.insert(payment.clone(), order.id.clone());
        }
        let balance = self.state.balances.get(&order.user).map_or(Money::ZERO, |balance| balance.amount);
        self.note_order(&order, balance);
        self.changed_orders.insert(order.id.clone());
        self.state.orders.insert(order.id.clone(), order.clone());
        Ok(Outcome::OrderUpdated { order, changed: true })
    }

    /// Refuses a payment of another order.
    fn check_payment(&self, order: &OrderId, payment: &PaymentId) -> Result<(), Error> {
        match self.state.payments.get(payment) {
            Some(other) if other != order => {
                Err(Error::DuplicateRecharge(Duplicate::PaymentOfAnotherOrder(payment.clone())))
            }
            _ => Ok(()),
        }
    }

    /// Credits the order in every state in which it is not credited, because the payment succeeded.
    fn paid(&mut self, order: &Order, payment: &PaymentId, amount: Money) -> Result<Option<Order>, Error> {
        check_amount(order, Some(amount))?;
        if order.status.is_credited() {
            return check_repeat(order, payment).map(|()| None);
        }
        let unapplied = self.state.unapplied.get(payment).cloned();
        if unapplied.as_ref().is_some_and(has_left) {
            return Err(Error::DuplicateRecharge(Duplicate::Resolved(payment.clone())));
        }
        let balance = self.state.balances.get_mut(&order.user);
        let balance =
            balance.ok_or_else(|| Error::Internal(format!("the balance of {} was not loaded", order.user)))?;
        balance.amount = balance
            .amount
            .checked_add(order.amount)
            .ok_or_else(|| Invalid::new("amount", format!("would raise the balance above {}", Money::MAX)))?;
        self.changed.insert(order.user.clone());
        self.state.credited_payments.insert(payment.clone());
        // Also a dismissed one. Otherwise a return of it at the same time would look as if no order had its money.
        let is_credited_here = |unapplied: &UnappliedPayment| {
            matches!(unapplied.status, UnappliedStatus::Open | UnappliedStatus::Dismissed)
        };
        if let Some(unapplied) = unapplied.filter(is_credited_here) {
            let resolved_at = Some(self.batch.at.utc);
            self.note_unapplied(UnappliedPayment { status: UnappliedStatus::Applied, resolved_at, ..unapplied });
        }
        let credited_at = Some(self.batch.at.utc);
        Ok(Some(Order { status: OrderStatus::Success, payment: Some(payment.clone()), credited_at, ..order.clone() }))
    }

    /// Credits an unapplied payment to a user, as an adjustment.
    pub(super) fn credit_payment(&mut self, credit: &PaymentCredit) -> Result<Outcome, Error> {
        let found = self.state.unapplied.get(&credit.payment);
        let payment = found.ok_or_else(|| Error::PaymentNotFound(credit.payment.clone()))?.clone();
        let key = (credit.user.clone(), credit.adjustment.clone());
        if let Some(first) = self.state.adjustments.get(&key) {
            if payment.user.as_ref() != Some(&credit.user) {
                // An operator has used the id for an adjustment of another kind.
                return Err(Error::IdempotencyConflict { id_field: "adjustment_id", fields: vec!["rpc"] });
            }
            let changed = first.request == credit.request;
            return Ok(Outcome::PaymentCredited { payment, changed });
        }
        if self.state.credited_payments.contains(&credit.payment) {
            return Err(Error::DuplicateRecharge(Duplicate::Credited(credit.payment.clone())));
        }
        let at = self.batch.at.utc;
        let credited = payment.credited(&credit.user, &credit.call.reason, at)?;
        let balance = self
            .state
            .balances
            .get_mut(&credit.user)
            .ok_or_else(|| Error::Internal(format!("the balance of {} was not loaded", credit.user)))?;
        let after = balance
            .amount
            .checked_add(payment.amount)
            .ok_or_else(|| Invalid::new("user_id", format!("the balance would be beyond {}", Money::MAX)))?;
        let balances = (std::mem::replace(&mut balance.amount, after), after);
        let adjusted = Adjusted {
            user: credit.user.clone(),
            id: credit.adjustment.clone(),
            content: AdjustmentContent {
                amount: payment.amount,
                reason: credit.call.reason.clone(),
                operator: credit.call.actor.caller.to_string(),
            },
            request: credit.request,
            balance_after: after,
            created_at: at,
        };
        self.changed.insert(credit.user.clone());
        self.state.adjustments.insert(key, adjusted.clone());
        self.adjustments.push(adjusted);
        self.audit_events.push(audit_events::of_resolution(&credit.call, &payment, &credited, at, Some(balances)));
        self.note_unapplied(credited.clone());
        Ok(Outcome::PaymentCredited { payment: credited, changed: true })
    }

    fn note_unapplied(&mut self, payment: UnappliedPayment) {
        self.changed_unapplied.insert(payment.payment.clone());
        self.state.unapplied.insert(payment.payment.clone(), payment);
    }
}

/// Whether the money of an unapplied payment was credited elsewhere, or went back.
fn has_left(payment: &UnappliedPayment) -> bool {
    match payment.status {
        UnappliedStatus::Credited
        | UnappliedStatus::Refunding
        | UnappliedStatus::Refunded
        | UnappliedStatus::Conflict => true,
        UnappliedStatus::Open | UnappliedStatus::Applied | UnappliedStatus::Dismissed => false,
    }
}

/// Stores the payment, unless a callback came first.
fn opened(order: &Order, payment: &PaymentId, url: &str) -> Option<Order> {
    let waits = order.status == OrderStatus::Pending && order.payment.is_none();
    waits.then(|| Order { payment: Some(payment.clone()), payment_url: Some(url.to_owned()), ..order.clone() })
}

fn failed(order: &Order, payment: Option<&PaymentId>, amount: Option<Money>) -> Result<Option<Order>, Error> {
    check_amount(order, amount)?;
    match (order.status, payment) {
        (OrderStatus::Pending | OrderStatus::Expired, _) => {
            let payment = order.payment.as_ref().or(payment).cloned();
            Ok(Some(Order { status: OrderStatus::Failed, payment, ..order.clone() }))
        }
        (OrderStatus::Failed, _) | (OrderStatus::Success | OrderStatus::Refunded, None) => Ok(None),
        // A late report of a failure, after the order was paid.
        (OrderStatus::Success | OrderStatus::Refunded, Some(payment)) => check_repeat(order, payment).map(|()| None),
    }
}

fn expired(order: &Order) -> Option<Order> {
    (order.status == OrderStatus::Pending).then(|| Order { status: OrderStatus::Expired, ..order.clone() })
}

fn check_amount(order: &Order, amount: Option<Money>) -> Result<(), Error> {
    match amount {
        Some(amount) if amount != order.amount => Err(order.amount_mismatch()),
        _ => Ok(()),
    }
}

/// Checks that a credited order was credited by this payment.
pub(super) fn check_repeat(order: &Order, payment: &PaymentId) -> Result<(), Error> {
    if order.payment.as_ref() == Some(payment) {
        return Ok(());
    }
    Err(Error::DuplicateRecharge(Duplicate::SecondPayment(order.id.clone())))
}

//! The states of a top-up order, their transitions, and the credit.

use super::Book;
use crate::biz::{
    settlement::{
        order::{Order, OrderStatus},
        posting::{OrderUpdate, Outcome, PaymentUpdate},
    },
    values::{
        error::Error,
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
        self.changed_orders.insert(order.id.clone());
        self.state.orders.insert(order.id.clone(), order.clone());
        Ok(Outcome::OrderUpdated { order, changed: true })
    }

    /// Refuses a payment of another order.
    fn check_payment(&self, order: &OrderId, payment: &PaymentId) -> Result<(), Error> {
        match self.state.payments.get(payment) {
            Some(other) if other != order => {
                Err(Error::DuplicateRecharge(format!("payment_order_id: {payment} belongs to another order")))
            }
            _ => Ok(()),
        }
    }

    /// Credits the order in every state but SUCCESS, because the payment succeeded.
    fn paid(&mut self, order: &Order, payment: &PaymentId, amount: Money) -> Result<Option<Order>, Error> {
        check_amount(order, Some(amount))?;
        if order.status == OrderStatus::Success {
            return check_repeat(order, payment).map(|()| None);
        }
        let balance = self.state.balances.get_mut(&order.user);
        let balance =
            balance.ok_or_else(|| Error::Internal(format!("the balance of {} was not loaded", order.user)))?;
        balance.amount = balance
            .amount
            .checked_add(order.amount)
            .ok_or_else(|| Invalid::new("amount", format!("takes the balance beyond {}", Money::MAX)))?;
        self.changed.insert(order.user.clone());
        Ok(Some(Order { status: OrderStatus::Success, payment: Some(payment.clone()), ..order.clone() }))
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
        (OrderStatus::Failed, _) | (OrderStatus::Success, None) => Ok(None),
        // A late report of a failure, after the order was paid.
        (OrderStatus::Success, Some(payment)) => check_repeat(order, payment).map(|()| None),
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
fn check_repeat(order: &Order, payment: &PaymentId) -> Result<(), Error> {
    if order.payment.as_ref() == Some(payment) {
        return Ok(());
    }
    Err(Error::DuplicateRecharge(format!("payment_order_id: order {} was settled by another payment", order.id)))
}

//! Top-up orders.

use std::collections::BTreeMap;

use super::{Answer, Model};

/// An event of a top-up order at payment-service. Payments are numbered over all users.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OrderStep {
    Opened { payment: u8 },
    Paid { payment: u8, wrong_amount: bool },
    Failed { payment: Option<u8>, wrong_amount: bool },
    Expired,
}

impl OrderStep {
    fn payment(self) -> Option<u8> {
        match self {
            Self::Opened { payment } | Self::Paid { payment, .. } => Some(payment),
            Self::Failed { payment, .. } => payment,
            Self::Expired => None,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OrderState {
    Pending,
    Paid,
    Failed,
    Expired,
    Refunded,
}

impl OrderState {
    pub fn is_credited(self) -> bool {
        matches!(self, Self::Paid | Self::Refunded)
    }
}

/// Number of orders of each user. Larger order numbers do not exist.
pub const ORDERS: u8 = 3;

/// The amount of an order.
pub fn order_amount(order: u8) -> i64 {
    i64::from(order + 1) * 20
}

/// The order and user of each payment.
#[derive(Debug, Default)]
pub struct Payments {
    taken: BTreeMap<u8, (u8, u8)>,
    /// Payments that no order has any more, but that stay in use until the end of the batch.
    given_up: Vec<u8>,
}

impl Payments {
    pub fn end_batch(&mut self) {
        for payment in self.given_up.drain(..) {
            self.taken.remove(&payment);
        }
    }
}

impl Model {
    pub(super) fn order(&mut self, order: u8, order_step: OrderStep, payments: &mut Payments) -> Answer {
        let Some((state, payment)) = self.orders.get(usize::from(order)).copied() else { return Answer::NotFound };
        let me = (self.user, order);
        if order_step.payment().is_some_and(|named| payments.taken.get(&named).is_some_and(|owner| *owner != me)) {
            return Answer::Duplicate;
        }
        if let OrderStep::Paid { wrong_amount: true, .. } | OrderStep::Failed { wrong_amount: true, .. } = order_step {
            return Answer::WrongAmount;
        }
        let is_other = |named: Option<u8>| named.is_some() && named != payment;
        let (new_state, new_payment) = match (order_step, state) {
            (OrderStep::Paid { .. } | OrderStep::Failed { .. }, _)
                if state.is_credited() && is_other(order_step.payment()) =>
            {
                return Answer::Duplicate;
            }
            _ if state.is_credited() => (state, payment),
            (OrderStep::Paid { payment, .. }, _) => {
                self.balance += order_amount(order);
                (OrderState::Paid, Some(payment))
            }
            (OrderStep::Failed { payment: named, .. }, OrderState::Pending | OrderState::Expired) => {
                (OrderState::Failed, payment.or(named))
            }
            (OrderStep::Opened { payment: opened }, OrderState::Pending) => (state, payment.or(Some(opened))),
            (OrderStep::Expired, OrderState::Pending) => (OrderState::Expired, payment),
            _ => (state, payment),
        };
        let changed = (new_state, new_payment) != (state, payment);
        if new_payment != payment {
            payments.given_up.extend(payment);
            payments.taken.extend(new_payment.map(|new| (new, me)));
        }
        self.orders[usize::from(order)] = (new_state, new_payment);
        Answer::Order { state: new_state, payment: new_payment, changed }
    }
}

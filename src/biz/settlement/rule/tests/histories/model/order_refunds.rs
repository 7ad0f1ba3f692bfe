//! Refunds and chargebacks of top-ups. The refunded amount of an order is never stored; each read sums
//! its refunds.

use std::collections::BTreeMap;

use super::{Answer, Model, OrderState, order_amount};

/// An event of a refund.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OrderRefundStep {
    /// A request; without an amount, for all that is left.
    Begin {
        amount: Option<i64>,
        is_forced: bool,
    },
    Succeeded,
    Failed,
    Reported {
        amount: i64,
        is_chargeback: bool,
        payment: Option<u8>,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OrderRefundState {
    Pending,
    Success,
    Failed,
}

/// A refund.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OrderRefund {
    pub order: u8,
    pub amount: i64,
    pub state: OrderRefundState,
    /// The request; `None` for a report.
    asked: Option<(Option<i64>, bool)>,
}

impl OrderRefund {
    pub fn is_requested(&self) -> bool {
        self.asked.is_some()
    }
}

impl Model {
    fn sum(&self, of: impl Fn(&OrderRefund) -> bool) -> i64 {
        self.order_refunds.values().filter(|refund| of(refund)).map(|refund| refund.amount).sum()
    }

    pub(super) fn pending_refunds(&self) -> i64 {
        self.sum(|refund| refund.state == OrderRefundState::Pending)
    }

    /// The refunded amount of an order.
    pub fn order_refunded(&self, order: u8) -> i64 {
        self.sum(|refund| refund.order == order && refund.state == OrderRefundState::Success)
    }

    fn not_gone(&self, order: u8) -> i64 {
        order_amount(order) - self.order_refunded(order)
    }

    fn left(&self, order: u8) -> i64 {
        order_amount(order) - self.sum(|refund| refund.order == order && refund.state != OrderRefundState::Failed)
    }

    fn order_state(&self, order: u8) -> OrderState {
        self.orders[usize::from(order)].0
    }

    pub(super) fn order_refund(
        &mut self,
        order: u8,
        id: u8,
        step: OrderRefundStep,
        owners: &mut BTreeMap<u8, u8>,
    ) -> Answer {
        if usize::from(order) >= self.orders.len() {
            return if matches!(step, OrderRefundStep::Begin { .. }) && owners.contains_key(&id) {
                Answer::Conflict
            } else {
                Answer::NotFound
            };
        }
        if owners.get(&id).is_some_and(|owner| *owner != self.user) {
            return match step {
                OrderRefundStep::Begin { .. } | OrderRefundStep::Reported { .. } => {
                    self.note("a refund id belongs to another user", true);
                    Answer::Conflict
                }
                // Nobody settles a refund of another user.
                OrderRefundStep::Succeeded | OrderRefundStep::Failed => Answer::Defect,
            };
        }
        let known = self.order_refunds.get(&id).copied();
        let answer = match (step, known) {
            (OrderRefundStep::Begin { amount, is_forced }, Some(first)) => {
                let is_same = first.order == order
                    && first.asked.is_some_and(|(asked, forced)| {
                        forced == is_forced && (asked == amount || amount == Some(first.amount))
                    });
                if is_same { self.refund_answer(id, false) } else { Answer::Conflict }
            }
            (OrderRefundStep::Begin { amount, is_forced }, None) => self.begin_refund(order, id, amount, is_forced),
            (OrderRefundStep::Succeeded | OrderRefundStep::Failed, None) => Answer::Defect,
            // Steps name the order of their refund.
            (OrderRefundStep::Succeeded | OrderRefundStep::Failed, Some(refund)) if refund.order != order => {
                Answer::Defect
            }
            (OrderRefundStep::Succeeded, Some(_)) => self.refund_succeeded(id),
            (OrderRefundStep::Failed, Some(refund)) => {
                let was_pending = refund.state == OrderRefundState::Pending;
                if was_pending {
                    self.set_refund(id, OrderRefundState::Failed);
                    self.note("a refund fails and frees its hold", true);
                }
                self.refund_answer(id, was_pending)
            }
            (OrderRefundStep::Reported { amount, is_chargeback, .. }, Some(refund)) => {
                let may_be = !(is_chargeback && refund.is_requested());
                let is_same = refund.order == order && refund.amount == amount && may_be;
                if is_same { self.refund_succeeded(id) } else { Answer::Conflict }
            }
            (OrderRefundStep::Reported { amount, is_chargeback, payment }, None) => {
                self.refund_reported(order, id, (amount, is_chargeback, payment))
            }
        };
        if self.order_refunds.contains_key(&id) {
            owners.insert(id, self.user);
        }
        answer
    }

    fn begin_refund(&mut self, order: u8, id: u8, asked: Option<i64>, is_forced: bool) -> Answer {
        if !self.order_state(order).is_credited() {
            return Answer::WrongState;
        }
        let left = self.left(order);
        let amount = asked.unwrap_or(left);
        if amount <= 0 || amount > left {
            self.note("a refund asks for more than is left", amount > 0);
            return Answer::Invalid;
        }
        let free = self.balance - self.held();
        if amount > free && !is_forced {
            self.note("a refund asks for more than is free", true);
            return Answer::Insufficient;
        }
        if amount > free {
            self.note("a refund is forced below zero", true);
            self.overdrawn = true;
        }
        let asked = Some((asked, is_forced));
        let refund = OrderRefund { order, amount, state: OrderRefundState::Pending, asked };
        self.order_refunds.insert(id, refund);
        self.refund_answer(id, true)
    }

    fn refund_succeeded(&mut self, id: u8) -> Answer {
        let refund = self.order_refunds[&id];
        match refund.state {
            OrderRefundState::Success => return self.refund_answer(id, false),
            OrderRefundState::Failed if refund.amount > self.not_gone(refund.order) => return Answer::WrongAmount,
            OrderRefundState::Failed if refund.amount > self.left(refund.order) => {
                self.note("a late success waits for a pending refund", true);
                return Answer::NotYet;
            }
            OrderRefundState::Failed => {
                self.note("a refund succeeds after its failure", true);
                self.overdrawn |= self.balance - self.held() < refund.amount;
            }
            OrderRefundState::Pending => self.note("a refund succeeds", true),
        }
        self.balance -= refund.amount;
        self.set_refund(id, OrderRefundState::Success);
        self.end_refund(id)
    }

    fn refund_reported(
        &mut self,
        order: u8,
        id: u8,
        (amount, is_chargeback, payment): (i64, bool, Option<u8>),
    ) -> Answer {
        let (state, paid_by) = self.orders[usize::from(order)];
        if !state.is_credited() {
            self.note("money goes back before it is credited", true);
            return Answer::NotYet;
        }
        if payment.is_some() && payment != paid_by {
            return Answer::Duplicate;
        }
        if amount > self.not_gone(order) {
            return Answer::WrongAmount;
        }
        if amount > self.left(order) {
            self.note("a report waits for a pending refund", true);
            return Answer::NotYet;
        }
        self.note("a chargeback takes the balance below zero", is_chargeback && amount > self.balance);
        self.overdrawn |= self.balance - self.held() < amount;
        self.balance -= amount;
        let refund = OrderRefund { order, amount, state: OrderRefundState::Success, asked: None };
        self.order_refunds.insert(id, refund);
        self.end_refund(id)
    }

    /// After a debit.
    fn end_refund(&mut self, id: u8) -> Answer {
        let order = self.order_refunds[&id].order;
        if self.order_refunded(order) == order_amount(order) {
            self.orders[usize::from(order)].0 = OrderState::Refunded;
            self.note("an order is refunded in full", true);
        }
        self.refund_answer(id, true)
    }

    fn set_refund(&mut self, id: u8, state: OrderRefundState) {
        self.order_refunds.entry(id).and_modify(|refund| refund.state = state);
    }

    fn refund_answer(&self, id: u8, changed: bool) -> Answer {
        let OrderRefund { order, amount, state, .. } = self.order_refunds[&id];
        Answer::OrderRefunded { state, amount, order: self.order_state(order), changed }
    }
}

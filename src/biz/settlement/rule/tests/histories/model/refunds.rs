//! Refunds of charges, unit by unit.

use super::{
    Answer, Model, Moment, RefundRequest,
    keys::{Key, Take},
    reservations::{Entry, State},
};

/// A refund of a charge.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Refund {
    pub at: Moment,
    pub paid: u32,
    pub amount: i64,
    /// Free units that the quota got back, and those that no quota got back.
    pub free: u32,
    pub lapsed: u32,
    /// Whether the month of the charge had closed.
    pub is_late: bool,
}

impl Entry {
    /// Refunded free units, paid ones, and the amount.
    pub fn refunded(&self) -> (u32, u32, i64) {
        let mut sum = (0, 0, 0);
        for refund in &self.refunds {
            sum = (sum.0 + refund.free + refund.lapsed, sum.1 + refund.paid, sum.2 + refund.amount);
        }
        sum
    }

    /// Whether all of its units are refunded.
    pub fn is_refunded(&self) -> bool {
        let ((free, paid, ..), (refunded_free, refunded_paid, _)) = (self.charged(), self.refunded());
        self.state == State::Committed && refunded_free + refunded_paid == free + paid
    }

    /// What its caps and its key still count: all of it less the refunded part.
    pub fn kept(&self) -> Take {
        let (refunded_free, refunded_paid, refunded) = self.refunded();
        let (free, paid, amount, _) = self.charged();
        let tokens = self.charged_tokens();
        let returned = nearest(tokens, refunded_free + refunded_paid, free + paid);
        [(!self.is_refunded()).into(), tokens - returned, amount - refunded]
    }
}

/// `whole * part / of`, rounded to the nearest, halves up.
fn nearest(whole: i64, part: u32, of: u32) -> i64 {
    let (mut quotient, mut rest) = (0, whole * i64::from(part));
    while rest >= i64::from(of) {
        rest -= i64::from(of);
        quotient += 1;
    }
    quotient + i64::from(2 * rest >= i64::from(of))
}

impl Model {
    pub(super) fn refund(&mut self, request: RefundRequest, now: Moment, key: &mut Key) -> Answer {
        if let Some((first, answer)) = self.refunds.get(&request.id) {
            return if *first == request { answer.again() } else { Answer::Conflict };
        }
        let Some(entry) = self.entries.get(&request.trace) else { return Answer::NotFound };
        if entry.state != State::Committed {
            return Answer::WrongState;
        }
        let mut after = entry.clone();
        let ((free, paid, amount, _), before) = (entry.charged(), entry.refunded());
        let (free_left, paid_left, amount_left) = (free - before.0, paid - before.1, amount - before.2);
        let count = request.count.unwrap_or(free_left + paid_left);
        if count > free_left + paid_left || (free_left + paid_left == 0 && amount_left == 0) {
            self.note("more is refunded than is left", before != (0, 0, 0));
            return Answer::Invalid;
        }
        let mut refund = Refund { at: now, paid: 0, amount: 0, free: 0, lapsed: 0, is_late: false };
        for _ in 0..count {
            if refund.paid < paid_left {
                refund.paid += 1;
            } else if entry.charged_at().month == now.month {
                refund.free += 1;
            } else {
                refund.lapsed += 1;
            }
        }
        refund.amount = match refund.paid == paid_left {
            true => amount_left,
            false => (nearest(amount, before.1 + refund.paid, paid) - before.2).max(0),
        };
        refund.is_late = self.is_closed(entry.charged_at().month, now);
        let (call, made, kept) = (entry.call, entry.made, entry.kept());
        after.refunds.push(refund);
        let is_complete = after.is_refunded() && !entry.is_refunded();
        self.note("a charge is refunded in parts", is_complete && after.refunds.len() > 1);
        self.note("a refund is partly free", refund.paid > 0 && refund.free > 0);
        self.note("free units of a past month lapse", refund.lapsed > 0);
        self.note("a refund comes after its month has closed", refund.is_late && refund.amount > 0);
        self.note("a refund pays a debt", self.balance < 0 && refund.amount > 0);
        self.note("a refunded charge had been added to", !after.rest.is_empty());
        let still = after.kept();
        key.take(call, made, [0, 1, 2].map(|kind| still[kind] - kept[kind]));
        self.balance += refund.amount;
        let sum = after.refunded();
        self.entries.insert(request.trace, after);
        let answer = Answer::Refunded {
            free: refund.free,
            paid: refund.paid,
            amount: refund.amount,
            balance: self.balance,
            sum: (sum.0 + sum.1, sum.2),
            replayed: false,
        };
        self.refunds.insert(request.id, (request, answer.clone()));
        answer
    }
}

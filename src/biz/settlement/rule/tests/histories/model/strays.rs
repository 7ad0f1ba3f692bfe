//! Unapplied payments, which are open at the begin of a history.

use std::collections::BTreeMap;

use super::{Answer, Model};

/// Number of unapplied payments, over all users.
pub const STRAYS: u8 = 3;

pub fn stray_amount(payment: u8) -> i64 {
    11 + i64::from(payment)
}

impl Model {
    pub(super) fn credit_payment(&mut self, payment: u8, strays: &mut BTreeMap<u8, u8>) -> Answer {
        if payment >= STRAYS {
            return Answer::NotFound;
        }
        match strays.get(&payment) {
            Some(owner) if *owner == self.user => {
                self.note("an unapplied payment is credited again", true);
                Answer::PaymentCredited { changed: false }
            }
            Some(_) => {
                self.note("an unapplied payment has another user", true);
                Answer::WrongState
            }
            None => {
                self.note("an unapplied payment pays a debt", self.balance < 0);
                strays.insert(payment, self.user);
                self.credits += 1;
                self.balance += stray_amount(payment);
                Answer::PaymentCredited { changed: true }
            }
        }
    }
}

//! Opens payments and has them paid.

use std::sync::{Arc, Mutex, PoisonError};

use super::{
    callback::Callback,
    notify::Notifier,
    payment::{Order, Outcome, Payment},
    payments::{Payments, Tried},
    public_url::PublicUrl,
    switches::Switches,
};

/// Where payments are opened and paid.
pub(super) struct Till {
    pub payments: Payments,
    pub notifier: Arc<Notifier>,
    pub switches: Mutex<Switches>,
    pub public_url: PublicUrl,
}

impl Till {
    /// `None` where the order has a payment.
    pub fn open(&self, order: Order) -> Option<Payment> {
        let payment = self.payments.open(order)?;
        tracing::info!(order_id = payment.order.id, payment_id = payment.id, "payment opened");
        if let Some(outcome) = self.switches().pay_at_once.outcome() {
            self.pay(&payment.id, outcome);
        }
        Some(payment)
    }

    /// Pays, or fails to, and tells billing.
    pub fn pay(&self, id: &str, outcome: Outcome) -> Tried {
        let tried = self.payments.pay(id, outcome);
        if let Tried::Counts(payment) = &tried {
            tracing::info!(order_id = payment.order.id, payment_id = id, outcome = outcome.as_str(), "payment tried");
            let switches = self.switches();
            self.notifier.queue(Callback::new(payment, outcome, &switches), &switches);
        }
        tried
    }

    pub fn pay_url(&self, id: &str) -> String {
        format!("{}/pay/{id}", self.public_url)
    }

    pub fn switches(&self) -> Switches {
        *self.switches.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn set_switches(&self, switches: Switches) {
        let mut now = self.switches.lock().unwrap_or_else(PoisonError::into_inner);
        *now = switches;
        // Under the lock: of two changes at once, the same one must be the last there.
        self.notifier.set_reorder(switches.reorder);
        drop(now);
        tracing::info!(?switches, "switches changed");
    }
}

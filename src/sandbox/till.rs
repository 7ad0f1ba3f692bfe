//! The till: opens payments, records their outcomes, and queues callbacks.

use std::sync::{Arc, Mutex, PoisonError};

use super::{
    callback::Callback,
    notify::Notifier,
    payment::{PaymentOutcome, SandboxOrder, SandboxPayment},
    payments::{SandboxPayments, Tried},
    public_url::PublicUrl,
    switches::Switches,
};

/// Opens payments, pays them, and queues their callbacks.
pub(super) struct Till {
    pub payments: SandboxPayments,
    pub notifier: Arc<Notifier>,
    pub switches: Mutex<Switches>,
    pub public_url: PublicUrl,
}

impl Till {
    /// `None` if the order already has a payment.
    pub fn open(&self, order: SandboxOrder) -> Option<SandboxPayment> {
        let payment = self.payments.open(order)?;
        tracing::info!(order_id = payment.order.id, payment_id = payment.id, "payment opened");
        if let Some(outcome) = self.switches().pay_at_once.outcome() {
            self.pay(&payment.id, outcome);
        }
        Some(payment)
    }

    /// Records the outcome of a payment attempt and queues its callback to billing.
    pub fn pay(&self, id: &str, outcome: PaymentOutcome) -> Tried {
        let tried = self.payments.pay(id, outcome);
        if let Tried::Counts(payment) = &tried {
            tracing::info!(
                order_id = payment.order.id,
                payment_id = id,
                outcome = outcome.as_str(),
                "payment attempted"
            );
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
        // Under the lock, so that two concurrent changes reach the notifier in the same order.
        self.notifier.set_reorder(switches.reorder);
        drop(now);
        tracing::info!(?switches, "switches changed");
    }
}

//! The till: opens payments, records their outcomes, gives them back, and queues callbacks.

use std::sync::{Arc, Mutex, PoisonError};

use uuid::Uuid;

use super::{
    callback::Callback,
    notify::Notifier,
    payment::{PaymentOutcome, SandboxOrder, SandboxPayment},
    payments::{SandboxPayments, Tried},
    public_url::PublicUrl,
    refund::{RefundKind, RefundRefusal, RefundState, SandboxRefund},
    switches::{Refund, Switches},
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

    /// Gives a payment back by a request of billing, once for each refund id.
    ///
    /// # Errors
    /// The reason to refuse.
    pub fn refund(&self, payment: &str, id: &str, minor: i64) -> Result<SandboxRefund, RefundRefusal> {
        let state = match self.switches().refund {
            Refund::Pending => RefundState::Pending,
            Refund::Fail => RefundState::Failed,
            Refund::Normal | Refund::Refuse | Refund::Unavailable | Refund::LoseReply => RefundState::Success,
        };
        let new = |amount| SandboxRefund { id: id.to_owned(), kind: RefundKind::Refund, amount, state };
        let (payment, refund, is_new) = self.payments.give_back(payment, Some(minor), new)?;
        if is_new {
            tracing::info!(payment_id = payment.id, refund_id = id, ?state, "refund requested");
            self.report(&payment, &refund);
        }
        Ok(refund)
    }

    /// Gives money of a payment back without a request of billing. `minor` is the amount; `None` for all
    /// that is left.
    ///
    /// # Errors
    /// The reason to refuse.
    pub fn take_back(&self, payment: &str, kind: RefundKind, minor: Option<i64>) -> Result<(), RefundRefusal> {
        let id = format!("{}_{}", kind.as_str().to_lowercase(), Uuid::now_v7().simple());
        let new = |amount| SandboxRefund { id, kind, amount, state: RefundState::Success };
        let (payment, refund, _) = self.payments.give_back(payment, minor, new)?;
        tracing::info!(payment_id = payment.id, refund_id = refund.id, kind = kind.as_str(), "money went back");
        self.report(&payment, &refund);
        Ok(())
    }

    /// Decides a pending refund; `false` if there is none.
    pub fn decide_refund(&self, payment: &str, id: &str, state: RefundState) -> bool {
        let Some((payment, refund)) = self.payments.decide(payment, id, state) else { return false };
        tracing::info!(payment_id = payment.id, refund_id = id, ?state, "refund decided");
        self.report(&payment, &refund);
        true
    }

    /// Queues the callback of money that went back.
    fn report(&self, payment: &SandboxPayment, refund: &SandboxRefund) {
        if refund.state == RefundState::Success {
            let switches = self.switches();
            self.notifier.queue(Callback::returned(payment, refund, &switches), &switches);
        }
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

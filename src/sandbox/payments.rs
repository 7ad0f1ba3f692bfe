//! The payments in memory: a bounded number, the oldest dropped first.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use uuid::Uuid;

use super::payment::{PaymentOutcome, SandboxOrder, SandboxPayment};

pub struct SandboxPayments {
    capacity: usize,
    kept: Mutex<Kept>,
}

#[derive(Default)]
struct Kept {
    by_id: HashMap<String, SandboxPayment>,
    id_of_order: HashMap<String, String>,
    oldest_first: VecDeque<String>,
}

/// The effect of an attempt to pay.
#[derive(Debug)]
pub enum Tried {
    /// The attempt counts. Holds the payment after it.
    Counts(SandboxPayment),
    /// No effect, because the payment is already paid.
    PaidBefore,
    Unknown,
}

impl SandboxPayments {
    /// Keeps the latest `capacity` payments.
    pub fn new(capacity: usize) -> Self {
        Self { capacity, kept: Mutex::default() }
    }

    /// Opens the payment of `order`; `None` if the order already has one.
    pub fn open(&self, order: SandboxOrder) -> Option<SandboxPayment> {
        let mut kept = self.lock();
        if kept.id_of_order.contains_key(&order.id) {
            return None;
        }
        if kept.by_id.len() >= self.capacity {
            kept.forget_oldest();
        }
        let id = format!("pay_{}", Uuid::now_v7().simple());
        let payment = SandboxPayment { id: id.clone(), order: Arc::new(order), outcome: None };
        kept.id_of_order.insert(payment.order.id.clone(), id.clone());
        kept.by_id.insert(id.clone(), payment.clone());
        kept.oldest_first.push_back(id);
        Some(payment)
    }

    pub fn by_id(&self, id: &str) -> Option<SandboxPayment> {
        self.lock().by_id.get(id).cloned()
    }

    pub fn by_order(&self, order_id: &str) -> Option<SandboxPayment> {
        let kept = self.lock();
        kept.by_id.get(kept.id_of_order.get(order_id)?).cloned()
    }

    /// Records an attempt of the user to pay.
    pub fn pay(&self, id: &str, outcome: PaymentOutcome) -> Tried {
        let mut kept = self.lock();
        match kept.by_id.get_mut(id) {
            None => Tried::Unknown,
            Some(SandboxPayment { outcome: Some(PaymentOutcome::Success), .. }) => Tried::PaidBefore,
            Some(payment) => {
                payment.outcome = Some(outcome);
                Tried::Counts(payment.clone())
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Kept {
    fn forget_oldest(&mut self) {
        if let Some(payment) = self.oldest_first.pop_front().and_then(|id| self.by_id.remove(&id)) {
            self.id_of_order.remove(&payment.order.id);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::payment::proto::{CreatePaymentRequest, PaymentMethod};

    fn order(id: &str) -> SandboxOrder {
        let request = CreatePaymentRequest {
            order_id: id.into(),
            amount: 1,
            currency: "CNY".into(),
            method: PaymentMethod::Stripe.into(),
            notify_url: "grpc://127.0.0.1:9107".into(),
            ..Default::default()
        };
        SandboxOrder::parse(request).unwrap()
    }

    #[test]
    fn beyond_the_capacity_the_oldest_payments_are_dropped() {
        let payments = SandboxPayments::new(2);
        let ids: Vec<_> = ["a", "b", "c"].map(|id| payments.open(order(id)).unwrap().id).into();
        assert!(payments.by_id(&ids[0]).is_none() && payments.by_order("a").is_none());
        assert_eq!(payments.by_order("b").unwrap().id, ids[1]);
        assert_eq!(payments.by_id(&ids[2]).unwrap().order.id, "c");
        assert!(payments.open(order("c")).is_none());
        let again = payments.open(order("a")).unwrap().id;
        assert_ne!(again, ids[0]);
        let kept = payments.lock();
        assert_eq!((kept.by_id.len(), kept.id_of_order.len(), kept.oldest_first.len()), (2, 2, 2));
    }

    #[test]
    fn a_paid_payment_stays_paid() {
        let payments = SandboxPayments::new(2);
        let id = payments.open(order("a")).unwrap().id;
        for outcome in [PaymentOutcome::Failed, PaymentOutcome::Failed, PaymentOutcome::Success] {
            assert!(matches!(payments.pay(&id, outcome), Tried::Counts(now) if now.outcome == Some(outcome)));
        }
        for outcome in [PaymentOutcome::Failed, PaymentOutcome::Success] {
            assert!(matches!(payments.pay(&id, outcome), Tried::PaidBefore));
        }
        assert_eq!(payments.by_id(&id).unwrap().outcome, Some(PaymentOutcome::Success));
        assert!(matches!(payments.pay("pay_0", PaymentOutcome::Success), Tried::Unknown));
    }
}

//! The payments in memory: a bounded number, the oldest dropped first.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use uuid::Uuid;

use super::{
    amount::Amount,
    payment::{PaymentOutcome, SandboxOrder, SandboxPayment},
    refund::{RefundRefusal, RefundState, SandboxRefund},
};

/// Most refunds of one payment.
const MAX_REFUNDS: usize = 100;

pub struct SandboxPayments {
    capacity: usize,
    kept: Mutex<Kept>,
}

#[derive(Default)]
struct Kept {
    by_id: HashMap<String, SandboxPayment>,
    id_of_order: HashMap<String, String>,
    /// The payment of each refund.
    payment_of_refund: HashMap<String, String>,
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
        let payment = SandboxPayment { id: id.clone(), order: Arc::new(order), outcome: None, refunds: Vec::new() };
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

    /// The payment and the refund of a refund id.
    pub fn refund(&self, id: &str) -> Option<(SandboxPayment, SandboxRefund)> {
        let kept = self.lock();
        let payment = kept.by_id.get(kept.payment_of_refund.get(id)?)?;
        let refund = payment.refunds.iter().find(|refund| refund.id == id)?;
        Some((payment.clone(), refund.clone()))
    }

    /// Makes a refund of a payment, once for each refund id. `minor` is the amount; `None` for all that is
    /// left. Returns the payment after it, the refund, and whether it is new.
    ///
    /// # Errors
    /// The reason to refuse.
    pub fn give_back(
        &self,
        payment: &str,
        minor: Option<i64>,
        new: impl FnOnce(Amount) -> SandboxRefund,
    ) -> Result<(SandboxPayment, SandboxRefund, bool), RefundRefusal> {
        let mut kept = self.lock();
        let found = kept.by_id.get(payment).ok_or(RefundRefusal::UnknownPayment)?;
        let (currency, left) = (found.order.amount.currency(), found.left());
        let amount = Amount::parse(minor.unwrap_or(left), currency).map_err(|_| RefundRefusal::Amount)?;
        let refund = new(amount);
        if let Some(owner) = kept.payment_of_refund.get(&refund.id) {
            let first = kept.by_id.get(owner).and_then(|payment| payment.refund(&refund.id));
            return match first {
                Some(first) if owner == payment && first.amount == amount => {
                    let first = first.clone();
                    Ok((found.clone(), first, false))
                }
                _ => Err(RefundRefusal::OtherContent),
            };
        }
        if amount.minor() > left {
            return Err(RefundRefusal::NotLeft);
        }
        if found.refunds.len() >= MAX_REFUNDS {
            return Err(RefundRefusal::TooMany);
        }
        kept.payment_of_refund.insert(refund.id.clone(), payment.to_owned());
        let Some(found) = kept.by_id.get_mut(payment) else { return Err(RefundRefusal::UnknownPayment) };
        found.refunds.push(refund.clone());
        Ok((found.clone(), refund, true))
    }

    /// Decides a pending refund of a payment; `None` if there is none.
    pub fn decide(&self, payment: &str, id: &str, state: RefundState) -> Option<(SandboxPayment, SandboxRefund)> {
        let mut kept = self.lock();
        let payment = kept.by_id.get_mut(payment)?;
        let is_it = |refund: &&mut SandboxRefund| refund.id == id && refund.state == RefundState::Pending;
        let refund = payment.refunds.iter_mut().find(is_it)?;
        refund.state = state;
        let refund = refund.clone();
        Some((payment.clone(), refund))
    }

    fn lock(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Kept {
    fn forget_oldest(&mut self) {
        if let Some(payment) = self.oldest_first.pop_front().and_then(|id| self.by_id.remove(&id)) {
            self.id_of_order.remove(&payment.order.id);
            for refund in payment.refunds {
                self.payment_of_refund.remove(&refund.id);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        data::payment::proto::{CreatePaymentRequest, PaymentMethod},
        sandbox::refund::RefundKind,
    };

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
    fn refunds_of_a_payment_are_made_once_and_never_beyond_it() {
        let payments = SandboxPayments::new(2);
        let request = CreatePaymentRequest {
            order_id: "a".into(),
            amount: 100,
            currency: "CNY".into(),
            method: PaymentMethod::Stripe.into(),
            notify_url: "grpc://127.0.0.1:9107".into(),
            ..Default::default()
        };
        let payment = payments.open(SandboxOrder::parse(request).unwrap()).unwrap().id;
        let refund = |id: &str, minor, state| {
            let new = |amount| SandboxRefund { id: id.into(), kind: RefundKind::Refund, amount, state };
            payments.give_back(&payment, minor, new).map(|(payment, _, is_new)| (payment.left(), is_new))
        };
        assert_eq!(refund("r", Some(1), RefundState::Success), Err(RefundRefusal::NotLeft), "it is not paid");
        payments.pay(&payment, PaymentOutcome::Success);
        assert_eq!(refund("r", Some(60), RefundState::Success), Ok((40, true)));
        assert_eq!(refund("r", Some(60), RefundState::Success), Ok((40, false)));
        assert_eq!(refund("r", Some(59), RefundState::Success), Err(RefundRefusal::OtherContent));
        assert_eq!(refund("s", Some(41), RefundState::Success), Err(RefundRefusal::NotLeft));
        assert_eq!(refund("s", Some(40), RefundState::Pending), Ok((0, true)));
        assert_eq!(payments.decide(&payment, "s", RefundState::Failed).unwrap().0.left(), 40);
        assert!(payments.decide(&payment, "s", RefundState::Success).is_none(), "it is decided");
        assert_eq!(refund("t", None, RefundState::Success), Ok((0, true)));
        assert_eq!(refund("u", None, RefundState::Success), Err(RefundRefusal::Amount));
        assert_eq!(payments.refund("t").unwrap().1.amount.minor(), 40);
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

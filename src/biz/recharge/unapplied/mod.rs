//! Payments that were reported, believed, and not credited: the store, and their resolution.

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use serde_json::json;

use crate::biz::{
    audit_trail::{AuditEvent, AuditedCall},
    events::{EventType, NewEvent},
    settlement::{
        audit_events,
        unapplied::{UnappliedCause, UnappliedChange, UnappliedPayment, UnappliedStatus},
    },
    values::{
        error::{Duplicate, Error, Result, StoreError},
        ids::{OrderId, PaymentId, RefundId},
        money::Money,
        paging::Cursor,
    },
};

/// A report of a payment that could not be credited.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnappliedReport {
    pub payment: PaymentId,
    pub order: OrderId,
    /// Above zero.
    pub amount: Money,
    /// The code of the currency, at most [`UnappliedReport::MAX_CURRENCY`] characters.
    pub currency: String,
    pub cause: UnappliedCause,
}

impl UnappliedReport {
    /// Longest code of a currency that is stored.
    pub const MAX_CURRENCY: usize = 8;

    /// Its event, which its first report writes.
    pub fn event(&self, at: DateTime<Utc>) -> NewEvent {
        let data = json!({
            "payment_order_id": self.payment.as_str(),
            "order_id": self.order.as_str(),
            "amount": self.amount.to_string(),
            "currency": self.currency,
            "cause": self.cause.name(),
        });
        NewEvent::new(EventType::PaymentUnapplied, None, data, at)
    }

    /// The code of a reported currency, as it is stored.
    pub fn currency_of(reported: &str) -> String {
        reported.to_ascii_uppercase().chars().take(Self::MAX_CURRENCY).collect()
    }
}

/// A change of an unapplied payment that moves no balance.
#[derive(Debug, Clone)]
pub struct Resolution {
    pub change: UnappliedChange,
    /// The id under which the money went back. Each id is counted once.
    pub refund: Option<RefundId>,
    /// The call of the operator; `None` for an answer of payment-service.
    pub call: Option<AuditedCall>,
    /// A payment that may not be stored yet, because only a return of it was reported. It is stored in the same
    /// transaction, unless it has credited an order.
    pub expected: Option<UnappliedReport>,
    pub at: DateTime<Utc>,
}

/// The stored payment that a [`Resolution`] finds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FoundUnapplied {
    pub payment: UnappliedPayment,
    /// Whether the payment has credited an order.
    pub has_credited: bool,
    /// Whether the refund of the resolution was counted before.
    pub is_counted: bool,
    /// Whether any return of the payment was counted. Older releases counted none.
    pub has_returns: bool,
}

impl FoundUnapplied {
    /// Whether an older release may have noted the success of an attempt. The refund id of that attempt
    /// was not counted, so its repeat must not look like another return.
    fn may_have_noted_attempts(&self) -> bool {
        self.payment.status == UnappliedStatus::Refunded && !self.has_returns
    }
}

/// The rows to write for a [`Resolution`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resolved {
    pub payment: UnappliedPayment,
    /// False for a repeat, which writes nothing.
    pub changed: bool,
    pub event: Option<AuditEvent>,
    /// Money that went back, counted just now.
    pub returned: Option<CountedReturn>,
}

/// Money of an unapplied payment that went back, counted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CountedReturn {
    pub refund: RefundId,
    pub payment: PaymentId,
    pub amount: Money,
    pub at: DateTime<Utc>,
}

impl Resolution {
    /// Decides on the stored payment, which is locked.
    ///
    /// # Errors
    /// [`Error::PaymentNotFound`]; [`Error::TransactionState`] if it was resolved in another way;
    /// [`Error::DuplicateRecharge`] if the money is that of a credited order; [`Error::AmountMismatch`] if it is
    /// stored in another currency than expected; [`Error::NotMade`] without the consent of the operator.
    pub fn decide(&self, id: &PaymentId, found: Option<FoundUnapplied>) -> Result<Resolved> {
        let found = found.ok_or_else(|| Error::PaymentNotFound(id.clone()))?;
        let is_attempt = matches!(self.change, UnappliedChange::Refunded { .. });
        let is_repeat = found.is_counted || (is_attempt && found.may_have_noted_attempts());
        let FoundUnapplied { payment, has_credited, .. } = found;
        let credited = || Error::DuplicateRecharge(Duplicate::Credited(id.clone()));
        let went_back = matches!(self.change, UnappliedChange::Refunded { .. } | UnappliedChange::WentBack { .. });
        // The money is that of an order.
        if went_back && (has_credited || payment.status == UnappliedStatus::Applied) {
            return Err(credited());
        }
        if self.expected.as_ref().is_some_and(|expected| expected.currency != payment.currency) {
            return Err(Error::AmountMismatch(format!("currency: the payment is in {}", payment.currency)));
        }
        let reason = self.call.as_ref().map_or("", |call| &call.reason);
        let after = if is_repeat { None } else { payment.after(self.change, reason, self.at)? };
        let Some(after) = after else {
            if let Some(call) = &self.call {
                call.consented(None)?;
            }
            return Ok(Resolved { payment, changed: false, event: None, returned: None });
        };
        if self.change == UnappliedChange::BeginRefund && has_credited {
            return Err(credited());
        }
        let event = match &self.call {
            Some(call) => call.consented(Some(audit_events::of_resolution(call, &payment, &after, self.at, None)))?,
            None => None,
        };
        let amount = match self.change {
            UnappliedChange::WentBack { amount } => Some(amount),
            UnappliedChange::Refunded { .. } => Some(payment.amount),
            _ => None,
        };
        let returned = amount.zip(self.refund.clone()).map(|(amount, refund)| {
            let payment = payment.payment.clone();
            CountedReturn { refund, payment, amount, at: self.at }
        });
        Ok(Resolved { payment: after, changed: true, event, returned })
    }
}

type Stored<T> = std::result::Result<T, StoreError>;

/// Stores and reads unapplied payments. Settlement credits them.
#[async_trait]
pub trait UnappliedStore: Send + Sync + 'static {
    /// Stores a report: a new payment, or one more sight of a known one. While it is open, the last
    /// report decides on order, amount, currency and cause. So does the first report of a payment of which
    /// only a return was known. If it is over another amount, the payment is in conflict then.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`], [`StoreError::Failed`].
    async fn report_unapplied(&self, report: &UnappliedReport, at: DateTime<Utc>) -> Stored<()>;

    /// Whether money that went back under an id was counted at an unapplied payment.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`], [`StoreError::Failed`].
    async fn is_return_counted(&self, refund: &RefundId) -> Stored<bool>;

    /// The amounts of all returns of a payment that were counted, one for each refund id.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`], [`StoreError::Failed`].
    async fn returns_of_unapplied(&self, payment: &PaymentId) -> Stored<Vec<Money>>;

    /// # Errors
    /// [`StoreError::Unavailable`], [`StoreError::Failed`].
    async fn unapplied_payment(&self, payment: &PaymentId) -> Stored<Option<UnappliedPayment>>;

    /// At most `limit` payments, newest first, after the position `after`; those of one status, or all.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`], [`StoreError::Failed`].
    async fn unapplied_payments(
        &self,
        status: Option<UnappliedStatus>,
        after: Option<&Cursor>,
        limit: u32,
    ) -> Stored<Vec<UnappliedPayment>>;

    /// Changes a payment by [`Resolution::decide`], under a lock, together with its audit event. Returns
    /// the payment, and whether it has changed; or the refusal.
    ///
    /// # Errors
    /// [`StoreError::Conflict`], [`StoreError::Unavailable`], [`StoreError::Failed`].
    async fn resolve_unapplied(&self, payment: &PaymentId, resolution: &Resolution) -> Stored<Result<Resolved>>;
}

#[cfg(test)]
mod tests;

//! An unapplied payment: a believed report of a payment that could not be credited, and its
//! resolution by an operator.

use std::{fmt, str::FromStr};

use chrono::{DateTime, Utc};

use crate::biz::values::{
    error::{Duplicate, Error},
    ids::{OrderId, PaymentId, RefundId, UserId},
    invalid::Invalid,
    money::Money,
};

/// One unapplied payment, however often it was reported.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnappliedPayment {
    pub payment: PaymentId,
    /// The order that the first report named.
    pub order: OrderId,
    pub amount: Money,
    /// The code of the reported currency.
    pub currency: String,
    pub cause: UnappliedCause,
    pub times_seen: u64,
    pub first_seen_at: DateTime<Utc>,
    pub last_seen_at: DateTime<Utc>,
    pub status: UnappliedStatus,
    /// The user to whom it was credited.
    pub user: Option<UserId>,
    /// The reason of the operator; empty before a resolution.
    pub reason: String,
    /// The number of refunds that were requested.
    pub refunds: u32,
    /// The time of the resolution; while it is refunded, that of the begin.
    pub resolved_at: Option<DateTime<Utc>>,
}

/// The reason that a payment could not be credited.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum UnappliedCause {
    UnknownOrder,
    OtherAmount,
    OtherCurrency,
    /// The order was credited by another payment.
    SecondPayment,
    /// The payment belongs to another order.
    PaymentOfAnotherOrder,
}

impl UnappliedCause {
    const ALL: [Self; 5] =
        [Self::UnknownOrder, Self::OtherAmount, Self::OtherCurrency, Self::SecondPayment, Self::PaymentOfAnotherOrder];

    /// The name in the tables and on the wire.
    pub fn name(self) -> &'static str {
        match self {
            Self::UnknownOrder => "unknown order",
            Self::OtherAmount => "other amount",
            Self::OtherCurrency => "other currency",
            Self::SecondPayment => "second payment",
            Self::PaymentOfAnotherOrder => "payment of another order",
        }
    }

    /// The cause of a refusal; `None` if the refused payment may still be credited later.
    pub fn of(refusal: &Error) -> Option<Self> {
        match refusal {
            Error::OrderNotFound(_) => Some(Self::UnknownOrder),
            Error::AmountMismatch(_) => Some(Self::OtherAmount),
            Error::DuplicateRecharge(Duplicate::SecondPayment(_)) => Some(Self::SecondPayment),
            Error::DuplicateRecharge(_) => Some(Self::PaymentOfAnotherOrder),
            _ => None,
        }
    }
}

impl FromStr for UnappliedCause {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        let known = Self::ALL.into_iter().find(|cause| cause.name() == text);
        known.ok_or_else(|| Invalid::new("reason", "is not known"))
    }
}

/// The states of an unapplied payment. Only OPEN payments can be resolved.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum UnappliedStatus {
    Open,
    /// Credited to its order after all, by a later report.
    Applied,
    /// Credited to a user by an operator.
    Credited,
    /// payment-service is asked to give it back. Back to OPEN if it refuses.
    Refunding,
    Refunded,
    Dismissed,
}

impl UnappliedStatus {
    const ALL: [Self; 6] =
        [Self::Open, Self::Applied, Self::Credited, Self::Refunding, Self::Refunded, Self::Dismissed];

    /// The name in the tables and on the wire.
    pub fn name(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Applied => "applied",
            Self::Credited => "credited",
            Self::Refunding => "refunding",
            Self::Refunded => "refunded",
            Self::Dismissed => "dismissed",
        }
    }
}

impl fmt::Display for UnappliedStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for UnappliedStatus {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        let known = Self::ALL.into_iter().find(|status| status.name() == text);
        let why = "must be open, credited, refunding, refunded, dismissed, applied or all";
        known.ok_or_else(|| Invalid::new("status", why))
    }
}

/// A change of an unapplied payment that moves no balance.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UnappliedChange {
    Dismiss,
    /// Claims the payment for a refund, before payment-service is asked.
    BeginRefund,
    /// payment-service has given it back.
    Refunded,
    /// payment-service has refused to.
    NotRefunded,
}

impl UnappliedPayment {
    /// The id of the refund that was requested last, or would be requested next. Each attempt has an
    /// id of its own, because payment-service answers a repeated id with its first outcome.
    pub fn refund_id(&self) -> RefundId {
        RefundId::from_stored(format!("unapplied_{}_{}", self.payment, self.refunds))
    }

    /// The payment of a refund id that [`Self::refund_id`] may have made.
    pub fn payment_of_refund(id: &RefundId) -> Option<PaymentId> {
        let (payment, _) = id.as_str().strip_prefix("unapplied_")?.rsplit_once('_')?;
        PaymentId::parse("payment_order_id", payment).ok()
    }

    /// The payment after a change at the time `at`; `None` if the change was made before. `reason` is
    /// that of the operator; it stays as it is if the change is none of an operator.
    ///
    /// # Errors
    /// [`Error::TransactionState`]: it was resolved in another way.
    pub fn after(
        &self,
        change: UnappliedChange,
        reason: &str,
        at: DateTime<Utc>,
    ) -> Result<Option<UnappliedPayment>, Error> {
        use UnappliedChange as Change;
        use UnappliedStatus as Status;
        let resolved =
            |status| UnappliedPayment { status, reason: reason.to_owned(), resolved_at: Some(at), ..self.clone() };
        Ok(match (change, self.status) {
            (Change::Dismiss, Status::Open) => Some(resolved(Status::Dismissed)),
            (Change::Dismiss, Status::Dismissed) => None,
            (Change::BeginRefund, Status::Open) => {
                Some(UnappliedPayment { refunds: self.refunds + 1, ..resolved(Status::Refunding) })
            }
            (Change::BeginRefund, Status::Refunding | Status::Refunded) => None,
            (Change::Refunded, Status::Refunding) => {
                Some(UnappliedPayment { status: Status::Refunded, resolved_at: Some(at), ..self.clone() })
            }
            (Change::NotRefunded, Status::Refunding) => {
                Some(UnappliedPayment { status: Status::Open, resolved_at: None, ..self.clone() })
            }
            // An answer of payment-service that came before.
            (Change::Refunded | Change::NotRefunded, _) => None,
            (Change::Dismiss | Change::BeginRefund, _) => return Err(self.is_resolved()),
        })
    }

    /// The payment after it was credited to a user.
    ///
    /// # Errors
    /// [`Error::TransactionState`]: it was resolved before.
    pub fn credited(&self, user: &UserId, reason: &str, at: DateTime<Utc>) -> Result<UnappliedPayment, Error> {
        if self.status != UnappliedStatus::Open {
            return Err(self.is_resolved());
        }
        Ok(UnappliedPayment {
            status: UnappliedStatus::Credited,
            user: Some(user.clone()),
            reason: reason.to_owned(),
            resolved_at: Some(at),
            ..self.clone()
        })
    }

    fn is_resolved(&self) -> Error {
        Error::TransactionState(format!("payment {} was resolved before: it is {}", self.payment, self.status))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn payment(status: UnappliedStatus) -> UnappliedPayment {
        UnappliedPayment {
            payment: PaymentId::from_stored("p"),
            order: OrderId::from_stored("o"),
            amount: Money::from_micros(1),
            currency: "CNY".into(),
            cause: UnappliedCause::UnknownOrder,
            times_seen: 1,
            first_seen_at: DateTime::UNIX_EPOCH,
            last_seen_at: DateTime::UNIX_EPOCH,
            status,
            user: None,
            reason: String::new(),
            refunds: 0,
            resolved_at: None,
        }
    }

    /// Each status after each change: the new status, `same` for a repeat, `refused`.
    #[test]
    fn an_unapplied_payment_is_resolved_once() {
        use UnappliedChange as Change;
        let after = |status, change| match payment(status).after(change, "why", DateTime::UNIX_EPOCH) {
            Ok(Some(after)) => after.status.name(),
            Ok(None) => "same",
            Err(_) => "refused",
        };
        let rows = UnappliedStatus::ALL.map(|status| {
            let changes = [Change::Dismiss, Change::BeginRefund, Change::Refunded, Change::NotRefunded];
            let credited = match payment(status).credited(&UserId::from_stored("u"), "why", DateTime::UNIX_EPOCH) {
                Ok(after) => after.status.name(),
                Err(_) => "refused",
            };
            (status.name(), changes.map(|change| after(status, change)), credited)
        });
        assert_eq!(
            rows,
            [
                ("open", ["dismissed", "refunding", "same", "same"], "credited"),
                ("applied", ["refused", "refused", "same", "same"], "refused"),
                ("credited", ["refused", "refused", "same", "same"], "refused"),
                ("refunding", ["refused", "same", "refunded", "open"], "refused"),
                ("refunded", ["refused", "same", "same", "same"], "refused"),
                ("dismissed", ["same", "refused", "same", "same"], "refused"),
            ]
        );
    }

    #[test]
    fn a_second_attempt_to_refund_has_another_id() {
        let first = payment(UnappliedStatus::Open).after(UnappliedChange::BeginRefund, "why", DateTime::UNIX_EPOCH);
        let first = first.unwrap().unwrap();
        let open = first.after(UnappliedChange::NotRefunded, "", DateTime::UNIX_EPOCH).unwrap().unwrap();
        let second = open.after(UnappliedChange::BeginRefund, "why", DateTime::UNIX_EPOCH).unwrap().unwrap();
        assert_eq!((first.refund_id().as_str(), second.refund_id().as_str()), ("unapplied_p_1", "unapplied_p_2"));
        let of = |id: &str| UnappliedPayment::payment_of_refund(&RefundId::from_stored(id));
        assert_eq!(of("unapplied_p_2"), Some(first.payment));
        assert_eq!([of("unapplied_p"), of("refund_p_2"), of("unapplied__2")], [None, None, None]);
    }
}

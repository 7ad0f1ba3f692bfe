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
    /// Order and amount are those of the last report that came while it was open.
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

/// The states of an unapplied payment. Only OPEN payments can be resolved, and CONFLICT ones dismissed.
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
    /// Money of it went back although it is credited to a user, or only a part of it went back. An
    /// operator books the difference, and dismisses it. It is REFUNDED then.
    Conflict,
}

impl UnappliedStatus {
    const ALL: [Self; 7] =
        [Self::Open, Self::Applied, Self::Credited, Self::Refunding, Self::Refunded, Self::Dismissed, Self::Conflict];
    /// The states that wait for an operator.
    pub const UNRESOLVED: [Self; 2] = [Self::Open, Self::Conflict];

    /// Whether money of it is known to have gone back.
    pub fn has_gone_back(self) -> bool {
        matches!(self, Self::Refunded | Self::Conflict)
    }

    /// The name in the tables and on the wire.
    pub fn name(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Applied => "applied",
            Self::Credited => "credited",
            Self::Refunding => "refunding",
            Self::Refunded => "refunded",
            Self::Dismissed => "dismissed",
            Self::Conflict => "conflict",
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
        let why = "must be open, credited, refunding, refunded, dismissed, applied, conflict or all";
        known.ok_or_else(|| Invalid::new("status", why))
    }
}

/// A change of an unapplied payment that moves no balance.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UnappliedChange {
    Dismiss,
    /// Claims the payment for a refund, before payment-service is asked.
    BeginRefund,
    /// payment-service has given it back, by the attempt with this number.
    Refunded {
        attempt: u32,
    },
    /// The attempt with this number has failed.
    NotRefunded {
        attempt: u32,
    },
    /// Money of it went back without an attempt, for example by a chargeback.
    WentBack {
        amount: Money,
    },
}

/// The begin of the refund ids of unapplied payments.
const REFUND_IDS: &str = "unapplied_";
/// Characters of a reason.
const MAX_REASON: usize = 255;

impl UnappliedPayment {
    /// The id of the refund that was requested last.
    pub fn refund_id(&self) -> RefundId {
        self.refund_id_of(self.refunds)
    }

    /// The id of an attempt to refund it. Each attempt has an id of its own, because payment-service
    /// answers a repeated id with its first outcome.
    fn refund_id_of(&self, attempt: u32) -> RefundId {
        RefundId::from_stored(format!("{REFUND_IDS}{}_{attempt}", self.payment))
    }

    /// Whether a refund id may be one of [`Self::refund_id`].
    pub fn may_own(id: &RefundId) -> bool {
        id.as_str().starts_with(REFUND_IDS)
    }

    /// The payment of a refund id that [`Self::refund_id`] may have made.
    pub fn payment_of_refund(id: &RefundId) -> Option<PaymentId> {
        let (payment, _) = id.as_str().strip_prefix(REFUND_IDS)?.rsplit_once('_')?;
        PaymentId::parse("payment_order_id", payment).ok()
    }

    /// The number of the attempt with a refund id; `None` if it was none of this payment.
    pub fn attempt_of(&self, id: &RefundId) -> Option<u32> {
        let (_, attempt) = id.as_str().rsplit_once('_')?;
        let attempt = attempt.parse().ok()?;
        let was_made = (1..=self.refunds).contains(&attempt) && self.refund_id_of(attempt) == *id;
        was_made.then_some(attempt)
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
        let went_back = || UnappliedPayment { status: Status::Refunded, resolved_at: Some(at), ..self.clone() };
        Ok(match (change, self.status) {
            (Change::Dismiss, Status::Open) => Some(resolved(Status::Dismissed)),
            (Change::Dismiss, Status::Conflict) => Some(resolved(Status::Refunded)),
            (Change::Dismiss, Status::Dismissed) => None,
            (Change::BeginRefund, Status::Open) => {
                Some(UnappliedPayment { refunds: self.refunds + 1, ..resolved(Status::Refunding) })
            }
            (Change::BeginRefund, Status::Refunding | Status::Refunded) => None,
            // The money is gone, even if an older attempt, which had failed, was made after all.
            (Change::Refunded { attempt }, Status::Refunding | Status::Open | Status::Dismissed)
                if attempt <= self.refunds =>
            {
                Some(went_back())
            }
            (Change::WentBack { amount }, Status::Refunding | Status::Open | Status::Dismissed) => {
                Some(if amount == self.amount { went_back() } else { self.in_conflict(amount, at) })
            }
            (Change::Refunded { attempt }, Status::Credited) if attempt <= self.refunds => {
                Some(self.in_conflict(self.amount, at))
            }
            (Change::WentBack { amount }, Status::Credited) => Some(self.in_conflict(amount, at)),
            // An older attempt decides nothing about the one under way.
            (Change::NotRefunded { attempt }, Status::Refunding) if attempt == self.refunds => {
                Some(UnappliedPayment { status: Status::Open, resolved_at: None, ..self.clone() })
            }
            // An answer of payment-service that came before, or of another attempt.
            (Change::Refunded { .. } | Change::NotRefunded { .. } | Change::WentBack { .. }, _) => None,
            (Change::Dismiss | Change::BeginRefund, _) => return Err(self.is_resolved()),
        })
    }

    /// The payment after a part of it went back, or money that is credited. The reason tells the amount.
    fn in_conflict(&self, amount: Money, at: DateTime<Utc>) -> UnappliedPayment {
        let reason = format!("{amount} went back. {}", self.reason).trim_end().chars().take(MAX_REASON).collect();
        UnappliedPayment { status: UnappliedStatus::Conflict, reason, resolved_at: Some(at), ..self.clone() }
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

    /// A payment with two attempts to refund it.
    fn tried_twice(status: UnappliedStatus) -> UnappliedPayment {
        UnappliedPayment { refunds: 2, ..payment(status) }
    }

    fn after(payment: &UnappliedPayment, change: UnappliedChange) -> &'static str {
        match payment.after(change, "why", DateTime::UNIX_EPOCH) {
            Ok(Some(after)) => after.status.name(),
            Ok(None) => "same",
            Err(_) => "refused",
        }
    }

    /// Each status after each change: the new status, `same` for a repeat, `refused`.
    #[test]
    fn an_unapplied_payment_is_resolved_once() {
        use UnappliedChange as Change;
        let rows = UnappliedStatus::ALL.map(|status| {
            let changes = [
                Change::Dismiss,
                Change::BeginRefund,
                Change::Refunded { attempt: 2 },
                Change::NotRefunded { attempt: 2 },
                // All of it, and another amount.
                Change::WentBack { amount: Money::from_micros(1) },
                Change::WentBack { amount: Money::from_micros(2) },
            ];
            let payment = tried_twice(status);
            let credited = match payment.credited(&UserId::from_stored("u"), "why", DateTime::UNIX_EPOCH) {
                Ok(after) => after.status.name(),
                Err(_) => "refused",
            };
            (status.name(), changes.map(|change| after(&payment, change)), credited)
        });
        assert_eq!(
            rows,
            [
                ("open", ["dismissed", "refunding", "refunded", "same", "refunded", "conflict"], "credited"),
                ("applied", ["refused", "refused", "same", "same", "same", "same"], "refused"),
                ("credited", ["refused", "refused", "conflict", "same", "conflict", "conflict"], "refused"),
                ("refunding", ["refused", "same", "refunded", "open", "refunded", "conflict"], "refused"),
                ("refunded", ["refused", "same", "same", "same", "same", "same"], "refused"),
                ("dismissed", ["same", "refused", "refunded", "same", "refunded", "conflict"], "refused"),
                ("conflict", ["refunded", "refused", "same", "same", "same", "same"], "refused"),
            ]
        );
    }

    #[test]
    fn a_failure_of_an_older_attempt_decides_nothing_and_its_late_success_counts() {
        use UnappliedChange::{NotRefunded, Refunded};
        use UnappliedStatus::{Credited, Dismissed, Open, Refunding};
        let of = |status, change| after(&tried_twice(status), change);
        assert_eq!(of(Refunding, NotRefunded { attempt: 1 }), "same");
        assert_eq!(of(Refunding, NotRefunded { attempt: 2 }), "open");
        for status in [Refunding, Open, Dismissed] {
            assert_eq!(of(status, Refunded { attempt: 1 }), "refunded");
            assert_eq!(of(status, Refunded { attempt: 3 }), "same", "it was not made");
        }
        assert_eq!(of(Credited, Refunded { attempt: 1 }), "conflict");
    }

    #[test]
    fn a_conflict_tells_how_much_went_back() {
        let credited = UnappliedPayment { reason: "she paid twice".into(), ..tried_twice(UnappliedStatus::Credited) };
        let change = UnappliedChange::WentBack { amount: Money::from_micros(1_500_000) };
        let after = credited.after(change, "", DateTime::UNIX_EPOCH).unwrap().unwrap();
        assert_eq!(after.reason, "1.5 went back. she paid twice");
        let long = UnappliedPayment { reason: "x".repeat(MAX_REASON), ..credited };
        assert_eq!(long.after(change, "", DateTime::UNIX_EPOCH).unwrap().unwrap().reason.len(), MAX_REASON);
    }

    #[test]
    fn a_second_attempt_to_refund_has_another_id() {
        let begin = UnappliedChange::BeginRefund;
        let first = payment(UnappliedStatus::Open).after(begin, "why", DateTime::UNIX_EPOCH).unwrap().unwrap();
        let failed = UnappliedChange::NotRefunded { attempt: 1 };
        let open = first.after(failed, "", DateTime::UNIX_EPOCH).unwrap().unwrap();
        let second = open.after(begin, "why", DateTime::UNIX_EPOCH).unwrap().unwrap();
        assert_eq!((first.refund_id().as_str(), second.refund_id().as_str()), ("unapplied_p_1", "unapplied_p_2"));
        let of = |id: &str| UnappliedPayment::payment_of_refund(&RefundId::from_stored(id));
        assert_eq!(of("unapplied_p_2"), Some(first.payment));
        assert_eq!([of("unapplied_p"), of("refund_p_2"), of("unapplied__2")], [None, None, None]);
        let attempt = |id: &str| second.attempt_of(&RefundId::from_stored(id));
        assert_eq!([attempt("unapplied_p_1"), attempt("unapplied_p_2")], [Some(1), Some(2)]);
        let none = ["unapplied_p_0", "unapplied_p_3", "unapplied_p_+1", "unapplied_q_1", "unapplied_p_01", "r"];
        assert_eq!(none.map(attempt), [None; 6]);
    }
}

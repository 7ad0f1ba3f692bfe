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
    /// Order and amount are those of the last report that came while it was open. Before the first report
    /// of the payment itself, the amount is the sum of its returns.
    pub order: OrderId,
    pub amount: Money,
    /// The code of the reported currency.
    pub currency: String,
    pub cause: UnappliedCause,
    /// The number of reports of the payment. Zero if only a return of its money was reported yet.
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
    /// The sum of all money of it that went back.
    pub returned: Money,
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
    /// Money of it went back although it is credited to a user, or only a part of it went back, or more
    /// than it is. An operator books the difference, and dismisses it. It is REFUNDED then.
    Conflict,
}

impl UnappliedStatus {
    pub const ALL: [Self; 7] =
        [Self::Open, Self::Applied, Self::Credited, Self::Refunding, Self::Refunded, Self::Dismissed, Self::Conflict];
    /// The states that wait for an operator.
    pub const UNRESOLVED: [Self; 2] = [Self::Open, Self::Conflict];

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
    /// payment-service has given it back, by the attempt with this number. As [`Self::WentBack`], it is
    /// counted once for each refund id.
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
    pub fn refund_id_of(&self, attempt: u32) -> RefundId {
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
    /// [`Error::TransactionState`]: it was resolved in another way, or only a return of it was reported.
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
            (Change::Dismiss, Status::Conflict) => Some(resolved(Status::Refunded)),
            (Change::Dismiss, Status::Dismissed) => None,
            (Change::Dismiss, Status::Refunded) if self.was_in_conflict() => None,
            (Change::BeginRefund, Status::Open) if self.times_seen == 0 => return Err(self.is_unreported()),
            (Change::BeginRefund, Status::Open) => {
                Some(UnappliedPayment { refunds: self.refunds + 1, ..resolved(Status::Refunding) })
            }
            (Change::BeginRefund, Status::Refunding | Status::Refunded) => None,
            // The order has the money.
            (Change::Refunded { .. } | Change::WentBack { .. }, Status::Applied) => None,
            // The money is gone, even if an older attempt, which had failed, was made after all.
            (Change::Refunded { attempt }, _) if attempt <= self.refunds => Some(self.with_return(self.amount, at)),
            (Change::WentBack { amount }, _) => Some(self.with_return(amount, at)),
            // An older attempt decides nothing about the one under way.
            (Change::NotRefunded { attempt }, Status::Refunding) if attempt == self.refunds => {
                Some(UnappliedPayment { status: Status::Open, resolved_at: None, ..self.clone() })
            }
            // An answer of payment-service that came before, or of another attempt.
            (Change::Refunded { .. } | Change::NotRefunded { .. }, _) => None,
            (Change::Dismiss | Change::BeginRefund, _) => return Err(self.is_resolved()),
        })
    }

    /// The payment after money of it went back. It is refunded once all of it is back. It is in conflict
    /// if a part is back, if it was credited, or if it was closed before. The reason then tells the sum.
    fn with_return(&self, amount: Money, at: DateTime<Utc>) -> UnappliedPayment {
        let returned = self.returned.plus(amount);
        let is_unreported = self.times_seen == 0;
        // Without a report of the payment, its amount is not known.
        let amount = if is_unreported { returned } else { self.amount };
        // After a dismissal of a conflict the difference is booked, so a further return is another one.
        let is_closed = self.user.is_some() || (self.status == UnappliedStatus::Refunded && !is_unreported);
        let is_whole = returned == amount && !is_closed;
        let status = if is_whole { UnappliedStatus::Refunded } else { UnappliedStatus::Conflict };
        let after = UnappliedPayment { status, amount, returned, resolved_at: Some(at), ..self.clone() };
        let is_at_once = is_whole && !is_unreported && self.returned.is_zero();
        if is_at_once { after } else { UnappliedPayment { reason: self.told(returned), ..after } }
    }

    /// Whether a refunded payment is so by the dismissal of a conflict: otherwise all of it went back, and no user
    /// has it.
    fn was_in_conflict(&self) -> bool {
        self.user.is_some() || self.returned != self.amount
    }

    /// The reason behind the sum that went back, in place of an earlier sum.
    fn told(&self, returned: Money) -> String {
        let reason = match self.reason.split_once(" went back.") {
            Some((sum, rest)) if sum.parse::<Money>().is_ok() => rest.trim_start(),
            _ => &self.reason,
        };
        format!("{returned} went back. {reason}").trim_end().chars().take(MAX_REASON).collect()
    }

    /// The payment after it was credited to a user.
    ///
    /// # Errors
    /// [`Error::TransactionState`]: it was resolved before, or only a return of it was reported.
    pub fn credited(&self, user: &UserId, reason: &str, at: DateTime<Utc>) -> Result<UnappliedPayment, Error> {
        if self.status != UnappliedStatus::Open {
            return Err(self.is_resolved());
        }
        if self.times_seen == 0 {
            return Err(self.is_unreported());
        }
        Ok(UnappliedPayment {
            status: UnappliedStatus::Credited,
            user: Some(user.clone()),
            reason: reason.to_owned(),
            resolved_at: Some(at),
            ..self.clone()
        })
    }

    fn is_unreported(&self) -> Error {
        Error::TransactionState(format!("only a return of payment {} was reported: its money went back", self.payment))
    }

    fn is_resolved(&self) -> Error {
        Error::TransactionState(format!("payment {} was resolved before: it is {}", self.payment, self.status))
    }
}

#[cfg(test)]
impl UnappliedPayment {
    /// A payment of an unknown order that was reported once, for tests.
    pub fn reported(payment: &str, amount: Money) -> Self {
        Self {
            payment: PaymentId::from_stored(payment),
            order: OrderId::from_stored("o"),
            amount,
            currency: "CNY".into(),
            cause: UnappliedCause::UnknownOrder,
            times_seen: 1,
            first_seen_at: DateTime::UNIX_EPOCH,
            last_seen_at: DateTime::UNIX_EPOCH,
            status: UnappliedStatus::Open,
            user: None,
            reason: String::new(),
            refunds: 0,
            returned: Money::ZERO,
            resolved_at: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn payment(status: UnappliedStatus) -> UnappliedPayment {
        UnappliedPayment { status, ..UnappliedPayment::reported("p", Money::from_micros(1)) }
    }

    /// A payment with two attempts to refund it.
    fn tried_twice(status: UnappliedStatus) -> UnappliedPayment {
        let user = (status == UnappliedStatus::Credited).then(|| UserId::from_stored("u"));
        let returned = Money::from_micros((status == UnappliedStatus::Refunded).into());
        UnappliedPayment { refunds: 2, user, returned, ..payment(status) }
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
                ("refunded", ["refused", "same", "conflict", "same", "conflict", "conflict"], "refused"),
                ("dismissed", ["same", "refused", "refunded", "same", "refunded", "conflict"], "refused"),
                ("conflict", ["refunded", "refused", "refunded", "same", "refunded", "conflict"], "refused"),
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
        assert_eq!(of(UnappliedStatus::Refunded, Refunded { attempt: 1 }), "conflict", "another attempt had all of it");
        let dismissed =
            UnappliedPayment { user: Some(UserId::from_stored("u")), ..tried_twice(UnappliedStatus::Refunded) };
        assert_eq!(after(&dismissed, UnappliedChange::Dismiss), "same");
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

    /// The status, the sum that went back, and the reason, after some returns.
    fn returns(of: UnappliedPayment, amounts: &[i64]) -> Vec<(&'static str, i64, String)> {
        let mut payment = of;
        let each = amounts.iter().map(|micros| {
            let change = UnappliedChange::WentBack { amount: Money::from_micros(*micros) };
            payment = payment.after(change, "", DateTime::UNIX_EPOCH).unwrap().unwrap();
            (payment.status.name(), payment.returned.micros(), payment.reason.clone())
        });
        each.collect()
    }

    #[test]
    fn parts_that_went_back_are_summed_up() {
        let open = UnappliedPayment { amount: Money::from_micros(9_000_000), ..payment(UnappliedStatus::Open) };
        let one = |status, micros: i64, reason: &str| (status, micros, reason.to_owned());
        assert_eq!(
            returns(open.clone(), &[2_000_000, 3_000_000, 4_000_000, 1_000_000]),
            [
                one("conflict", 2_000_000, "2 went back."),
                one("conflict", 5_000_000, "5 went back."),
                one("refunded", 9_000_000, "9 went back."),
                one("conflict", 10_000_000, "10 went back."),
            ]
        );
        let credited = open.credited(&UserId::from_stored("u"), "paid twice", DateTime::UNIX_EPOCH).unwrap();
        assert_eq!(
            returns(credited, &[4_000_000, 5_000_000]),
            [
                one("conflict", 4_000_000, "4 went back. paid twice"),
                one("conflict", 9_000_000, "9 went back. paid twice")
            ]
        );
        // An operator booked the rest, and dismissed it. Then the rest goes back too.
        let part = UnappliedPayment { returned: Money::from_micros(2_000_000), ..open.clone() };
        let dismissed = UnappliedPayment { status: UnappliedStatus::Conflict, ..part };
        let dismissed = dismissed.after(UnappliedChange::Dismiss, "booked", DateTime::UNIX_EPOCH).unwrap().unwrap();
        assert_eq!(after(&dismissed, UnappliedChange::Dismiss), "same");
        assert_eq!(returns(dismissed, &[7_000_000]), [one("conflict", 9_000_000, "9 went back. booked")]);
    }

    #[test]
    fn money_of_a_payment_is_not_given_out_if_only_its_return_was_reported() {
        let unreported = UnappliedPayment { times_seen: 0, ..payment(UnappliedStatus::Open) };
        assert_eq!(after(&unreported, UnappliedChange::BeginRefund), "refused");
        assert!(unreported.credited(&UserId::from_stored("u"), "why", DateTime::UNIX_EPOCH).is_err());
        assert_eq!(after(&unreported, UnappliedChange::Dismiss), "dismissed");
    }

    #[test]
    fn a_return_before_the_report_of_its_payment_is_all_that_is_known() {
        let unreported =
            UnappliedPayment { times_seen: 0, amount: Money::from_micros(2_000_000), ..payment(UnappliedStatus::Open) };
        let after = returns(unreported, &[2_000_000, 3_000_000]);
        assert_eq!(after[0], ("refunded", 2_000_000, "2 went back.".into()));
        assert_eq!(after[1], ("refunded", 5_000_000, "5 went back.".into()));
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

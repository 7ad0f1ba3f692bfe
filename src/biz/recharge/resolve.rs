//! An operator resolves each unapplied payment once.

use super::{
    NotSettled, Recharges,
    gateway::{CallerContext, FoundRefund, NewRefund, PaymentError, RefundState},
    in_time,
    refund::Approach,
    unapplied::{Resolution, Resolved},
};
use crate::biz::{
    audit_trail::{AuditedCall, Consent},
    settlement::{
        posting::PaymentCredit,
        unapplied::{UnappliedChange, UnappliedPayment, UnappliedStatus},
    },
    values::{
        currency::Currency,
        error::{Error, Result},
        ids::{PaymentId, RefundId, UserId},
        invalid::Invalid,
    },
};

/// Most attempts to refund a payment that a credit asks payment-service about, the last ones.
const ASKED_ATTEMPTS: u32 = 8;

/// The decision of an operator.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PaymentAction {
    Credit(UserId),
    Refund,
    Dismiss,
}

/// An unapplied payment after its resolution.
#[derive(Debug, Clone)]
pub struct ResolvedPayment {
    pub payment: UnappliedPayment,
    /// Whether the same resolution was made before.
    pub replayed: bool,
}

impl Recharges {
    /// Resolves an unapplied payment, once. The future must run to its end even if the caller goes
    /// away.
    ///
    /// # Errors
    /// [`Error::PaymentNotFound`]; [`Error::TransactionState`] if it was resolved in another way;
    /// [`Error::DuplicateRecharge`] if it has credited an order; [`Error::AmountMismatch`] for the
    /// credit of another currency; [`Error::PaymentUnavailable`] if payment-service is not configured, or
    /// does not answer about a refund that had failed before a credit; [`Error::Invalid`],
    /// [`Error::Overloaded`], [`Error::Internal`].
    pub async fn resolve(
        &self,
        payment: &PaymentId,
        action: PaymentAction,
        call: AuditedCall,
        trace: &CallerContext,
    ) -> Result<ResolvedPayment> {
        let found = in_time(self.orders.unapplied_payment(payment)).await?;
        let found = found.ok_or_else(|| Error::PaymentNotFound(payment.clone()))?;
        match action {
            PaymentAction::Credit(user) => {
                self.check_currency(&found.currency)?;
                if call.consent != Consent::Withheld {
                    self.note_late_refunds(&found, trace).await?;
                }
                let credit = PaymentCredit::new(user, payment.clone(), call);
                let (payment, changed) = self.engine.credit_payment(credit).await?;
                Ok(ResolvedPayment { payment, replayed: !changed })
            }
            PaymentAction::Dismiss => {
                let Resolved { payment, changed, .. } =
                    self.change_unapplied(payment, UnappliedChange::Dismiss, None, Some(call)).await?;
                Ok(ResolvedPayment { payment, replayed: !changed })
            }
            PaymentAction::Refund => {
                self.gateway()?;
                minor_amount(&found)?;
                let begun = self.change_unapplied(payment, UnappliedChange::BeginRefund, None, Some(call)).await?;
                let approach = match begun.changed {
                    true => Approach::Request,
                    false => Approach::Ask { requests: self.is_left(&begun.payment) },
                };
                let replayed = !begun.changed;
                let payment = match self.pursue_unapplied(&begun.payment, approach, trace).await {
                    Ok(payment) => payment,
                    Err(NotSettled::Refused(error)) => return Err(error),
                    Err(NotSettled::Unanswered(error)) => {
                        tracing::warn!(%payment, %error, "payment-service did not answer; refund pending until the next reconcile-recharges");
                        begun.payment
                    }
                };
                Ok(ResolvedPayment { payment, replayed })
            }
        }
    }

    /// Asks about the refund of an unapplied payment, and settles it. Returns its new status; with
    /// `settles` false, the status that it would get, and nothing is requested or settled.
    pub(super) async fn look_up_unapplied(
        &self,
        payment: &UnappliedPayment,
        settles: bool,
    ) -> std::result::Result<UnappliedStatus, NotSettled> {
        if settles {
            let approach = Approach::Ask { requests: self.is_left(payment) };
            return Ok(self.pursue_unapplied(payment, approach, &CallerContext::default()).await?.status);
        }
        let approach = Approach::Ask { requests: false };
        Ok(match self.refund_state(&new_refund(payment)?, approach, &CallerContext::default()).await? {
            RefundState::Success => UnappliedStatus::Refunded,
            RefundState::Failed => UnappliedStatus::Open,
            RefundState::Pending => UnappliedStatus::Refunding,
        })
    }

    /// Asks about the last refunds of an open payment, because one that had failed may have been made after all,
    /// and its callback may be lost. It may be over another amount than the payment has now: a later report decides
    /// on the amount of an open payment.
    async fn note_late_refunds(&self, payment: &UnappliedPayment, trace: &CallerContext) -> Result<()> {
        if payment.status != UnappliedStatus::Open || payment.refunds == 0 {
            return Ok(());
        }
        let gateway = self.gateway()?;
        let first = payment.refunds.saturating_sub(ASKED_ATTEMPTS - 1).max(1);
        for attempt in (first..=payment.refunds).rev() {
            let id = payment.refund_id_of(attempt);
            let found = gateway.refund_of(&id, trace).await?;
            let Some(found) = found.filter(|found| found.state == RefundState::Success) else { continue };
            match late_return(payment, attempt, &found)? {
                Some(change) => drop(self.change_unapplied(&payment.payment, change, Some(id), None).await?),
                None => tracing::error!(refund = %id, "payment-service knows the id of a refund by another payment"),
            }
        }
        Ok(())
    }

    async fn pursue_unapplied(
        &self,
        payment: &UnappliedPayment,
        approach: Approach,
        trace: &CallerContext,
    ) -> std::result::Result<UnappliedPayment, NotSettled> {
        if payment.status != UnappliedStatus::Refunding {
            return Ok(payment.clone());
        }
        let refund = new_refund(payment)?;
        // The answer is about this attempt, and another one may have begun since.
        let attempt = payment.refunds;
        let change = match self.refund_state(&refund, approach, trace).await? {
            RefundState::Pending => return Ok(payment.clone()),
            RefundState::Success => UnappliedChange::Refunded { attempt },
            RefundState::Failed => UnappliedChange::NotRefunded { attempt },
        };
        Ok(self.change_unapplied(&payment.payment, change, Some(refund.id), None).await?.payment)
    }

    fn is_left(&self, payment: &UnappliedPayment) -> bool {
        payment.resolved_at.is_none_or(|began| self.is_left_alone(began))
    }

    pub(super) async fn change_unapplied(
        &self,
        payment: &PaymentId,
        change: UnappliedChange,
        refund: Option<RefundId>,
        call: Option<AuditedCall>,
    ) -> Result<Resolved> {
        // The id of a failed refund counts nothing: its money may go back later.
        let refund = refund.filter(|_| !matches!(change, UnappliedChange::NotRefunded { .. }));
        let resolution = Resolution { change, refund, call, expected: None, at: self.calendar.now().utc };
        in_time(self.orders.resolve_unapplied(payment, &resolution)).await?
    }
}

/// The change by an attempt that had failed and that payment-service has made after all; `None` if its id belongs
/// to a refund of another payment.
///
/// # Errors
/// [`Error::PaymentUnavailable`]: the answer has no valid amount. [`Error::AmountMismatch`]: it has another currency.
fn late_return(payment: &UnappliedPayment, attempt: u32, found: &FoundRefund) -> Result<Option<UnappliedChange>> {
    let Some(content) = &found.content else { return Ok(Some(UnappliedChange::Refunded { attempt })) };
    if content.payment.as_ref().is_some_and(|of| *of != payment.payment) {
        return Ok(None);
    }
    let (currency, amount) =
        content.money().ok_or_else(|| PaymentError::Malformed("the amount of the refund".into()))?;
    if currency.code() != payment.currency {
        return Err(Error::AmountMismatch(format!("currency: a refund of the payment is in {currency}")));
    }
    Ok(Some(UnappliedChange::WentBack { amount }))
}

/// The refund of a payment that was requested last.
fn new_refund(payment: &UnappliedPayment) -> Result<NewRefund> {
    Ok(NewRefund {
        id: payment.refund_id(),
        order: payment.order.clone(),
        payment: Some(payment.payment.clone()),
        minor_amount: minor_amount(payment)?,
        reason: payment.reason.clone(),
    })
}

/// In minor units of the currency of the payment.
fn minor_amount(payment: &UnappliedPayment) -> Result<i64> {
    let minor = Currency::parse(&payment.currency).and_then(|currency| currency.to_minor(payment.amount));
    let why = || format!("refund is not possible: {} {} is no amount", payment.amount, payment.currency);
    minor.ok_or_else(|| Invalid::new("action", why()).into())
}

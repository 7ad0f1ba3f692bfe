//! Unapplied payments: they are kept when they are reported, and an operator resolves each once.

use super::{
    NotSettled, Recharges,
    gateway::{CallerContext, NewRefund, PaymentError, PaymentState, RefundState},
    in_time,
    questions::Topic,
    refund::Approach,
    unapplied::{Resolution, Resolved, UnappliedReport},
};
use crate::biz::{
    audit_trail::AuditedCall,
    settlement::{
        posting::PaymentCredit,
        unapplied::{UnappliedCause, UnappliedChange, UnappliedPayment, UnappliedStatus},
    },
    values::{
        currency::Currency,
        error::{Error, Result},
        ids::{OrderId, PaymentId, RefundId, UserId},
        invalid::Invalid,
        money::Money,
    },
};

/// A payment that was reported and not credited.
#[derive(Debug, Clone, Copy)]
pub(super) struct Reported<'r> {
    pub order: &'r OrderId,
    pub payment: &'r PaymentId,
    pub amount: Money,
    pub currency: &'r str,
}

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
    /// Keeps a believed report of a payment that was not credited. A report without an amount is about
    /// no payment.
    ///
    /// # Errors
    /// [`Error::Overloaded`], [`Error::Internal`]: the report is not kept.
    pub(super) async fn keep_unapplied(&self, reported: Reported<'_>, cause: UnappliedCause) -> Result<()> {
        let Reported { order, payment, amount, currency } = reported;
        if amount <= Money::ZERO {
            return Ok(());
        }
        let is_other_currency = !currency.eq_ignore_ascii_case(self.terms.currency.code());
        let cause = match cause {
            UnappliedCause::OtherAmount if is_other_currency => UnappliedCause::OtherCurrency,
            cause => cause,
        };
        let currency = currency.to_ascii_uppercase().chars().take(UnappliedReport::MAX_CURRENCY).collect();
        let report = UnappliedReport { payment: payment.clone(), order: order.clone(), amount, currency, cause };
        in_time(self.orders.report_unapplied(&report, self.calendar.now().utc)).await?;
        tracing::warn!(%payment, %order, cause = cause.name(), "payment not credited; kept as an unapplied payment");
        Ok(())
    }

    /// Keeps a report without a proof if payment-service confirms the payment.
    ///
    /// # Errors
    /// [`Error::PaymentUnavailable`]: payment-service does not answer. [`Error::Overloaded`],
    /// [`Error::Internal`].
    pub(super) async fn keep_if_believed(
        &self,
        reported: Reported<'_>,
        cause: UnappliedCause,
        trace: &CallerContext,
    ) -> Result<()> {
        let Some(gateway) = self.gateway.as_deref() else { return Ok(()) };
        let order = in_time(self.orders.order(reported.order)).await?;
        let topic = Topic::Payment(reported.payment.clone());
        // A moment ago the payment was kept, or it was not confirmed.
        if self.questions.was_asked(&topic, self.calendar.instant()) {
            return Ok(());
        }
        let user = order.as_ref().map(|order| &order.user);
        let _question = self.questions.admit(&topic, user, self.calendar.instant())?;
        let found = match gateway.payment(reported.payment, trace).await {
            Ok(found) => found.filter(|payment| payment.state == PaymentState::Paid),
            Err(error @ PaymentError::Unavailable(_)) => return Err(error.into()),
            Err(error @ (PaymentError::Refused(_) | PaymentError::Malformed(_))) => {
                tracing::warn!(payment = %reported.payment, %error, "report of a payment not confirmed");
                None
            }
        };
        let Some(payment) = found.filter(|payment| payment.order == *reported.order) else { return Ok(()) };
        let currency = Currency::parse(&payment.currency);
        match currency.and_then(|currency| Some((currency, currency.from_minor(payment.minor_amount)?))) {
            Some((currency, amount)) => {
                self.keep_unapplied(Reported { amount, currency: currency.code(), ..reported }, cause).await
            }
            None => Err(PaymentError::Malformed("the amount of the payment".into()).into()),
        }
    }

    /// Resolves an unapplied payment, once. The future must run to its end even if the caller goes
    /// away.
    ///
    /// # Errors
    /// [`Error::PaymentNotFound`]; [`Error::TransactionState`] if it was resolved in another way;
    /// [`Error::DuplicateRecharge`] if it has credited an order; [`Error::AmountMismatch`] for the
    /// credit of another currency; [`Error::PaymentUnavailable`] if payment-service is not configured;
    /// [`Error::Invalid`], [`Error::Overloaded`], [`Error::Internal`].
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
                let credit = PaymentCredit::new(user, payment.clone(), call);
                let (payment, changed) = self.engine.credit_payment(credit).await?;
                Ok(ResolvedPayment { payment, replayed: !changed })
            }
            PaymentAction::Dismiss => {
                let Resolved { payment, changed, .. } =
                    self.change_unapplied(payment, UnappliedChange::Dismiss, Some(call)).await?;
                Ok(ResolvedPayment { payment, replayed: !changed })
            }
            PaymentAction::Refund => {
                self.gateway()?;
                minor_amount(&found)?;
                let begun = self.change_unapplied(payment, UnappliedChange::BeginRefund, Some(call)).await?;
                let approach = match begun.changed {
                    true => Approach::Request,
                    false => Approach::Ask { requests: self.is_left(&begun.payment) },
                };
                let replayed = !begun.changed;
                let payment = match self.pursue_unapplied(&begun.payment, approach, trace).await {
                    Ok(payment) => payment,
                    Err(NotSettled::Refused(error)) => return Err(error),
                    Err(NotSettled::Unanswered(error)) => {
                        tracing::warn!(%payment, %error, "no answer about a refund; it stays pending until it is reconciled");
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
        let found = self.gateway()?.refund_of(&payment.refund_id(), &CallerContext::default()).await?;
        Ok(match found.map(|found| found.state) {
            Some(RefundState::Success) => UnappliedStatus::Refunded,
            Some(RefundState::Failed) => UnappliedStatus::Open,
            Some(RefundState::Pending) | None => UnappliedStatus::Refunding,
        })
    }

    /// Settles the refund of an unapplied payment by the answer of payment-service, after a callback.
    /// False if the id belongs to no such refund.
    ///
    /// # Errors
    /// [`Error::PaymentUnavailable`]: payment-service does not confirm the callback. [`Error::Overloaded`],
    /// [`Error::Internal`].
    pub(super) async fn settle_unapplied(&self, id: &RefundId) -> Result<bool> {
        let Some(payment) = UnappliedPayment::payment_of_refund(id) else { return Ok(false) };
        let found = in_time(self.orders.unapplied_payment(&payment)).await?;
        let Some(payment) = found.filter(|payment| payment.refund_id() == *id) else { return Ok(false) };
        let _question = self.questions.admit(&Topic::Refund(id.clone()), None, self.calendar.instant())?;
        let approach = Approach::Ask { requests: false };
        match self.pursue_unapplied(&payment, approach, &CallerContext::default()).await {
            Ok(after) if after.status == UnappliedStatus::Refunded => Ok(true),
            Ok(_) => Err(Error::PaymentUnavailable("it does not confirm the refund; send it again".into())),
            Err(NotSettled::Unanswered(error)) => Err(error.into()),
            Err(NotSettled::Refused(error)) => Err(error),
        }
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
        let refund = NewRefund {
            id: payment.refund_id(),
            order: payment.order.clone(),
            payment: Some(payment.payment.clone()),
            minor_amount: minor_amount(payment)?,
            reason: payment.reason.clone(),
        };
        let change = match self.refund_state(&refund, approach, trace).await? {
            RefundState::Pending => return Ok(payment.clone()),
            RefundState::Success => UnappliedChange::Refunded,
            RefundState::Failed => UnappliedChange::NotRefunded,
        };
        Ok(self.change_unapplied(&payment.payment, change, None).await?.payment)
    }

    fn is_left(&self, payment: &UnappliedPayment) -> bool {
        payment.resolved_at.is_none_or(|began| self.is_left_alone(began))
    }

    async fn change_unapplied(
        &self,
        payment: &PaymentId,
        change: UnappliedChange,
        call: Option<AuditedCall>,
    ) -> Result<Resolved> {
        let resolution = Resolution { change, call, at: self.calendar.now().utc };
        in_time(self.orders.resolve_unapplied(payment, &resolution)).await?
    }
}

/// In minor units of the currency of the payment.
fn minor_amount(payment: &UnappliedPayment) -> Result<i64> {
    let minor = Currency::parse(&payment.currency).and_then(|currency| currency.to_minor(payment.amount));
    let why = || format!("refund is not possible: {} {} is no amount", payment.amount, payment.currency);
    minor.ok_or_else(|| Invalid::new("action", why()).into())
}

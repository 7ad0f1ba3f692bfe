//! Settles a top-up by a callback of payment-service. A callback without a signature is only a hint. A
//! believed payment that can't be credited is kept as an unapplied payment.

use super::{
    Recharges,
    gateway::{CallerContext, Payment, PaymentError, PaymentState},
    keep::Reported,
    questions::Topic,
};
use crate::biz::{
    settlement::{
        order::Order,
        posting::{OrderUpdate, PaymentUpdate},
        unapplied::UnappliedCause,
    },
    values::{
        error::{Error, Result},
        ids::{OrderId, PaymentId},
        money::Money,
    },
};

/// A callback of payment-service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Notice {
    pub order: OrderId,
    pub result: NoticedResult,
    /// `None` means the currency of the account.
    pub currency: Option<String>,
}

/// The order after a callback.
#[derive(Debug)]
pub struct SettledOrder {
    pub order: Order,
    /// False for a repeat, which changes nothing.
    pub changed: bool,
    /// The reason to refuse the callback, although the order was settled by the answer of
    /// payment-service.
    pub refusal: Option<Error>,
}

impl From<(Order, bool)> for SettledOrder {
    fn from((order, changed): (Order, bool)) -> Self {
        Self { order, changed, refusal: None }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NoticedResult {
    Paid {
        payment: PaymentId,
        amount: Money,
    },
    Failed {
        payment: Option<PaymentId>,
        /// `None` if the callback names no amount.
        amount: Option<Money>,
    },
}

impl NoticedResult {
    fn amount(&self) -> Option<Money> {
        match self {
            Self::Paid { amount, .. } => Some(*amount),
            Self::Failed { amount, .. } => *amount,
        }
    }
}

impl From<NoticedResult> for PaymentUpdate {
    fn from(result: NoticedResult) -> Self {
        match result {
            NoticedResult::Paid { payment, amount } => PaymentUpdate::Paid { payment, amount },
            NoticedResult::Failed { payment, amount } => PaymentUpdate::Failed { payment, amount },
        }
    }
}

impl Recharges {
    /// Settles an order by a callback. A callback from a proven sender is `trusted`. Any other
    /// callback is a hint: payment-service is asked, and its answer settles the order, even if the
    /// callback is then refused.
    ///
    /// # Errors
    /// [`Error::OrderNotFound`], [`Error::AmountMismatch`], [`Error::DuplicateRecharge`];
    /// [`Error::PaymentUnavailable`]: payment-service is unavailable, or does not confirm the
    /// callback yet. [`Error::Invalid`] above the largest balance, [`Error::Overloaded`],
    /// [`Error::Internal`].
    pub async fn settle(&self, notice: Notice, trusted: bool, trace: &CallerContext) -> Result<SettledOrder> {
        let settled = self.try_settle(notice.clone(), trusted, trace).await;
        let refusal = match &settled {
            Ok(settled) => settled.refusal.as_ref(),
            Err(error) => Some(error),
        };
        let (Some(cause), NoticedResult::Paid { payment, amount }) =
            (refusal.and_then(UnappliedCause::of), &notice.result)
        else {
            return settled;
        };
        let currency = notice.currency.as_deref().unwrap_or(self.terms.currency.code());
        let reported = Reported { order: &notice.order, payment, amount: *amount, currency };
        let kept = match trusted {
            true => self.keep_unapplied(reported, cause).await.map(|()| None),
            false => self.keep_if_believed(reported, cause, trace).await,
        };
        match (kept, settled) {
            (Ok(Some((order, changed))), Err(refusal)) => Ok(SettledOrder { order, changed, refusal: Some(refusal) }),
            (Ok(_), settled) => settled,
            // A report that is not kept must come again, so it gets another answer. A credit was made
            // all the same.
            (Err(error), Ok(settled)) => Ok(SettledOrder { refusal: Some(error), ..settled }),
            (Err(error), Err(_)) => Err(error),
        }
    }

    async fn try_settle(&self, notice: Notice, trusted: bool, trace: &CallerContext) -> Result<SettledOrder> {
        let order = self.order(&notice.order).await?;
        if let Some(currency) = &notice.currency {
            self.check_currency(currency)?;
        }
        if let Some(amount) = notice.result.amount() {
            self.terms.currency.check_places("amount", amount)?;
        }
        // No callback changes a settled order.
        if trusted || order.status.is_credited() {
            return self.update(&order, notice.result.into()).await.map(SettledOrder::from);
        }
        if notice.result.amount().is_some_and(|amount| amount != order.amount) {
            return Err(order.amount_mismatch());
        }
        self.confirm(&order, notice.result, trace).await
    }

    /// Asks payment-service, settles the order by its answer, and compares the hint with it.
    async fn confirm(&self, order: &Order, hint: NoticedResult, trace: &CallerContext) -> Result<SettledOrder> {
        let _question =
            self.questions.admit(&Topic::Order(order.id.clone()), Some(&order.user), self.calendar.instant())?;
        let not_confirmed = |why| Error::PaymentUnavailable(format!("it does not confirm the callback: {why}"));
        let payment = self.gateway()?.payment_of(&order.id, trace).await.map_err(|error| {
            tracing::warn!(order = %order.id, %error, "look-up of the payment at payment-service failed");
            Error::from(error)
        })?;
        let payment = payment.ok_or_else(|| not_confirmed("the order has no payment there"))?;
        let Some((settled, changed)) = self.settle_by(order, &payment).await? else {
            return Err(not_confirmed("the payment is not decided; send it again"));
        };
        let refusal = match hint {
            NoticedResult::Paid { .. } if !settled.status.is_credited() => Some(not_confirmed("the payment failed")),
            _ if !settled.status.is_credited() => None,
            // The order is credited now, so a hint of another payment is refused.
            hint => self.update(&settled, hint.into()).await.err(),
        };
        Ok(SettledOrder { order: settled, changed, refusal })
    }

    /// Settles an order by its payment; `None` while the payment is pending.
    async fn settle_by(&self, order: &Order, payment: &Payment) -> Result<Option<(Order, bool)>> {
        match self.update_from(payment)? {
            Some(payment_update) => self.update(order, payment_update).await.map(Some),
            None => Ok(None),
        }
    }

    /// The update of the order that follows from a payment; `None` while the payment is pending.
    pub(super) fn update_from(&self, payment: &Payment) -> Result<Option<PaymentUpdate>> {
        Ok(match payment.state {
            PaymentState::Pending => None,
            PaymentState::Paid => {
                self.check_currency(&payment.currency)?;
                let amount = self.terms.currency.from_minor(payment.minor_amount);
                let amount = amount.ok_or_else(|| PaymentError::Malformed("the amount of the payment".into()))?;
                Some(PaymentUpdate::Paid { payment: payment.id.clone(), amount })
            }
            PaymentState::Failed => Some(PaymentUpdate::Failed { payment: Some(payment.id.clone()), amount: None }),
        })
    }

    pub(super) async fn update(&self, order: &Order, payment_update: PaymentUpdate) -> Result<(Order, bool)> {
        let update = OrderUpdate { user: order.user.clone(), order: order.id.clone(), payment_update };
        self.engine.update_order(update).await
    }
}

//! Keeps believed reports of payments that can't be credited, as unapplied payments.

use super::{
    Recharges,
    gateway::{CallerContext, PaymentError, PaymentState},
    in_time,
    questions::{Asked, Topic},
    unapplied::UnappliedReport,
};
use crate::biz::{
    settlement::{
        order::Order,
        posting::PaymentUpdate,
        unapplied::{UnappliedCause, UnappliedStatus},
    },
    values::{
        error::{Error, Result},
        ids::{OrderId, PaymentId},
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
        let currency = UnappliedReport::currency_of(currency);
        let report = UnappliedReport { payment: payment.clone(), order: order.clone(), amount, currency, cause };
        let known = in_time(self.orders.unapplied_payment(payment)).await?;
        in_time(self.orders.report_unapplied(&report, self.calendar.now().utc)).await?;
        tracing::warn!(%payment, %order, cause = cause.name(), "payment not credited; kept as an unapplied payment");
        if let Some(known) = known.filter(|known| known.status != UnappliedStatus::Open && known.times_seen > 0)
            && (known.amount, known.currency.as_str()) != (amount, report.currency.as_str())
        {
            let (status, stored) = (known.status, known.amount);
            tracing::error!(%payment, %status, "resolved payment reported with another amount");
            tracing::debug!(%payment, %stored, reported = %amount, "amounts differ");
        }
        Ok(())
    }

    /// Keeps a report without a proof if payment-service confirms the payment. If the payment pays the
    /// order, and only the report was wrong, the order is credited. Returns it then, and whether it is
    /// credited just now.
    ///
    /// # Errors
    /// [`Error::PaymentUnavailable`]: payment-service neither confirms nor denies the payment.
    /// [`Error::Overloaded`], [`Error::Internal`].
    pub(super) async fn keep_if_believed(
        &self,
        reported: Reported<'_>,
        cause: UnappliedCause,
        trace: &CallerContext,
    ) -> Result<Option<(Order, bool)>> {
        let Some(gateway) = self.gateway.as_deref() else { return Ok(None) };
        let order = in_time(self.orders.order(reported.order)).await?;
        let topic = Topic::Payment(reported.payment.clone());
        // Not while a question is under way, or after one without an answer: the report must come again. A row of
        // a return alone keeps no report.
        let answered = match self.questions.last(&topic, self.calendar.instant()) {
            Some(Asked { is_denied: true, .. }) => true,
            Some(_) => {
                in_time(self.orders.unapplied_payment(reported.payment)).await?.is_some_and(|row| row.times_seen > 0)
            }
            None => false,
        };
        if answered {
            return Ok(None);
        }
        let user = order.as_ref().map(|order| &order.user);
        let _question = self.questions.admit(&topic, user, self.calendar.instant())?;
        let found = gateway.payment(reported.payment, trace).await.inspect_err(|error| {
            tracing::warn!(payment = %reported.payment, %error, "look-up of a payment at payment-service failed");
        })?;
        let Some(payment) = found else {
            self.questions.note_denial(&topic);
            return Ok(None);
        };
        if payment.order != *reported.order {
            return Ok(None);
        }
        match payment.state {
            PaymentState::Paid => {}
            PaymentState::Failed => return Ok(None),
            PaymentState::Pending => {
                let why = "it does not confirm the callback: the payment is not decided; send it again";
                return Err(Error::PaymentUnavailable(why.into()));
            }
        }
        let (currency, amount) =
            payment.money().ok_or_else(|| PaymentError::Malformed("the amount of the payment".into()))?;
        let reported = Reported { amount, currency: currency.code(), ..reported };
        let pays = |order: &Order| amount == order.amount && currency == self.terms.currency;
        match order.filter(pays) {
            Some(order) => self.credit_or_keep(order, reported).await,
            None => self.keep_unapplied(reported, cause).await.map(|()| None),
        }
    }

    /// Credits an order by a payment of its amount. If the order is credited by another one, or the
    /// payment belongs elsewhere, it is kept.
    async fn credit_or_keep(&self, order: Order, reported: Reported<'_>) -> Result<Option<(Order, bool)>> {
        let payment_update = PaymentUpdate::Paid { payment: reported.payment.clone(), amount: reported.amount };
        let refusal = match self.update(&order, payment_update).await {
            Ok(settled) => return Ok(Some(settled)),
            Err(refusal) => refusal,
        };
        let cause = UnappliedCause::of(&refusal).ok_or(refusal)?;
        self.keep_unapplied(reported, cause).await.map(|()| None)
    }
}

//! Money that went back, by a callback of payment-service: a refund, requested here or not, or a
//! chargeback. A callback without a signature is only a hint. The money is that of an order, which is
//! debited, or that of an unapplied payment, which was not credited. The report of such a payment may
//! follow its return, so the return is kept.

use super::{
    Recharges,
    gateway::{CallerContext, FoundRefund, RefundState},
    in_time,
    questions::Topic,
    refund::RefundedOrder,
    unapplied::{Resolution, UnappliedReport},
};
use crate::biz::{
    settlement::{
        order::Order,
        order_refund::{OrderRefund, RefundKind, RefundStatus},
        posting::{RefundEvent, ReportedRefund},
        unapplied::{UnappliedCause, UnappliedChange, UnappliedPayment, UnappliedStatus},
    },
    values::{
        currency::Currency,
        error::{Duplicate, Error, Result},
        ids::{OrderId, PaymentId, RefundId},
        invalid::Invalid,
        money::Money,
    },
};

/// Money that went back, by a callback.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Returned {
    pub order: OrderId,
    pub id: RefundId,
    pub report: ReportedRefund,
    /// `None` means the currency of the account or, for an unapplied payment that is known, of the payment.
    pub currency: Option<String>,
}

impl Returned {
    fn kind(&self) -> RefundKind {
        if self.report.is_chargeback { RefundKind::Chargeback } else { RefundKind::Reported }
    }
}

/// The outcome of a callback about money that went back.
#[derive(Debug, Clone)]
pub enum SettledReturn {
    Order(Box<RefundedOrder>),
    /// The money is that of an unapplied payment, which was not credited. `None` for a repeat.
    Unapplied(Option<RefundKind>),
}

/// The rows that a callback names.
struct Named {
    order: Option<Order>,
    /// The refund with the id.
    refund: Option<OrderRefund>,
    /// The unapplied payment, whose money no order has.
    unapplied: Option<UnappliedPayment>,
}

impl Recharges {
    /// Settles money that went back, by a callback of payment-service. A callback from a proven sender is
    /// `trusted`. Any other callback is a hint, which payment-service must confirm.
    ///
    /// # Errors
    /// [`Error::OrderNotFound`]; [`Error::AmountMismatch`] beyond the order or of another currency;
    /// [`Error::DuplicateRecharge`] of a payment that did not credit the order;
    /// [`Error::IdempotencyConflict`]; [`Error::PaymentUnavailable`]: payment-service does not confirm the
    /// callback, or the order can't be debited yet; [`Error::Invalid`], [`Error::Overloaded`],
    /// [`Error::Internal`].
    pub async fn settle_returned(
        &self,
        returned: Returned,
        is_trusted: bool,
        trace: &CallerContext,
    ) -> Result<SettledReturn> {
        if in_time(self.orders.is_return_counted(&returned.id)).await? {
            return Ok(SettledReturn::Unapplied(None));
        }
        let mut named = self.named(&returned).await?;
        let claimed = returned.report.payment.clone();
        let returned = if is_trusted {
            self.with_payment(&named, returned, trace).await?
        } else {
            if self.may_be_noted(named.unapplied.as_ref(), &returned.id).await? {
                return Ok(SettledReturn::Unapplied(None));
            }
            self.confirmed(&named, returned, trace).await?
        };
        if returned.report.payment != claimed {
            named.unapplied = self.unapplied_of(&returned, named.order.as_ref(), named.refund.as_ref()).await?;
        }
        if let Some(unapplied) = &named.unapplied {
            return match self.note_returned(unapplied, &returned).await {
                Ok(is_new) => Ok(SettledReturn::Unapplied(is_new.then_some(returned.kind()))),
                Err(refusal @ Error::DuplicateRecharge(_)) => {
                    Err(self.unless_just_credited(&returned, &unapplied.payment, refusal).await?)
                }
                Err(error) => Err(error),
            };
        }
        let refusal = match named.order {
            // The debited or pending refund is one of its own order, and of no other payment.
            None if named.refund.is_some() => return Err(Error::OrderNotFound(returned.order.to_string())),
            // Its money is not that of the order, so it may be in any currency.
            Some(order) if named.refund.is_none() && is_of_second(&order, returned.report.payment.as_ref()) => {
                Error::DuplicateRecharge(Duplicate::SecondPayment(order.id))
            }
            Some(order) => {
                self.check_amount(&returned)?;
                let event = RefundEvent::Reported(returned.report.clone());
                match self.update_refund(&order, returned.id.clone(), event).await {
                    Err(refusal @ Error::DuplicateRecharge(_)) => refusal,
                    settled => return settled.map(|settled| SettledReturn::Order(Box::new(settled))),
                }
            }
            None => Error::OrderNotFound(returned.order.to_string()),
        };
        let is_new = self.keep_returned(&returned, refusal).await?;
        Ok(SettledReturn::Unapplied(is_new.then_some(returned.kind())))
    }

    /// Keeps the return of a payment that was not reported here: that of an unknown order, or a second one
    /// of an order. Otherwise nobody would see the rest of its money, or its later report would look as if
    /// all of its money were here. Returns whether it was not kept before.
    ///
    /// # Errors
    /// `refusal` if the callback names no payment, or one that has credited an order.
    async fn keep_returned(&self, returned: &Returned, refusal: Error) -> Result<bool> {
        let (Some(payment), Some(cause)) = (&returned.report.payment, UnappliedCause::of(&refusal)) else {
            return Err(refusal);
        };
        let amount = returned.report.amount;
        if amount <= Money::ZERO {
            return Err(Invalid::new("amount", "must be above 0").into());
        }
        let cause = match cause {
            UnappliedCause::UnknownOrder => cause,
            _ => UnappliedCause::SecondPayment,
        };
        let currency = UnappliedReport::currency_of(returned.currency.as_deref().unwrap_or(self.terms.currency.code()));
        let order = returned.order.clone();
        let report = UnappliedReport { payment: payment.clone(), order, amount, currency, cause };
        let resolution = Resolution {
            change: UnappliedChange::WentBack { amount },
            refund: Some(returned.id.clone()),
            call: None,
            expected: Some(report),
            at: self.calendar.now().utc,
        };
        match in_time(self.orders.resolve_unapplied(payment, &resolution)).await? {
            // A payment that has credited an order is not stored.
            Err(Error::PaymentNotFound(_)) => Err(refusal),
            Err(error) => Err(error),
            Ok(kept) => {
                if kept.changed {
                    tracing::warn!(%payment, order = %returned.order, "money of an unknown payment went back; kept as an unapplied payment");
                }
                Ok(kept.changed)
            }
        }
    }

    /// The answer to a return of a payment that has credited an order. If it has credited the named order
    /// since the rows were read, the return must come again: then the order is debited.
    async fn unless_just_credited(&self, returned: &Returned, payment: &PaymentId, refusal: Error) -> Result<Error> {
        let order = in_time(self.orders.order(&returned.order)).await?;
        let is_of = |order: &Order| order.status.is_credited() && order.payment.as_ref() == Some(payment);
        Ok(match order.is_some_and(|order| is_of(&order)) {
            true => Error::PaymentUnavailable("the payment credits the order just now; send the callback again".into()),
            false => refusal,
        })
    }

    /// Whether an older release may have noted the attempt with a refund id. It has counted no ids.
    async fn may_be_noted(&self, unapplied: Option<&UnappliedPayment>, id: &RefundId) -> Result<bool> {
        let is_refunded = |payment: &&UnappliedPayment| {
            payment.status == UnappliedStatus::Refunded && payment.attempt_of(id).is_some()
        };
        match unapplied.filter(is_refunded) {
            Some(payment) => Ok(in_time(self.orders.returns_of_unapplied(&payment.payment)).await?.is_empty()),
            None => Ok(false),
        }
    }

    async fn named(&self, returned: &Returned) -> Result<Named> {
        let order = in_time(self.orders.order(&returned.order)).await?;
        let refund = in_time(self.orders.order_refund(&returned.id)).await?;
        let unapplied = self.unapplied_of(returned, order.as_ref(), refund.as_ref()).await?;
        Ok(Named { order, refund, unapplied })
    }

    /// The unapplied payment that a callback names by the id of its refund, or by its own. `None` if the
    /// refund or the payment is that of the order.
    async fn unapplied_of(
        &self,
        returned: &Returned,
        order: Option<&Order>,
        refund: Option<&OrderRefund>,
    ) -> Result<Option<UnappliedPayment>> {
        if refund.is_some() {
            return Ok(None);
        }
        let payment = UnappliedPayment::payment_of_refund(&returned.id).or_else(|| returned.report.payment.clone());
        let has_credited = |payment: &PaymentId| {
            order.is_some_and(|order| order.status.is_credited() && order.payment.as_ref() == Some(payment))
        };
        match payment.filter(|payment| !has_credited(payment)) {
            Some(payment) => Ok(in_time(self.orders.unapplied_payment(&payment)).await?),
            None => Ok(None),
        }
    }

    /// A signed callback with its payment. If it leaves the payment out, the money may be that of a second
    /// payment of the order, and payment-service is asked. Its answer names the currency too.
    async fn with_payment(&self, named: &Named, returned: Returned, trace: &CallerContext) -> Result<Returned> {
        let Some(gateway) = self.gateway.as_deref() else { return Ok(returned) };
        let is_known = returned.report.payment.is_some() || named.refund.is_some() || named.unapplied.is_some();
        if is_known {
            return Ok(returned);
        }
        let found = gateway.refund_of(&returned.id, trace).await?;
        let Some(content) = found.and_then(|found| found.content) else { return Ok(returned) };
        let report = ReportedRefund { payment: content.payment, ..returned.report };
        // A code that is no currency says nothing.
        let answered = Currency::parse(&content.currency).map(|currency| currency.code().to_owned());
        Ok(Returned { report, currency: returned.currency.or(answered), ..returned })
    }

    /// A callback without a proof, as far as payment-service confirms it.
    async fn confirmed(&self, named: &Named, returned: Returned, trace: &CallerContext) -> Result<Returned> {
        // No answer names the kind.
        let report = ReportedRefund { is_chargeback: false, ..returned.report };
        let returned = Returned { report, ..returned };
        // A second payment may be in any currency, and a hint without a payment may be about one.
        let payment = returned.report.payment.as_ref();
        let may_be_second = |order: &Order| {
            named.refund.is_none()
                && (is_of_second(order, payment) || (payment.is_none() && order.status.is_credited()))
        };
        if named.unapplied.is_none() && named.order.as_ref().is_some_and(|order| !may_be_second(order)) {
            self.check_amount(&returned)?;
        }
        // No callback changes a refund that is debited.
        if named.refund.as_ref().is_some_and(|refund| refund.status == RefundStatus::Success) {
            return Ok(returned);
        }
        let user = named.order.as_ref().map(|order| &order.user);
        let topic = Topic::Refund(returned.id.clone());
        let unknown = || Error::OrderNotFound(returned.order.to_string());
        let is_unknown = named.order.is_none() && named.unapplied.is_none();
        let last = self.questions.last(&topic, self.calendar.instant());
        if is_unknown && (self.gateway.is_none() || last.is_some_and(|last| last.is_denied)) {
            return Err(unknown());
        }
        let _question = self.questions.admit(&topic, user, self.calendar.instant())?;
        let not_confirmed = |why| Error::PaymentUnavailable(format!("it does not confirm the callback: {why}"));
        let found = self.gateway()?.refund_of(&returned.id, trace).await?;
        let Some(found) = found else {
            self.questions.note_denial(&topic);
            return Err(if is_unknown { unknown() } else { not_confirmed("the refund is not known there") });
        };
        match found.state {
            RefundState::Success => {}
            RefundState::Pending => return Err(not_confirmed("the refund is not decided; send it again")),
            RefundState::Failed => return Err(not_confirmed("the refund failed")),
        }
        proven(named, returned, found).ok_or_else(|| not_confirmed("the refund is another one"))
    }

    /// Notes that money of an unapplied payment went back. A report without a currency is in that of the payment.
    /// Returns whether it was not noted before.
    async fn note_returned(&self, unapplied: &UnappliedPayment, returned: &Returned) -> Result<bool> {
        let amount = returned.report.amount;
        if amount <= Money::ZERO {
            return Err(Invalid::new("amount", "must be above 0").into());
        }
        let currency = returned.currency.as_deref().unwrap_or(&unapplied.currency);
        if !currency.eq_ignore_ascii_case(&unapplied.currency) {
            return Err(Error::AmountMismatch(format!("currency: the payment is in {}", unapplied.currency)));
        }
        let change = match unapplied.attempt_of(&returned.id) {
            // The amount of an open payment may change before the row is locked.
            Some(attempt) if amount == unapplied.amount && unapplied.status != UnappliedStatus::Open => {
                UnappliedChange::Refunded { attempt }
            }
            _ => UnappliedChange::WentBack { amount },
        };
        let after = self.change_unapplied(&unapplied.payment, change, Some(returned.id.clone()), None).await?;
        let (payment, status, refund) = (&after.payment.payment, after.payment.status, &returned.id);
        if after.changed && status == UnappliedStatus::Conflict {
            tracing::error!(%payment, %refund, "money of an unapplied payment went back in part, or after its credit");
        } else if after.changed {
            tracing::info!(%payment, %refund, "money of an unapplied payment went back");
        }
        Ok(after.changed)
    }

    fn check_amount(&self, returned: &Returned) -> Result<()> {
        if let Some(currency) = &returned.currency {
            self.check_currency(currency)?;
        }
        Ok(self.terms.currency.check_places("amount", returned.report.amount)?)
    }
}

/// Whether a payment is another one than that which has credited the order.
fn is_of_second(order: &Order, payment: Option<&PaymentId>) -> bool {
    let is_other = order.payment.as_ref().zip(payment).is_some_and(|(own, payment)| own != payment);
    is_other && order.status.is_credited()
}

/// A callback with the content that payment-service answers; `None` if the answer is about another
/// refund, or leaves its payment open. The content of a refund that was requested here is known.
fn proven(named: &Named, returned: Returned, found: FoundRefund) -> Option<Returned> {
    let own = named.unapplied.as_ref().filter(|unapplied| unapplied.attempt_of(&returned.id).is_some());
    let proven = |payment, amount, currency: &str| {
        let report = ReportedRefund { payment, amount, ..returned.report.clone() };
        Some(Returned { report, currency: Some(currency.to_owned()), ..returned.clone() })
    };
    let Some(content) = found.content else {
        if let Some(own) = own {
            return proven(Some(own.payment.clone()), own.amount, &own.currency);
        }
        let of_refund =
            |refund: &&OrderRefund| refund.order == returned.order && refund.amount == returned.report.amount;
        return named.refund.as_ref().filter(of_refund).map(|_| returned.clone());
    };
    let (currency, amount) = content.money()?;
    if let Some(own) = own {
        let is_same = content.payment.as_ref().is_none_or(|payment| *payment == own.payment);
        return proven(Some(own.payment.clone()), amount, currency.code()).filter(|_| is_same);
    }
    let asked = returned.currency.as_deref();
    let is_about = content.order == returned.order
        && amount == returned.report.amount
        && asked.is_none_or(|asked| asked.eq_ignore_ascii_case(currency.code()));
    let of_order = named.order.as_ref().and_then(|order| order.payment.as_ref());
    let is_of_payment = match (&content.payment, &named.refund) {
        // A refund of the order is one of its payment.
        (Some(payment), Some(_)) => of_order.is_none_or(|of_order| of_order == payment),
        (None, None) => of_order.is_none() && named.unapplied.is_none(),
        (Some(_), None) | (None, Some(_)) => true,
    };
    proven(content.payment, amount, currency.code()).filter(|_| is_about && is_of_payment)
}

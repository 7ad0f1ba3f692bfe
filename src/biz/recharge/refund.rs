//! Refunds of top-ups. A refund holds its amount first, then asks payment-service, and then takes the
//! amount or frees it. Each step is a posting that is idempotent by the refund id, so a process may die
//! between any two of them: a repeat of the request, a callback or the job goes on.
//!
//! After a lost answer payment-service is asked by the refund id before anything else. It makes the
//! refund of an id once, so a refund that it does not know is requested again.

use chrono::{DateTime, TimeDelta, Utc};
use uuid::Uuid;

use super::{
    NotSettled, Recharges,
    gateway::{CallerContext, FoundRefund, NewRefund, PaymentError, RefundState},
    in_time,
    questions::Topic,
    repeat::SETTLING,
};
use crate::biz::{
    audit_trail::AuditedCall,
    settlement::{
        order::Order,
        order_refund::{OrderRefund, OrderRefundContent, RefundKind, RefundStatus},
        posting::{OrderRefundRequest, OrderRefundUpdate, RefundEvent, ReportedRefund},
    },
    values::{
        error::{Error, Result},
        ids::{OrderId, RefundId},
        money::Money,
    },
};

/// A request to refund a top-up.
#[derive(Debug, Clone)]
pub struct RefundRequest {
    pub id: RefundId,
    pub content: OrderRefundContent,
    pub call: AuditedCall,
}

/// A refund and its order.
#[derive(Debug, Clone)]
pub struct RefundedOrder {
    pub refund: OrderRefund,
    pub order: Order,
    /// Whether the request or report changed anything.
    pub changed: bool,
}

impl From<(OrderRefund, Order, bool)> for RefundedOrder {
    fn from((refund, order, changed): (OrderRefund, Order, bool)) -> Self {
        Self { refund, order, changed }
    }
}

/// The way in which a refund at payment-service begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Approach {
    /// Nobody has requested the refund yet.
    Request,
    /// It was requested, or may have been.
    Ask {
        /// Whether it is requested if payment-service does not know it. Not while its first request may
        /// still be under way.
        requests: bool,
    },
}

impl Recharges {
    /// Refunds a top-up, whole or in part. The flag says whether this is a repeat. The future must run
    /// to its end even if the caller goes away.
    ///
    /// # Errors
    /// [`Error::OrderNotFound`], [`Error::TransactionState`], [`Error::InsufficientBalance`],
    /// [`Error::Invalid`], [`Error::IdempotencyConflict`]; [`Error::PaymentUnavailable`] if
    /// payment-service is not configured; [`Error::Overloaded`], [`Error::Internal`].
    pub async fn refund(&self, request: RefundRequest, trace: &CallerContext) -> Result<(RefundedOrder, bool)> {
        self.gateway()?;
        if let Some(amount) = request.content.amount {
            self.terms.currency.check_places("amount", amount)?;
        }
        let order = self.order(&request.content.order).await?;
        let RefundRequest { id, content, call } = request;
        let request = OrderRefundRequest { user: order.user.clone(), id, content, request: Uuid::now_v7(), call };
        let held: RefundedOrder = self.engine.refund_order(request).await?.into();
        let approach = if held.changed {
            Approach::Request
        } else {
            Approach::Ask { requests: self.is_left_alone(held.refund.created_at) }
        };
        Ok((self.pursue(&held, approach, trace).await?, !held.changed))
    }

    /// Goes on with a pending refund. Without an answer of payment-service the refund stays pending.
    ///
    /// # Errors
    /// [`Error::Overloaded`], [`Error::Internal`].
    async fn pursue(&self, held: &RefundedOrder, approach: Approach, trace: &CallerContext) -> Result<RefundedOrder> {
        if held.refund.status != RefundStatus::Pending {
            return Ok(held.clone());
        }
        match self.refund_state(&self.new_refund(held)?, approach, trace).await {
            Ok(state) => self.settle_refund(held, state).await,
            Err(error) => {
                tracing::warn!(refund = %held.refund.id, %error, "no answer about a refund; it stays pending until it is reconciled");
                Ok(held.clone())
            }
        }
    }

    fn new_refund(&self, held: &RefundedOrder) -> Result<NewRefund> {
        let RefundedOrder { refund, order, .. } = held;
        let minor_amount = self.terms.currency.to_minor(refund.amount);
        Ok(NewRefund {
            id: refund.id.clone(),
            order: order.id.clone(),
            payment: order.payment.clone(),
            // An order is in minor units, and so is what is left of it.
            minor_amount: minor_amount.ok_or_else(|| Error::Internal("a refund is not in minor units".into()))?,
            reason: refund.reason.clone(),
        })
    }

    /// The state of a refund at payment-service, which is requested if need be.
    ///
    /// # Errors
    /// [`PaymentError`]: no decision; the refund may be made or not.
    pub(super) async fn refund_state(
        &self,
        refund: &NewRefund,
        approach: Approach,
        trace: &CallerContext,
    ) -> std::result::Result<RefundState, PaymentError> {
        let gateway = self.gateway.as_deref();
        let gateway = gateway.ok_or_else(|| PaymentError::Unavailable("not configured".into()))?;
        match approach {
            Approach::Request => {}
            Approach::Ask { requests } => match (gateway.refund_of(&refund.id, trace).await?, requests) {
                (Some(found), _) => return Ok(state_of(refund, &found)),
                (None, false) => return Ok(RefundState::Pending),
                (None, true) => {}
            },
        }
        match (gateway.refund(refund, trace).await, approach) {
            (Err(PaymentError::Refused(why)), Approach::Request) => {
                tracing::warn!(refund = %refund.id, why, "payment-service refused a refund");
                Ok(RefundState::Failed)
            }
            // An earlier request may have arrived in between, and have been the reason.
            (Err(PaymentError::Refused(why)), Approach::Ask { .. }) => {
                let found = gateway.refund_of(&refund.id, trace).await?;
                tracing::warn!(refund = %refund.id, why, is_known = found.is_some(), "payment-service refused a refund");
                Ok(found.map_or(RefundState::Failed, |found| state_of(refund, &found)))
            }
            (answer, _) => answer,
        }
    }

    async fn settle_refund(&self, held: &RefundedOrder, state: RefundState) -> Result<RefundedOrder> {
        let event = match state {
            RefundState::Pending => return Ok(held.clone()),
            RefundState::Success => RefundEvent::Succeeded,
            RefundState::Failed => RefundEvent::Failed,
        };
        let RefundedOrder { refund, order, .. } = held;
        self.update_refund(order, refund.id.clone(), event).await
    }

    async fn update_refund(&self, order: &Order, id: RefundId, event: RefundEvent) -> Result<RefundedOrder> {
        let update = OrderRefundUpdate { user: order.user.clone(), order: order.id.clone(), id, event };
        self.engine.update_order_refund(update).await.map(RefundedOrder::from)
    }

    /// Debits money that went back, by a callback of payment-service. A callback from a proven sender is
    /// `trusted`. Any other callback is a hint, which payment-service must confirm. `None` if the money
    /// is that of an unapplied payment, which was not credited.
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
    ) -> Result<Option<RefundedOrder>> {
        if self.settle_unapplied(&returned.id).await? {
            return Ok(None);
        }
        let order = self.order(&returned.order).await?;
        if let Some(currency) = &returned.currency {
            self.check_currency(currency)?;
        }
        self.terms.currency.check_places("amount", returned.report.amount)?;
        if !is_trusted {
            self.confirm_returned(&order, &returned, trace).await?;
        }
        self.update_refund(&order, returned.id, RefundEvent::Reported(returned.report)).await.map(Some)
    }

    async fn confirm_returned(&self, order: &Order, returned: &Returned, trace: &CallerContext) -> Result<()> {
        let stored = in_time(self.orders.order_refund(&returned.id)).await?;
        // No callback changes a refund that is debited.
        if stored.as_ref().is_some_and(|refund| refund.status == RefundStatus::Success) {
            return Ok(());
        }
        let _question =
            self.questions.admit(&Topic::Refund(returned.id.clone()), Some(&order.user), self.calendar.instant())?;
        let not_confirmed = |why| Error::PaymentUnavailable(format!("it does not confirm the callback: {why}"));
        let found = self.gateway()?.refund_of(&returned.id, trace).await?;
        let found = found.ok_or_else(|| not_confirmed("the refund is not known there"))?;
        match found.state {
            RefundState::Success => {}
            RefundState::Pending => return Err(not_confirmed("the refund is not decided; send it again")),
            RefundState::Failed => return Err(not_confirmed("the refund failed")),
        }
        if self.is_about(&found, stored.as_ref(), returned) {
            Ok(())
        } else {
            Err(not_confirmed("the refund is another one"))
        }
    }

    /// Whether an answer names the order and the amount of a callback. The content of a refund that was
    /// requested here is known.
    fn is_about(&self, found: &FoundRefund, stored: Option<&OrderRefund>, returned: &Returned) -> bool {
        let Some(content) = &found.content else {
            return stored
                .is_some_and(|refund| refund.order == returned.order && refund.amount == returned.report.amount);
        };
        content.order == returned.order
            && self.terms.currency.from_minor(content.minor_amount) == Some(returned.report.amount)
            && content.currency.eq_ignore_ascii_case(self.terms.currency.code())
    }

    pub(super) async fn order(&self, id: &OrderId) -> Result<Order> {
        in_time(self.orders.order(id)).await?.ok_or_else(|| Error::OrderNotFound(id.to_string()))
    }

    /// Whether the first request of a refund that began then can't be under way any more.
    pub(super) fn is_left_alone(&self, began: DateTime<Utc>) -> bool {
        let longest = TimeDelta::from_std(self.terms.payment_timeout + SETTLING).unwrap_or(TimeDelta::MAX);
        self.calendar.now().utc - began > longest
    }

    /// Asks about a pending refund, and settles it. Returns its new state; with `settles` false, the
    /// state that it would get, and nothing is requested or settled.
    pub(super) async fn look_up_refund(
        &self,
        refund: &OrderRefund,
        settles: bool,
    ) -> std::result::Result<RefundedOrder, NotSettled> {
        let order = self.order(&refund.order).await?;
        let held = RefundedOrder { refund: refund.clone(), order, changed: false };
        let approach = Approach::Ask { requests: settles && self.is_left_alone(refund.created_at) };
        let state = self.refund_state(&self.new_refund(&held)?, approach, &CallerContext::default()).await?;
        if settles {
            return Ok(self.settle_refund(&held, state).await?);
        }
        let status = match state {
            RefundState::Pending => RefundStatus::Pending,
            RefundState::Success => RefundStatus::Success,
            RefundState::Failed => RefundStatus::Failed,
        };
        Ok(RefundedOrder { refund: OrderRefund { status, ..held.refund }, ..held })
    }
}

/// The state of a refund by an answer about its id. If the id belongs to a refund of another order or
/// amount there, no money of this one went back, and none ever will.
fn state_of(refund: &NewRefund, found: &FoundRefund) -> RefundState {
    match &found.content {
        Some(content) if content.order != refund.order || content.minor_amount != refund.minor_amount => {
            tracing::error!(refund = %refund.id, "payment-service knows the id of a refund by another one; it fails");
            RefundState::Failed
        }
        _ => found.state,
    }
}

/// Money that went back, by a callback.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Returned {
    pub order: OrderId,
    pub id: RefundId,
    pub report: ReportedRefund,
    /// `None` means the currency of the account.
    pub currency: Option<String>,
}

impl RefundedOrder {
    /// The amount that this change took from the balance; `None` if it took none.
    pub fn debited(&self) -> Option<(RefundKind, Money)> {
        let is_debit = self.changed && self.refund.status == RefundStatus::Success;
        is_debit.then_some((self.refund.kind, self.refund.amount))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::biz::recharge::gateway::FoundRefundContent;

    #[test]
    fn the_refund_of_another_order_or_amount_is_none_of_this_one() {
        let id = RefundId::from_stored("r");
        let order = OrderId::from_stored("o");
        let refund = NewRefund { id, order, payment: None, minor_amount: 5, reason: String::new() };
        let state = |order: &str, minor_amount| {
            let content =
                FoundRefundContent { order: OrderId::from_stored(order), minor_amount, currency: "CNY".into() };
            state_of(&refund, &FoundRefund { state: RefundState::Success, content: Some(content) })
        };
        assert_eq!(state("o", 5), RefundState::Success);
        assert_eq!([state("p", 5), state("o", 6)], [RefundState::Failed; 2]);
        let bare = FoundRefund { state: RefundState::Success, content: None };
        assert_eq!(state_of(&refund, &bare), RefundState::Success);
    }
}

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
    gateway::{CallerContext, FoundRefund, FoundRefundContent, NewRefund, PaymentError, RefundState},
    in_time,
    repeat::SETTLING,
};
use crate::biz::{
    audit_trail::AuditedCall,
    settlement::{
        order::Order,
        order_refund::{OrderRefund, OrderRefundContent, RefundKind, RefundStatus},
        posting::{OrderRefundRequest, OrderRefundUpdate, RefundEvent},
        unapplied::UnappliedPayment,
    },
    values::{
        error::{Error, Result},
        ids::{OrderId, RefundId},
        invalid::Invalid,
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
        if UnappliedPayment::may_own(&request.id) {
            return Err(Invalid::new("refund_id", "begins as those of unapplied payments").into());
        }
        let order = self.order(&request.content.order).await?;
        // Before anything is held. An order of the legacy service may have more places.
        self.terms.currency.check_places("amount", request.content.amount.unwrap_or(order.unrefunded()))?;
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
                tracing::warn!(refund = %held.refund.id, %error, "payment-service did not answer; refund pending until the next reconcile-recharges");
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
            // The request was checked.
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

    pub(super) async fn update_refund(&self, order: &Order, id: RefundId, event: RefundEvent) -> Result<RefundedOrder> {
        let update = OrderRefundUpdate { user: order.user.clone(), order: order.id.clone(), id, event };
        self.engine.update_order_refund(update).await.map(RefundedOrder::from)
    }

    pub(super) async fn order(&self, id: &OrderId) -> Result<Order> {
        in_time(self.orders.order(id)).await?.ok_or_else(|| Error::OrderNotFound(id.to_string()))
    }

    /// Whether the first request of a refund that began then can't be under way any more.
    pub(super) fn is_left_alone(&self, began: DateTime<Utc>) -> bool {
        let longest = TimeDelta::from_std(self.terms.payment_timeout + SETTLING).unwrap_or(TimeDelta::MAX);
        self.calendar.now().utc - began > longest
    }

    /// Asks about a refund, and settles it. Returns its new state; with `settles` false, the state that
    /// it would get, and nothing is requested or settled. A refund that has failed is not requested again,
    /// and its late success counts.
    pub(super) async fn look_up_refund(
        &self,
        refund: &OrderRefund,
        settles: bool,
    ) -> std::result::Result<RefundedOrder, NotSettled> {
        let order = self.order(&refund.order).await?;
        let held = RefundedOrder { refund: refund.clone(), order, changed: false };
        let is_pending = refund.status == RefundStatus::Pending;
        let requests = settles && is_pending && self.is_left_alone(refund.created_at);
        let asked = self.new_refund(&held)?;
        let status = match self.refund_state(&asked, Approach::Ask { requests }, &CallerContext::default()).await? {
            RefundState::Success => RefundStatus::Success,
            RefundState::Failed => RefundStatus::Failed,
            RefundState::Pending => refund.status,
        };
        match status {
            RefundStatus::Success if settles => Ok(self.settle_refund(&held, RefundState::Success).await?),
            RefundStatus::Failed if settles && is_pending => Ok(self.settle_refund(&held, RefundState::Failed).await?),
            status => {
                let changed = !settles && status != refund.status;
                Ok(RefundedOrder { refund: OrderRefund { status, ..held.refund }, changed, ..held })
            }
        }
    }
}

/// The state of a refund by an answer about its id. If the id belongs to a refund of another payment or
/// amount there, no money of this one went back, and none ever will. payment-service may hold a payment
/// under another order than a report named, so orders are compared only without the payments.
fn state_of(refund: &NewRefund, found: &FoundRefund) -> RefundState {
    let is_another = |content: &FoundRefundContent| {
        let is_of_another = match (&content.payment, &refund.payment) {
            (Some(found), Some(asked)) => found != asked,
            _ => content.order != refund.order,
        };
        is_of_another || content.minor_amount != refund.minor_amount
    };
    match &found.content {
        Some(content) if is_another(content) => {
            tracing::error!(refund = %refund.id, "payment-service knows the id of a refund by another one; it fails");
            RefundState::Failed
        }
        _ => found.state,
    }
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
    use crate::biz::values::ids::{OrderId, PaymentId};

    fn state(asked_of: Option<&str>, found: (&str, Option<&str>, i64)) -> RefundState {
        let payment = |id: &str| PaymentId::from_stored(id);
        let refund = NewRefund {
            id: RefundId::from_stored("r"),
            order: OrderId::from_stored("o"),
            payment: asked_of.map(payment),
            minor_amount: 5,
            reason: String::new(),
        };
        let (order, found_of, minor_amount) = found;
        let (order, currency) = (OrderId::from_stored(order), "CNY".into());
        let content = FoundRefundContent { order, payment: found_of.map(payment), minor_amount, currency };
        state_of(&refund, &FoundRefund { state: RefundState::Success, content: Some(content) })
    }

    #[test]
    fn the_refund_of_another_payment_or_amount_is_none_of_this_one() {
        use RefundState::{Failed, Success};
        assert_eq!(state(Some("p"), ("o", Some("p"), 5)), Success);
        assert_eq!([state(Some("p"), ("o", Some("q"), 5)), state(Some("p"), ("o", Some("p"), 6))], [Failed; 2]);
        // The payment is held under another order than the report named.
        assert_eq!(state(Some("p"), ("other", Some("p"), 5)), Success);
        for (asked_of, found_of) in [(None, None), (None, Some("p")), (Some("p"), None)] {
            assert_eq!(state(asked_of, ("o", found_of, 5)), Success);
            assert_eq!(state(asked_of, ("other", found_of, 5)), Failed);
        }
    }

    #[test]
    fn an_answer_that_names_only_the_id_is_about_the_refund() {
        let (id, order) = (RefundId::from_stored("r"), OrderId::from_stored("o"));
        let refund = NewRefund { id, order, payment: None, minor_amount: 5, reason: String::new() };
        let bare = FoundRefund { state: RefundState::Success, content: None };
        assert_eq!(state_of(&refund, &bare), RefundState::Success);
    }
}

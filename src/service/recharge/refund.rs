//! RefundRecharge, and the callbacks of money that went back.

use std::time::Instant;

use super::RechargeService;
use crate::{
    biz::{
        audit_trail::{AuditedCall, Intent, REFUND_RECHARGE},
        recharge::{
            refund::{RefundRequest, RefundedOrder},
            returned::{Returned, SettledReturn},
        },
        settlement::order_refund::{OrderRefundContent, RefundStatus},
        values::{
            error::{Error, Result},
            ids::{OrderId, RefundId},
            invalid::Invalid,
            money::Money,
        },
    },
    context,
    service::{
        account::{MAX_REASON, free_text},
        origin::Origin,
        proto::{RechargeCallbackReply, RefundRechargeReply, RefundRechargeRequest},
    },
};

impl RechargeService {
    /// Refunds a top-up in a task of its own, which goes on when the caller goes away.
    pub async fn refund_recharge(
        &self,
        request: RefundRechargeRequest,
        origin: Origin,
        intent: impl Into<Intent>,
    ) -> Result<RefundRechargeReply> {
        let request = parse_refund(request, intent)?;
        let (recharges, metrics) = (self.recharges.clone(), self.metrics.clone());
        let refunding = async move {
            let refunded = recharges.refund(request, &origin.trace).await;
            if let Ok((refunded, _)) = &refunded {
                metrics.recharge.count_refund(refunded);
            }
            refunded
        };
        let refunding = self.tasks.spawn(context::carry(refunding));
        let refunded =
            refunding.await.map_err(|error| Error::Internal(format!("a refund ended abnormally: {error}")))?;
        let (RefundedOrder { refund, order, .. }, replayed) = refunded?;
        tracing::info!(order = %order.id, refund = %refund.id, status = %refund.status, replayed, "top-up refunded");
        Ok(RefundRechargeReply {
            success: refund.status != RefundStatus::Failed,
            refund_id: refund.id.to_string(),
            status: refund.status.to_string(),
            amount: refund.amount.to_wire(),
            balance: refund.balance_after.to_wire(),
            refunded_amount: order.refunded.to_wire(),
            replayed: context::note_replayed(replayed),
        })
    }

    /// The status of a refund of a top-up; `None` if there is no such refund.
    ///
    /// # Errors
    /// [`Error::Invalid`], and the errors of a read.
    pub async fn refund_status(&self, id: &str) -> Result<Option<RefundStatus>> {
        let refund = self.orders.order_refund(&RefundId::parse("refund_id", id)?).await?;
        Ok(refund.map(|refund| refund.status))
    }

    /// Debits money that went back, by a callback.
    pub(super) async fn settle_returned(
        &self,
        returned: Returned,
        origin: &Origin,
        started: Instant,
    ) -> Result<RechargeCallbackReply> {
        let (order, refund) = (returned.order.clone(), returned.id.clone());
        let settled = self.recharges.settle_returned(returned, origin.is_trusted, &origin.trace).await;
        self.metrics.recharge.count_returned(&settled, started.elapsed());
        match settled {
            Ok(SettledReturn::Order(settled)) => {
                if settled.changed {
                    let kind = settled.refund.kind.name();
                    tracing::info!(%order, %refund, kind, "order debited by a callback");
                }
                Ok(RechargeCallbackReply { success: true })
            }
            Ok(SettledReturn::Unapplied(_)) => Ok(RechargeCallbackReply { success: true }),
            Err(error) => {
                if !origin.is_trusted && matches!(error, Error::OrderNotFound(_)) {
                    self.hints.note_unknown(origin.client_ip);
                }
                let left_out = if origin.is_trusted { Some(0) } else { self.hints.line() };
                if let Some(left_out) = left_out {
                    tracing::warn!(%order, %refund, %error, left_out, "refund callback refused");
                }
                Err(error)
            }
        }
    }
}

fn parse_refund(request: RefundRechargeRequest, intent: impl Into<Intent>) -> Result<RefundRequest> {
    let order = OrderId::parse("order_id", &request.order_id)?;
    let id = RefundId::parse("refund_id", &request.refund_id)?;
    let amount = Money::from_wire("amount", request.amount)?;
    if amount.is_negative() {
        return Err(Invalid::new("amount", "must be above 0, or absent for all that is left").into());
    }
    let amount = Some(amount).filter(|amount| !amount.is_zero());
    let reason = free_text("reason", request.reason, 1, MAX_REASON)?;
    let call = AuditedCall::new(REFUND_RECHARGE, intent, reason.clone());
    Ok(RefundRequest { id, content: OrderRefundContent { order, amount, reason, is_forced: request.force }, call })
}

//! ListUnappliedPayments and ResolvePayment.

use super::RechargeService;
use crate::{
    biz::{
        audit_trail::{AuditedCall, Intent, RESOLVE_PAYMENT},
        recharge::resolve::{PaymentAction, ResolvedPayment},
        settlement::unapplied::{UnappliedPayment, UnappliedStatus},
        values::{
            error::{Error, Result},
            ids::{PaymentId, UserId},
            invalid::Invalid,
            paging::PageStart,
        },
    },
    context,
    service::{
        account::{MAX_REASON, free_text},
        convert::int64,
        origin::Origin,
        proto::{
            self, ListUnappliedPaymentsReply, ListUnappliedPaymentsRequest, ResolvePaymentReply, ResolvePaymentRequest,
        },
        reports::paging::Page,
    },
};

impl RechargeService {
    pub async fn list_unapplied_payments(
        &self,
        request: ListUnappliedPaymentsRequest,
    ) -> Result<ListUnappliedPaymentsReply> {
        let page = Page::parse(0, request.page_size, &request.page_token)?;
        let status = match request.status.as_str() {
            "" => Some(UnappliedStatus::Open),
            "all" => None,
            status => Some(status.parse()?),
        };
        let after = match &page.start {
            PageStart::After(cursor) => Some(cursor),
            PageStart::Offset(_) => None,
        };
        // The additional payment shows whether another page follows.
        let payments = self.orders.unapplied_payments(status, after, page.size + 1).await?;
        let (payments, next_page_token) =
            page.cut(&payments, |payment| (payment.first_seen_at, payment.payment.as_str()));
        Ok(ListUnappliedPaymentsReply { payments: payments.iter().map(reply).collect(), next_page_token })
    }

    /// One unapplied payment.
    ///
    /// # Errors
    /// [`Error::PaymentNotFound`], [`Error::Invalid`], and the errors of a read.
    pub async fn unapplied_payment(&self, id: &str) -> Result<proto::UnappliedPayment> {
        let payment = PaymentId::parse("payment_order_id", id)?;
        let found = self.orders.unapplied_payment(&payment).await?;
        found.as_ref().map(reply).ok_or(Error::PaymentNotFound(payment))
    }

    /// Resolves a payment in a task of its own, which goes on when the caller goes away.
    pub async fn resolve_payment(
        &self,
        request: ResolvePaymentRequest,
        origin: Origin,
        intent: impl Into<Intent>,
    ) -> Result<ResolvePaymentReply> {
        let payment = PaymentId::parse("payment_order_id", &request.payment_order_id)?;
        let action = parse_action(&request.action, &request.user_id)?;
        let reason = free_text("reason", request.reason, 1, MAX_REASON)?;
        let call = AuditedCall::new(RESOLVE_PAYMENT, intent, reason);
        let (recharges, metrics) = (self.recharges.clone(), self.metrics.clone());
        let resolving = async move {
            let resolved = recharges.resolve(&payment, action, call, &origin.trace).await;
            if let Ok(ResolvedPayment { payment, replayed: false }) = &resolved {
                metrics.recharge.count_resolution(payment);
            }
            resolved
        };
        let resolving = self.tasks.spawn(context::carry(resolving));
        let resolved =
            resolving.await.map_err(|error| Error::Internal(format!("a resolution ended abnormally: {error}")))?;
        let ResolvedPayment { payment, replayed } = resolved?;
        tracing::info!(payment = %payment.payment, status = %payment.status, replayed, "unapplied payment resolved");
        let success = payment.status != UnappliedStatus::Open;
        Ok(ResolvePaymentReply { success, payment: Some(reply(&payment)), replayed: context::note_replayed(replayed) })
    }
}

fn parse_action(action: &str, user: &str) -> Result<PaymentAction> {
    let action = match action {
        "credit" => return Ok(PaymentAction::Credit(UserId::parse("user_id", user)?)),
        "refund" => PaymentAction::Refund,
        "dismiss" => PaymentAction::Dismiss,
        _ => return Err(Invalid::new("action", "must be credit, refund or dismiss").into()),
    };
    if user.is_empty() { Ok(action) } else { Err(Invalid::new("user_id", "belongs to action credit only").into()) }
}

fn reply(payment: &UnappliedPayment) -> proto::UnappliedPayment {
    proto::UnappliedPayment {
        payment_order_id: payment.payment.to_string(),
        order_id: payment.order.to_string(),
        amount: payment.amount.to_wire(),
        currency: payment.currency.clone(),
        reason: payment.cause.name().to_owned(),
        times_seen: int64(payment.times_seen),
        first_seen_at: Some(payment.first_seen_at.into()),
        last_seen_at: Some(payment.last_seen_at.into()),
        status: payment.status.to_string(),
        user_id: payment.user.as_ref().map(UserId::to_string).unwrap_or_default(),
        resolution: payment.reason.clone(),
        resolved_at: payment.resolved_at.map(Into::into),
        returned_amount: payment.returned.to_wire(),
    }
}

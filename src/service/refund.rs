//! RefundCharge: gives a charge back, in whole or in part.

use std::{sync::Arc, time::Instant};

use super::{
    account::{MAX_REASON, free_text},
    convert::{count, int32},
    proto::{RefundChargeReply, RefundChargeRequest},
};
use crate::{
    biz::{
        audit_trail::{AuditedCall, Consent, Intent, REFUND_CHARGE},
        settlement::{
            engine::Engine,
            posting::{RecordIds, Refund},
            refund::RefundContent,
        },
        values::{
            error::Result,
            ids::{RefundId, TraceId, UserId},
        },
    },
    context,
    metrics::ChargeObserver,
};

/// Refunds charges.
pub struct RefundService {
    engine: Arc<Engine>,
    observer: ChargeObserver,
}

impl RefundService {
    pub fn new(engine: Arc<Engine>, observer: ChargeObserver) -> Self {
        Self { engine, observer }
    }

    pub async fn refund_charge(
        &self,
        request: RefundChargeRequest,
        intent: impl Into<Intent>,
    ) -> Result<RefundChargeReply> {
        let started = Instant::now();
        let refund = refund(request, intent)?;
        let may_change = refund.call.consent != Consent::Withheld;
        let refunded = self.engine.refund(refund).await;
        if may_change {
            let outcome = refunded.as_ref().map(|(refunded, is_repeat)| (refunded.amount, *is_repeat));
            self.observer.count_refund(outcome, started.elapsed());
        }
        let (refunded, replayed) = refunded?;
        Ok(RefundChargeReply {
            success: true,
            free_count: int32(refunded.free),
            paid_count: int32(refunded.paid),
            amount: refunded.amount.to_wire(),
            balance: refunded.balance_after.to_wire(),
            refunded_count: int32(refunded.sum.units()),
            refunded_amount: refunded.sum.amount.to_wire(),
            replayed: context::note_replayed(replayed),
        })
    }
}

fn refund(request: RefundChargeRequest, intent: impl Into<Intent>) -> Result<Refund> {
    let user = UserId::parse("user_id", &request.user_id)?;
    let trace = TraceId::parse("trace_id", &request.trace_id)?;
    let id = RefundId::parse("refund_id", &request.refund_id)?;
    let count = request.count.map(count).transpose()?;
    let reason = free_text("reason", request.reason, 1, MAX_REASON)?;
    let call = AuditedCall::new(REFUND_CHARGE, intent, reason.clone());
    Ok(Refund { user, id, content: RefundContent { trace, count, reason }, record_ids: RecordIds::fresh(), call })
}

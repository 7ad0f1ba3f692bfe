//! Looks up the refunds of top-ups and of unapplied payments.

use chrono::{DateTime, Utc};
use futures_util::future::join_all;

use super::{CHUNK, Reconciled, ReconciledOrders, Treatment};
use crate::biz::{
    recharge::{Recharges, in_time, order::RefundScan},
    settlement::{
        order_refund::{OrderRefund, RefundStatus},
        unapplied::{UnappliedPayment, UnappliedStatus},
    },
    values::{error::Result, paging::Cursor},
};

impl Recharges {
    /// Looks up the refunds of a scan. A failed one counts only if its money went back after all.
    ///
    /// # Errors
    /// [`Error::PaymentUnavailable`](crate::biz::values::error::Error::PaymentUnavailable): no refund of a
    /// chunk was answered for. An error of the database.
    pub(super) async fn scan_refunds(
        &self,
        scan: &RefundScan,
        total: &mut ReconciledOrders,
        treatment: &Treatment<'_>,
    ) -> Result<()> {
        let mut last: Option<OrderRefund> = None;
        // Ends, because each chunk begins after the last one, and a changed refund is behind the end.
        loop {
            let chunk = in_time(self.orders.scan_refunds(scan, last.as_ref(), CHUNK)).await?;
            let Some(end) = chunk.last().cloned() else { return Ok(()) };
            let looked_up = chunk.iter().map(|refund| self.look_up_refund(refund, treatment.settles()));
            let mut outages = Vec::new();
            for (refund, after) in chunk.iter().zip(join_all(looked_up).await) {
                match after {
                    Ok(after) => {
                        if refund.status == RefundStatus::Pending || after.refund.status != refund.status {
                            total.count_refund(after.refund.status);
                        }
                        if let (Treatment::Settle(on_settled), true) = (treatment, after.changed) {
                            on_settled(Reconciled::Refund(&after));
                        }
                    }
                    Err(error) => outages.extend(total.note_error("refund", refund.id.as_str(), error)),
                }
            }
            let is_outage = outages.len() == chunk.len();
            if let Some(outage) = outages.pop().filter(|_| is_outage) {
                return Err(outage.into());
            }
            last = Some(end);
        }
    }

    /// Looks up the refunds of unapplied payments that began up to `until`.
    ///
    /// # Errors
    /// As [`Self::scan_refunds`].
    pub(super) async fn scan_unapplied(
        &self,
        until: DateTime<Utc>,
        total: &mut ReconciledOrders,
        treatment: &Treatment<'_>,
    ) -> Result<()> {
        let mut last: Option<Cursor> = None;
        // Ends, because each chunk begins after the last one, and goes to older payments.
        loop {
            let refunding = Some(UnappliedStatus::Refunding);
            let chunk = in_time(self.orders.unapplied_payments(refunding, last.as_ref(), CHUNK)).await?;
            let Some(end) = chunk.last() else { return Ok(()) };
            last = Some(Cursor { created_at: end.first_seen_at, id: end.payment.to_string() });
            let is_due = |payment: &&UnappliedPayment| payment.resolved_at.is_none_or(|began| began <= until);
            let due: Vec<_> = chunk.iter().filter(is_due).collect();
            let looked_up = due.iter().map(|payment| self.look_up_unapplied(payment, treatment.settles()));
            let mut outages = Vec::new();
            for (payment, after) in due.iter().zip(join_all(looked_up).await) {
                match after {
                    Ok(UnappliedStatus::Refunded) => total.count_refund(RefundStatus::Success),
                    Ok(UnappliedStatus::Refunding) => total.count_refund(RefundStatus::Pending),
                    Ok(_) => total.count_refund(RefundStatus::Failed),
                    Err(error) => {
                        outages.extend(total.note_error("unapplied payment", payment.payment.as_str(), error));
                    }
                }
            }
            let is_outage = outages.len() == due.len();
            if let Some(outage) = outages.pop().filter(|_| is_outage) {
                return Err(outage.into());
            }
        }
    }
}

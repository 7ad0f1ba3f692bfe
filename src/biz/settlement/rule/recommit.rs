//! Commits of a committed reservation: repeats, and additions to a charge of reported usage.

use super::{
    Book, conflict, debited, found,
    reservation::{check_stream, held_key},
};
use crate::biz::{
    charge::{self, Split},
    settlement::{
        posting::{Commit, Effect, Outcome, RecordIds},
        transaction::{ChargedBy, Delivered, Reservation, Transaction},
    },
    values::{error::Error, money::Money, usage::Usage},
};

impl Book<'_> {
    /// Returns the first outcome for the same content. If the reservation was charged by the last
    /// report of its stream, other content is the actual delivery, and the difference is charged
    /// once.
    pub(super) fn commit_again(
        &mut self,
        request: &Commit,
        delivered: Delivered,
        first: &Transaction,
        reservation: Reservation,
    ) -> Result<Outcome, Error> {
        let Some(before) = &reservation.delivered else { return Err(conflict(vec!["rpc"])) };
        let names_tier = delivered.service_tier.is_some();
        // A text of less output than was reported adds nothing, whatever its tokens would cost.
        let is_less = |had: &Usage| request.counted_output.is_some_and(|counted| counted < had.output_tokens);
        let delivered = match reservation.charged_by {
            ChargedBy::Report if before.usage.as_ref().is_some_and(is_less) => {
                Delivered { usage: before.usage, ..delivered }
            }
            _ => delivered,
        };
        let delivered = match reservation.charged_by {
            ChargedBy::Commit => delivered,
            // Absent fields keep the values of the earlier charge. Zero tokens count as absent.
            ChargedBy::Report | ChargedBy::Both => Delivered {
                count: request.count.map_or(before.count, |_| delivered.count.max(before.count)),
                usage: delivered.usage.filter(|usage| !usage.is_empty()).or(before.usage),
                service_tier: delivered.service_tier.or_else(|| before.service_tier.clone()),
                model: delivered.model.or_else(|| before.model.clone()),
                cost: delivered.cost,
            },
        };
        let fields = delivered.differences(before);
        if fields.is_empty() {
            return Ok(found(first, request.record_ids.main));
        }
        if reservation.charged_by != ChargedBy::Report {
            return Err(conflict(fields));
        }
        check_stream(request, first)?;
        let reservation = Reservation { charged_by: ChargedBy::Both, ..reservation };
        let served = first.clone().served_by(request)?;
        // A model that now served the call may lack the service tier of the text before. It then costs as without one.
        let service_tier = delivered.service_tier.filter(|name| names_tier || served.has_service_tier(name));
        let delivered = Delivered { service_tier, ..delivered };
        let (transaction, effect) = self.deliver_rest(delivered, request.record_ids, &served, reservation)?;
        Ok(Outcome::Settled { transaction, effect })
    }

    /// Charges the delivered work beyond the earlier charge, to the same day and month and by the
    /// policy above the hold. If the month of the charge has closed, the rest counts to this month, and
    /// takes no free quota. Without such work nothing changes, because a charge is never given
    /// back. `reservation` is the new state of the reservation.
    pub(super) fn deliver_rest(
        &mut self,
        delivered: Delivered,
        ids: RecordIds,
        first: &Transaction,
        reservation: Reservation,
    ) -> Result<(Transaction, Effect), Error> {
        let above_hold = self.batch.catalog.policy(&first.content.service).above_hold;
        let priced = first.priced(&delivered)?;
        let quota_key = held_key(first, &reservation);
        let is_late = self.is_late(&reservation);
        let (balance, quota) = self.held_account(&quota_key)?;
        let due = rest_of(first, priced, if is_late { 0 } else { quota.remaining() });
        if due == NOTHING {
            return Ok((first.clone(), Effect::Unchanged));
        }
        let left_of_hold = reservation.amount.minus(first.amount).max(Money::ZERO);
        let amount = above_hold.charged(due.amount, left_of_hold, balance.available()).max(Money::ZERO);
        let (split, shortfall) = (Split { amount, ..due }, due.amount.minus(amount));
        balance.amount = debited(balance.amount, amount)?;
        let before = *quota;
        quota.used += u64::from(due.free);
        let (balance_after, free_remaining_after, after) = (balance.amount, quota.remaining(), *quota);
        if due.free > 0 {
            self.note_use(&quota_key, before, after);
            self.changed_quotas.insert(quota_key);
        }

        let transaction = Transaction {
            free: first.free + due.free,
            paid: first.paid + due.paid,
            amount: first.amount.plus(amount),
            shortfall: first.shortfall.plus(shortfall),
            // The balance record is the main record from its creation on.
            record_id: if split.is_paid() && !first.split().is_paid() { ids.main } else { first.record_id },
            balance_after,
            free_remaining_after,
            reservation: Some(Reservation { delivered: Some(delivered.clone()), ..reservation.clone() }),
            ..first.clone()
        };
        let more = transaction.kept() - first.kept();
        self.count_end(first, reservation.day, more);
        if split.free > 0 || split.is_paid() {
            self.record_delivered(first, delivered.usage, split, ids);
        }
        self.write(transaction.clone(), Some(first.status));
        Ok((transaction, Effect::Added { split, shortfall }))
    }
}

const NOTHING: Split = Split { free: 0, paid: 0, amount: Money::ZERO };

/// The part of a delivery that is not charged yet. `full_cost` is the cost of all `units` without
/// free quota. The earlier charge and its shortfall are subtracted.
fn rest_of(charged: &Transaction, (units, full_cost): (u32, Money), free_remaining: u64) -> Split {
    let before = charged.free + charged.paid;
    let more = units.saturating_sub(before);
    let free = charge::free_part(more, free_remaining);
    let paid = more - free;
    let due = full_cost.share(charged.paid + paid, (before + more).max(1));
    Split { free, paid, amount: due.minus(charged.amount.plus(charged.shortfall)).max(Money::ZERO) }
}

//! Refunds: a charge is given back, in whole or in part.

use super::{Book, NewRecord, reservation::state};
use crate::biz::{
    reports::record::{Record, RecordType},
    settlement::{
        audit_events,
        posting::{Outcome, Refund},
        refund::{Refunded, RefundedPart, share},
        transaction::Transaction,
    },
    values::{error::Error, invalid::Invalid, money::Money},
};

impl Book<'_> {
    /// Gives paid units back first, then free ones. A repeat changes nothing.
    pub(super) fn refund(&mut self, request: &Refund) -> Result<Outcome, Error> {
        let key = (request.user.clone(), request.id.clone());
        if let Some(first) = self.state.refunds.get(&key) {
            return replay(request, first);
        }
        let trace = &request.content.trace;
        let charge = self.state.transactions.get(&(request.user.clone(), trace.clone()));
        let charge = charge.ok_or_else(|| Error::TransactionNotFound(trace.to_string()))?.clone();
        if !charge.is_committed() {
            return Err(state("the reservation is not committed"));
        }
        let part = part(&charge, request.content.count)?;
        let (at, month) = (self.batch.at, charge.charged_month(self.batch.periods));
        let returned = if month >= at.month { part.free } else { 0 };
        let lacks = || Error::Internal(format!("the balance of {} was not loaded", request.user));
        let balance = self.state.balances.get_mut(&request.user).ok_or_else(lacks)?;
        let after = balance
            .amount
            .checked_add(part.amount)
            .ok_or_else(|| Invalid::new("count", format!("would raise the balance above {}", Money::MAX)))?;
        let before = std::mem::replace(&mut balance.amount, after);
        if returned > 0 {
            let row = (request.user.clone(), month, charge.content.service.clone());
            let (_, quota) = self.held_account(&row)?;
            quota.used = quota.used.saturating_sub(returned.into());
            self.changed_quotas.insert(row);
        }
        let refunded = Refunded {
            user: request.user.clone(),
            id: request.id.clone(),
            content: request.content.clone(),
            request: request.record_ids.main,
            free: returned,
            lapsed: part.free - returned,
            paid: part.paid,
            amount: part.amount,
            sum: plus(charge.refunded, part),
            balance_after: after,
            day: at.day,
            created_at: at.utc,
        };
        let transaction = Transaction { refunded: refunded.sum, ..charge.clone() };
        self.give_back(&charge, &transaction);
        self.record_refund(request, &charge, &refunded);
        let charge_key = (transaction.user.clone(), transaction.trace.clone());
        self.changed_refunds.insert(charge_key.clone());
        self.state.transactions.insert(charge_key, transaction);
        self.changed.insert(request.user.clone());
        self.audit_events.push(audit_events::of_refund(request, before, &refunded));
        self.note_refund_of_charge(&refunded);
        self.state.refunds.insert(key, refunded.clone());
        self.refunds.push(refunded.clone());
        Ok(Outcome::Refunded { refunded, replayed: false })
    }

    /// Gives the caps and the quotas of the API key back the refunded part of a charge.
    fn give_back(&mut self, before: &Transaction, after: &Transaction) {
        self.count_end(before, before.counted_day(self.batch.periods), after.kept() - before.kept());
    }

    /// Writes a record for each part that was given back, on the day of the refund.
    fn record_refund(&mut self, request: &Refund, charge: &Transaction, refunded: &Refunded) {
        let content = &charge.content;
        let month = charge.charged_month(self.batch.periods);
        let paid = Record {
            id: request.record_ids.main.to_string(),
            service: content.service.clone(),
            kind: RecordType::BalanceRefund,
            amount: refunded.amount,
            count: refunded.paid,
            created_at: refunded.created_at,
            trace: Some(charge.trace.clone()),
            api_key: content.api_key.clone(),
            model: content.model.clone(),
            served_model: None,
            service_tier: None,
            usage: None,
            late_of: Some(month).filter(|month| self.batch.periods.is_closed(*month, self.batch.at)),
        };
        let free = Record {
            id: request.record_ids.free_part.to_string(),
            kind: RecordType::FreeRefund,
            amount: Money::ZERO,
            count: refunded.free,
            ..paid.clone()
        };
        let has_paid = refunded.paid > 0 || !refunded.amount.is_zero();
        if refunded.free == 0 && !has_paid {
            return;
        }
        let delta = self.refund_usage.entry((charge.user.clone(), refunded.day, content.service.clone())).or_default();
        delta.free += u64::from(refunded.free);
        delta.paid += u64::from(refunded.paid);
        delta.amount = delta.amount.plus(refunded.amount);
        delta.free_records += u32::from(refunded.free > 0);
        delta.paid_records += u32::from(has_paid);
        for (record, is_there) in [(free, refunded.free > 0), (paid, has_paid)] {
            if is_there {
                self.records.push(NewRecord { user: charge.user.clone(), day: refunded.day, record });
            }
        }
    }
}

/// The part of a charge that a refund of `count` units takes; of all that is left, for `None`. Partial
/// refunds sum up to the charge, because each takes the difference of two rounded shares.
fn part(charge: &Transaction, count: Option<u32>) -> Result<RefundedPart, Error> {
    let before = charge.refunded;
    let left = RefundedPart {
        free: charge.free.saturating_sub(before.free),
        paid: charge.paid.saturating_sub(before.paid),
        amount: charge.amount.minus(before.amount).max(Money::ZERO),
    };
    let count = count.unwrap_or(left.units());
    if left.units() == 0 && left.amount.is_zero() {
        return Err(Invalid::new("count", "the charge is refunded already; nothing is left").into());
    }
    if count > left.units() {
        let why = format!("is more than the {} units that are left of the charge", left.units());
        return Err(Invalid::new("count", why).into());
    }
    let paid = count.min(left.paid);
    let amount = match paid == left.paid {
        true => left.amount,
        false => {
            let due = share(charge.amount.micros(), before.paid + paid, charge.paid);
            Money::from_micros(due).minus(before.amount).max(Money::ZERO)
        }
    };
    Ok(RefundedPart { free: count - paid, paid, amount })
}

fn plus(one: RefundedPart, other: RefundedPart) -> RefundedPart {
    RefundedPart { free: one.free + other.free, paid: one.paid + other.paid, amount: one.amount.plus(other.amount) }
}

fn replay(request: &Refund, first: &Refunded) -> Result<Outcome, Error> {
    let fields = request.content.differences(&first.content);
    if !fields.is_empty() {
        return Err(Error::IdempotencyConflict { id_field: "refund_id", fields });
    }
    Ok(Outcome::Refunded { refunded: first.clone(), replayed: first.request != request.record_ids.main })
}

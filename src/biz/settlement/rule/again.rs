//! Commits of what is committed already: repeats, and those that know better than a report.

use super::{Book, Entry, conflict, found};
use crate::biz::{
    charge::Split,
    error::Error,
    key_quota::Take,
    money::Money,
    settlement::{
        posting::{Commit, Outcome},
        transaction::{ChargeContent, Delivered, Reservation, Transaction},
    },
};

impl Book<'_> {
    /// The first outcome, for the same content. Where the service itself had charged what a
    /// stream reported last, other content is what was really delivered: the rest of it is charged.
    pub(super) fn commit_again(
        &mut self,
        request: &Commit,
        delivered: Delivered,
        first: &Transaction,
        reservation: Reservation,
    ) -> Result<Outcome, Error> {
        let before = reservation.delivered.as_ref();
        let fields = before.map_or_else(|| vec!["rpc"], |before| delivered.differences(before));
        if fields.is_empty() {
            return Ok(found(first, request.record_ids.main));
        }
        // Fewer units than are charged would be a refund.
        let is_less = before.is_some_and(|before| delivered.count < before.count);
        if !reservation.is_provisional || is_less {
            return Err(conflict(fields));
        }
        let transaction = self.deliver_rest(request, delivered, first, reservation)?;
        Ok(Outcome::Settled { transaction, replayed: true })
    }

    /// Charges what was delivered beyond what is charged, to the same day and month, and as the
    /// service charges work beyond the hold. Nothing is given back: what was reported was
    /// delivered too.
    fn deliver_rest(
        &mut self,
        request: &Commit,
        delivered: Delivered,
        first: &Transaction,
        reservation: Reservation,
    ) -> Result<Transaction, Error> {
        let above_hold = self.batch.catalog.policy(&first.content.service).above_hold;
        let (units, full_cost) = first.priced(&delivered)?;
        let more = units.saturating_sub(first.free + first.paid);
        let quota_key = (first.user.clone(), reservation.month(), first.content.service.clone());
        let (balance, quota) = self.held_account(&quota_key)?;
        let free = more.min(quota.remaining());
        let paid = more - free;
        let due = full_cost.share(first.paid + paid, (first.free + first.paid + more).max(1));
        let rest = due.minus(first.amount.plus(first.shortfall)).max(Money::ZERO);
        let left_of_hold = reservation.amount.minus(first.amount).max(Money::ZERO);
        let amount = above_hold.charged(rest, left_of_hold, balance.available()).max(Money::ZERO);
        balance.amount = balance.amount.minus(amount);
        quota.used += free;
        let (balance_after, free_remaining_after) = (balance.amount, quota.remaining());
        if free > 0 {
            self.changed_quotas.insert(quota_key);
        }

        let transaction = Transaction {
            free: first.free + free,
            paid: first.paid + paid,
            amount: first.amount.plus(amount),
            shortfall: first.shortfall.plus(rest.minus(amount)),
            balance_after,
            free_remaining_after,
            reservation: Some(Reservation {
                delivered: Some(delivered.clone()),
                is_provisional: false,
                ..reservation.clone()
            }),
            ..first.clone()
        };
        let charged = Take::call(reservation.usage(), first.amount);
        self.count_end(first, reservation.day, Take::call(delivered.usage, transaction.amount) - charged);
        if more > 0 || !amount.is_zero() {
            self.record(Entry {
                user: &first.user,
                trace: &first.trace,
                content: &ChargeContent { usage: delivered.usage, ..first.content.clone() },
                split: Split { free, paid, amount },
                ids: request.record_ids,
                day: reservation.day,
                at: first.created_at,
            });
        }
        self.write(transaction.clone(), Some(first.status));
        Ok(transaction)
    }
}

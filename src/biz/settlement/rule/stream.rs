//! Streams: what they report while they deliver, and how their holds grow with them.

use super::{
    Book,
    reservation::{held_key, is_charged_as_reported, state},
};
use crate::biz::{
    charge::{self, Split},
    limits::key_quota::{self, QuotaType},
    settlement::{
        posting::{Outcome, Report},
        transaction::{Delivered, Reservation, Status, Transaction},
    },
    values::{error::Error, money::Money, usage::Usage},
};

impl Book<'_> {
    /// Keeps what a stream has delivered, and lets its hold grow. Repeating it changes nothing.
    pub(super) fn report(&mut self, request: &Report) -> Result<Outcome, Error> {
        let (first, reservation) = self.reservation(&request.user, &request.trace)?;
        let is_its_own = first.record_id == request.stream;
        match first.status {
            Status::Pending if is_its_own || request.takes_over => {}
            // The sweep came first. What it delivered is still charged when it ends.
            Status::Expired if is_its_own => return Ok(Outcome::Reported { transaction: first, is_exhausted: true }),
            Status::Committed if is_charged_as_reported(&first, request.stream) => {
                return Ok(Outcome::Reported { transaction: first, is_exhausted: true });
            }
            Status::Pending => return Err(state("another stream meters the reservation")),
            Status::Expired => return Err(state("the reservation has expired; commit what it delivered")),
            Status::Committed => return Err(state("the reservation was committed")),
            Status::Released => return Err(state("the reservation was released")),
        }
        let usage = request.usage.filter(|usage| usage.tokens() > 0);
        if let Some(usage) = usage {
            // Or it could never be charged, and its hold never be freed.
            first.priced(&Delivered::stream(&first, usage))?;
        }
        let expires_at = self.expiry(request.ttl)?;
        let (free, amount) = match request.target {
            Some(target) => self.grow(&first, &reservation, target)?,
            None => (reservation.free, reservation.amount),
        };
        let reported = usage.map(|usage| reservation.with(usage)).or(reservation.reported);
        let day = reservation.day;
        let has_grown = (free, amount) != (reservation.free, reservation.amount);
        let transaction = Transaction {
            record_id: request.stream,
            reservation: Some(Reservation { free, amount, reported, expires_at, ..reservation }),
            ..first.clone()
        };
        self.count_end(&first, day, transaction.held_take() - first.held_take());
        let reported_tokens = reported.map_or(0, |reported| reported.tokens() as i64);
        let is_exhausted = reported_tokens >= transaction.held_take().tokens
            && self.left_of_key(&transaction, QuotaType::Tokens) == Some(0);
        match has_grown {
            true => self.write(transaction.clone(), Some(first.status)),
            // Reports come often, and checks need not hear of those that change no account.
            false => self.write_alone(transaction.clone(), Some(first.status)),
        }
        Ok(Outcome::Reported { transaction, is_exhausted })
    }

    /// Holds more of the account, for what the reservation may come to: free units first, then
    /// as much of the balance as nobody holds and the quota of its API key allows.
    fn grow(&mut self, first: &Transaction, held: &Reservation, target: Usage) -> Result<(u32, Money), Error> {
        // What can't be priced can't be held either; its commit will say why.
        let Ok((units, full_cost)) = first.priced(&Delivered::stream(first, target)) else {
            return Ok((held.free, held.amount));
        };
        let allowed = self.left_of_key(first, QuotaType::Amount).map_or(Money::MAX, Money::from_micros);
        let quota_key = held_key(first, held);
        let (balance, quota) = self.held_account(&quota_key)?;

        let Split { free, amount, .. } = charge::split(units, full_cost, quota.remaining().saturating_add(held.free));
        let free = free.max(held.free);
        let more = amount.minus(held.amount).min(balance.available()).min(allowed).max(Money::ZERO);
        quota.held += free - held.free;
        balance.held = balance.held.plus(more);
        if free > held.free {
            self.changed_quotas.insert(quota_key);
        }
        Ok((free, held.amount.plus(more)))
    }

    /// What a reservation may still take of a quota of its API key, in the period that it
    /// counts to.
    fn left_of_key(&self, first: &Transaction, kind: QuotaType) -> Option<i64> {
        let day = first.reservation.as_ref()?.day;
        key_quota::left(&self.state.key_quotas, first.content.api_key.as_ref(), kind, (day, first.created_at))
    }
}

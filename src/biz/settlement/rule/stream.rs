//! Streams: what they report while they deliver, and how their holds grow with them.

use super::{Book, reservation::state};
use crate::biz::{
    charge::{self, Split},
    error::Error,
    key_quota::{self, Take},
    money::Money,
    record::Usage,
    settlement::{
        posting::{Outcome, Report},
        transaction::{Delivered, Reservation, Status, Transaction},
    },
};

impl Book<'_> {
    /// Keeps what a stream has delivered, and lets its hold grow. Repeating it changes nothing.
    pub(super) fn report(&mut self, request: &Report) -> Result<Outcome, Error> {
        let (first, reservation) = self.reservation(&request.user, &request.trace)?;
        match first.status {
            Status::Pending => {}
            Status::Committed => return Err(state("the reservation was committed")),
            Status::Released => return Err(state("the reservation was released")),
            Status::Expired => return Err(state("the reservation has expired; commit what it delivered")),
        }
        if !request.takes_over && first.record_id != request.stream {
            return Err(state("another stream meters the reservation"));
        }
        if let Some(usage) = request.usage.filter(|usage| usage.tokens() > 0) {
            // Or it could never be charged, and its hold never be freed.
            first.priced(&Delivered::stream(&first, usage))?;
        }
        let expires_at = self
            .batch
            .at
            .utc
            .checked_add_signed(request.ttl)
            .ok_or_else(|| Error::Internal("the expiry is beyond the calendar".into()))?;
        let hold = match request.target {
            Some(target) => self.grow(&first, &reservation, target)?,
            None => (reservation.free, reservation.amount),
        };
        let reported = request.usage.map(|usage| reservation.with(usage)).or(reservation.reported);
        let transaction = Transaction {
            record_id: request.stream,
            reservation: Some(Reservation { free: hold.0, amount: hold.1, reported, expires_at, ..reservation }),
            ..first.clone()
        };
        self.write(transaction.clone(), Some(first.status));
        Ok(Outcome::Settled { transaction, replayed: false })
    }

    /// Holds more of the account, for what the reservation may come to: free units first, then
    /// as much of the balance as nobody holds and the quota of its API key allows.
    fn grow(&mut self, first: &Transaction, held: &Reservation, target: Usage) -> Result<(u32, Money), Error> {
        // What can't be priced can't be held either; its commit will say why.
        let Ok((units, full_cost)) = first.priced(&Delivered::stream(first, target)) else {
            return Ok((held.free, held.amount));
        };
        let allowed = key_quota::amount_left(&self.state.key_quotas, first.content.api_key.as_ref(), self.batch.at);
        let quota_key = (first.user.clone(), held.month(), first.content.service.clone());
        let (balance, quota) = self.held_account(&quota_key)?;

        let Split { free, amount, .. } = charge::split(units, full_cost, quota.remaining().saturating_add(held.free));
        let free = free.max(held.free);
        let more = amount.minus(held.amount).min(balance.available()).min(allowed).max(Money::ZERO);
        quota.held += free - held.free;
        balance.held = balance.held.plus(more);
        if free > held.free {
            self.changed_quotas.insert(quota_key);
        }
        self.count_end(first, held.day, Take { amount: more, ..Take::default() });
        Ok((free, held.amount.plus(more)))
    }
}

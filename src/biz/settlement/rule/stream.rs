//! Streams: their reports during the delivery, and the growth of their holds.

use super::{
    Book,
    reservation::{held_key, is_charged_as_reported, state},
};
use crate::biz::{
    charge::{self, Split},
    limits::key_quota::{self, QuotaType},
    settlement::{
        posting::{Outcome, Report},
        transaction::{Delivered, Reports, Reservation, Status, Transaction},
    },
    values::{error::Error, money::Money, usage::Usage},
};

impl Book<'_> {
    /// Stores the delivered usage of a stream, and increases its hold. A repeat changes nothing.
    pub(super) fn report(&mut self, request: &Report) -> Result<Outcome, Error> {
        let (first, reservation) = self.reservation(&request.user, &request.trace)?;
        let is_its_own = first.record_id == request.stream;
        match first.status {
            Status::Pending if is_its_own || request.takes_over => {}
            // The sweep came first. The delivered work is still charged at the end of the stream.
            Status::Expired if is_its_own => return Ok(Outcome::Reported { transaction: first, is_exhausted: true }),
            Status::Committed if is_charged_as_reported(&first, request.stream) => {
                return Ok(Outcome::Reported { transaction: first, is_exhausted: true });
            }
            Status::Pending => return Err(state("another stream meters the reservation")),
            Status::Expired => return Err(state("the reservation has expired; commit what it delivered")),
            Status::Committed => return Err(state("the reservation was committed")),
            Status::Released => return Err(state("the reservation was released")),
        }
        let usage = request.usage.filter(|usage| !usage.is_empty());
        if let Some(usage) = usage {
            // A usage without a price could never be charged, and the hold never be freed.
            first.priced(&Delivered::stream(&first, usage))?;
        }
        let expires_at = self.expiry(request.ttl)?;
        let (free, amount) = match request.target {
            Some(target) => self.grow(&first, &reservation, target)?,
            None => (reservation.free, reservation.amount),
        };
        let reported = usage.map(|usage| reservation.with(usage)).or(reservation.reported);
        let reports = match reported.filter(|_| usage.is_some()) {
            Some(reported) => Some(Reports::after(reservation.reports, reported, self.batch.at.utc)),
            None => reservation.reports,
        };
        let day = reservation.day;
        let has_grown = (free, amount) != (reservation.free, reservation.amount);
        let transaction = Transaction {
            record_id: request.stream,
            reservation: Some(Reservation { free, amount, reported, reports, expires_at, ..reservation }),
            ..first.clone()
        };
        self.count_end(&first, day, transaction.held_take() - first.held_take());
        let reported_tokens = reported.map_or(0, |reported| reported.tokens() as i64);
        let is_exhausted = reported_tokens >= transaction.held_take().tokens
            && self.left_of_key(&transaction, QuotaType::Tokens) == Some(0);
        match has_grown {
            true => self.write(transaction.clone(), Some(first.status)),
            // Reports are frequent. The caches need no update if the account has not changed.
            false => self.write_alone(transaction.clone(), Some(first.status)),
        }
        Ok(Outcome::Reported { transaction, is_exhausted })
    }

    /// Increases the hold towards the cost of `target`: free units first, then the available balance,
    /// as far as the amount quota of the API key allows. The hold of an account that is not active
    /// stays, so its streams end soon.
    fn grow(&mut self, first: &Transaction, held: &Reservation, target: Usage) -> Result<(u32, Money), Error> {
        if self.check_status(&first.user).is_err() {
            return Ok((held.free, held.amount));
        }
        // A target without a price can't be held. The commit returns the reason.
        let Ok((units, full_cost)) = first.priced(&Delivered::stream(first, target)) else {
            return Ok((held.free, held.amount));
        };
        let allowed = self.left_of_key(first, QuotaType::Amount).map_or(Money::MAX, Money::from_micros);
        let quota_key = held_key(first, held);
        let (balance, quota) = self.held_account(&quota_key)?;

        let Split { free, amount, .. } =
            charge::split(units, full_cost, quota.remaining().saturating_add(held.free.into()));
        let free = free.max(held.free);
        let more = amount.minus(held.amount).min(balance.available()).min(allowed).max(Money::ZERO);
        quota.held += u64::from(free - held.free);
        balance.held = balance.held.plus(more);
        if free > held.free {
            self.changed_quotas.insert(quota_key);
        }
        Ok((free, held.amount.plus(more)))
    }

    /// The amount that a reservation may still take from a quota of its API key, in the period of
    /// the reserve.
    pub(super) fn left_of_key(&self, first: &Transaction, kind: QuotaType) -> Option<i64> {
        let day = first.reservation.as_ref()?.day;
        key_quota::left(&self.state.key_quotas, first.content.api_key.as_ref(), kind, (day, first.created_at))
    }
}

//! The states of a reservation: reserve, then commit, release or expire.

use chrono::{DateTime, NaiveDate, TimeDelta, Utc};

use super::{Book, QuotaKey, RecordEntry, conflict, debited, found};
use crate::biz::{
    account::{Balance, Quota, catalog::QuotaUnit, policy::OnExpiry},
    charge::{self, Split},
    limits::key_quota::{self, Take},
    settlement::{
        posting::{Cause, Charge, Commit, Effect, Expire, Outcome, RecordIds, Release, Reserve},
        refund::RefundedPart,
        transaction::{ChargeContent, ChargedBy, Delivered, Reservation, Status, Transaction},
    },
    values::{
        calendar::Month,
        error::Error,
        ids::{TraceId, UserId},
        money::Money,
        usage::Usage,
    },
};

impl Book<'_> {
    /// Holds the free units and the amount that a charge of the call would take.
    pub(super) fn reserve(&mut self, request: &Reserve) -> Result<Outcome, Error> {
        let call = &request.call;
        let key = (call.user.clone(), call.trace.clone());
        if let Some(first) = self.state.transactions.get(&key) {
            return replay_reserve(call, first);
        }
        let at = self.batch.at;
        let expires_at = self.expiry(request.ttl)?;
        let quote = self.quote(call)?;
        let quota_key = (call.user.clone(), at.month, call.content.service.clone());
        self.check_status(&call.user)?;
        self.check_caps(&call.user)?;
        let split = self.cover(&quote, &quota_key)?;
        let take = Take::call(call.content.estimate, split.amount);
        self.check_key(&call.content, take)?;
        let (balance, quota) = self.account(&quota_key)?;

        quota.held += u64::from(split.free);
        balance.held = balance.held.plus(split.amount);
        let transaction = Transaction {
            user: call.user.clone(),
            trace: call.trace.clone(),
            content: call.content.clone(),
            status: Status::Pending,
            quota_unit: quote.quota_unit,
            // A cost of the caller replaces the prices, at the commit too.
            price_version: quote.version.clone().filter(|_| call.content.cost.is_none()),
            plan: quote.plan,
            reservation: Some(Reservation {
                free: split.free,
                amount: split.amount,
                full_cost: quote.cost,
                expires_at,
                day: at.day,
                late_day: None,
                reported: None,
                reports: None,
                delivered: None,
                charged_by: ChargedBy::Commit,
            }),
            free: 0,
            paid: 0,
            amount: Money::ZERO,
            shortfall: Money::ZERO,
            record_id: call.record_ids.main,
            refunded: RefundedPart::default(),
            balance_after: Money::ZERO,
            free_remaining_after: 0,
            created_at: at.utc,
        };
        if split.free > 0 {
            self.changed_quotas.insert(quota_key);
        }
        self.count_call(&call.user, &call.content, take);
        self.write(transaction.clone(), None);
        Ok(Outcome::Settled { transaction, effect: Effect::Applied })
    }

    /// Charges the delivered work in the period of the reserve. The policy of the service decides
    /// about the cost above the hold.
    pub(super) fn commit(&mut self, request: &Commit) -> Result<Outcome, Error> {
        let (first, reservation) = self.reservation(&request.user, &request.trace)?;
        let delivered = delivered(request, &first, &reservation);
        match first.status {
            Status::Pending | Status::Expired => check_stream(request, &first)?,
            Status::Committed => return self.commit_again(request, delivered, &first, reservation),
            Status::Released => return Err(state("the reservation was released")),
        }
        let first = first.served_by(request)?;
        let counted = request.counted_output.filter(|_| request.cost.is_none());
        let knew_better = |reported: &Usage| counted.is_some_and(|counted| counted < reported.output_tokens);
        let transaction = match reservation.reported.filter(knew_better) {
            None => self.deliver(&first, reservation, delivered, request.record_ids)?,
            // The last report is charged, as for a broken stream.
            reported => {
                let delivered = Delivered { usage: reported, ..delivered };
                self.deliver_reported(&first, reservation, delivered, request.record_ids)?
            }
        };
        Ok(Outcome::Settled { transaction, effect: Effect::Applied })
    }

    /// As [`Self::deliver`], for the last report of a stream. A commit may still add to it.
    fn deliver_reported(
        &mut self,
        first: &Transaction,
        reservation: Reservation,
        delivered: Delivered,
        ids: RecordIds,
    ) -> Result<Transaction, Error> {
        let reservation = Reservation { charged_by: ChargedBy::Report, ..reservation };
        // The main record id stays the id of the stream.
        self.deliver(first, reservation, delivered, RecordIds { main: first.record_id, ..ids })
    }

    /// Charges a PENDING or EXPIRED reservation, and makes it COMMITTED. If the month of the reserve has
    /// closed, the charge takes the free quota of this month and counts to it.
    fn deliver(
        &mut self,
        first: &Transaction,
        reservation: Reservation,
        delivered: Delivered,
        ids: RecordIds,
    ) -> Result<Transaction, Error> {
        let above_hold = self.batch.catalog.policy(&first.content.service).above_hold;
        let (units, full_cost) = first.priced(&delivered)?;
        let held_key = held_key(first, &reservation);
        let late_day = self.is_late(&reservation).then_some(self.batch.at.day);
        let quota_key = match late_day {
            Some(day) => (held_key.0.clone(), Month::of(day), held_key.2.clone()),
            None => held_key.clone(),
        };
        let (balance, quota) = self.held_account(&quota_key)?;
        let (mut new_balance, mut new_quota) = (*balance, *quota);
        if first.status == Status::Pending {
            new_balance.held = new_balance.held.minus(reservation.amount);
            if late_day.is_none() {
                new_quota.held = new_quota.held.saturating_sub(reservation.free.into());
            }
        }
        let due = charge::split(units, full_cost, new_quota.remaining());
        let charged = above_hold.charged(due.amount, reservation.amount, new_balance.available());
        let split = Split { amount: charged, ..due };
        let before = new_quota;
        new_quota.used += u64::from(split.free);
        new_balance.amount = debited(new_balance.amount, split.amount)?;
        (*balance, *quota) = (new_balance, new_quota);
        if reservation.free > 0 {
            if late_day.is_some() && first.status == Status::Pending {
                let (_, held) = self.held_account(&held_key)?;
                held.held = held.held.saturating_sub(reservation.free.into());
            }
            self.changed_quotas.insert(held_key);
        }

        let transaction = Transaction {
            status: Status::Committed,
            free: split.free,
            paid: split.paid,
            amount: split.amount,
            shortfall: due.amount.minus(charged),
            record_id: ids.main,
            balance_after: new_balance.amount,
            free_remaining_after: new_quota.remaining(),
            reservation: Some(Reservation { delivered: Some(delivered.clone()), late_day, ..reservation }),
            ..first.clone()
        };
        if split.free > 0 {
            self.note_use(&quota_key, before, new_quota);
            self.changed_quotas.insert(quota_key);
        }
        let taken = Take::of_tokens(first.taken_tokens(units, delivered.usage), split.amount);
        let held = match first.status {
            Status::Expired => Take::default(),
            _ => first.held_take(),
        };
        self.count_end(first, reservation.day, taken - held);
        self.record_delivered(first, delivered.usage, split, ids);
        self.write(transaction.clone(), Some(first.status));
        Ok(transaction)
    }

    pub(super) fn release(&mut self, request: &Release) -> Result<Outcome, Error> {
        let (first, reservation) = self.reservation(&request.user, &request.trace)?;
        match first.status {
            Status::Pending | Status::Expired => {}
            Status::Released => return Ok(found(&first, request.request)),
            Status::Committed => return Err(state("the reservation was committed")),
        }
        let transaction = Transaction { status: Status::Released, record_id: request.request, ..first.clone() };
        self.free_hold(&first, &reservation, transaction.clone())?;
        Ok(Outcome::Settled { transaction, effect: Effect::Applied })
    }

    /// Ends an expired or broken reservation. Changes nothing if it has ended, is not past its
    /// expiry, or has another stream, because a commit, a release or another sweep may have come first.
    pub(super) fn expire(&mut self, request: &Expire) -> Result<Outcome, Error> {
        let (first, reservation) = match self.reservation(&request.user, &request.trace) {
            Ok(found) => found,
            Err(Error::TransactionNotFound(_)) => return Ok(Outcome::Ended { ended: None }),
            Err(error) => return Err(error),
        };
        let ends = match (&request.cause, first.status) {
            (Cause::Expired, Status::Pending) => reservation.expires_at <= self.batch.at.utc,
            // The sweep may have come first, but the stream's work is delivered and charged.
            (Cause::Broken { stream, .. }, Status::Pending | Status::Expired) => first.record_id == *stream,
            (Cause::Broken { stream, .. }, Status::Committed) => is_charged_as_reported(&first, *stream),
            _ => false,
        };
        if !ends {
            return Ok(Outcome::Ended { ended: None });
        }
        let usage = match request.cause {
            // Nothing counted says nothing about the input.
            Cause::Broken { usage, .. } => {
                let counted = usage.filter(|usage| !usage.is_empty());
                counted.map(|usage| reservation.with(usage)).or(reservation.usage())
            }
            Cause::Expired => match self.batch.catalog.policy(&first.content.service).on_expiry {
                OnExpiry::Commit => reservation.reported,
                OnExpiry::Release => None,
            },
        };
        // Zero tokens count as no delivery. A model price needs tokens, so without this rule the
        // hold would never end.
        let ended = match usage.filter(|usage| !usage.is_empty()) {
            Some(usage) => {
                let delivered = Delivered::stream(&first, usage);
                match first.status {
                    Status::Committed => {
                        // The commit of a text may have set the units, the model and the service tier.
                        let delivered = match &reservation.delivered {
                            Some(before) => Delivered { usage: delivered.usage, ..before.clone() },
                            None => delivered,
                        };
                        self.deliver_rest(delivered, request.record_ids, &first, reservation)?
                    }
                    _ => {
                        let ended = self.deliver_reported(&first, reservation, delivered, request.record_ids)?;
                        (ended, Effect::Applied)
                    }
                }
            }
            None if first.status != Status::Pending => (first, Effect::Unchanged),
            None => {
                let transaction = Transaction { status: Status::Expired, ..first.clone() };
                self.free_hold(&first, &reservation, transaction.clone())?;
                (transaction, Effect::Applied)
            }
        };
        Ok(Outcome::Ended { ended: Some(ended) })
    }

    /// The expiry of a hold with the lifetime `ttl`.
    pub(super) fn expiry(&self, ttl: TimeDelta) -> Result<DateTime<Utc>, Error> {
        let expires_at = self.batch.at.utc.checked_add_signed(ttl);
        expires_at.ok_or_else(|| Error::Internal("the expiry is beyond the calendar".into()))
    }

    /// Whether the month of a reserve has closed, so that its charge counts to this month.
    pub(super) fn is_late(&self, reservation: &Reservation) -> bool {
        reservation.late_day.is_some() || self.batch.periods.is_closed(reservation.month(), self.batch.at)
    }

    /// Writes the records of a reservation, in the period of its reserve or, if that has closed, now.
    pub(super) fn record_delivered(&mut self, first: &Transaction, usage: Option<Usage>, split: Split, ids: RecordIds) {
        let now = self.batch.at;
        let (day, at, late_of) = match &first.reservation {
            Some(reservation) if self.is_late(reservation) => (now.day, now.utc, Some(reservation.month())),
            Some(reservation) => (reservation.day, first.created_at, None),
            None => (now.day, first.created_at, None),
        };
        self.record(RecordEntry {
            user: &first.user,
            trace: &first.trace,
            content: &ChargeContent { usage, ..first.content.clone() },
            split,
            ids,
            day,
            at,
            late_of,
        });
    }

    /// Frees the hold of a reservation and writes its new state.
    fn free_hold(&mut self, first: &Transaction, held: &Reservation, after: Transaction) -> Result<(), Error> {
        if first.status == Status::Pending {
            let quota_key = held_key(first, held);
            let (balance, quota) = self.held_account(&quota_key)?;
            balance.held = balance.held.minus(held.amount);
            quota.held = quota.held.saturating_sub(held.free.into());
            if held.free > 0 {
                self.changed_quotas.insert(quota_key);
            }
            self.count_end(first, held.day, Take::default() - first.held_take());
        }
        self.write(after, Some(first.status));
        Ok(())
    }

    /// Counts the difference that the end of a reservation takes from the limits, or gives back. It
    /// includes the request if the hold had expired or no work was delivered.
    pub(super) fn count_end(&mut self, first: &Transaction, day: NaiveDate, take: Take) {
        let made = first.created_at;
        if take.requests != 0
            && let Some(requests) = self.state.requests.get_mut(&first.user)
        {
            match take.requests {
                1.. => requests.add_late(day, made),
                _ => requests.take_back(day, made),
            }
            self.changed_requests.insert(first.user.clone());
        }
        if let Some(key) = &first.content.api_key {
            let changed = key_quota::count_end(&mut self.state.key_quotas, key, (day, made), take);
            self.changed_key_quotas.extend(changed);
        }
    }

    /// As [`Book::account`]. A quota whose month has no row counts as used up.
    pub(super) fn held_account(&mut self, key: &QuotaKey) -> Result<(&mut Balance, &mut Quota), Error> {
        self.state.quotas.entry(key.clone()).or_default();
        self.account(key)
    }

    pub(super) fn reservation(&self, user: &UserId, trace: &TraceId) -> Result<(Transaction, Reservation), Error> {
        let transaction = self
            .state
            .transactions
            .get(&(user.clone(), trace.clone()))
            .ok_or_else(|| Error::TransactionNotFound(trace.to_string()))?;
        let reservation =
            transaction.reservation.clone().ok_or_else(|| state("it is a charge and not a reservation"))?;
        Ok((transaction.clone(), reservation))
    }

    /// Writes the new state of a reservation and its account. `was` is the status before this
    /// posting.
    pub(super) fn write(&mut self, transaction: Transaction, was: Option<Status>) {
        self.changed.insert(transaction.user.clone());
        self.write_alone(transaction, was);
    }

    /// As [`Self::write`], if the account has not changed.
    pub(super) fn write_alone(&mut self, transaction: Transaction, was: Option<Status>) {
        let key = (transaction.user.clone(), transaction.trace.clone());
        // The first change of the batch has the status in the table.
        self.changed_reservations.entry(key.clone()).or_insert(was);
        self.state.transactions.insert(key, transaction);
    }
}

fn replay_reserve(call: &Charge, first: &Transaction) -> Result<Outcome, Error> {
    if first.reservation.is_none() {
        return Err(conflict(vec!["rpc"]));
    }
    let fields = call.content.differences(&first.content);
    if !fields.is_empty() {
        return Err(conflict(fields));
    }
    // An answer of success would let the caller deliver work that it could never charge.
    if first.status == Status::Released {
        return Err(state("the reservation was released"));
    }
    Ok(found(first, call.record_ids.main))
}

/// The quota row of a reservation's held units.
pub(super) fn held_key(first: &Transaction, held: &Reservation) -> QuotaKey {
    (first.user.clone(), held.month(), first.content.service.clone())
}

/// The delivery of a commit. Absent fields come from the reservation.
fn delivered(request: &Commit, first: &Transaction, reservation: &Reservation) -> Delivered {
    let count = match first.quota_unit {
        QuotaUnit::Calls => request.count.unwrap_or(first.content.count),
        QuotaUnit::Tokens(_) => first.content.count,
    };
    let usage = match request.counted_output {
        Some(output_tokens) => {
            let known = reservation.usage().or(first.content.estimate).unwrap_or_default();
            Some(known.with_output_tokens(output_tokens))
        }
        None => request.usage,
    };
    let model = request.served.as_ref().map(|served| served.model.clone());
    Delivered { count, cost: request.cost, usage, service_tier: request.service_tier.clone(), model }
}

/// Refuses the commit of a stream that another stream has replaced.
pub(super) fn check_stream(request: &Commit, first: &Transaction) -> Result<(), Error> {
    match request.stream {
        Some(stream) if stream != first.record_id => Err(state("another stream meters the reservation")),
        _ => Ok(()),
    }
}

/// Whether the last report of this stream is charged, so that the stream may add to it.
pub(super) fn is_charged_as_reported(transaction: &Transaction, stream: uuid::Uuid) -> bool {
    let charged_by = transaction.reservation.as_ref().map(|reservation| reservation.charged_by);
    transaction.is_committed() && transaction.record_id == stream && charged_by == Some(ChargedBy::Report)
}

pub(super) fn state(why: &str) -> Error {
    Error::TransactionState(format!("trace_id: {why}"))
}

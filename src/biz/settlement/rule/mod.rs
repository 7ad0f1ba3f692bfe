//! The rule of a batch: a pure function from loaded state and postings to outcomes and writes. Both
//! databases and the tests' reference model use it.

mod alerts;
mod changes;
mod events;
mod order_refund;
mod plan;
mod recharge;
mod recommit;
mod refund;
mod reservation;
mod state;
mod status;
mod stream;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};

use chrono::{DateTime, NaiveDate, Utc};

use super::{
    audit_events,
    order_refund::OrderRefund,
    posting::{Adjusted, Adjustment, Batch, Charge, Effect, Outcome, Posting, RecordIds},
    refund::{Refunded, RefundedPart},
    transaction::{ChargeContent, Status, Transaction},
};
use crate::biz::{
    account::{Balance, Quota},
    audit_trail::{AuditEvent, Consent},
    charge::{self, Funds, Split, quote::Quote},
    events::NewEvent,
    limits::key_quota::{self, KeyQuota, KeyQuotas, QuotaType, Take},
    reports::{
        record::{Record, RecordType},
        statistics::Totals,
    },
    values::{
        calendar::Month,
        error::Error,
        ids::{ApiKeyId, OrderId, PaymentId, RefundId, TraceId, UserId},
        invalid::Invalid,
        money::Money,
    },
};

pub use self::state::{
    NewPlan, NewRecord, QuotaKey, RefundDelta, ReservationWrite, State, TransactionKey, UsageDelta, UsageKey, Writes,
};

/// Decides a batch in arrival order. Every account of the batch is open in `state`.
pub fn settle(batch: &Batch, state: State) -> (Vec<Outcome>, Writes) {
    let mut book = Book::new(batch, state);
    let outcomes = batch
        .postings
        .iter()
        .map(|posting| {
            let levels = book.levels(posting);
            let outcome = book.settle(posting);
            book.note_events(posting, &levels, &outcome);
            outcome.unwrap_or_else(Outcome::Refused)
        })
        .collect();
    (outcomes, book.into_writes())
}
/// The state after the decided postings, and the rows to write.
struct Book<'a> {
    batch: &'a Batch,
    state: State,
    charges: Vec<Transaction>,
    records: Vec<NewRecord>,
    adjustments: Vec<Adjusted>,
    refunds: Vec<Refunded>,
    audit_events: Vec<AuditEvent>,
    events: Vec<NewEvent>,
    changed: BTreeSet<UserId>,
    changed_statuses: BTreeSet<UserId>,
    changed_plans: BTreeSet<UserId>,
    changed_watches: BTreeSet<UserId>,
    changed_quotas: BTreeSet<QuotaKey>,
    changed_requests: BTreeSet<UserId>,
    changed_key_quotas: BTreeSet<(ApiKeyId, QuotaType)>,
    /// Each with its status before the batch.
    changed_reservations: BTreeMap<TransactionKey, Option<Status>>,
    /// The transactions with new refunds.
    changed_refunds: BTreeSet<TransactionKey>,
    changed_orders: BTreeSet<OrderId>,
    /// Each with whether it is new.
    changed_order_refunds: BTreeMap<RefundId, bool>,
    changed_unapplied: BTreeSet<PaymentId>,
    usage: BTreeMap<UsageKey, UsageDelta>,
    refund_usage: BTreeMap<UsageKey, RefundDelta>,
}

impl<'a> Book<'a> {
    fn new(batch: &'a Batch, state: State) -> Self {
        Self {
            batch,
            state,
            charges: Vec::new(),
            records: Vec::new(),
            adjustments: Vec::new(),
            refunds: Vec::new(),
            audit_events: Vec::new(),
            events: Vec::new(),
            changed: BTreeSet::new(),
            changed_statuses: BTreeSet::new(),
            changed_plans: BTreeSet::new(),
            changed_watches: BTreeSet::new(),
            changed_quotas: BTreeSet::new(),
            changed_requests: BTreeSet::new(),
            changed_key_quotas: BTreeSet::new(),
            changed_reservations: BTreeMap::new(),
            changed_refunds: BTreeSet::new(),
            changed_orders: BTreeSet::new(),
            changed_order_refunds: BTreeMap::new(),
            changed_unapplied: BTreeSet::new(),
            usage: BTreeMap::new(),
            refund_usage: BTreeMap::new(),
        }
    }
}

impl Book<'_> {
    /// Settles a posting to which its caller consents.
    fn settle(&mut self, posting: &Posting) -> Result<Outcome, Error> {
        let call = posting.call().filter(|call| call.consent != Consent::Given);
        if let Some(call) = call {
            // The change is made on a copy first, which tells what it is.
            let mut trial = Book::new(self.batch, self.state.clone());
            trial.change(posting)?;
            call.consented(trial.audit_events.pop())?;
        }
        self.change(posting)
    }

    fn change(&mut self, posting: &Posting) -> Result<Outcome, Error> {
        match posting {
            // Only the first opening in a batch reports a new account.
            Posting::Open(opening) => Ok(Outcome::Opened { created: self.state.created.remove(&opening.user) }),
            Posting::Charge(charge) => self.charge(charge),
            Posting::Reserve(reserve) => self.reserve(reserve),
            Posting::Report(report) => self.report(report),
            Posting::Commit(commit) => self.commit(commit),
            Posting::Release(release) => self.release(release),
            Posting::Expire(expire) => self.expire(expire),
            Posting::Adjust(adjustment) => self.adjust(adjustment),
            Posting::Refund(refund) => self.refund(refund),
            Posting::UpdateOrder(update) => self.update_order(update),
            Posting::RefundOrder(request) => self.refund_order(request),
            Posting::UpdateOrderRefund(update) => self.update_order_refund(update),
            Posting::CreditPayment(credit) => self.credit_payment(credit),
            Posting::SetStatus(change) => self.set_status(change),
            Posting::SetPlan(change) => self.set_plan(change),
            Posting::SetAlerts(change) => self.set_alerts(change),
            Posting::NoteRefusal(refused) => self.note_refusal(refused),
        }
    }

    fn charge(&mut self, request: &Charge) -> Result<Outcome, Error> {
        let key = (request.user.clone(), request.trace.clone());
        if let Some(first) = self.state.transactions.get(&key) {
            return replay_charge(request, first);
        }
        let quote = self.quote(request)?;
        let quota_key = (request.user.clone(), self.batch.at.month, request.content.service.clone());
        self.check_status(&request.user)?;
        let (split, shortfall) = match request.is_delivered {
            true => self.cover_delivered(request, &quote, &quota_key)?,
            false => {
                self.check_caps(&request.user)?;
                (self.cover(&quote, &quota_key)?, Money::ZERO)
            }
        };
        let take = Take::call(request.content.usage, split.amount);
        if !request.is_delivered {
            self.check_key(&request.content, take)?;
        }

        let (balance, quota) = self.account(&quota_key)?;
        balance.amount = debited(balance.amount, split.amount)?;
        let before = *quota;
        quota.used += u64::from(split.free);
        let after = *quota;
        let transaction = Transaction {
            user: request.user.clone(),
            trace: request.trace.clone(),
            content: request.content.clone(),
            status: Status::Committed,
            quota_unit: quote.quota_unit,
            price_version: quote.version.clone().filter(|_| request.content.cost.is_none()),
            plan: quote.plan,
            reservation: None,
            free: split.free,
            paid: split.paid,
            amount: split.amount,
            shortfall,
            record_id: request.record_ids.main,
            refunded: RefundedPart::default(),
            balance_after: balance.amount,
            free_remaining_after: after.remaining(),
            created_at: self.batch.at.utc,
        };
        if split.free > 0 {
            self.note_use(&quota_key, before, after);
            self.changed_quotas.insert(quota_key);
        }
        self.count_call(&request.user, &request.content, take);
        self.changed.insert(request.user.clone());
        self.record(RecordEntry {
            user: &request.user,
            trace: &request.trace,
            content: &request.content,
            split,
            ids: request.record_ids,
            day: self.batch.at.day,
            at: self.batch.at.utc,
            late_of: None,
        });
        self.state.transactions.insert(key, transaction.clone());
        self.charges.push(transaction.clone());
        Ok(Outcome::Settled { transaction, effect: Effect::Applied })
    }

    /// Checks that the caps of a user admit one more call.
    fn check_caps(&self, user: &UserId) -> Result<(), Error> {
        self.state.requests.get(user).map_or(Ok(()), |requests| requests.check(self.batch.at))
    }

    /// Counts a call that is made now, toward the caps of its user and the quotas of its API key.
    fn count_call(&mut self, user: &UserId, call: &ChargeContent, take: Take) {
        if let Some(requests) = self.state.requests.get_mut(user) {
            requests.add(self.batch.at);
            self.changed_requests.insert(user.clone());
        }
        if let Some(key) = &call.api_key {
            self.changed_key_quotas.extend(key_quota::count(&mut self.state.key_quotas, key, self.batch.at, take));
        }
    }

    /// Checks that the quotas of the API key admit a call.
    fn check_key(&self, call: &ChargeContent, take: Take) -> Result<(), Error> {
        match &call.api_key {
            Some(key) => key_quota::check(&self.state.key_quotas, key, take, self.batch.at),
            None => Ok(()),
        }
    }

    /// Splits a call between the remaining free quota and the available balance.
    fn cover(&mut self, quote: &Quote, key: &QuotaKey) -> Result<Split, Error> {
        let (balance, quota) = self.account(key)?;
        let funds = Funds { free_remaining: quota.remaining(), available: balance.available() };
        charge::charge(quote.units, quote.cost, funds)
    }

    /// As [`Self::cover`], for delivered work, which is never refused for money. Returns the part that
    /// is not charged too, by the policy of the service.
    fn cover_delivered(&mut self, call: &Charge, quote: &Quote, key: &QuotaKey) -> Result<(Split, Money), Error> {
        let above_hold = self.batch.catalog.policy(&call.content.service).above_hold;
        let (balance, quota) = self.account(key)?;
        let due = charge::split(quote.units, quote.cost, quota.remaining());
        // The available balance stands for the hold that the call does not have.
        let available = balance.available().max(Money::ZERO);
        let amount = above_hold.charged(due.amount, available, available);
        Ok((Split { amount, ..due }, due.amount.minus(amount)))
    }

    /// Balance and quota of an account, which the ledger has loaded.
    fn account(&mut self, key: &QuotaKey) -> Result<(&mut Balance, &mut Quota), Error> {
        let lacks = |what: &str| Error::Internal(format!("{what} of {} was not loaded", key.0));
        let balance = self.state.balances.get_mut(&key.0).ok_or_else(|| lacks("the balance"))?;
        let quota = self.state.quotas.get_mut(key).ok_or_else(|| lacks("a quota"))?;
        Ok((balance, quota))
    }

    /// Writes one record, or two for a charge that is partly free, and adds them to the rollup.
    fn record(&mut self, entry: RecordEntry<'_>) {
        let RecordEntry { user, content, split, day, .. } = entry;
        // An addition to an earlier charge may have an amount and no whole unit.
        let is_paid = split.is_paid();
        let main = Record {
            id: entry.ids.main.to_string(),
            service: content.service.clone(),
            kind: if is_paid { RecordType::Balance } else { RecordType::Free },
            amount: split.amount,
            count: if is_paid { split.paid } else { split.free },
            created_at: entry.at,
            trace: Some(entry.trace.clone()),
            api_key: content.api_key.clone(),
            model: content.model.clone(),
            served_model: None,
            service_tier: None,
            usage: content.usage,
            late_of: entry.late_of,
        };
        let mixed = split.free > 0 && is_paid;
        if mixed {
            let free_part = Record {
                id: entry.ids.free_part.to_string(),
                kind: RecordType::Free,
                amount: Money::ZERO,
                count: split.free,
                usage: None,
                ..main.clone()
            };
            self.records.push(NewRecord { user: user.clone(), day, record: free_part });
        }
        self.records.push(NewRecord { user: user.clone(), day, record: main });

        let delta = self.usage.entry((user.clone(), day, content.service.clone())).or_default();
        delta.free_records += u32::from(split.free > 0);
        delta.paid_records += u32::from(is_paid);
        let (free_count, paid_count) = (split.free.into(), split.paid.into());
        let totals = Totals { free_count, paid_count, amount: split.amount, ..Totals::default() };
        delta.totals = [delta.totals, totals].into_iter().sum();
    }

    fn adjust(&mut self, request: &Adjustment) -> Result<Outcome, Error> {
        let key = (request.user.clone(), request.id.clone());
        if let Some(first) = self.state.adjustments.get(&key) {
            return replay_adjustment(request, first);
        }
        let balance = self
            .state
            .balances
            .get_mut(&request.user)
            .ok_or_else(|| Error::Internal(format!("the balance of {} was not loaded", request.user)))?;
        let amount = request.content.amount;
        let after = balance
            .amount
            .checked_add(amount)
            .ok_or_else(|| Invalid::new("amount", format!("would raise the balance above {}", Money::MAX)))?;
        if amount.is_negative() && after < balance.held && !request.allow_negative {
            return Err(Error::InsufficientBalance { needed: -amount, available: balance.available() });
        }
        let before = std::mem::replace(&mut balance.amount, after);
        let adjusted = Adjusted {
            user: request.user.clone(),
            id: request.id.clone(),
            content: request.content.clone(),
            request: request.request,
            balance_after: after,
            created_at: self.batch.at.utc,
        };
        self.changed.insert(request.user.clone());
        self.state.adjustments.insert(key, adjusted.clone());
        self.adjustments.push(adjusted.clone());
        self.audit_events.push(audit_events::of_adjustment(request, before, &adjusted));
        Ok(Outcome::Adjusted { adjusted, replayed: false })
    }

    fn into_writes(self) -> Writes {
        let plans = self.new_plans();
        let Book { mut state, charges, records, adjustments, refunds, audit_events, events, .. } = self;
        let mut orders = std::mem::take(&mut state.orders);
        let mut order_refunds = std::mem::take(&mut state.order_refunds);
        let mut unapplied = std::mem::take(&mut state.unapplied);
        let balances: Vec<_> = self
            .changed
            .into_iter()
            .filter_map(|user| {
                let balance = *state.balances.get(&user)?;
                let exhausted = state.watches.get(&user).and_then(|watch| watch.exhausted);
                Some((user, Balance { version: balance.version + 1, exhausted, ..balance }))
            })
            .collect();
        let statuses: Vec<_> = self
            .changed_statuses
            .into_iter()
            .filter_map(|user| {
                let status = state.balances.get(&user)?.status;
                Some((user, status))
            })
            .collect();
        let watches: Vec<_> = self
            .changed_watches
            .into_iter()
            .map(|user| {
                let watch = state.watches.get(&user).cloned().unwrap_or_default();
                (user, watch)
            })
            .collect();
        let quotas: Vec<_> = self
            .changed_quotas
            .into_iter()
            .filter_map(|key| {
                let quota = *state.quotas.get(&key)?;
                Some((key, quota))
            })
            .collect();
        let requests: Vec<_> = self
            .changed_requests
            .into_iter()
            .filter_map(|user| {
                let requests = *state.requests.get(&user)?;
                Some((user, requests))
            })
            .collect();
        let api_keys: BTreeSet<ApiKeyId> = state.key_quotas.keys().map(|(key, _)| key.clone()).collect();
        let key_quotas: KeyQuotas = self
            .changed_key_quotas
            .iter()
            .filter_map(|row| {
                let quota = *state.key_quotas.get(row)?;
                Some((row.clone(), KeyQuota { version: quota.version + 1, ..quota }))
            })
            .collect();
        let mut changes = changes::of_accounts(&balances, &quotas, &requests);
        changes.extend(changes::of_keys(&state.key_quotas, &key_quotas));
        let reservations = self.changed_reservations.into_iter().filter_map(|(key, was)| {
            let transaction = state.transactions.get(&key)?.clone();
            Some(ReservationWrite { transaction, was })
        });
        let refunded_charges = self.changed_refunds.into_iter().filter_map(|key| {
            let refunded = state.transactions.get(&key)?.refunded;
            Some((key, refunded))
        });
        let refunded_charges: Vec<_> = refunded_charges.collect();
        let orders = self.changed_orders.into_iter().filter_map(|id| orders.remove(&id));
        let changed = self.changed_order_refunds.into_iter();
        let changed = changed.filter_map(|(id, is_new)| Some((order_refunds.remove(&id)?, is_new)));
        let (new, changed): (Vec<_>, Vec<_>) = changed.partition(|(_, is_new)| *is_new);
        let without = |refunds: Vec<(OrderRefund, bool)>| refunds.into_iter().map(|(refund, _)| refund).collect();
        let unapplied = self.changed_unapplied.into_iter().filter_map(|payment| unapplied.remove(&payment));
        Writes {
            charges,
            reservations: reservations.collect(),
            records,
            adjustments,
            refunds,
            refunded_charges,
            audit_events,
            events,
            orders: orders.collect(),
            new_order_refunds: without(new),
            order_refunds: without(changed),
            unapplied: unapplied.collect(),
            balances,
            statuses,
            watches,
            plans,
            quotas,
            requests,
            key_quotas,
            usage: self.usage.into_iter().collect(),
            refund_usage: self.refund_usage.into_iter().collect(),
            changes,
            known_watches: state.watches.into_iter().filter(|(_, watch)| !watch.is_default()).collect(),
            api_keys: api_keys.into_iter().collect(),
        }
    }
}

/// A charge, for its records.
struct RecordEntry<'a> {
    user: &'a UserId,
    trace: &'a TraceId,
    content: &'a ChargeContent,
    split: Split,
    ids: RecordIds,
    day: NaiveDate,
    at: DateTime<Utc>,
    /// The closed month of a late charge.
    late_of: Option<Month>,
}

/// The balance after a charge of delivered work. It may be below zero.
fn debited(balance: Money, amount: Money) -> Result<Money, Error> {
    let after = balance.checked_add(-amount);
    after.ok_or_else(|| Invalid::new("cost", format!("takes the balance below -{}", Money::MAX)).into())
}

fn replay_charge(request: &Charge, first: &Transaction) -> Result<Outcome, Error> {
    if first.reservation.is_some() {
        return Err(conflict(vec!["rpc"]));
    }
    let fields = request.content.differences(&first.content);
    if !fields.is_empty() {
        return Err(conflict(fields));
    }
    // The record id is the same: an earlier attempt of this request committed, and its answer was
    // lost.
    Ok(found(first, request.record_ids.main))
}

/// The outcome for an existing transaction. It is a replay, unless `request` itself made the
/// transaction.
fn found(first: &Transaction, request: uuid::Uuid) -> Outcome {
    let effect = if first.record_id == request { Effect::Applied } else { Effect::Unchanged };
    Outcome::Settled { transaction: first.clone(), effect }
}

fn conflict(fields: Vec<&'static str>) -> Error {
    Error::IdempotencyConflict { id_field: "trace_id", fields }
}

fn replay_adjustment(request: &Adjustment, first: &Adjusted) -> Result<Outcome, Error> {
    let fields = request.content.differences(&first.content);
    if !fields.is_empty() {
        return Err(Error::IdempotencyConflict { id_field: "adjustment_id", fields });
    }
    Ok(Outcome::Adjusted { adjusted: first.clone(), replayed: first.request != request.request })
}

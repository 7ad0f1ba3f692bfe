//! The rule of a batch: loaded state and postings in, outcomes and writes out.
//! Pure, so that both databases and the reference model of the tests share it.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::posting::{Adjusted, Adjustment, Batch, Charge, Outcome, Posting, Transaction};
use crate::biz::{
    account::{Account, Quota},
    catalog::Catalog,
    charge::{self, Funds},
    error::{Error, Invalid},
    ids::{AdjustmentId, ServiceName, TraceId, UserId},
    money::Money,
    record::{Record, RecordType},
    statistics::Totals,
};

/// What the store loaded under lock.
#[derive(Debug, Default)]
pub struct State {
    pub accounts: BTreeMap<UserId, Account>,
    /// Those of the accounts that were not there when the settlement began.
    pub created: BTreeSet<UserId>,
    /// Those of the batch's trace ids that are already settled.
    pub transactions: HashMap<(UserId, TraceId), Transaction>,
    /// Those of the batch's adjustment ids that are already settled.
    pub adjustments: HashMap<(UserId, AdjustmentId), Adjusted>,
}

impl State {
    /// The users of `batch` whose account must be opened before it can be settled.
    pub fn unopened<'a>(&self, users: impl IntoIterator<Item = &'a UserId>, catalog: &Catalog) -> Vec<UserId> {
        users
            .into_iter()
            .filter(|user| !self.accounts.get(user).is_some_and(|account| account.is_open_for(catalog)))
            .cloned()
            .collect()
    }
}

/// Everything a transaction has to write, in key order where order matters.
#[derive(Debug, Default)]
pub struct Writes {
    pub transactions: Vec<Transaction>,
    pub records: Vec<(UserId, Record)>,
    pub adjustments: Vec<Adjusted>,
    /// New balance and version of every account that changed.
    pub balances: Vec<(UserId, Money, i64)>,
    /// New state of every quota that changed.
    pub quotas: Vec<(UserId, Quota)>,
    /// What the day's rollup grows by.
    pub usage: Vec<UsageDelta>,
}

impl Writes {
    /// Whether there is nothing to write, as in a batch of refusals, replays and openings.
    pub fn is_empty(&self) -> bool {
        self.balances.is_empty()
    }
}

/// Growth of one row of the daily rollup.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UsageDelta {
    pub user: UserId,
    pub service: ServiceName,
    pub totals: Totals,
    pub free_records: u32,
    pub paid_records: u32,
}

/// Decides a batch in arrival order. Every account of the batch is open in `state`.
pub fn settle(batch: &Batch, state: State) -> (Vec<Outcome>, Writes) {
    let mut book = Book {
        batch,
        state,
        writes: Writes::default(),
        changed: BTreeSet::new(),
        changed_quotas: BTreeSet::new(),
        usage: BTreeMap::new(),
    };
    let outcomes = batch
        .postings
        .iter()
        .map(|posting| match posting {
            // Told once: a second opening in the same batch finds the account there.
            Posting::Open(user) => Ok(Outcome::Opened { created: book.state.created.remove(user) }),
            Posting::Charge(charge) => book.charge(charge),
            Posting::Adjust(adjustment) => book.adjust(adjustment),
        })
        .map(|outcome| outcome.unwrap_or_else(Outcome::Refused))
        .collect();
    (outcomes, book.into_writes())
}

/// The state as the batch goes on, and what has to be written of it.
struct Book<'a> {
    batch: &'a Batch,
    state: State,
    writes: Writes,
    changed: BTreeSet<UserId>,
    changed_quotas: BTreeSet<(UserId, ServiceName)>,
    usage: BTreeMap<(UserId, ServiceName), UsageDelta>,
}

impl Book<'_> {
    fn charge(&mut self, request: &Charge) -> Result<Outcome, Error> {
        let key = (request.user.clone(), request.trace.clone());
        if let Some(first) = self.state.transactions.get(&key) {
            return replay_charge(request, first);
        }
        let account = account_mut(&mut self.state, &request.user)?;
        let service = &request.content.service;
        let quota = account
            .quotas
            .iter_mut()
            .find(|quota| quota.service == *service)
            .ok_or_else(|| Error::Internal(format!("no quota of {service} was loaded")))?;
        let funds = Funds { free_remaining: quota.remaining(), available: account.balance };
        let split = charge::charge(request.content.count, request.full_cost, funds)?;

        quota.used += split.free;
        account.balance = account.balance.minus(split.amount);
        let transaction = Transaction {
            user: request.user.clone(),
            trace: request.trace.clone(),
            content: request.content.clone(),
            free: split.free,
            paid: split.paid,
            amount: split.amount,
            record_id: request.record_ids.main,
            balance_after: account.balance,
            free_remaining_after: quota.remaining(),
            created_at: self.batch.at.utc,
        };
        if split.free > 0 {
            self.changed_quotas.insert((request.user.clone(), service.clone()));
        }
        self.changed.insert(request.user.clone());
        self.record(request, &transaction);
        self.state.transactions.insert(key, transaction.clone());
        self.writes.transactions.push(transaction.clone());
        Ok(Outcome::Charged { transaction, replayed: false })
    }

    /// Writes one record, or two for a charge that is partly free, and counts them.
    fn record(&mut self, request: &Charge, settled: &Transaction) {
        let content = &request.content;
        let main = Record {
            id: settled.record_id.to_string(),
            service: content.service.clone(),
            kind: if settled.paid > 0 { RecordType::Balance } else { RecordType::Free },
            amount: settled.amount,
            count: if settled.paid > 0 { settled.paid } else { settled.free },
            created_at: settled.created_at,
            trace: Some(request.trace.clone()),
            api_key: content.api_key.clone(),
            model: content.model.clone(),
            usage: content.usage,
        };
        let mixed = settled.free > 0 && settled.paid > 0;
        if mixed {
            let free_part = Record {
                id: request.record_ids.free_part.to_string(),
                kind: RecordType::Free,
                amount: Money::ZERO,
                count: settled.free,
                usage: None,
                ..main.clone()
            };
            self.writes.records.push((request.user.clone(), free_part));
        }
        self.writes.records.push((request.user.clone(), main));

        let delta = self.usage.entry((request.user.clone(), content.service.clone())).or_insert_with(|| UsageDelta {
            user: request.user.clone(),
            service: content.service.clone(),
            totals: Totals::default(),
            free_records: 0,
            paid_records: 0,
        });
        delta.free_records += u32::from(settled.free > 0);
        delta.paid_records += u32::from(settled.paid > 0);
        delta.totals = [
            delta.totals,
            Totals { free_count: settled.free.into(), paid_count: settled.paid.into(), amount: settled.amount },
        ]
        .into_iter()
        .sum();
    }

    fn adjust(&mut self, request: &Adjustment) -> Result<Outcome, Error> {
        let key = (request.user.clone(), request.id.clone());
        if let Some(first) = self.state.adjustments.get(&key) {
            return replay_adjustment(request, first);
        }
        let account = account_mut(&mut self.state, &request.user)?;
        let amount = request.content.amount;
        let balance = account
            .balance
            .checked_add(amount)
            .ok_or_else(|| Invalid::new("amount", format!("takes the balance beyond {}", Money::MAX)))?;
        if amount.is_negative() && balance.is_negative() {
            return Err(Error::InsufficientBalance { needed: -amount, available: account.balance });
        }
        account.balance = balance;
        let adjusted = Adjusted {
            user: request.user.clone(),
            id: request.id.clone(),
            content: request.content.clone(),
            request: request.request,
            balance_after: balance,
            created_at: self.batch.at.utc,
        };
        self.changed.insert(request.user.clone());
        self.state.adjustments.insert(key, adjusted.clone());
        self.writes.adjustments.push(adjusted.clone());
        Ok(Outcome::Adjusted { adjusted, replayed: false })
    }

    fn into_writes(self) -> Writes {
        let Book { state, mut writes, changed, changed_quotas, usage, .. } = self;
        writes.balances = changed
            .into_iter()
            .filter_map(|user| {
                let account = state.accounts.get(&user)?;
                Some((user, account.balance, account.version + 1))
            })
            .collect();
        writes.quotas = changed_quotas
            .into_iter()
            .filter_map(|(user, service)| {
                let quota = state.accounts.get(&user)?.quota(&service)?.clone();
                Some((user, quota))
            })
            .collect();
        writes.usage = usage.into_values().collect();
        writes
    }
}

fn account_mut<'s>(state: &'s mut State, user: &UserId) -> Result<&'s mut Account, Error> {
    state.accounts.get_mut(user).ok_or_else(|| Error::Internal(format!("the account of {user} was not loaded")))
}

fn replay_charge(request: &Charge, first: &Transaction) -> Result<Outcome, Error> {
    let fields = request.content.differences(&first.content);
    if !fields.is_empty() {
        return Err(Error::IdempotencyConflict { id_field: "trace_id", fields });
    }
    Ok(Outcome::Charged {
        transaction: first.clone(),
        // The same record id: this very request, found again after a lost commit.
        replayed: first.record_id != request.record_ids.main,
    })
}

fn replay_adjustment(request: &Adjustment, first: &Adjusted) -> Result<Outcome, Error> {
    let fields = request.content.differences(&first.content);
    if !fields.is_empty() {
        return Err(Error::IdempotencyConflict { id_field: "adjustment_id", fields });
    }
    Ok(Outcome::Adjusted { adjusted: first.clone(), replayed: first.request != request.request })
}

#[cfg(test)]
mod tests;

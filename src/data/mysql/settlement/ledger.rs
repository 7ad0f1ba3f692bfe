//! One settlement transaction: load under lock, decide, write, commit.

use std::{borrow::Cow, collections::BTreeSet};

use async_trait::async_trait;

use super::{
    load::{Loaded, Locking, load},
    recent::Read,
    refunds,
    transactions::{insert_charges, write_reservations},
};
use crate::{
    biz::{
        settlement::{
            audit_events,
            keys::Keys,
            ledger::{Gather, Ledger, SettledBatch},
            lock::{Lock, Obstacle},
            lookup::{Lookup, refused_as_new},
            posting::{Adjusted, Batch},
            rule::{self, NewRecord, UsageDelta, UsageKey, Writes},
        },
        values::{
            calendar::BillingTime,
            error::StoreError,
            ids::{TraceId, UserId},
        },
    },
    data::mysql::{
        MySqlStore,
        account::accounts,
        audit_trail,
        connections::Lease,
        events,
        limits::{caps, key_quotas},
        recharge,
        statement::{LockMode, Row as StatementRow, Statement},
        unapplied,
    },
};

#[async_trait]
impl Ledger for MySqlStore {
    /// One round trip for calls on accounts whose state is known, see [`Self::settle_optimistically`].
    /// Otherwise two: begin, lock and load; write and commit. A third one follows only if an
    /// account or an order was not found, to tell a locked row from an absent one. After an error
    /// the connection is closed, and the server rolls back.
    async fn settle(&self, batch: &Batch) -> Result<SettledBatch, StoreError> {
        let mut connection = self.writer.take().await?;
        let keys = Keys::of(batch);
        if let Some(settled) = self.settle_optimistically(&mut connection, batch, &keys).await? {
            connection.give_back();
            return Ok(settled);
        }
        self.settle_on(connection, batch, &keys, None).await
    }

    /// One round trip more than [`Self::settle`]: the wait for the lock.
    async fn settle_behind(&self, lock: &Lock, gather: &Gather) -> Result<SettledBatch, StoreError> {
        let mut connection = self.waiter.take().await?;
        wait_for(lock).execute(&mut connection).await?;
        let batch = gather();
        if batch.postings.is_empty() {
            Statement::rolling_back().execute(&mut connection).await?;
            connection.give_back();
            return Ok(SettledBatch::default());
        }
        let keys = Keys::of(&batch);
        self.recent.forget(&keys);
        self.settle_on(connection, &batch, &keys, Some(lock)).await
    }
}

/// Attempts of a batch. Each that fails removes a reason to fail: accounts are opened, the full
/// look-up finds the ids that exist, accounts that only those ids need are opened.
const MAX_ATTEMPTS: u32 = 4;

/// Waits for a lock. The transaction that it begins goes on with the lock of an account.
fn wait_for(lock: &Lock) -> Statement {
    match lock {
        Lock::Account(user) => {
            let mut statement = Statement::beginning(LockMode::Wait).named("settlement wait for account");
            accounts::wait_for(&mut statement, user);
            statement
        }
        Lock::ApiKey(key) => {
            let mut statement = Statement::new("").named("settlement wait for API key");
            key_quotas::wait_for(&mut statement, key);
            statement
        }
    }
}

impl MySqlStore {
    /// Settles a batch. `granted` is a lock that [`wait_for`] waited for on the connection.
    async fn settle_on(
        &self,
        mut connection: Lease,
        batch: &Batch,
        keys: &Keys<'_>,
        granted: Option<&Lock>,
    ) -> Result<SettledBatch, StoreError> {
        let epoch = connection.epoch();
        let mut locking = match granted {
            None | Some(Lock::ApiKey(_)) => Locking::Skip,
            Some(Lock::Account(_)) => Locking::Begun,
        };
        let mode = if granted.is_some() { LockMode::Wait } else { LockMode::Skip };
        let mut lookup = self.full_lookups.next_lookup();
        let (mut created, mut locked) = (BTreeSet::new(), BTreeSet::new());
        for _ in 0..MAX_ATTEMPTS {
            let Loaded { mut state, mut left_out, .. } = load(&mut connection, batch, keys, lookup, locking).await?;
            // Another attempt begins another transaction.
            if locking == Locking::Begun {
                locking = Locking::Wait;
            }
            for user in &locked {
                left_out.insert(user, Obstacle::Locked(Lock::Account(user.clone())));
            }
            let mut unopened = state.unopened(keys, batch.at.month);
            unopened.extend(state.unopened_further(batch, keys));
            unopened.retain(|user| !left_out.contains(user));
            if !unopened.is_empty() {
                // A missing row can't be locked, and an insert out of order could deadlock with
                // another batch. So this attempt releases its locks, opens the accounts and begins
                // again.
                Statement::rolling_back().execute(&mut connection).await?;
                created = unopened.iter().filter(|user| !state.balances.contains_key(user)).cloned().collect();
                let events = audit_events::of_openings(batch, &created);
                let plan_of = |user: &UserId| Some((user.clone(), state.balances.get(user)?.plan?));
                let plans = unopened.iter().filter_map(plan_of).collect();
                let opening =
                    accounts::NewAccounts { users: &unopened, plans: &plans, events: &events, at: batch.at, mode };
                match accounts::open(&mut connection, opening, &batch.catalog).await {
                    // Another session has locked the index range of a new row. The other accounts do not wait for it.
                    Err(StoreError::Conflict(_)) if mode == LockMode::Skip => {
                        Statement::rolling_back().execute(&mut connection).await?;
                        locked.extend(unopened);
                    }
                    opened => opened?,
                }
                continue;
            }
            state.created = created.clone();
            let batch = if left_out.is_empty() { Cow::Borrowed(batch) } else { Cow::Owned(batch.without(&left_out)) };
            let loaded = (granted.is_none() && connection.takes_guards()).then(|| Read::of(&state));
            let (outcomes, writes) = rule::settle(&batch, state);
            let sure = lookup == Lookup::All || refused_as_new(&batch, &outcomes).next().is_none();
            let settled = match sure {
                true if writes.is_empty() => Statement::rolling_back().execute_unless_taken(&mut connection).await?,
                true => {
                    let packet = Statement::committing(mode, |packet| {
                        write(packet, &writes, batch.at);
                        if !writes.balances.is_empty() {
                            accounts::set_balances(packet, &writes.balances);
                        }
                    })
                    .named("settlement write");
                    packet.execute_unless_taken(&mut connection).await?
                }
                false => false,
            };
            if settled {
                connection.give_back();
                let settled = writes.into_settlement(outcomes, left_out);
                if let Some(loaded) = loaded {
                    self.recent.keep(keys, &settled, &loaded, (batch.at.month, epoch));
                }
                return Ok(settled);
            }
            Statement::rolling_back().execute(&mut connection).await?;
            self.full_lookups.begin();
            lookup = Lookup::All;
        }
        Err(StoreError::Conflict("another process settles the same ids".into()))
    }
}

/// Writes the decisions of the rule, one statement a table, but for the balances.
pub(super) fn write(statement: &mut Statement, writes: &Writes, at: BillingTime) {
    if !writes.charges.is_empty() {
        insert_charges(statement, &writes.charges);
    }
    if !writes.reservations.is_empty() {
        write_reservations(statement, &writes.reservations);
    }
    if !writes.records.is_empty() {
        insert_records(statement, &writes.records);
    }
    if !writes.usage.is_empty() {
        add_usage(statement, &writes.usage);
    }
    refunds::write(statement, writes);
    if !writes.quotas.is_empty() {
        accounts::set_quotas(statement, &writes.quotas);
    }
    if !writes.adjustments.is_empty() {
        insert_adjustments(statement, &writes.adjustments);
    }
    if !writes.audit_events.is_empty() {
        audit_trail::insert(statement, &writes.audit_events);
    }
    if !writes.events.is_empty() {
        events::insert(statement, &writes.events);
    }
    if !writes.requests.is_empty() {
        caps::set_used(statement, &writes.requests, at);
    }
    if !writes.key_quotas.is_empty() {
        key_quotas::set_used(statement, &writes.key_quotas, at);
    }
    recharge::update(statement, &writes.orders);
    if !writes.new_order_refunds.is_empty() {
        recharge::insert_refunds(statement, &writes.new_order_refunds);
    }
    recharge::update_refunds(statement, &writes.order_refunds);
    unapplied::update(statement, &writes.unapplied);
    if !writes.statuses.is_empty() {
        accounts::set_statuses(statement, &writes.statuses);
    }
    if !writes.watches.is_empty() {
        accounts::set_watches(statement, &writes.watches);
    }
    if !writes.plans.is_empty() {
        accounts::set_plans(statement, &writes.plans, at.month);
    }
}

fn insert_records(statement: &mut Statement, records: &[NewRecord]) {
    let has_late = records.iter().any(|new| new.record.late_of.is_some());
    statement
        .push(
            "INSERT INTO billing_record \
             (billing_record_id, user_id, service_name, type, amount, count, created_at, usage_date, trace_id",
        )
        .push(if has_late { ", late_of) VALUES " } else { ") VALUES " })
        .rows(records, |row, NewRecord { user, day, record }| {
            row.text(&record.id)
                .text(user.as_str())
                .text(record.service.as_str())
                .number(record.kind as i32)
                .money(record.amount)
                .number(record.count)
                .instant(record.created_at)
                .day(*day)
                .optional(record.trace.as_ref().map(TraceId::as_str), StatementRow::text);
            if has_late {
                row.optional(record.late_of.map(|month| month.to_string()).as_deref(), StatementRow::text);
            }
        })
        .push("; ");
}

fn add_usage(statement: &mut Statement, usage: &[(UsageKey, UsageDelta)]) {
    statement
        .push(
            "INSERT INTO usage_daily \
             (user_id, usage_date, service_name, free_count, paid_count, amount, free_records, paid_records) VALUES ",
        )
        .rows(usage, |row, ((user, day, service), delta)| {
            row.text(user.as_str())
                .day(*day)
                .text(service.as_str())
                .number(delta.totals.free_count)
                .number(delta.totals.paid_count)
                .money(delta.totals.amount)
                .number(delta.free_records)
                .number(delta.paid_records);
        })
        .push(
            " ON DUPLICATE KEY UPDATE free_count = free_count + VALUES(free_count), \
             paid_count = paid_count + VALUES(paid_count), amount = amount + VALUES(amount), \
             free_records = free_records + VALUES(free_records), paid_records = paid_records + VALUES(paid_records); ",
        );
}

fn insert_adjustments(statement: &mut Statement, adjustments: &[Adjusted]) {
    statement
        .push(
            "INSERT INTO balance_adjustment \
             (user_id, adjustment_id, amount, reason, operator, request_id, balance_after, created_at) VALUES ",
        )
        .rows(adjustments, |row, adjusted| {
            row.text(adjusted.user.as_str())
                .text(adjusted.id.as_str())
                .money(adjusted.content.amount)
                .text(&adjusted.content.reason)
                .text(&adjusted.content.operator)
                .text(&adjusted.request.to_string())
                .money(adjusted.balance_after)
                .instant(adjusted.created_at);
        })
        .push("; ");
}

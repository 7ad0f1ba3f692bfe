//! The loaded state of a batch, and its writes.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use chrono::NaiveDate;
use uuid::Uuid;

use crate::biz::{
    account::{Balance, Quota},
    audit_trail::AuditEvent,
    events::{NewEvent, alerts::Watch},
    limits::{caps::Requests, key_quota::KeyQuotas},
    reports::{record::Record, statistics::Totals},
    settlement::{
        change::Change,
        keys::Keys,
        ledger::SettledBatch,
        lock::LeftOut,
        order::Order,
        order_refund::OrderRefund,
        posting::{Adjusted, Batch, Outcome, Posting},
        refund::{Refunded, RefundedPart},
        transaction::{Status, Transaction},
        unapplied::UnappliedPayment,
    },
    values::{
        account_status::AccountStatus,
        calendar::Month,
        ids::{AdjustmentId, ApiKeyId, OrderId, PaymentId, PlanName, RefundId, ServiceName, TraceId, UserId},
        money::Money,
    },
};

/// The state that the store loaded under lock.
#[derive(Debug, Default, Clone)]
pub struct State {
    pub balances: BTreeMap<UserId, Balance>,
    /// The watches of the users that have another one than the default.
    pub watches: BTreeMap<UserId, Watch>,
    pub quotas: BTreeMap<QuotaKey, Quota>,
    /// The caps and counts of the users that have caps.
    pub requests: BTreeMap<UserId, Requests>,
    /// The quotas of the API keys that have quotas.
    pub key_quotas: KeyQuotas,
    /// The users of the batch that had no account when the settlement began.
    pub created: BTreeSet<UserId>,
    /// The stored transactions of the batch's trace ids.
    pub transactions: HashMap<TransactionKey, Transaction>,
    /// The settled adjustments of the batch's adjustment ids.
    pub adjustments: HashMap<(UserId, AdjustmentId), Adjusted>,
    /// The settled refunds of the batch's refund ids.
    pub refunds: HashMap<(UserId, RefundId), Refunded>,
    /// The ids of the batch's audit events that are stored.
    pub audit_events: BTreeSet<Uuid>,
    /// The ids of the batch's stops whose event is stored.
    pub events: BTreeSet<Uuid>,
    /// The stored orders of the batch.
    pub orders: HashMap<OrderId, Order>,
    /// The order of each of the batch's payments that an order already has.
    pub payments: HashMap<PaymentId, OrderId>,
    /// Those of them that have credited their order.
    pub credited_payments: BTreeSet<PaymentId>,
    /// The stored refunds of the batch's refund ids.
    pub order_refunds: HashMap<RefundId, OrderRefund>,
    /// The unapplied ones of the batch's payments.
    pub unapplied: HashMap<PaymentId, UnappliedPayment>,
}

/// A row of `free_quota`.
pub type QuotaKey = (UserId, Month, ServiceName);
/// A row of `billing_transaction`.
pub type TransactionKey = (UserId, TraceId);
/// A row of `usage_daily`.
pub type UsageKey = (UserId, NaiveDate, ServiceName);

impl State {
    /// The users whose account must be opened before the batch can be settled.
    pub fn unopened(&self, keys: &Keys<'_>, month: Month) -> BTreeSet<UserId> {
        let without_balance = keys.accounts.iter().filter(|user| !self.balances.contains_key(**user)).copied();
        let without_quota = keys
            .quotas
            .iter()
            .filter(|(user, service)| !self.quotas.contains_key(&((*user).clone(), month, (*service).clone())))
            .map(|(user, _)| *user);
        without_balance.chain(without_quota).cloned().collect()
    }

    /// The quotas that the batch needs beside those of its calls and of its holds, and that are not
    /// loaded: of this month for an end that comes too late for the month of its hold, and of the
    /// month of a charge that is refunded. Nearly every batch needs none.
    pub fn further_quotas(&self, batch: &Batch, keys: &Keys<'_>) -> BTreeSet<QuotaKey> {
        let late = self.transactions.values().filter_map(|transaction| {
            let reservation = transaction.reservation.as_ref()?;
            let is_open = matches!(transaction.status, Status::Pending | Status::Expired);
            let is_late = is_open && batch.periods.is_closed(reservation.month(), batch.at);
            is_late.then(|| (transaction.user.clone(), batch.at.month, transaction.content.service.clone()))
        });
        let mut further: BTreeSet<QuotaKey> = late.collect();
        if !keys.refunds.is_empty() {
            for posting in &batch.postings {
                let Posting::Refund(refund) = posting else { continue };
                let key = (refund.user.clone(), refund.content.trace.clone());
                let Some(charge) = self.transactions.get(&key) else { continue };
                let month = charge.charged_month(batch.periods);
                if charge.free > 0 && month >= batch.at.month {
                    further.insert((refund.user.clone(), month, charge.content.service.clone()));
                }
            }
        }
        further.retain(|row| !self.quotas.contains_key(row));
        further
    }

    /// The users whose account lacks one of [`Self::further_quotas`] for a service of the catalog.
    pub fn unopened_further(&self, batch: &Batch, keys: &Keys<'_>) -> BTreeSet<UserId> {
        let lacking = self.further_quotas(batch, keys).into_iter();
        let is_offered = |service: &ServiceName| batch.catalog.services().any(|offered| offered == service);
        lacking.filter(|(_, month, service)| *month == batch.at.month && is_offered(service)).map(|row| row.0).collect()
    }

    /// The API key of a posting: that of its call, or of the transaction that it ends or changes.
    pub fn api_key_of<'a>(&'a self, posting: &'a Posting) -> Option<&'a ApiKeyId> {
        let content = match posting {
            Posting::Charge(call) => &call.content,
            Posting::Reserve(reserve) => &reserve.call.content,
            _ => &self.transaction_of(posting)?.content,
        };
        content.api_key.as_ref()
    }

    /// The stored transaction that a posting ends or changes.
    pub fn transaction_of(&self, posting: &Posting) -> Option<&Transaction> {
        let trace = match posting {
            Posting::Report(report) => &report.trace,
            Posting::Commit(commit) => &commit.trace,
            Posting::Release(release) => &release.trace,
            Posting::Expire(expire) => &expire.trace,
            Posting::Refund(refund) => &refund.content.trace,
            Posting::Open(_)
            | Posting::Charge(_)
            | Posting::Reserve(_)
            | Posting::Adjust(_)
            | Posting::UpdateOrder(_)
            | Posting::RefundOrder(_)
            | Posting::UpdateOrderRefund(_)
            | Posting::CreditPayment(_)
            | Posting::SetStatus(_)
            | Posting::SetPlan(_)
            | Posting::SetAlerts(_)
            | Posting::NoteRefusal(_) => return None,
        };
        self.transactions.get(&(posting.user().clone(), trace.clone()))
    }
}

/// All rows that a transaction must write. Rows that are locked are in key order.
#[derive(Debug, Default)]
pub struct Writes {
    /// New transactions without a hold.
    pub charges: Vec<Transaction>,
    /// Reservations, new or changed.
    pub reservations: Vec<ReservationWrite>,
    pub records: Vec<NewRecord>,
    pub adjustments: Vec<Adjusted>,
    pub refunds: Vec<Refunded>,
    /// The sum of the refunds of each charge with a new one.
    pub refunded_charges: Vec<(TransactionKey, RefundedPart)>,
    /// An event for each call of an operator that changed an account.
    pub audit_events: Vec<AuditEvent>,
    /// Every order that changed.
    pub orders: Vec<Order>,
    /// New refunds of orders.
    pub new_order_refunds: Vec<OrderRefund>,
    /// Refunds of orders that were stored before and changed.
    pub order_refunds: Vec<OrderRefund>,
    /// Every unapplied payment that changed.
    pub unapplied: Vec<UnappliedPayment>,
    /// New events, in the order of their postings.
    pub events: Vec<NewEvent>,
    /// Every account that changed. Its status is in `statuses`.
    pub balances: Vec<(UserId, Balance)>,
    /// Every status of an account that changed.
    pub statuses: Vec<(UserId, AccountStatus)>,
    /// Every watch that changed.
    pub watches: Vec<(UserId, Watch)>,
    /// Every plan of a user that changed. The later months that are open get its free quotas.
    pub plans: Vec<NewPlan>,
    /// Every quota that changed.
    pub quotas: Vec<(QuotaKey, Quota)>,
    /// Every count of requests that changed.
    pub requests: Vec<(UserId, Requests)>,
    /// Every quota of an API key that changed.
    pub key_quotas: KeyQuotas,
    /// The increments of the daily rollup.
    pub usage: Vec<(UsageKey, UsageDelta)>,
    /// The increments of the refunds in the daily rollup.
    pub refund_usage: Vec<(UsageKey, RefundDelta)>,
    /// The changes of the state that the caches keep.
    pub changes: Vec<Change>,
    /// The watches after the batch that are not the default.
    pub known_watches: BTreeMap<UserId, Watch>,
    /// Every API key whose quotas the batch may have changed.
    pub api_keys: Vec<ApiKeyId>,
}

impl Writes {
    /// The result of the batch after the commit.
    pub fn into_settlement(self, outcomes: Vec<Outcome>, left_out: LeftOut) -> SettledBatch {
        let Self { changes, known_watches, api_keys, .. } = self;
        let events = self.events.iter().map(|event| event.kind).collect();
        SettledBatch { outcomes, changes, events, watches: known_watches, api_keys, left_out }
    }

    /// Whether there is nothing to write, as for a batch of refusals, replays and openings.
    pub fn is_empty(&self) -> bool {
        self.events.is_empty() && self.balances.is_empty() && self.orders.is_empty() && self.reservations.is_empty()
    }
}

/// A reservation to write.
#[derive(Debug, PartialEq, Eq)]
pub struct ReservationWrite {
    pub transaction: Transaction,
    /// The status before the batch; `None` for a new reservation.
    pub was: Option<Status>,
}

/// A new plan of a user.
#[derive(Debug, PartialEq, Eq)]
pub struct NewPlan {
    pub user: UserId,
    pub plan: Option<PlanName>,
    /// The free units of each service a month.
    pub free_quotas: Vec<(ServiceName, u64)>,
}

/// A record to write, with its billing day.
#[derive(Debug, PartialEq, Eq)]
pub struct NewRecord {
    pub user: UserId,
    pub day: NaiveDate,
    pub record: Record,
}

/// The increment of the refunds in one row of the daily rollup.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct RefundDelta {
    pub free: u64,
    pub paid: u64,
    pub amount: Money,
    pub free_records: u32,
    pub paid_records: u32,
}

/// The increment of one row of the daily rollup.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct UsageDelta {
    pub totals: Totals,
    pub free_records: u32,
    pub paid_records: u32,
}

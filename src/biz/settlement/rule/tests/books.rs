//! A ledger in memory: the rule of the service on maps, without a database.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Mutex,
};

use chrono::{DateTime, Utc};

use super::histories::{
    Stage, USERS,
    events::shown,
    model::SERVICES,
    postings::{call, month, service, user},
};
use crate::biz::{
    account::{Account, Balance, Quota},
    audit_trail::{AuditEvent, SET_USER_LIMITS},
    events::{NewEvent, alerts::Watch},
    jobs::audit::{
        DayBook, Difference, DifferingDay, Evidence,
        counts::{CapCounts, Counting, KeyCounts},
    },
    limits::{
        caps::{self, Caps, Requests},
        key_quota::{KeyQuota, KeyQuotas, KnownSince, NewKeyQuota, Taken},
    },
    recharge::unapplied::UnappliedReport,
    reports::{
        record::{Record, RecordType},
        statistics::{DailyUse, Totals},
    },
    settlement::{
        keys::Keys,
        order::Order,
        order_refund::{OrderRefund, RefundKind, RefundStatus},
        posting::{Adjusted, Batch, Outcome},
        refund::Refunded,
        rule::{self, NewRecord, QuotaKey, RefundDelta, State, TransactionKey, UsageDelta, UsageKey},
        transaction::{Status, Transaction},
        unapplied::UnappliedPayment,
    },
    values::{
        calendar::{BillingTime, DaySpan, Month},
        ids::{AdjustmentId, ApiKeyId, OrderId, PaymentId, RefundId, TraceId, UserId},
        money::Money,
    },
};

/// The content of the tables of a real store.
#[derive(Default)]
pub struct Books(Mutex<Tables>);

#[derive(Default)]
struct Tables {
    balances: BTreeMap<UserId, Balance>,
    quotas: BTreeMap<QuotaKey, Quota>,
    requests: BTreeMap<UserId, Requests>,
    key_quotas: KeyQuotas,
    transactions: HashMap<TransactionKey, Transaction>,
    adjustments: HashMap<(UserId, AdjustmentId), Adjusted>,
    refunds: HashMap<(UserId, RefundId), Refunded>,
    orders: HashMap<OrderId, Order>,
    order_refunds: HashMap<RefundId, OrderRefund>,
    unapplied: HashMap<PaymentId, UnappliedPayment>,
    records: Vec<NewRecord>,
    usage: BTreeMap<UsageKey, (UsageDelta, RefundDelta)>,
    audit_events: Vec<AuditEvent>,
    events: Vec<NewEvent>,
    watches: BTreeMap<UserId, Watch>,
}

impl Books {
    /// Settles a batch as a database does in one transaction.
    pub fn settle(&self, batch: &Batch) -> Vec<Outcome> {
        let mut tables = self.0.lock().unwrap();
        let keys = Keys::of(batch);
        for user in &keys.users {
            tables.balances.entry((*user).clone()).or_default();
        }
        for (user, service) in &keys.quotas {
            let (_, terms) = batch.catalog.find(service.as_str()).unwrap();
            let key = ((*user).clone(), batch.at.month, (*service).clone());
            tables.quotas.entry(key).or_insert(Quota { total: terms.free_quota, used: 0, held: 0 });
        }
        let mut state = State {
            balances: tables.balances.clone(),
            quotas: tables.quotas.clone(),
            requests: tables.requests.clone(),
            key_quotas: tables.key_quotas.clone(),
            created: Default::default(),
            transactions: tables.transactions.clone(),
            watches: tables.watches.clone(),
            adjustments: tables.adjustments.clone(),
            refunds: tables.refunds.clone(),
            audit_events: tables.audit_events.iter().map(|event| event.id).collect(),
            events: tables.events.iter().filter_map(|event| event.id).collect(),
            orders: tables.orders.clone(),
            payments: tables
                .orders
                .values()
                .filter_map(|order| Some((order.payment.clone()?, order.id.clone())))
                .collect(),
            credited_payments: tables
                .orders
                .values()
                .filter(|order| order.status.is_credited())
                .filter_map(|order| order.payment.clone())
                .collect(),
            order_refunds: tables.order_refunds.clone(),
            unapplied: tables.unapplied.clone(),
        };
        // A database opens the accounts that lack one of these quotas.
        for (user, month, service) in state.further_quotas(batch, &keys) {
            if let Ok((_, terms)) = batch.catalog.find(service.as_str()) {
                let quota = Quota { total: terms.free_quota, used: 0, held: 0 };
                let row = (user, month, service);
                tables.quotas.insert(row.clone(), quota);
                state.quotas.insert(row, quota);
            }
        }
        let (outcomes, writes) = rule::settle(batch, state);
        for (user, balance) in writes.balances {
            // The status and the plan have writes of their own.
            let row = tables.balances.entry(user).or_default();
            *row = Balance { status: row.status, plan: row.plan, ..balance };
        }
        for new in writes.plans {
            tables.balances.entry(new.user.clone()).or_default().plan = new.plan;
            for (service, free_quota) in new.free_quotas {
                let later = tables.quotas.iter_mut().filter(|((user, month, of), quota)| {
                    *user == new.user && *of == service && *month > batch.at.month && quota.used + quota.held == 0
                });
                later.for_each(|(_, quota)| quota.total = free_quota);
            }
        }
        for (user, status) in writes.statuses {
            tables.balances.entry(user).or_default().status = status;
        }
        tables.quotas.extend(writes.quotas);
        tables.requests.extend(writes.requests);
        tables.key_quotas.extend(writes.key_quotas);
        let reservations = writes.reservations.into_iter().map(|write| write.transaction);
        for transaction in writes.charges.into_iter().chain(reservations) {
            let key = (transaction.user.clone(), transaction.trace.clone());
            tables.transactions.insert(key, transaction);
        }
        for adjusted in writes.adjustments {
            tables.adjustments.insert((adjusted.user.clone(), adjusted.id.clone()), adjusted);
        }
        for refunded in writes.refunds {
            tables.refunds.insert((refunded.user.clone(), refunded.id.clone()), refunded);
        }
        for (key, refunded) in writes.refunded_charges {
            tables.transactions.get_mut(&key).unwrap().refunded = refunded;
        }
        tables.audit_events.extend(writes.audit_events);
        tables.events.extend(writes.events);
        tables.watches.extend(writes.watches);
        for order in writes.orders {
            tables.orders.insert(order.id.clone(), order);
        }
        for refund in writes.new_order_refunds {
            let known = tables.order_refunds.insert(refund.id.clone(), refund);
            assert!(known.is_none(), "{known:?} is not new");
        }
        for refund in writes.order_refunds {
            tables.order_refunds.insert(refund.id.clone(), refund).expect("the refund is stored");
        }
        for payment in writes.unapplied {
            tables.unapplied.insert(payment.payment.clone(), payment).expect("the payment is stored");
        }
        tables.records.extend(writes.records);
        for (key, delta) in writes.usage {
            let (row, _) = tables.usage.entry(key).or_default();
            row.totals = [row.totals, delta.totals].into_iter().sum();
            row.free_records += delta.free_records;
            row.paid_records += delta.paid_records;
        }
        for (key, delta) in writes.refund_usage {
            let (_, row) = tables.usage.entry(key).or_default();
            (row.free, row.paid) = (row.free + delta.free, row.paid + delta.paid);
            row.amount = row.amount.plus(delta.amount);
            row.free_records += delta.free_records;
            row.paid_records += delta.paid_records;
        }
        outcomes
    }

    pub fn set_caps(&self, user: &UserId, caps: Caps, at: BillingTime) {
        let mut tables = self.0.lock().unwrap();
        let before = tables.requests.get(user).map(|requests| requests.caps).unwrap_or_default();
        tables.audit_events.extend(caps::audited(&call(SET_USER_LIMITS), user, before, caps, at).unwrap());
        if caps == Caps::default() {
            tables.requests.remove(user);
        } else {
            let requests = tables.requests.entry(user.clone()).or_insert(Requests::new(caps, at));
            if before.daily != caps.daily {
                requests.fired.daily = 0;
            }
            if before.monthly != caps.monthly {
                requests.fired.monthly = 0;
            }
            requests.caps = caps;
        }
    }

    pub fn events(&self) -> Vec<NewEvent> {
        self.0.lock().unwrap().events.clone()
    }

    pub fn audit_events(&self) -> Vec<AuditEvent> {
        self.0.lock().unwrap().audit_events.clone()
    }

    pub fn requests(&self, user: &UserId) -> Option<Requests> {
        self.0.lock().unwrap().requests.get(user).copied()
    }

    pub fn keep_key_quota(&self, new: &NewKeyQuota, at: BillingTime) {
        let limit = new.limit.unwrap();
        let (period, taken) = (new.period, Taken::default());
        let first = KeyQuota { period, limit, taken, since: at.utc, day: at.day, fired: 0, version: 0 };
        let mut tables = self.0.lock().unwrap();
        let quota = tables.key_quotas.entry((new.key.clone(), new.kind)).or_insert(first);
        *quota = KeyQuota { period, limit, fired: 0, ..*quota };
    }

    pub fn keep_order(&self, order: &Order) {
        self.0.lock().unwrap().orders.insert(order.id.clone(), order.clone());
    }

    pub fn order(&self, id: &OrderId) -> Option<Order> {
        self.0.lock().unwrap().orders.get(id).cloned()
    }

    pub fn order_refund(&self, id: &RefundId) -> Option<OrderRefund> {
        self.0.lock().unwrap().order_refunds.get(id).cloned()
    }

    pub fn keep_unapplied(&self, payment: UnappliedPayment) {
        self.0.lock().unwrap().unapplied.insert(payment.payment.clone(), payment);
    }

    pub fn unapplied(&self, payment: &PaymentId) -> Option<UnappliedPayment> {
        self.0.lock().unwrap().unapplied.get(payment).cloned()
    }

    pub fn key_quotas(&self) -> KeyQuotas {
        self.0.lock().unwrap().key_quotas.clone()
    }

    pub fn transaction(&self, user: &UserId, trace: &TraceId) -> Option<Transaction> {
        self.0.lock().unwrap().transactions.get(&(user.clone(), trace.clone())).cloned()
    }

    /// The records of a user, with the parts of their transactions as in the databases: main records have
    /// the tokens.
    pub fn records(&self, user: &UserId) -> Vec<Record> {
        let tables = self.0.lock().unwrap();
        let of_user = tables.records.iter().filter(|new| new.user == *user);
        let read = |new: &NewRecord| {
            let transaction = &tables.transactions[&(user.clone(), new.record.trace.clone().unwrap())];
            let delivered = transaction.reservation.as_ref().and_then(|reservation| reservation.usage());
            let usage = transaction.content.usage.or(delivered);
            let is_main = transaction.record_id.to_string() == new.record.id;
            let reservation = transaction.reservation.as_ref();
            let delivered = reservation.and_then(|reservation| reservation.delivered.as_ref());
            let tier = delivered.and_then(|delivered| delivered.service_tier.clone());
            Record {
                usage: usage.filter(|_| is_main),
                served_model: delivered.and_then(|delivered| delivered.model.clone()),
                service_tier: tier.or(transaction.content.service_tier.clone()),
                ..new.record.clone()
            }
        };
        of_user.map(read).collect()
    }

    pub fn daily(&self, user: &UserId) -> Vec<DailyUse> {
        let tables = self.0.lock().unwrap();
        let of_user = tables.usage.iter().filter(|((owner, ..), _)| owner == user);
        let daily = of_user.map(|((_, day, service), (row, refunds))| {
            let (refunded_count, refunded_amount) = (refunds.free + refunds.paid, refunds.amount);
            (service.clone(), *day, Totals { refunded_count, refunded_amount, ..row.totals })
        });
        daily.map(|(service, day, totals)| DailyUse { service, day, totals }).collect()
    }

    pub fn balance(&self, user: &UserId) -> Balance {
        self.0.lock().unwrap().balances.get(user).copied().unwrap_or_default()
    }

    pub fn quotas(&self) -> BTreeMap<QuotaKey, Quota> {
        self.0.lock().unwrap().quotas.clone()
    }

    pub fn quota(&self, key: &QuotaKey) -> Option<Quota> {
        self.0.lock().unwrap().quotas.get(key).copied()
    }

    /// The differences of the caps of some users and of the quotas of a key.
    pub fn differing_limits(&self, users: &[UserId], key: &ApiKeyId, rule: Counting) -> Vec<Difference> {
        let tables = self.0.lock().unwrap();
        let mut differences = Vec::new();
        for user in users {
            let Some(requests) = tables.requests.get(user) else { continue };
            let mut counts = CapCounts::new(user.clone(), *requests, rule);
            let of_user = tables.transactions.values().filter(|transaction| transaction.user == *user);
            of_user.for_each(|transaction| counts.add(transaction));
            differences.extend(counts.differences());
        }
        let mut counts = KeyCounts::new(key.clone(), rule);
        for ((_, kind), quota) in tables.key_quotas.iter().filter(|((of, _), _)| of == key) {
            let known = KnownSince { day: quota.since, month: quota.since, total: quota.since };
            counts.add_quota(*kind, *quota, known);
        }
        let is_keyed = |transaction: &&Transaction| transaction.content.api_key.as_ref() == Some(key);
        tables.transactions.values().filter(is_keyed).for_each(|transaction| counts.add(transaction));
        differences.extend(counts.differences());
        differences
    }

    /// The evidence of a user for the audit.
    pub fn evidence(&self, user: &UserId) -> Evidence {
        let tables = self.0.lock().unwrap();
        let mut evidence = Evidence::of(user.clone());
        let balance = tables.balances.get(user).copied().unwrap_or_default();
        (evidence.balance, evidence.held) = (Some(balance.amount), balance.held);
        let of_user = |adjusted: &&Adjusted| adjusted.user == *user;
        evidence.adjusted = tables.adjustments.values().filter(of_user).map(|adjusted| adjusted.content.amount).sum();
        for ((_, month, service), quota) in tables.quotas.iter().filter(|((owner, ..), _)| owner == user) {
            let key = (service.clone(), month.to_string());
            if quota.used > 0 {
                evidence.used_quotas.insert(key.clone(), quota.used.try_into().unwrap());
            }
            if quota.held > 0 {
                evidence.held_quotas.insert(key, quota.held.try_into().unwrap());
            }
        }
        for transaction in tables.transactions.values().filter(|transaction| transaction.user == *user) {
            evidence.settled_amount = evidence.settled_amount.plus(transaction.amount);
            evidence.settled_count += i64::from(transaction.free + transaction.paid);
            let refunded = transaction.refunded;
            evidence.refunds.charges_amount = evidence.refunds.charges_amount.plus(refunded.amount);
            evidence.refunds.charges_count += i64::from(refunded.units());
            let of_it = |refund: &&Refunded| refund.user == *user && refund.content.trace == transaction.trace;
            let all = tables.refunds.values().filter(of_it);
            let sum = all.fold((0, 0, Money::ZERO), |sum, refund| {
                (sum.0 + refund.free + refund.lapsed, sum.1 + refund.paid, sum.2.plus(refund.amount))
            });
            let is_wrong = sum != (refunded.free, refunded.paid, refunded.amount);
            let is_more = refunded.amount > transaction.amount
                || refunded.free > transaction.free
                || refunded.paid > transaction.paid;
            evidence.refunds.wrong_charges += u64::from(is_wrong || is_more);
            if let (Status::Pending, Some(held)) = (transaction.status, &transaction.reservation) {
                evidence.reserved = evidence.reserved.plus(held.amount);
                if held.free > 0 {
                    let key = (transaction.content.service.clone(), held.month().to_string());
                    *evidence.reserved_quotas.entry(key).or_default() += i64::from(held.free);
                }
            }
        }
        let mut days = BTreeMap::new();
        for NewRecord { day, record, .. } in tables.records.iter().filter(|new| new.user == *user) {
            let book: &mut DayBook = days.entry((record.service.clone(), *day)).or_default();
            let (count, month) = (i64::from(record.count), (record.service.clone(), Month::of(*day).to_string()));
            if matches!(record.kind, RecordType::Free | RecordType::Balance) {
                evidence.recorded_amount = evidence.recorded_amount.plus(record.amount);
                evidence.recorded_count += count;
                evidence.charged = evidence.charged.plus(record.amount);
                book.amount = book.amount.plus(record.amount);
            } else {
                evidence.refunds.recorded_amount = evidence.refunds.recorded_amount.plus(record.amount);
                evidence.refunds.recorded_count += count;
                book.refunded_amount = book.refunded_amount.plus(record.amount);
            }
            match record.kind {
                RecordType::Free => {
                    *evidence.free_units.entry(month).or_default() += count;
                    (book.free_count, book.free_records) = (book.free_count + count, book.free_records + 1);
                }
                RecordType::Balance => {
                    (book.paid_count, book.paid_records) = (book.paid_count + count, book.paid_records + 1);
                }
                RecordType::FreeRefund => {
                    *evidence.free_units.entry(month).or_default() -= count;
                    (book.refunded_free, book.free_refunds) = (book.refunded_free + count, book.free_refunds + 1);
                }
                RecordType::BalanceRefund => {
                    (book.refunded_paid, book.paid_refunds) = (book.refunded_paid + count, book.paid_refunds + 1);
                }
            }
        }
        for refunded in tables.refunds.values().filter(|refunded| refunded.user == *user) {
            evidence.refunds.amount = evidence.refunds.amount.plus(refunded.amount);
            let given_back = refunded.free + refunded.paid;
            evidence.refunds.given_back_count += i64::from(given_back);
            evidence.refunds.count += i64::from(given_back + refunded.lapsed);
        }
        for ((_, day, service), (row, refunds)) in tables.usage.iter().filter(|((owner, ..), _)| owner == user) {
            let records = days.remove(&(service.clone(), *day)).unwrap_or_default();
            let rollup = DayBook {
                free_count: row.totals.free_count.try_into().unwrap(),
                paid_count: row.totals.paid_count.try_into().unwrap(),
                amount: row.totals.amount,
                free_records: row.free_records.into(),
                paid_records: row.paid_records.into(),
                refunded_free: refunds.free.try_into().unwrap(),
                refunded_paid: refunds.paid.try_into().unwrap(),
                refunded_amount: refunds.amount,
                free_refunds: refunds.free_records.into(),
                paid_refunds: refunds.paid_records.into(),
            };
            let day = DifferingDay { service: service.clone(), day: *day, rollup, records };
            evidence.differing_days.extend((rollup != records).then_some(day));
        }
        assert!(days.is_empty(), "no rollup has {days:?}");
        let paid = |order: &&Order| order.user == *user && order.status.is_credited();
        for order in tables.orders.values().filter(paid) {
            evidence.recharged = evidence.recharged.plus(order.amount);
            evidence.orders_refunded = evidence.orders_refunded.plus(order.refunded);
            evidence.orders_refunding = evidence.orders_refunding.plus(order.refunding);
        }
        for refund in tables.order_refunds.values().filter(|refund| refund.user == *user) {
            let sum = match (refund.status, refund.kind) {
                (RefundStatus::Failed, _) => continue,
                (RefundStatus::Pending, _) => &mut evidence.refunding,
                (RefundStatus::Success, RefundKind::Chargeback) => &mut evidence.charged_back,
                (RefundStatus::Success, RefundKind::Requested | RefundKind::Reported) => &mut evidence.refunded,
            };
            *sum = sum.plus(refund.amount);
        }
        evidence
    }
}

impl Stage for Books {
    async fn settle(&self, batch: &Batch) -> Vec<Outcome> {
        Books::settle(self, batch)
    }

    async fn account(&self, user: &UserId, number: u32) -> Account {
        let month = month(number);
        let services = (0..SERVICES.len() as u8).map(service);
        let quotas = services.filter_map(|of| Some((of.clone(), Books::quota(self, &(user.clone(), month, of))?)));
        let requests = Books::requests(self, user);
        Account { balance: Books::balance(self, user), quotas: quotas.collect(), requests }
    }

    async fn set_caps(&self, user: &UserId, caps: Caps, at: BillingTime) {
        Books::set_caps(self, user, caps, at);
    }

    async fn set_key_quota(&self, quota: &NewKeyQuota, at: BillingTime) {
        self.keep_key_quota(quota, at);
    }

    async fn key_quotas(&self, _: &ApiKeyId) -> KeyQuotas {
        Books::key_quotas(self)
    }

    async fn keep_order(&self, order: &Order) {
        Books::keep_order(self, order);
    }

    async fn order(&self, id: &OrderId) -> Option<Order> {
        Books::order(self, id)
    }

    async fn order_refund(&self, id: &RefundId) -> Option<OrderRefund> {
        Books::order_refund(self, id)
    }

    async fn keep_unapplied(&self, report: &UnappliedReport, at: DateTime<Utc>) {
        Books::keep_unapplied(
            self,
            UnappliedPayment {
                order: report.order.clone(),
                currency: report.currency.clone(),
                cause: report.cause,
                first_seen_at: at,
                last_seen_at: at,
                ..UnappliedPayment::reported(report.payment.as_str(), report.amount)
            },
        );
    }

    async fn credited_to(&self, payment: &PaymentId) -> Option<UserId> {
        self.unapplied(payment).and_then(|unapplied| unapplied.user)
    }

    async fn transaction(&self, user: &UserId, trace: &TraceId) -> Option<Transaction> {
        Books::transaction(self, user, trace)
    }

    async fn records(&self, user: &UserId) -> Vec<Record> {
        Books::records(self, user)
    }

    async fn daily(&self, user: &UserId, _: DaySpan) -> Vec<DailyUse> {
        Books::daily(self, user)
    }

    async fn due(&self, _: DateTime<Utc>) -> Option<BTreeSet<(UserId, TraceId)>> {
        None
    }

    async fn audit_events(&self, user: &UserId) -> Vec<AuditEvent> {
        let all = Books::audit_events(self);
        all.into_iter().filter(|event| event.user.as_ref() == Some(user)).collect()
    }

    async fn events(&self, user: &UserId) -> Vec<String> {
        let all = Books::events(self).into_iter().filter(|event| event.user.as_ref() == Some(user));
        all.map(|event| shown(event.kind, &event.data)).collect()
    }

    async fn evidence(&self, case: &str) -> Vec<Evidence> {
        (0..USERS).map(|number| Books::evidence(self, &user(case, number))).collect()
    }

    async fn differing_limits(&self, users: &[UserId], key: &ApiKeyId, rule: Counting) -> Vec<Difference> {
        Books::differing_limits(self, users, key, rule)
    }
}

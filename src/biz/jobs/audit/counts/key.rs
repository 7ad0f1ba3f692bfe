//! The quotas of an API key, and their comparison with the transactions with the key.

use chrono::{DateTime, TimeDelta, Utc};

use super::{Counter, Counting, Found, LastDay};
use crate::biz::{
    jobs::audit::differences::{Difference, Listed, Owner},
    limits::key_quota::{KeyQuota, KnownSince, Period, QuotaType},
    settlement::transaction::Transaction,
    values::{ids::ApiKeyId, money::Money},
};

/// Servers of release 0.1.0 may go on so long beside a migrated database.
const ROLLING_UPGRADE: TimeDelta = TimeDelta::days(1);

/// The quotas of an API key, beside the transactions with the key.
#[derive(Debug, Clone)]
pub struct KeyCounts {
    key: ApiKeyId,
    quotas: Vec<QuotaCounts>,
    unreadable: Listed<String>,
    rule: Counting,
}

impl KeyCounts {
    /// A key without quotas.
    pub fn new(key: ApiKeyId, rule: Counting) -> Self {
        Self { key, quotas: Vec::new(), unreadable: Listed::default(), rule }
    }

    /// Adds a stored quota, and since when its use in each period is known in full.
    pub fn add_quota(&mut self, kind: QuotaType, stored: KeyQuota, known: KnownSince) {
        self.quotas.push(QuotaCounts::new(kind, stored, known, self.rule));
    }

    pub fn key(&self) -> &ApiKeyId {
        &self.key
    }

    /// Earlier transactions do not count. `None` if the use in no period is known in full.
    pub fn from(&self) -> Option<DateTime<Utc>> {
        self.quotas.iter().flat_map(|quota| &quota.counters).map(Counter::from).min()
    }

    pub fn add(&mut self, transaction: &Transaction) {
        self.quotas.iter_mut().for_each(|quota| quota.add(transaction, self.rule));
    }

    /// Adds a transaction that cannot be read. No quota of the key is then compared.
    pub fn add_unreadable(&mut self, why: String) {
        self.unreadable.push(why);
    }

    /// The counts that differ from the transactions.
    pub fn differences(&self) -> Vec<Difference> {
        let owner = Owner::ApiKey(self.key.clone());
        if !self.unreadable.is_empty() {
            return self.unreadable.unreadable(&owner);
        }
        let mut found = Found { owner, differences: Vec::new() };
        self.quotas.iter().for_each(|quota| quota.compare(&mut found));
        found.differences
    }
}

/// One quota of an API key.
#[derive(Debug, Clone)]
struct QuotaCounts {
    kind: QuotaType,
    stored: KeyQuota,
    /// The periods whose use is known in full.
    counters: Vec<Counter>,
    last_day: LastDay,
    /// Release 0.1.0 may have counted earlier transactions, by its rule for tokens, and in the period of the quota alone.
    old_until: DateTime<Utc>,
}

impl QuotaCounts {
    fn new(kind: QuotaType, stored: KeyQuota, known: KnownSince, rule: Counting) -> Self {
        // The migration of an older quota left its own period alone.
        let migrated = known.day.max(known.month).max(known.total);
        let old_until = if migrated > stored.since { migrated + ROLLING_UPGRADE } else { stored.since };
        let is_known = |counter: &Counter| {
            let begin = if counter.period == Period::Total { stored.since } else { counter.start.max(stored.since) };
            // The quota had this period before the migration too.
            let is_own = counter.period == stored.period && known.of(counter.period) <= stored.since;
            known.of(counter.period) <= begin && (is_own || begin >= old_until)
        };
        let counter = |period| Counter::new(rule, period, stored.day, stored.since);
        let counters = Period::ALL.map(counter).into_iter().filter(is_known).collect();
        Self { kind, stored, counters, last_day: LastDay::default(), old_until }
    }

    fn add(&mut self, transaction: &Transaction, rule: Counting) {
        let when = (transaction.counted_day(rule.periods), transaction.created_at);
        let kind = self.kind;
        let now = transaction.taken().of(kind);
        for counter in &mut self.counters {
            counter.add(when, now, || transaction.most_taken().of(kind));
            if kind == QuotaType::Tokens && when.1 >= counter.from() && when.1 < self.old_until {
                if transaction.is_charged_without_usage() {
                    let most = transaction.most_taken().tokens;
                    counter.count.add(-2 * most, most);
                }
                if transaction.has_unknown_tokens() {
                    counter.count.most = i64::MAX;
                }
            }
            if when.1 >= self.old_until {
                self.last_day.add(counter, when, now);
            }
        }
    }

    fn compare(&self, found: &mut Found) {
        let kind = self.kind;
        let show = |count: i64| match kind {
            QuotaType::Amount => Money::from_micros(count).to_string(),
            QuotaType::Requests | QuotaType::Tokens => count.to_string(),
        };
        for counter in &self.counters {
            let book = format!("used {kind} {}", counter.shown_period());
            found.expect(book, self.stored.taken.of(counter.period), counter.count, show);
        }
        found.expect_day(format!("last day of used {kind}"), self.stored.day, self.last_day);
    }
}

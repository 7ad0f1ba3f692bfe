//! Quotas of API keys: how many requests, how many tokens, or how much money the calls of a
//! key may take in a day, in a month, or in all. What a reservation holds counts as taken;
//! work that was delivered counts even beyond the quota.

use std::{collections::BTreeMap, fmt, str::FromStr};

use async_trait::async_trait;
use chrono::{DateTime, NaiveDate, Utc};

use crate::biz::values::{
    calendar::{BillingTime, Month},
    error::{Error, StoreError},
    ids::ApiKeyId,
    invalid::Invalid,
    limit::Limit,
    money::Money,
    usage::Usage,
};

/// What a quota counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum QuotaType {
    Requests,
    /// Input and output together.
    Tokens,
    /// What is taken from the balance.
    Amount,
}

impl QuotaType {
    pub const ALL: [Self; 3] = [Self::Requests, Self::Tokens, Self::Amount];

    /// As in the tables and on the wire.
    pub fn name(self) -> &'static str {
        match self {
            Self::Requests => "requests",
            Self::Tokens => "tokens",
            Self::Amount => "amount",
        }
    }
}

impl FromStr for QuotaType {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        Self::ALL
            .into_iter()
            .find(|kind| kind.name() == text)
            .ok_or_else(|| Invalid::new("quota_type", "must be requests, tokens or amount"))
    }
}

impl fmt::Display for QuotaType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// When a quota begins anew, in the billing zone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Period {
    Day,
    Month,
    /// Never.
    Total,
}

impl Period {
    const ALL: [Self; 3] = [Self::Day, Self::Month, Self::Total];

    /// As in the tables and on the wire.
    pub fn name(self) -> &'static str {
        match self {
            Self::Day => "day",
            Self::Month => "month",
            Self::Total => "total",
        }
    }

    fn is_same(self, one: NaiveDate, other: NaiveDate) -> bool {
        match self {
            Self::Day => one == other,
            Self::Month => Month::of(one) == Month::of(other),
            Self::Total => true,
        }
    }
}

impl FromStr for Period {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        Self::ALL
            .into_iter()
            .find(|period| period.name() == text)
            .ok_or_else(|| Invalid::new("period", "must be day, month or total"))
    }
}

/// A quota of a key, and what of it was taken in the period of the last day on which
/// anything was. Requests and tokens are counted, amounts are in millionths.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KeyQuota {
    pub period: Period,
    pub limit: i64,
    pub used: i64,
    /// When counting began; what was made before does not count.
    pub since: DateTime<Utc>,
    pub day: NaiveDate,
    /// Grows with every change of the quota.
    pub version: i64,
}

/// What a call takes of each quota of its key, or gives back where it is below zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Take {
    pub requests: i64,
    pub tokens: i64,
    pub amount: Money,
}

impl Take {
    /// Of one call.
    pub fn call(usage: Option<Usage>, amount: Money) -> Self {
        // The sum of two 32-bit numbers.
        let tokens = usage.map_or(0, |usage| usage.tokens() as i64);
        Self { requests: 1, tokens, amount }
    }

    fn of(self, kind: QuotaType) -> i64 {
        match kind {
            QuotaType::Requests => self.requests,
            QuotaType::Tokens => self.tokens,
            QuotaType::Amount => self.amount.micros(),
        }
    }
}

impl std::ops::Sub for Take {
    type Output = Take;

    fn sub(self, other: Take) -> Take {
        Take {
            requests: self.requests - other.requests,
            tokens: self.tokens - other.tokens,
            amount: self.amount.minus(other.amount),
        }
    }
}

impl KeyQuota {
    /// What is taken in the current period. Where the clock of another server is ahead,
    /// its period has begun for all.
    pub fn used(&self, at: BillingTime) -> i64 {
        if self.day >= at.day || self.period.is_same(self.day, at.day) { self.used } else { 0 }
    }

    pub fn remaining(&self, at: BillingTime) -> i64 {
        self.limit.saturating_sub(self.used(at)).max(0)
    }

    /// Counts what a call of `day` takes or gives back. A period that is over does not
    /// matter any more.
    fn add(&mut self, day: NaiveDate, taken: i64) {
        if !self.period.is_same(self.day, day) {
            if day < self.day {
                return;
            }
            self.used = 0;
        }
        self.day = self.day.max(day);
        self.used = self.used.saturating_add(taken).max(0);
    }
}

/// The quotas of some keys.
pub type KeyQuotas = BTreeMap<(ApiKeyId, QuotaType), KeyQuota>;

/// Whether a call of a key may be made.
///
/// # Errors
/// [`Error::InsufficientQuota`].
pub fn check(quotas: &KeyQuotas, key: &ApiKeyId, take: Take, at: BillingTime) -> Result<(), Error> {
    for kind in QuotaType::ALL {
        if let Some(quota) = quotas.get(&(key.clone(), kind)) {
            let needed = take.of(kind);
            if needed > 0 && needed > quota.remaining(at) {
                return Err(Error::InsufficientQuota(Limit::ApiKey));
            }
        }
    }
    Ok(())
}

/// What a reservation that was made at an instant of a day may still take of a quota of its key;
/// `None` where nothing binds it.
pub fn left(
    quotas: &KeyQuotas,
    key: Option<&ApiKeyId>,
    kind: QuotaType,
    (day, made): (NaiveDate, DateTime<Utc>),
) -> Option<i64> {
    let quota = quotas.get(&(key?.clone(), kind))?;
    // As it is counted: not what is older than the quota, nor to a period that is over.
    let is_over = day < quota.day && !quota.period.is_same(day, quota.day);
    (made >= quota.since && !is_over).then(|| {
        let used = if quota.period.is_same(day, quota.day) { quota.used } else { 0 };
        quota.limit.saturating_sub(used).max(0)
    })
}

/// Counts what a call of a key takes that is made now; tells which quotas that changed.
pub fn count(quotas: &mut KeyQuotas, key: &ApiKeyId, at: BillingTime, take: Take) -> Vec<(ApiKeyId, QuotaType)> {
    change(quotas, key, take, |quota, taken| quota.add(at.day.max(quota.day), taken))
}

/// As [`count`], for the end of a reservation that was made at an instant of a day.
pub fn count_end(
    quotas: &mut KeyQuotas,
    key: &ApiKeyId,
    (day, made): (NaiveDate, DateTime<Utc>),
    take: Take,
) -> Vec<(ApiKeyId, QuotaType)> {
    change(quotas, key, take, |quota, taken| {
        if made >= quota.since {
            quota.add(day, taken);
        }
    })
}

fn change(
    quotas: &mut KeyQuotas,
    key: &ApiKeyId,
    take: Take,
    add: impl Fn(&mut KeyQuota, i64),
) -> Vec<(ApiKeyId, QuotaType)> {
    let mut changed = Vec::new();
    for kind in QuotaType::ALL {
        if let Some(quota) = quotas.get_mut(&(key.clone(), kind))
            && take.of(kind) != 0
        {
            add(quota, take.of(kind));
            changed.push((key.clone(), kind));
        }
    }
    changed
}

/// A quota as it is set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewKeyQuota {
    pub key: ApiKeyId,
    pub kind: QuotaType,
    pub period: Period,
    /// `None` takes the quota away.
    pub limit: Option<i64>,
}

/// Where quotas of keys are set and read.
#[async_trait]
pub trait KeyQuotaStore: Send + Sync + 'static {
    /// Sets a quota from the next call on. What was taken of it before stays taken, where
    /// there was one.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`]: it may be set or not; [`StoreError::Conflict`],
    /// [`StoreError::Failed`].
    async fn set_key_quota(&self, quota: &NewKeyQuota, at: BillingTime) -> Result<(), StoreError>;

    /// The quotas of a key.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`], [`StoreError::Failed`].
    async fn key_quotas(&self, key: &ApiKeyId) -> Result<KeyQuotas, StoreError>;
}

#[cfg(test)]
mod tests;

//! Quotas of API keys: the most requests, tokens or money that the calls of a key may take per day,
//! per month or in total. The hold of a reservation counts as taken. Delivered work counts even
//! beyond the quota.

use std::{collections::BTreeMap, fmt, str::FromStr};

use async_trait::async_trait;
use chrono::{DateTime, NaiveDate, Utc};
use serde_json::json;

use crate::biz::{
    audit_trail::{AuditEvent, AuditedCall},
    values::{
        calendar::{BillingTime, Month},
        error::{self, Error, StoreError},
        ids::ApiKeyId,
        invalid::Invalid,
        limit::Limit,
        money::Money,
        usage::Usage,
    },
};

/// The kind of a quota.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum QuotaType {
    Requests,
    /// The sum of input and output tokens.
    Tokens,
    /// Money taken from the balance, in millionths.
    Amount,
}

impl QuotaType {
    pub const ALL: [Self; 3] = [Self::Requests, Self::Tokens, Self::Amount];

    /// The name in the tables and on the wire.
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

/// The period of a quota, in the billing zone. The used amount starts at zero in each period.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Period {
    Day,
    Month,
    /// One period without an end.
    Total,
}

impl Period {
    pub const ALL: [Self; 3] = [Self::Day, Self::Month, Self::Total];

    /// The name in the tables and on the wire.
    pub fn name(self) -> &'static str {
        match self {
            Self::Day => "day",
            Self::Month => "month",
            Self::Total => "total",
        }
    }

    /// Whether two days are in the same period.
    pub fn is_same(self, one: NaiveDate, other: NaiveDate) -> bool {
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

/// A quota of a key. Requests and tokens are counted, amounts are in millionths.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KeyQuota {
    pub period: Period,
    pub limit: i64,
    pub taken: Taken,
    /// The start of the count; earlier calls do not count.
    pub since: DateTime<Utc>,
    /// The last day on which anything was taken.
    pub day: NaiveDate,
    /// The highest percentage that has fired in the period of `day`. The caches do not keep it.
    pub fired: u8,
    /// Increases with every change of the quota.
    pub version: i64,
}

/// Use of a quota: on the last day with use, in the month of that day, and in total. Each is
/// counted under every period, so that the period of the quota can be changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Taken {
    pub day: i64,
    pub month: i64,
    pub total: i64,
}

impl Taken {
    pub fn of(self, period: Period) -> i64 {
        match period {
            Period::Day => self.day,
            Period::Month => self.month,
            Period::Total => self.total,
        }
    }

    /// With another count of one period.
    pub fn with(mut self, period: Period, taken: i64) -> Self {
        *self.of_mut(period) = taken;
        self
    }

    fn of_mut(&mut self, period: Period) -> &mut i64 {
        match period {
            Period::Day => &mut self.day,
            Period::Month => &mut self.month,
            Period::Total => &mut self.total,
        }
    }
}

/// The instant from which the use in each period is known in full.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KnownSince {
    pub day: DateTime<Utc>,
    pub month: DateTime<Utc>,
    pub total: DateTime<Utc>,
}

impl KnownSince {
    pub fn of(self, period: Period) -> DateTime<Utc> {
        match period {
            Period::Day => self.day,
            Period::Month => self.month,
            Period::Total => self.total,
        }
    }
}

/// The use of each quota of an API key by one call. A negative number gives back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Take {
    pub requests: i64,
    pub tokens: i64,
    pub amount: Money,
}

impl Take {
    /// The amount of one call.
    pub fn call(usage: Option<Usage>, amount: Money) -> Self {
        // The sum of two 32-bit numbers fits.
        let tokens = usage.map_or(0, |usage| usage.tokens() as i64);
        Self::of_tokens(tokens, amount)
    }

    /// The use of one call with this many tokens.
    pub fn of_tokens(tokens: i64, amount: Money) -> Self {
        Self { requests: 1, tokens, amount }
    }

    /// The part that counts toward a quota of `kind`.
    pub fn of(self, kind: QuotaType) -> i64 {
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
    /// The amount used in the current period. If the clock of another server is ahead and has begun
    /// the next period, that period counts for all servers.
    pub fn used(&self, at: BillingTime) -> i64 {
        let is_current = self.day >= at.day || self.period.is_same(self.day, at.day);
        if is_current { self.taken.of(self.period) } else { 0 }
    }

    pub fn remaining(&self, at: BillingTime) -> i64 {
        self.limit.saturating_sub(self.used(at)).max(0)
    }

    /// Counts an amount that a call of `day` takes or gives back. Calls of a past period do not
    /// count.
    fn add(&mut self, day: NaiveDate, taken: i64) {
        for period in Period::ALL {
            let count = self.taken.of_mut(period);
            if !period.is_same(self.day, day) {
                if day < self.day {
                    continue;
                }
                *count = 0;
                if period == self.period {
                    self.fired = 0;
                }
            }
            *count = count.saturating_add(taken).max(0);
        }
        self.day = self.day.max(day);
    }
}

/// Quotas of API keys, by key and type.
pub type KeyQuotas = BTreeMap<(ApiKeyId, QuotaType), KeyQuota>;

/// Checks that a call of a key is within its quotas.
///
/// # Errors
/// [`Error::InsufficientQuota`] with [`Limit::ApiKey`].
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

/// The amount that a reservation, made on `day` at `made`, may still take from a quota of its key;
/// `None` if no quota applies to the reservation.
pub fn left(
    quotas: &KeyQuotas,
    key: Option<&ApiKeyId>,
    kind: QuotaType,
    (day, made): (NaiveDate, DateTime<Utc>),
) -> Option<i64> {
    let quota = quotas.get(&(key?.clone(), kind))?;
    // As in `count_end`: a reservation that is older than the quota, or of a past period, does not
    // count.
    let is_over = day < quota.day && !quota.period.is_same(day, quota.day);
    (made >= quota.since && !is_over).then(|| {
        let used = if quota.period.is_same(day, quota.day) { quota.taken.of(quota.period) } else { 0 };
        quota.limit.saturating_sub(used).max(0)
    })
}

/// Counts a call of a key that is made now. Returns the changed quotas.
pub fn count(quotas: &mut KeyQuotas, key: &ApiKeyId, at: BillingTime, take: Take) -> Vec<(ApiKeyId, QuotaType)> {
    change(quotas, key, take, |quota, taken| quota.add(at.day.max(quota.day), taken))
}

/// As [`count`], for the end of a reservation that was made on `day` at `made`.
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

/// A quota to set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewKeyQuota {
    pub key: ApiKeyId,
    pub kind: QuotaType,
    pub period: Period,
    /// `None` removes the quota.
    pub limit: Option<i64>,
}

impl NewKeyQuota {
    /// The event of a call that sets the quota; `None` if it is the same as `before`, the period and
    /// the limit of the stored one.
    ///
    /// # Errors
    /// [`Error::NotMade`](crate::biz::values::error::Error::NotMade) without the consent of the caller.
    pub fn audited(
        &self,
        call: &AuditedCall,
        before: Option<(Period, i64)>,
        at: BillingTime,
    ) -> error::Result<Option<AuditEvent>> {
        let after = self.limit.map(|limit| (self.period, limit));
        let state = |(period, limit): (Period, i64)| {
            let limit = match self.kind {
                QuotaType::Amount => json!(Money::from_micros(limit).to_string()),
                QuotaType::Requests | QuotaType::Tokens => json!(limit),
            };
            json!({
                "api_key_id": self.key.as_str(),
                "quota_type": self.kind.name(),
                "period": period.name(),
                "limit": limit,
            })
        };
        call.consented((before != after).then(|| call.event(at.utc, None, before.map(state), after.map(state))))
    }
}

/// Stores and reads the quotas of API keys.
#[async_trait]
pub trait KeyQuotaStore: Send + Sync + 'static {
    /// Sets a quota from the next call on, or refuses as [`NewKeyQuota::audited`]. The use of an earlier quota stays. If
    /// the period changes, the use in the new period counts. The alerts of a changed quota begin anew. Writes the event
    /// of `call` with the change. The same quota as before changes nothing.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`]: the outcome is unknown; a repeat is safe.
    /// [`StoreError::Conflict`]: nothing was set. [`StoreError::Failed`].
    async fn set_key_quota(
        &self,
        quota: &NewKeyQuota,
        call: &AuditedCall,
        at: BillingTime,
    ) -> Result<error::Result<()>, StoreError>;

    /// The quotas of a key.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`], [`StoreError::Failed`].
    async fn key_quotas(&self, key: &ApiKeyId) -> Result<KeyQuotas, StoreError>;

    /// Since when the counts of the quotas of a key are known in full.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`], [`StoreError::Failed`].
    async fn known_since(&self, key: &ApiKeyId) -> Result<BTreeMap<QuotaType, KnownSince>, StoreError>;
}

#[cfg(test)]
mod tests;

//! Use by service, model and API key: a rollup of its own, which no charge writes. It is summed from the
//! records behind the charges, and a read brings it up to date first.

pub mod keeper;
pub mod refresh;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use async_trait::async_trait;
use chrono::{DateTime, NaiveDate, Utc};

use super::statistics::DailyUse;
use crate::biz::values::{
    calendar::DaySpan,
    error::StoreError,
    ids::{ApiKeyId, ModelName, ServiceName, UserId},
    money::Money,
};

/// The service, the model and the API key of calls. Empty texts stand for calls without one.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct UseGroup {
    pub service: ServiceName,
    pub model: String,
    pub api_key: String,
}

/// A count of the rollup.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UseCount {
    /// Calls that were charged. The parts of one call that are of one time count once.
    Calls,
    FreeUnits,
    PaidUnits,
    RefundedFree,
    RefundedPaid,
    FreeRecords,
    PaidRecords,
    FreeRefunds,
    PaidRefunds,
    InputTokens,
    CachedInputTokens,
    CacheWriteTokens,
    CacheWrite1hTokens,
    AudioInputTokens,
    OutputTokens,
    ReasoningTokens,
    AudioOutputTokens,
    Images,
}

impl UseCount {
    pub const ALL: [Self; 18] = [
        Self::Calls,
        Self::FreeUnits,
        Self::PaidUnits,
        Self::RefundedFree,
        Self::RefundedPaid,
        Self::FreeRecords,
        Self::PaidRecords,
        Self::FreeRefunds,
        Self::PaidRefunds,
        Self::InputTokens,
        Self::CachedInputTokens,
        Self::CacheWriteTokens,
        Self::CacheWrite1hTokens,
        Self::AudioInputTokens,
        Self::OutputTokens,
        Self::ReasoningTokens,
        Self::AudioOutputTokens,
        Self::Images,
    ];

    /// For people.
    pub fn name(self) -> &'static str {
        match self {
            Self::Calls => "calls",
            Self::FreeUnits => "free units",
            Self::PaidUnits => "paid units",
            Self::RefundedFree => "refunded free units",
            Self::RefundedPaid => "refunded paid units",
            Self::FreeRecords => "free records",
            Self::PaidRecords => "paid records",
            Self::FreeRefunds => "records of free refunds",
            Self::PaidRefunds => "records of paid refunds",
            Self::InputTokens => "input tokens",
            Self::CachedInputTokens => "cached input tokens",
            Self::CacheWriteTokens => "cache write tokens",
            Self::CacheWrite1hTokens => "1h cache write tokens",
            Self::AudioInputTokens => "audio input tokens",
            Self::OutputTokens => "output tokens",
            Self::ReasoningTokens => "reasoning tokens",
            Self::AudioOutputTokens => "audio output tokens",
            Self::Images => "images",
        }
    }
}

/// The sums of a group. Counts are signed, so that a wrong negative number is reported by the audit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct UseSums {
    counts: [i64; UseCount::ALL.len()],
    pub amount: Money,
    pub refunded_amount: Money,
}

impl UseSums {
    pub fn new(counts: [i64; UseCount::ALL.len()], amount: Money, refunded_amount: Money) -> Self {
        Self { counts, amount, refunded_amount }
    }

    pub fn get(&self, count: UseCount) -> i64 {
        self.counts[count as usize]
    }

    pub fn counts(&self) -> [i64; UseCount::ALL.len()] {
        self.counts
    }

    /// The records that these sums are made of.
    pub fn records(&self) -> u64 {
        let kinds = [UseCount::FreeRecords, UseCount::PaidRecords, UseCount::FreeRefunds, UseCount::PaidRefunds];
        kinds.into_iter().map(|kind| u64::try_from(self.get(kind)).unwrap_or(0)).sum()
    }

    /// Each count and amount with its name.
    pub fn named(&self) -> Vec<(&'static str, String)> {
        let counts = UseCount::ALL.into_iter().map(|count| (count.name(), self.get(count).to_string()));
        let amounts = [("amount", self.amount), ("refunded amount", self.refunded_amount)];
        counts.chain(amounts.map(|(name, amount)| (name, amount.to_string()))).collect()
    }

    pub fn add(&mut self, other: &Self) {
        for (count, more) in self.counts.iter_mut().zip(other.counts) {
            *count = count.saturating_add(more);
        }
        self.amount = self.amount.plus(other.amount);
        self.refunded_amount = self.refunded_amount.plus(other.refunded_amount);
    }
}

/// The part of a day that one piece of the rollup sums up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum DayPart {
    /// All of a day with few records.
    Whole,
    /// Five minutes of a day with many; from 1.
    Slice(u16),
}

impl DayPart {
    /// As it is stored.
    pub fn number(self) -> u16 {
        match self {
            Self::Whole => 0,
            Self::Slice(number) => number,
        }
    }

    pub fn from_number(number: u16) -> Self {
        if number == 0 { Self::Whole } else { Self::Slice(number) }
    }
}

/// A day whose rollup does not have all of its records yet, or too many, or has them in slices.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StaleDay {
    pub day: NaiveDate,
    /// The records of the day, as the charges counted them.
    pub recorded: u64,
    /// The records that each part of the rollup has.
    pub rolled: BTreeMap<DayPart, u64>,
    /// The rows of the rollup.
    pub rows: u64,
}

impl StaleDay {
    /// The records that the rollup has.
    pub fn in_all(&self) -> u64 {
        self.rolled.values().sum()
    }

    pub fn is_equal(&self) -> bool {
        self.in_all() == self.recorded
    }

    /// The number of records that the rollup lacks.
    pub fn missing(&self) -> u64 {
        self.recorded.saturating_sub(self.in_all())
    }

    pub fn is_sliced(&self) -> bool {
        self.rolled.keys().any(|part| *part != DayPart::Whole)
    }
}

/// The use to read. Absent fields do not restrict it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UseFilter {
    pub user: UserId,
    pub span: DaySpan,
    pub service: Option<ServiceName>,
    pub model: Option<ModelName>,
    pub api_key: Option<ApiKeyId>,
}

/// The property by which use is grouped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GroupBy {
    Service,
    Model,
    ApiKey,
    Day,
}

impl GroupBy {
    pub const ALL: [Self; 4] = [Self::Service, Self::Model, Self::ApiKey, Self::Day];

    pub fn name(self) -> &'static str {
        match self {
            Self::Service => "service",
            Self::Model => "model",
            Self::ApiKey => "api_key",
            Self::Day => "day",
        }
    }

    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|by| by.name() == name)
    }
}

/// Reads and writes the rollup.
#[async_trait]
pub trait UseStore: Send + Sync + 'static {
    /// The days of `span` on which the rollup and the counts of the charges differ, and those in slices, in
    /// one snapshot, newest first.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`], [`StoreError::Failed`].
    async fn stale_days(&self, user: &UserId, span: DaySpan) -> Result<Vec<StaleDay>, StoreError>;

    /// The number of a user's records from the first instant to before the second.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`], [`StoreError::Failed`].
    async fn count_between(&self, user: &UserId, between: (DateTime<Utc>, DateTime<Utc>)) -> Result<u64, StoreError>;

    /// The time of the newest of these records.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`], [`StoreError::Failed`].
    async fn newest_between(
        &self,
        user: &UserId,
        between: (DateTime<Utc>, DateTime<Utc>),
    ) -> Result<Option<DateTime<Utc>>, StoreError>;

    /// The sums of these records by group, in one snapshot.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`], [`StoreError::Failed`].
    async fn sums_between(
        &self,
        user: &UserId,
        between: (DateTime<Utc>, DateTime<Utc>),
    ) -> Result<Vec<(UseGroup, UseSums)>, StoreError>;

    /// Replaces a part of a day of the rollup, in one transaction. The whole day replaces every part, and
    /// a slice the whole day too.
    ///
    /// # Errors
    /// [`StoreError::Conflict`]: nothing was written; [`StoreError::Unavailable`], [`StoreError::Failed`].
    async fn replace(
        &self,
        user: &UserId,
        place: (NaiveDate, DayPart),
        groups: &[(UseGroup, UseSums)],
    ) -> Result<(), StoreError>;

    /// Replaces the slices of a day by their sum, the whole day, in one transaction.
    ///
    /// # Errors
    /// [`StoreError::Conflict`]: nothing was written; [`StoreError::Unavailable`], [`StoreError::Failed`].
    async fn fold(&self, user: &UserId, day: NaiveDate) -> Result<(), StoreError>;

    /// The sums of each value of `by` behind `after`, in the order of the values, at most `limit`.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`], [`StoreError::Failed`].
    async fn grouped(
        &self,
        filter: &UseFilter,
        by: GroupBy,
        after: Option<&str>,
        limit: u32,
    ) -> Result<Vec<(String, UseSums)>, StoreError>;

    /// The days with use, ordered by service and day.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`], [`StoreError::Failed`].
    async fn daily_of(&self, filter: &UseFilter) -> Result<Vec<DailyUse>, StoreError>;
}

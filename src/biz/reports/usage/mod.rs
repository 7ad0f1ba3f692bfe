//! Use by service, model and API key: a rollup of its own, which no charge writes. It is summed from the
//! records behind the charges, and a read brings it up to date first.

pub mod budget;
pub mod keeper;
mod parts;
pub mod refresh;
#[cfg(test)]
mod tests;

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

/// The use of a model by all users on a day.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModelUse {
    pub model: ModelName,
    /// The entries that are in the sums. An entry has one user, service, model, API key and part of the day.
    pub entries: u64,
    pub sums: UseSums,
}

/// A part of a day whose records are summed. Its rows never change: new sums are a new part.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Part {
    /// The version of the day that has written it. Its rows have this number.
    pub id: u64,
    /// The first millisecond of the day, and the first one after the part.
    pub from: u32,
    pub until: u32,
    pub records: u64,
    pub rows: u64,
}

/// The parts of a day, and the number of its records, in one snapshot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UseDay {
    pub day: NaiveDate,
    /// The records of the day, as the charges counted them.
    pub recorded: u64,
    /// Each change adds one; 0 before the first.
    pub version: u64,
    /// In order, without overlaps. `None`: damaged, to be summed anew.
    pub parts: Option<Vec<Part>>,
}

impl UseDay {
    /// The records that the parts have.
    pub fn in_all(&self) -> u64 {
        self.parts().iter().map(|part| part.records).sum()
    }

    pub fn parts(&self) -> &[Part] {
        self.parts.as_deref().unwrap_or_default()
    }

    pub fn is_equal(&self) -> bool {
        self.parts.is_some() && self.in_all() == self.recorded
    }

    /// The number of records that are not in the parts for certain. Of parts with too many, none is certain.
    pub fn missing(&self) -> u64 {
        match self.recorded.checked_sub(self.in_all()) {
            Some(missing) if self.parts.is_some() => missing,
            _ => self.recorded.max(1),
        }
    }
}

/// The number of records that some days lack.
pub fn missing_in(days: &[UseDay]) -> u64 {
    days.iter().map(UseDay::missing).sum()
}

/// A change of the parts of a day. It holds only for the version that it was made from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DayChange {
    pub day: NaiveDate,
    /// Before the change.
    pub version: u64,
    /// After the change; `None`: to be summed anew.
    pub parts: Option<Vec<Part>>,
    /// The parts whose rows go.
    pub removed: Vec<u64>,
    /// The rows of the new part, whose id is the next version.
    pub added: Vec<(UseGroup, UseSums)>,
}

impl DayChange {
    /// The version after the change.
    pub fn next(&self) -> u64 {
        self.version.saturating_add(1)
    }

    /// The records of all parts after the change; `None` if they are to be summed anew.
    pub fn records(&self) -> Option<u64> {
        self.parts.as_ref().map(|parts| parts.iter().map(|part| part.records).sum())
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
    /// The days of `span` with use, in one snapshot, newest first.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`], [`StoreError::Failed`].
    async fn days(&self, user: &UserId, span: DaySpan) -> Result<Vec<UseDay>, StoreError>;

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

    /// Changes the parts of a day, in one transaction. The first change of a day removes all of its rows.
    ///
    /// # Errors
    /// [`StoreError::Conflict`]: the day has another version, and nothing was written;
    /// [`StoreError::Unavailable`], [`StoreError::Failed`].
    async fn change(&self, user: &UserId, change: DayChange) -> Result<(), StoreError>;

    /// The rows of a part.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`], [`StoreError::Failed`].
    async fn part_sums(&self, user: &UserId, day: NaiveDate, part: u64)
    -> Result<Vec<(UseGroup, UseSums)>, StoreError>;

    /// The ids of some parts that have rows, at most `limit`.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`], [`StoreError::Failed`].
    async fn part_ids(&self, user: &UserId, day: NaiveDate, limit: u32) -> Result<Vec<u64>, StoreError>;

    /// The sums of each value of `by` behind `after`, in the order of the values, at most `limit`; and the
    /// number of records that the days lack, in the same snapshot.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`], [`StoreError::Failed`].
    async fn grouped(
        &self,
        filter: &UseFilter,
        by: GroupBy,
        after: Option<&str>,
        limit: u32,
    ) -> Result<(Vec<(String, UseSums)>, u64), StoreError>;

    /// The days with use, ordered by service and day; and the number of records that the days lack, in the
    /// same snapshot.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`], [`StoreError::Failed`].
    async fn daily_of(&self, filter: &UseFilter) -> Result<(Vec<DailyUse>, u64), StoreError>;

    /// The use of models on a day over all users, as far as it is summed, ordered by name. At most `limit` entries of the
    /// first model are read, and as many of all others.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`], [`StoreError::Failed`].
    async fn use_of_models(
        &self,
        models: &[ModelName],
        day: NaiveDate,
        limit: u32,
    ) -> Result<Vec<ModelUse>, StoreError>;

    /// The number of entries of models on a day; at most `limit` are counted.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`], [`StoreError::Failed`].
    async fn entries_of_models(&self, models: &[ModelName], day: NaiveDate, limit: u32) -> Result<u64, StoreError>;

    /// The models that calls of a day named, over all users, as far as they are summed: the first ones by name, at most
    /// `limit`, and an empty name for calls without one. The cost grows with the number of models.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`], [`StoreError::Failed`].
    async fn models_of(&self, day: NaiveDate, limit: u32) -> Result<Vec<ModelName>, StoreError>;
}

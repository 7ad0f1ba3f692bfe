//! Consumption records, as the front end lists them.

use async_trait::async_trait;
use chrono::{DateTime, Utc};

use crate::biz::values::{
    calendar::DaySpan,
    error::StoreError,
    ids::{ApiKeyId, ModelName, ServiceName, TraceId, UserId},
    money::Money,
    paging::PageStart,
    usage::Usage,
};

/// Where the units of a record came from. The numbers are those of the wire and the tables.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum RecordType {
    Free = 1,
    Balance = 2,
}

impl RecordType {
    pub fn from_number(number: i32) -> Option<Self> {
        match number {
            1 => Some(Self::Free),
            2 => Some(Self::Balance),
            _ => None,
        }
    }
}

/// One line of a user's consumption.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    pub id: String,
    pub service: ServiceName,
    pub kind: RecordType,
    pub amount: Money,
    pub count: u32,
    pub created_at: DateTime<Utc>,
    /// Absent on records older than trace ids.
    pub trace: Option<TraceId>,
    pub api_key: Option<ApiKeyId>,
    pub model: Option<ModelName>,
    pub usage: Option<Usage>,
}

/// Which records to list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RecordFilter {
    pub user: UserId,
    pub service: Option<ServiceName>,
    pub kind: Option<RecordType>,
    pub days: Option<DaySpan>,
}

impl RecordFilter {
    /// Whether records are passed over one by one. Then only the days on which some match
    /// are worth reading.
    pub fn is_narrow(&self) -> bool {
        self.service.is_some() || self.kind.is_some()
    }
}

/// How many records match a filter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Counted {
    pub records: u64,
    /// From the first day on which any does to the last; `None` where none does.
    pub days: Option<DaySpan>,
}

/// Reads records.
#[async_trait]
pub trait RecordStore: Send + Sync + 'static {
    /// At most `limit` records, newest first. `between` bounds their time: from the
    /// first instant until before the second.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`], [`StoreError::Failed`].
    async fn records(
        &self,
        filter: &RecordFilter,
        between: Option<(DateTime<Utc>, DateTime<Utc>)>,
        start: &PageStart,
        limit: u32,
    ) -> Result<Vec<Record>, StoreError>;

    /// How many records match, from the daily rollup.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`], [`StoreError::Failed`].
    async fn count_records(&self, filter: &RecordFilter) -> Result<Counted, StoreError>;
}

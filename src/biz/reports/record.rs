//! Consumption records for the lists of the front end.

use async_trait::async_trait;
use chrono::{DateTime, Utc};

use crate::biz::values::{
    calendar::{DaySpan, Month},
    error::StoreError,
    ids::{ApiKeyId, ModelName, ServiceName, ServiceTier, TraceId, UserId},
    money::Money,
    paging::PageStart,
    usage::Usage,
};

/// The source of a record's units. The numbers are those on the wire and in the tables.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum RecordType {
    Free = 1,
    Balance = 2,
    /// Free units that a refund has given back.
    FreeRefund = 3,
    /// Money that a refund has given back.
    BalanceRefund = 4,
}

impl RecordType {
    pub fn from_number(number: i32) -> Option<Self> {
        match number {
            1 => Some(Self::Free),
            2 => Some(Self::Balance),
            3 => Some(Self::FreeRefund),
            4 => Some(Self::BalanceRefund),
            _ => None,
        }
    }
}

/// One record of a user's consumption.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    pub id: String,
    pub service: ServiceName,
    pub kind: RecordType,
    pub amount: Money,
    pub count: u32,
    pub created_at: DateTime<Utc>,
    /// `None` on records that are older than trace ids.
    pub trace: Option<TraceId>,
    pub api_key: Option<ApiKeyId>,
    /// The model that the call asked for.
    pub model: Option<ModelName>,
    /// The model that its commit names.
    pub served_model: Option<ModelName>,
    /// The tier of service that priced it.
    pub service_tier: Option<ServiceTier>,
    pub usage: Option<Usage>,
    /// The closed month to which it would have counted. It counts to the month of its own time.
    pub late_of: Option<Month>,
}

/// The records to list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RecordFilter {
    pub user: UserId,
    pub service: Option<ServiceName>,
    pub kind: Option<RecordType>,
    pub days: Option<DaySpan>,
    pub model: Option<ModelName>,
    pub api_key: Option<ApiKeyId>,
}

impl RecordFilter {
    /// All records of a user in some days; of all days for `None`.
    pub fn of_days(user: &UserId, days: Option<DaySpan>) -> Self {
        Self { user: user.clone(), service: None, kind: None, days, model: None, api_key: None }
    }

    /// Whether the filter asks for properties of calls, which the tables of records do not have.
    pub fn is_of_calls(&self) -> bool {
        self.model.is_some() || self.api_key.is_some()
    }

    /// Whether a record has the properties that the filter asks for, apart from its day.
    pub fn has(&self, record: &Record) -> bool {
        (self.model.is_none() || self.model == record.model)
            && (self.api_key.is_none() || self.api_key == record.api_key)
            && self.service.as_ref().is_none_or(|service| *service == record.service)
            && self.kind.is_none_or(|kind| kind == record.kind)
    }

    /// Whether the filter skips records of a day. Then the query is limited to the days on which some
    /// records match.
    pub fn is_narrow(&self) -> bool {
        self.service.is_some() || self.kind.is_some() || self.is_of_calls()
    }
}

/// The number of records that match a filter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Counted {
    pub records: u64,
    /// The first and last day with a match; `None` without a match.
    pub days: Option<DaySpan>,
}

/// Reads records.
#[async_trait]
pub trait RecordStore: Send + Sync + 'static {
    /// At most `limit` records, newest first. `between` bounds their time: the first instant is
    /// included, the second excluded. The properties of calls are not filtered, see
    /// [`RecordFilter::has`].
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

    /// Counts the records that match, from the daily rollup. The properties of calls are not filtered.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`], [`StoreError::Failed`].
    async fn count_records(&self, filter: &RecordFilter) -> Result<Counted, StoreError>;
}

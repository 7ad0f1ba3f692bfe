//! Seals as they are stored, and the reads and writes that they need.

use std::collections::BTreeMap;

use async_trait::async_trait;
use chrono::{DateTime, NaiveDate, Utc};
use sha2::{Digest, Sha256};

use super::content::{Content, Figures, HistoryRow, Kind, hex};
pub use crate::biz::account::users::END;
use crate::biz::{
    account::users::UserSpan,
    jobs::audit::books::{AuditStore, DifferingTransaction, Evidence},
    values::{
        calendar::{Calendar, Month},
        error::StoreError,
        ids::UserId,
        money::Money,
    },
};

/// Most users that are read together.
pub const USERS_AT_ONCE: usize = 1_000;

/// The begin of the unsealed history of an account.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Since {
    pub at: DateTime<Utc>,
    pub day: NaiveDate,
}

impl Since {
    /// Before all history. Databases have no earlier times.
    pub const BEGINNING: Self =
        match (NaiveDate::from_ymd_opt(1000, 1, 1), DateTime::from_timestamp(-30_610_224_000, 0)) {
            (Some(day), Some(at)) => Self { at, day },
            _ => Self { at: DateTime::UNIX_EPOCH, day: NaiveDate::MIN },
        };

    /// After all history.
    pub const END: DateTime<Utc> = match DateTime::from_timestamp(253_370_764_800, 0) {
        Some(at) => at,
        None => DateTime::<Utc>::MAX_UTC,
    };

    /// The end of a sealed month.
    pub fn end_of(month: Month, calendar: &Calendar) -> Self {
        Self::begin_of(month.next().first_day(), calendar)
    }

    pub fn begin_of(day: NaiveDate, calendar: &Calendar) -> Self {
        Self { at: calendar.start_of(day), day }
    }
}

/// The last seal of an account.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sealed {
    /// The last sealed month, and its end.
    pub month: Month,
    pub since: Since,
    /// The version of the account before its history was read.
    pub version: i64,
    pub figures: Figures,
    pub seal: String,
}

/// An account that may have changed since its last seal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Changed {
    pub user: UserId,
    pub version: i64,
    /// `None` also if the last seal is lost.
    pub sealed: Option<Sealed>,
    /// Whether the account has seals, but not the row of the last one.
    pub has_lost_seal: bool,
}

impl Changed {
    pub fn since(&self) -> Since {
        self.sealed.as_ref().map_or(Since::BEGINNING, |sealed| sealed.since)
    }

    /// Some accounts by the begin of their unsealed history. Nearly all have the same.
    pub fn by_begin<'c>(accounts: impl IntoIterator<Item = &'c Self>) -> BTreeMap<Since, Vec<&'c Self>> {
        let mut by_begin: BTreeMap<Since, Vec<&Self>> = BTreeMap::new();
        for account in accounts {
            by_begin.entry(account.since()).or_default().push(account);
        }
        by_begin
    }
}

/// A stored seal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredSeal {
    pub user: UserId,
    pub month: Month,
    pub content: String,
    pub balance: Money,
    pub seal: String,
}

/// A new seal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewSeal {
    pub user: UserId,
    pub sealed: Sealed,
    pub content: String,
}

/// The hash of a seal, with that of the seal before it.
pub fn hash(before: &str, user: &UserId, month: Month, content: &Content) -> String {
    let Figures { balance, charged, given_back, given_back_count } = content.figures;
    let content = content.stored();
    let text =
        format!("{before}\n{user}\n{month}\n{content}\n{balance}\n{charged}\n{given_back}\n{given_back_count}\n");
    hex(&Sha256::digest(text))
}

/// A page of the history of some users: the rows of one kind from `from` to before `until`. At the time `from`, only
/// those behind `after_id`.
#[derive(Debug, Clone, Copy)]
pub struct HistoryPage<'p> {
    pub users: &'p [UserId],
    pub from: DateTime<Utc>,
    pub after_id: &'p str,
    pub until: DateTime<Utc>,
    pub limit: u32,
}

/// What is not proven about some users.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Unproven {
    /// The end of their last seal.
    pub sums: Since,
    /// The begin of the records that were not yet compared with the daily rollup; not before `sums`.
    pub records: Since,
}

/// The books of some users, with the history since their last seal.
#[derive(Debug, Default)]
pub struct Unsealed {
    /// The sums of the records are those of the daily rollup since the seal. Their transactions and those of refunds
    /// are compared one by one instead of in sum.
    pub evidence: Vec<Evidence>,
    /// Users with a daily rollup that differs from the unproven records.
    pub differing: Vec<UserId>,
}

/// The records from a time to before another one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TimeSpan {
    pub from: DateTime<Utc>,
    pub until: DateTime<Utc>,
    /// Whether the compared history goes on beyond the span.
    pub is_part: bool,
}

/// The trace ids behind `after`, up to and including `last`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TraceSpan {
    pub after: String,
    pub last: String,
}

impl TraceSpan {
    /// All trace ids behind `after`; it may be empty.
    pub fn behind(after: String) -> Self {
        Self { after, last: END.to_owned() }
    }
}

/// Reads the history of accounts, and stores their seals.
///
/// The reads return [`StoreError::Unavailable`] and [`StoreError::Failed`].
#[async_trait]
pub trait SealStore: AuditStore {
    /// The accounts of a span without a seal, or that may have changed since their seals: with another version
    /// or balance, with holds, with a record after the sealed month, or written since its end.
    async fn changed_accounts(&self, users: &UserSpan) -> Result<Vec<Changed>, StoreError>;

    /// The number of seals in a span, one for each user with any.
    async fn seal_count(&self, users: &UserSpan) -> Result<u64, StoreError>;

    /// The users of a span with a seal and without an account.
    async fn sealed_without_account(&self, users: &UserSpan) -> Result<Vec<UserId>, StoreError>;

    /// The users of a span with a quota of `month` and without an account.
    async fn quota_without_account(&self, users: &UserSpan, month: Month) -> Result<Vec<UserId>, StoreError>;

    /// The records of some users since a day, as many as the daily rollup has. Users without any are left out.
    async fn unsealed_sizes(&self, users: &[UserId], since: Since) -> Result<Vec<(UserId, u64)>, StoreError>;

    /// The books of some users since their last seal; one snapshot.
    async fn unsealed(&self, users: &[UserId], since: Unproven) -> Result<Unsealed, StoreError>;

    /// The users with a rollup by service, model and API key that differs from the records since `since`; one snapshot.
    async fn differing_use_since(&self, users: &[UserId], since: Since) -> Result<Vec<UserId>, StoreError>;

    /// The first `limit` transactions, by user and trace id, that differ from their records in a span of times; one
    /// snapshot.
    async fn differing_charges(
        &self,
        users: &[UserId],
        times: &TimeSpan,
        limit: u32,
    ) -> Result<Vec<(UserId, DifferingTransaction)>, StoreError>;

    /// The last time of the `count` records of a user behind `from`; `None` if there are fewer.
    async fn time_behind(
        &self,
        user: &UserId,
        from: DateTime<Utc>,
        count: u32,
    ) -> Result<Option<DateTime<Utc>>, StoreError>;

    /// The first `limit` charges of `traces` that were made since `since`, by user and trace id, without their main
    /// record at their time; one snapshot. A charge that was late has its records at another time.
    async fn unrecorded(
        &self,
        users: &[UserId],
        since: Since,
        traces: &TraceSpan,
        limit: u32,
    ) -> Result<Vec<(UserId, DifferingTransaction)>, StoreError>;

    /// Those of `traces`, with their users, that have records since `since`.
    async fn recorded(
        &self,
        users: &[UserId],
        since: Since,
        traces: &[String],
    ) -> Result<Vec<(UserId, String)>, StoreError>;

    /// The trace id of the transaction that is `count` behind `after`; `None` if there are fewer.
    async fn trace_behind(&self, user: &UserId, after: &str, count: u32) -> Result<Option<String>, StoreError>;

    /// A page of the history, in the order of user, time and id.
    async fn history(&self, kind: Kind, page: HistoryPage<'_>) -> Result<Vec<HistoryRow>, StoreError>;

    /// All seals of some users in the order of user and month, and the last seal of each. One snapshot.
    async fn seals(&self, users: &[UserId]) -> Result<(Vec<StoredSeal>, Vec<(UserId, Sealed)>), StoreError>;

    /// Writes seals in one transaction.
    ///
    /// # Errors
    /// [`StoreError::Conflict`] or [`StoreError::Failed`], also if one of the accounts has a seal of its month;
    /// [`StoreError::Unavailable`].
    async fn seal(&self, seals: Vec<NewSeal>, at: DateTime<Utc>) -> Result<(), StoreError>;

    /// The accounts of a span, in key order, whose last seal is gone from the seals, each with its month.
    async fn lost_seals(&self, users: &UserSpan) -> Result<Vec<(UserId, Month)>, StoreError>;

    /// The month up to which all accounts without differences are sealed; `None` before the first whole run.
    async fn all_sealed_up_to(&self) -> Result<Option<Month>, StoreError>;

    /// Stores that month.
    ///
    /// # Errors
    /// [`StoreError::Conflict`], [`StoreError::Unavailable`], [`StoreError::Failed`].
    async fn note_all_sealed(&self, month: Month) -> Result<(), StoreError>;
}

//! Seals as they are stored, and the reads and writes that they need.

use async_trait::async_trait;
use chrono::{DateTime, NaiveDate, Utc};
use sha2::{Digest, Sha256};

use super::content::{Content, Figures, HistoryRow, Kind, hex};
use crate::biz::{
    account::users::UserSpan,
    jobs::audit::books::{AuditStore, Evidence},
    values::{
        calendar::{Calendar, Month},
        error::StoreError,
        ids::UserId,
        money::Money,
    },
};

/// Users that are read together.
pub const USERS_AT_ONCE: usize = 500;

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

    /// The end of a sealed month.
    pub fn end_of(month: Month, calendar: &Calendar) -> Self {
        let day = month.next().first_day();
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
    pub sealed: Option<Sealed>,
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

/// The unsealed history of some users.
#[derive(Debug, Default)]
pub struct Unsealed {
    /// Records are read from the seal on. Their transactions and those of refunds are compared one by one
    /// instead of in sum.
    pub evidence: Vec<Evidence>,
    /// Users with a rollup or transactions that differ from the records.
    pub differing: Vec<UserId>,
}

/// Reads the history of accounts, and keeps their seals.
#[async_trait]
pub trait SealStore: AuditStore {
    /// The accounts of a span without a seal, or that may have changed since their seals: with another version
    /// or balance, with holds, or written since the end of the sealed month.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`], [`StoreError::Failed`].
    async fn changed_accounts(&self, users: &UserSpan) -> Result<Vec<Changed>, StoreError>;

    /// The books of at most [`USERS_AT_ONCE`] users, with the history since their last seal; one snapshot.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`], [`StoreError::Failed`].
    async fn unsealed(&self, users: &[UserId], since: Since) -> Result<Unsealed, StoreError>;

    /// A page of the history, in the order of user, time and id.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`], [`StoreError::Failed`].
    async fn history(&self, kind: Kind, page: HistoryPage<'_>) -> Result<Vec<HistoryRow>, StoreError>;

    /// All seals of some users in the order of user and month, and the last seal of each. One snapshot.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`], [`StoreError::Failed`].
    async fn seals(&self, users: &[UserId]) -> Result<(Vec<StoredSeal>, Vec<(UserId, Sealed)>), StoreError>;

    /// Writes seals in one transaction.
    ///
    /// # Errors
    /// [`StoreError::Failed`], also if one of the accounts has a seal of its month; [`StoreError::Conflict`],
    /// [`StoreError::Unavailable`].
    async fn seal(&self, seals: Vec<NewSeal>, at: DateTime<Utc>) -> Result<(), StoreError>;
}

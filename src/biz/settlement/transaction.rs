//! Transactions: what became of a charge or a reservation, under its trace id.

use std::{fmt, str::FromStr};

use async_trait::async_trait;
use chrono::{DateTime, NaiveDate, Utc};
use uuid::Uuid;

use crate::biz::{
    account::catalog::QuotaUnit,
    charge::{Split, prices::PriceVersion},
    limits::key_quota::Take,
    values::{
        calendar::Month,
        error::StoreError,
        ids::{ApiKeyId, ModelName, ServiceName, TraceId, UserId},
        invalid::Invalid,
        money::Money,
        usage::Usage,
    },
};

/// One charge or reservation, as stored and as answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Transaction {
    pub user: UserId,
    pub trace: TraceId,
    pub content: ChargeContent,
    pub status: Status,
    /// What its units are.
    pub quota_unit: QuotaUnit,
    /// The version of its model's prices that prices it, where no cost was given. A
    /// reservation keeps what was in force at the reserve.
    pub price_version: Option<PriceVersion>,
    /// `None` for a charge made at once, without a hold.
    pub reservation: Option<Reservation>,
    /// What was charged; zeros until it is committed.
    pub free: u32,
    pub paid: u32,
    pub amount: Money,
    /// What a commit did not charge of what was delivered, by the policy of the service.
    pub shortfall: Money,
    /// Of the main record once it is committed; until then it only marks the request
    /// that brought the transaction into its status, or the stream that meters it.
    pub record_id: Uuid,
    /// State of the account right after the charge.
    pub balance_after: Money,
    pub free_remaining_after: u32,
    pub created_at: DateTime<Utc>,
}

impl Transaction {
    pub fn is_committed(&self) -> bool {
        self.status == Status::Committed
    }

    /// What it has charged so far.
    pub fn split(&self) -> Split {
        Split { free: self.free, paid: self.paid, amount: self.amount }
    }

    /// The units that were asked for.
    pub fn units(&self) -> u32 {
        match (self.quota_unit, self.content.usage.or(self.content.estimate)) {
            (QuotaUnit::Tokens, Some(usage)) => u32::try_from(usage.tokens()).unwrap_or(u32::MAX),
            _ => self.content.count,
        }
    }

    /// What it took of the quotas of its API key while it is PENDING: what was expected, or
    /// came already.
    pub fn held_take(&self) -> Take {
        let Some(reservation) = &self.reservation else { return Take::default() };
        let tokens = [self.content.estimate, reservation.reported].into_iter().flatten();
        Take::call(tokens.max_by_key(Usage::tokens), reservation.amount)
    }

    /// The version that its amount follows from, or while it is pending its hold.
    pub fn priced_by(&self) -> Option<&PriceVersion> {
        let delivered = self.reservation.as_ref().and_then(|reservation| reservation.delivered.as_ref());
        let by_tokens = match delivered {
            Some(delivered) => delivered.cost.is_none() && delivered.usage.is_some(),
            None => self.content.cost.is_none(),
        };
        self.price_version.as_ref().filter(|_| by_tokens)
    }
}

/// The states of a transaction.
///
/// A charge is COMMITTED from the start. A reservation is PENDING while it holds
/// something; from there, and from EXPIRED, it can be committed or released. COMMITTED
/// and RELEASED are final, but that a charge by what a stream reported can be added to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Status {
    Pending,
    Committed,
    Released,
    Expired,
}

impl Status {
    /// As in the tables and on the wire.
    pub fn name(self) -> &'static str {
        match self {
            Self::Pending => "PENDING",
            Self::Committed => "COMMITTED",
            Self::Released => "RELEASED",
            Self::Expired => "EXPIRED",
        }
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Status {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        [Self::Pending, Self::Committed, Self::Released, Self::Expired]
            .into_iter()
            .find(|status| status.name() == text)
            .ok_or_else(|| Invalid::new("status", "is unknown"))
    }
}

/// What the reserve fixed, what a stream reported, and what the commit then asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reservation {
    /// Free units and balance that are held, or were. They grow with a stream.
    pub free: u32,
    pub amount: Money,
    /// Of all the reserved units if none were free: the cost as it was expected.
    pub full_cost: Money,
    pub expires_at: DateTime<Utc>,
    /// The billing day of the reserve, which the commit counts to.
    pub day: NaiveDate,
    /// What a stream had delivered when it was last made durable.
    pub reported: Option<Usage>,
    /// Once it is committed.
    pub delivered: Option<Delivered>,
    pub charged_by: ChargedBy,
}

/// What a committed reservation was charged by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ChargedBy {
    #[default]
    Commit,
    /// By what its stream had reported last: who delivered it may know better.
    Report,
    /// By that, and by a commit that knew better.
    Both,
}

impl Reservation {
    /// The month whose free quota it holds.
    pub fn month(&self) -> Month {
        Month::of(self.day)
    }

    /// `usage` with the output that was reported before, if that is more: a stream that
    /// was opened anew may not have got as far yet.
    pub fn with(&self, usage: Usage) -> Usage {
        let before = self.usage().map_or(0, |reported| reported.output_tokens);
        Usage { output_tokens: usage.output_tokens.max(before), ..usage }
    }

    /// What was delivered, or was reported of it so far.
    pub fn usage(&self) -> Option<Usage> {
        self.delivered.as_ref().map_or(self.reported, |delivered| delivered.usage)
    }
}

/// A reservation whose time has come.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Due {
    pub expires_at: DateTime<Utc>,
    pub user: UserId,
    pub trace: TraceId,
    /// Whether it still holds something; it may have ended before its time.
    pub is_pending: bool,
}

/// Where transactions are read.
#[async_trait]
pub trait TransactionStore: Send + Sync + 'static {
    /// # Errors
    /// [`StoreError::Unavailable`], [`StoreError::Failed`].
    async fn transaction(&self, user: &UserId, trace: &TraceId) -> Result<Option<Transaction>, StoreError>;

    /// The reservations that expire at `until` or before and are not forgotten, the
    /// oldest first, from behind `after` on, `limit` at most.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`], [`StoreError::Failed`].
    async fn due(&self, until: DateTime<Utc>, after: Option<&Due>, limit: u32) -> Result<Vec<Due>, StoreError>;

    /// Leaves these, at least one and all of them ended, out of [`Self::due`] from now on.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`], [`StoreError::Failed`].
    async fn forget(&self, ended: &[Due]) -> Result<(), StoreError>;
}

/// The caller's side of a charge or a reserve. A retry must repeat all of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChargeContent {
    pub service: ServiceName,
    pub count: u32,
    /// As requested; what the service asks when absent.
    pub cost: Option<Money>,
    pub api_key: Option<ApiKeyId>,
    pub model: Option<ModelName>,
    pub usage: Option<Usage>,
    /// What a reserve expects.
    pub estimate: Option<Usage>,
}

impl ChargeContent {
    /// The request fields in which two contents differ.
    pub fn differences(&self, other: &ChargeContent) -> Vec<&'static str> {
        let input = |content: &ChargeContent| content.estimate.map(|usage| usage.input_tokens);
        let output = |content: &ChargeContent| content.estimate.map(|usage| usage.output_tokens);
        named([
            ("service_name", self.service != other.service),
            ("count", self.count != other.count),
            ("cost", self.cost != other.cost),
            ("api_key_id", self.api_key != other.api_key),
            ("model", self.model != other.model),
            ("usage", self.usage != other.usage),
            ("estimated_input_tokens", input(self) != input(other)),
            ("estimated_output_tokens", output(self) != output(other)),
        ])
    }
}

/// The caller's side of a commit. A retry must repeat all of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Delivered {
    /// As many as reserved where units are tokens.
    pub count: u32,
    /// As asked.
    pub cost: Option<Money>,
    pub usage: Option<Usage>,
}

impl Delivered {
    /// The request fields in which two contents differ.
    pub fn differences(&self, other: &Delivered) -> Vec<&'static str> {
        named([
            ("count", self.count != other.count),
            ("cost", self.cost != other.cost),
            ("usage", self.usage != other.usage),
        ])
    }
}

fn named<const N: usize>(fields: [(&'static str, bool); N]) -> Vec<&'static str> {
    fields.into_iter().filter_map(|(field, differs)| differs.then_some(field)).collect()
}

//! Transactions: the stored state of a charge or a reservation, by its trace id.

use std::{fmt, str::FromStr};

use async_trait::async_trait;
use chrono::{DateTime, NaiveDate, Utc};
use uuid::Uuid;

use crate::biz::{
    account::catalog::QuotaUnit,
    charge::{Split, prices::PriceVersion, quote::MAX_TOKENS},
    limits::key_quota::Take,
    settlement::refund::{Refunded, RefundedPart, share},
    values::{
        calendar::{Month, Periods},
        error::StoreError,
        ids::{ApiKeyId, ModelName, PlanName, ServiceName, ServiceTier, TraceId, UserId},
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
    /// The unit of its counts.
    pub quota_unit: QuotaUnit,
    /// The price version of its model, used if no cost was given. A reservation pins the version in
    /// force at the reserve.
    pub price_version: Option<PriceVersion>,
    /// The plan of the user at the charge or the reserve; `None` for the default.
    pub plan: Option<PlanName>,
    /// `None` for a charge made at once, without a hold.
    pub reservation: Option<Reservation>,
    /// Charged units and amount; zero until it is committed.
    pub free: u32,
    pub paid: u32,
    pub amount: Money,
    /// The cost of delivered work that a commit did not charge, by the policy of the service.
    pub shortfall: Money,
    /// The id of the main record once it is committed. Until then, the id of the request that set the
    /// status, or of the current stream.
    pub record_id: Uuid,
    /// The sum of its refunds.
    pub refunded: RefundedPart,
    /// State of the account right after the charge.
    pub balance_after: Money,
    pub free_remaining_after: u64,
    pub created_at: DateTime<Utc>,
}

impl Transaction {
    pub fn is_committed(&self) -> bool {
        self.status == Status::Committed
    }

    /// The charge so far.
    pub fn split(&self) -> Split {
        Split { free: self.free, paid: self.paid, amount: self.amount }
    }

    /// The month whose free quota the charge took.
    pub fn charged_month(&self, periods: Periods) -> Month {
        match &self.reservation {
            Some(reservation) => reservation.charged_month(),
            None => periods.at(self.created_at).month,
        }
    }

    /// The amount that a charge takes from the caps and the quotas of its API key: without the refunded
    /// part. It is no call any more once all of its units are refunded.
    pub fn kept(&self) -> Take {
        let units = self.free + self.paid;
        let delivered = self.reservation.as_ref().and_then(|reservation| reservation.delivered.as_ref());
        // The report that a commit without usage took is not stored beyond it. The estimate is, and is
        // at most as much.
        let named = delivered.map_or(self.content.usage, |delivered| delivered.usage);
        let usage = named.filter(|usage| !usage.is_empty()).or(self.content.estimate);
        let tokens = match (self.quota_unit, &self.reservation) {
            (QuotaUnit::Tokens(weights), Some(_)) if weights.counts_all_tokens() => units.into(),
            _ => usage.map_or(0, |usage| i64::try_from(usage.tokens()).unwrap_or(i64::MAX)),
        };
        Take {
            // A call without units has nothing to refund, and stays a call.
            requests: i64::from(units == 0 || self.refunded.units() < units),
            tokens: tokens - share(tokens, self.refunded.units(), units),
            amount: self.amount.minus(self.refunded.amount),
        }
    }

    /// The billing day on which its call counts toward caps and quotas of API keys: the day of the charge or of
    /// the reserve.
    pub fn counted_day(&self, periods: Periods) -> NaiveDate {
        self.reservation.as_ref().map_or_else(|| periods.at(self.created_at).day, |reservation| reservation.day)
    }

    /// The amount that it takes now from the caps and the quotas of its API key: the sum of all that its
    /// settlements counted.
    pub fn taken(&self) -> Take {
        match self.status {
            Status::Pending => self.held_take(),
            Status::Committed => {
                let kept = self.kept();
                Take { tokens: kept.tokens + self.tokens_beyond_kept(), ..kept }
            }
            Status::Released | Status::Expired => Take::default(),
        }
    }

    /// The most that it has taken at any time.
    pub fn most_taken(&self) -> Take {
        let unrefunded = Self { refunded: RefundedPart::default(), ..self.clone() }.taken();
        let held = self.reservation.as_ref().map_or(Money::ZERO, |reservation| reservation.amount);
        let tokens = self.held_tokens().max(self.last_report().unwrap_or(0)).max(unrefunded.tokens);
        Take { requests: 1, tokens, amount: self.amount.max(held) }
    }

    /// Whether a report that is not stored may have set the tokens that it took, if release 0.1.0 settled it. That
    /// release does not keep the report of a stream whose commit named no usage.
    pub fn has_unknown_tokens(&self) -> bool {
        self.is_charged_as_held() && self.last_report().is_none()
    }

    /// The tokens that a commit without usage took beyond [`Self::kept`].
    fn tokens_beyond_kept(&self) -> i64 {
        let estimated = self.content.estimate.map_or(0, |usage| usage.tokens() as i64);
        let reported = self.last_report().filter(|_| self.is_charged_as_held());
        reported.map_or(0, |reported| (reported - estimated).max(0))
    }

    /// Whether it took the held tokens, because its commit named no usage.
    fn is_charged_as_held(&self) -> bool {
        let counts_units = matches!(self.quota_unit, QuotaUnit::Tokens(weights) if weights.counts_all_tokens());
        !counts_units && self.is_charged_without_usage()
    }

    /// Whether its commit named no usage. Release 0.1.0 then counted no tokens.
    pub fn is_charged_without_usage(&self) -> bool {
        let names_usage = |delivered: &Delivered| delivered.usage.is_some_and(|usage| !usage.is_empty());
        self.delivered().is_some_and(|delivered| !names_usage(delivered))
    }

    fn delivered(&self) -> Option<&Delivered> {
        self.reservation.as_ref()?.delivered.as_ref()
    }

    /// The tokens of the last report of its stream.
    fn last_report(&self) -> Option<i64> {
        let reports = self.reservation.as_ref()?.reports?;
        Some(i64::from(reports.input_tokens) + i64::from(reports.output_tokens))
    }

    /// The requested units.
    pub fn units(&self) -> u32 {
        match (self.quota_unit, self.content.usage.or(self.content.estimate)) {
            (QuotaUnit::Tokens(weights), Some(usage)) => {
                // Parts above their whole are refused before a call is stored.
                let units = weights.units(usage).unwrap_or_else(|_| usage.tokens());
                u32::try_from(units).unwrap_or(u32::MAX).min(MAX_TOKENS)
            }
            _ => self.content.count,
        }
    }

    /// The amount that it takes from the quotas of its API key while it is PENDING: the estimate or
    /// the reported usage, the larger one.
    pub fn held_take(&self) -> Take {
        let Some(reservation) = &self.reservation else { return Take::default() };
        Take::of_tokens(self.held_tokens(), reservation.amount)
    }

    fn held_tokens(&self) -> i64 {
        let reported = self.reservation.as_ref().and_then(|reservation| reservation.reported);
        let tokens = [self.content.estimate, reported].into_iter().flatten().map(|usage| usage.tokens());
        tokens.max().and_then(|tokens| i64::try_from(tokens).ok()).unwrap_or(0)
    }

    /// The tokens that a commit of `units` takes from the quotas of its API key. If the free quota
    /// counts all tokens, they are the units. Otherwise they are the delivered tokens or, if the commit
    /// names none, the held ones.
    pub fn taken_tokens(&self, units: u32, usage: Option<Usage>) -> i64 {
        match (self.quota_unit, usage.filter(|usage| !usage.is_empty())) {
            (QuotaUnit::Tokens(weights), _) if weights.counts_all_tokens() => units.into(),
            (_, Some(usage)) => i64::try_from(usage.tokens()).unwrap_or(i64::MAX),
            (_, None) => self.held_tokens(),
        }
    }

    /// The price version of its amount or, while it is pending, of its hold.
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
/// A charge is COMMITTED from the start. A reservation is PENDING while it has a hold. A PENDING or
/// EXPIRED reservation can be committed or released. COMMITTED and RELEASED are final, except that a
/// commit may add to a charge of reported usage.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Status {
    Pending,
    Committed,
    Released,
    Expired,
}

impl Status {
    /// The name in the tables and on the wire.
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

/// The data of the reserve, of the stream's reports and of the commit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reservation {
    /// Held free units and amount, kept after the end too. They grow with a stream.
    pub free: u32,
    pub amount: Money,
    /// The expected cost of all reserved units without free quota.
    pub full_cost: Money,
    pub expires_at: DateTime<Utc>,
    /// The billing day of the reserve. The commit counts to this day, unless its month has closed.
    pub day: NaiveDate,
    /// The day that the commit counts to, if the month of the reserve had closed before it.
    pub late_day: Option<NaiveDate>,
    /// The last stored usage of its stream.
    pub reported: Option<Usage>,
    /// The reports of its stream, kept after its end for those who explain the charge. Nothing is decided by them.
    pub reports: Option<Reports>,
    /// The content of the commit, once it is committed.
    pub delivered: Option<Delivered>,
    pub charged_by: ChargedBy,
}

/// The reports of a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reports {
    /// Those that told more than the one before.
    pub count: u32,
    pub first_at: DateTime<Utc>,
    pub last_at: DateTime<Utc>,
    /// The tokens of the last one.
    pub input_tokens: u32,
    pub output_tokens: u32,
}

impl Reports {
    /// The reports after one more. A repeat changes nothing.
    pub fn after(before: Option<Self>, usage: Usage, at: DateTime<Utc>) -> Self {
        let Usage { input_tokens, output_tokens, .. } = usage;
        match before {
            None => Self { count: 1, first_at: at, last_at: at, input_tokens, output_tokens },
            Some(same) if (same.input_tokens, same.output_tokens) == (input_tokens, output_tokens) => same,
            Some(before) => {
                Self { count: before.count.saturating_add(1), last_at: at, input_tokens, output_tokens, ..before }
            }
        }
    }
}

/// The source of a reservation's charge.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ChargedBy {
    #[default]
    Commit,
    /// The last report of its stream. A later commit may add to the charge.
    Report,
    /// The last report, and a commit that added to it.
    Both,
}

impl Reservation {
    /// The month of the held free quota.
    pub fn month(&self) -> Month {
        Month::of(self.day)
    }

    /// The month whose free quota the charge took.
    pub fn charged_month(&self) -> Month {
        self.late_day.map_or_else(|| self.month(), Month::of)
    }

    /// `usage`, but with at least the output that was reported before. A reopened stream may report
    /// less at first.
    pub fn with(&self, usage: Usage) -> Usage {
        match self.usage() {
            Some(before) if before.output_tokens > usage.output_tokens => usage.with_output_of(before),
            _ => usage,
        }
    }

    /// The delivered usage; before the commit, the reported one.
    pub fn usage(&self) -> Option<Usage> {
        self.delivered.as_ref().map_or(self.reported, |delivered| delivered.usage)
    }
}

/// A reservation past its expiry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Due {
    pub expires_at: DateTime<Utc>,
    pub user: UserId,
    pub trace: TraceId,
    /// Whether it still has a hold. It may have ended before its expiry.
    pub is_pending: bool,
}

/// Reads transactions.
#[async_trait]
pub trait TransactionStore: Send + Sync + 'static {
    /// # Errors
    /// [`StoreError::Unavailable`], [`StoreError::Failed`].
    async fn transaction(&self, user: &UserId, trace: &TraceId) -> Result<Option<Transaction>, StoreError>;

    /// At most `limit` refunds of a charge, oldest first.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`], [`StoreError::Failed`].
    async fn refunds_of(&self, user: &UserId, trace: &TraceId, limit: u32) -> Result<Vec<Refunded>, StoreError>;

    /// At most `limit` reservations that expire at or before `until` and are not forgotten. They
    /// begin after `after`, oldest first.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`], [`StoreError::Failed`].
    async fn due(&self, until: DateTime<Utc>, after: Option<&Due>, limit: u32) -> Result<Vec<Due>, StoreError>;

    /// Excludes ended reservations from [`Self::due`]. `ended` must not be empty.
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
    /// The requested cost; `None` means the price of the service.
    pub cost: Option<Money>,
    pub api_key: Option<ApiKeyId>,
    pub model: Option<ModelName>,
    pub usage: Option<Usage>,
    /// The expected usage of a reserve.
    pub estimate: Option<Usage>,
    pub service_tier: Option<ServiceTier>,
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
            ("service_tier", self.service_tier != other.service_tier),
        ])
    }
}

/// The caller's side of a commit. A retry must repeat all of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Delivered {
    /// Delivered units; the reserved ones if units are tokens.
    pub count: u32,
    /// The requested cost.
    pub cost: Option<Money>,
    pub usage: Option<Usage>,
    /// The tier of service in place of that of the reserve.
    pub service_tier: Option<ServiceTier>,
    /// The model that served the call in place of that of the reserve.
    pub model: Option<ModelName>,
}

impl Delivered {
    /// The request fields in which two contents differ.
    pub fn differences(&self, other: &Delivered) -> Vec<&'static str> {
        named([
            ("count", self.count != other.count),
            ("cost", self.cost != other.cost),
            ("usage", self.usage != other.usage),
            ("service_tier", self.service_tier != other.service_tier),
            ("model", self.model != other.model),
        ])
    }
}

fn named<const N: usize>(fields: [(&'static str, bool); N]) -> Vec<&'static str> {
    fields.into_iter().filter_map(|(field, differs)| differs.then_some(field)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_counts_only_if_it_tells_more() {
        let at = |second| DateTime::from_timestamp(second, 0).unwrap();
        let first = Reports::after(None, Usage::of_text(3, 5), at(1));
        assert_eq!((first.count, first.first_at, first.last_at), (1, at(1), at(1)));
        assert_eq!(Reports::after(Some(first), Usage::of_text(3, 5), at(2)), first, "a repeat");
        let second = Reports::after(Some(first), Usage::of_text(3, 6), at(3));
        assert_eq!((second.count, second.first_at, second.last_at, second.output_tokens), (2, at(1), at(3), 6));
    }
}

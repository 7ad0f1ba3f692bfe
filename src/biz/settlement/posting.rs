//! What can be posted to an account, and what it answers.

use std::sync::Arc;

use chrono::{DateTime, Utc};
use uuid::Uuid;

use crate::biz::{
    calendar::BillingTime,
    catalog::Catalog,
    error::Error,
    ids::{AdjustmentId, ApiKeyId, ModelName, ServiceName, TraceId, UserId},
    money::Money,
    record::Usage,
};

/// One change of one account.
#[derive(Debug, Clone)]
pub enum Posting {
    /// Nothing but the account itself, which every posting opens when it is new.
    Open(UserId),
    Charge(Charge),
    Adjust(Adjustment),
}

impl Posting {
    pub fn user(&self) -> &UserId {
        match self {
            Posting::Open(user) => user,
            Posting::Charge(charge) => &charge.user,
            Posting::Adjust(adjustment) => &adjustment.user,
        }
    }
}

/// A call to pay for.
#[derive(Debug, Clone)]
pub struct Charge {
    pub user: UserId,
    pub trace: TraceId,
    /// What makes two requests with one trace id the same.
    pub content: ChargeContent,
    /// Of all units if none were free.
    pub full_cost: Money,
    /// Given before the first attempt, so that a charge that committed unnoticed
    /// is recognised as this very one, and not as an earlier request's.
    pub record_ids: RecordIds,
}

/// The caller's side of a charge. A retry must repeat all of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChargeContent {
    pub service: ServiceName,
    pub count: u32,
    /// As requested; the service's price when absent.
    pub cost: Option<Money>,
    pub api_key: Option<ApiKeyId>,
    pub model: Option<ModelName>,
    pub usage: Option<Usage>,
}

impl ChargeContent {
    /// The request fields in which two contents differ.
    pub fn differences(&self, other: &ChargeContent) -> Vec<&'static str> {
        [
            ("service_name", self.service != other.service),
            ("count", self.count != other.count),
            ("cost", self.cost != other.cost),
            ("api_key_id", self.api_key != other.api_key),
            ("model", self.model != other.model),
            ("usage", self.usage != other.usage),
        ]
        .into_iter()
        .filter_map(|(field, differs)| differs.then_some(field))
        .collect()
    }
}

/// Ids for the records of a charge: time-ordered, unique.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RecordIds {
    /// The balance record, or the only one.
    pub main: Uuid,
    /// The free part of a mixed charge.
    pub free_part: Uuid,
}

impl RecordIds {
    pub fn fresh() -> Self {
        Self {
            // The free part comes first in time, as it does in the rule.
            free_part: Uuid::now_v7(),
            main: Uuid::now_v7(),
        }
    }
}

/// An operator's credit or debit.
#[derive(Debug, Clone)]
pub struct Adjustment {
    pub user: UserId,
    pub id: AdjustmentId,
    pub content: AdjustmentContent,
    /// Marks this very request, as [`Charge::record_ids`] does.
    pub request: Uuid,
}

/// The caller's side of an adjustment. A retry must repeat all of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AdjustmentContent {
    /// Above zero credits, below zero debits.
    pub amount: Money,
    pub reason: String,
    pub operator: String,
}

impl AdjustmentContent {
    /// The request fields in which two contents differ.
    pub fn differences(&self, other: &AdjustmentContent) -> Vec<&'static str> {
        [
            ("amount", self.amount != other.amount),
            ("reason", self.reason != other.reason),
            ("operator", self.operator != other.operator),
        ]
        .into_iter()
        .filter_map(|(field, differs)| differs.then_some(field))
        .collect()
    }
}

/// Postings settled together, in arrival order, at one instant.
#[derive(Debug, Clone)]
pub struct Batch {
    pub postings: Vec<Posting>,
    pub at: BillingTime,
    /// For opening the accounts that are new.
    pub catalog: Arc<Catalog>,
}

/// A settled charge, as stored and as answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Transaction {
    pub user: UserId,
    pub trace: TraceId,
    pub content: ChargeContent,
    pub free: u32,
    pub paid: u32,
    pub amount: Money,
    /// Of the main record.
    pub record_id: Uuid,
    /// State of the account right after this charge.
    pub balance_after: Money,
    pub free_remaining_after: u32,
    pub created_at: DateTime<Utc>,
}

/// A settled adjustment, as stored and as answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Adjusted {
    pub user: UserId,
    pub id: AdjustmentId,
    pub content: AdjustmentContent,
    pub request: Uuid,
    pub balance_after: Money,
    pub created_at: DateTime<Utc>,
}

/// What became of a posting. A refusal changed nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    Opened {
        /// Whether the account is new.
        created: bool,
    },
    Charged {
        transaction: Transaction,
        replayed: bool,
    },
    Adjusted {
        adjusted: Adjusted,
        replayed: bool,
    },
    Refused(Error),
}

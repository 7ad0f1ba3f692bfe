//! What can be posted to an account, and what it answers.

use std::sync::Arc;

use chrono::{DateTime, TimeDelta, Utc};
use uuid::Uuid;

use super::{
    lock::LeftOut,
    transaction::{ChargeContent, Transaction},
};
use crate::biz::{
    account::catalog::Catalog,
    charge::{Split, quote::Quote},
    settlement::order::Order,
    values::{
        calendar::BillingTime,
        error::Error,
        ids::{AdjustmentId, OrderId, PaymentId, TraceId, UserId},
        money::Money,
        usage::Usage,
    },
};

/// One change of one account.
#[derive(Debug, Clone)]
pub enum Posting {
    /// Nothing but the account itself, which every posting opens when it is new.
    Open(UserId),
    Charge(Charge),
    Reserve(Reserve),
    Report(Report),
    Commit(Commit),
    Release(Release),
    Expire(Expire),
    Adjust(Adjustment),
    UpdateOrder(OrderUpdate),
}

impl Posting {
    pub fn user(&self) -> &UserId {
        match self {
            Posting::Open(user) => user,
            Posting::Charge(charge) => &charge.user,
            Posting::Reserve(reserve) => &reserve.call.user,
            Posting::Report(report) => &report.user,
            Posting::Commit(commit) => &commit.user,
            Posting::Release(release) => &release.user,
            Posting::Expire(expire) => &expire.user,
            Posting::Adjust(adjustment) => &adjustment.user,
            Posting::UpdateOrder(update) => &update.user,
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
    /// Or why it has no price: the repeat of a call that had one still finds its outcome.
    pub quote: Result<Quote, Error>,
    /// Given before the first attempt, so that a charge that committed unnoticed
    /// is recognised as this very one, and not as an earlier request's.
    pub record_ids: RecordIds,
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

/// A hold for a call that is about to be made.
#[derive(Debug, Clone)]
pub struct Reserve {
    /// The call as expected; its main record id marks this very request.
    pub call: Charge,
    /// How long the hold lasts.
    pub ttl: TimeDelta,
}

/// What a stream has delivered so far, of a reservation that it meters. It makes the
/// hold grow with the stream.
#[derive(Debug, Clone)]
pub struct Report {
    pub user: UserId,
    pub trace: TraceId,
    /// Who reports: [`RecordIds::main`] of the reserve that opened the stream, or the one that
    /// took its place.
    pub stream: Uuid,
    /// Whether it takes the place of any other stream of the reservation, from now on.
    pub takes_over: bool,
    /// `None`: nothing yet. Output that was reported before stays reported.
    pub usage: Option<Usage>,
    /// What the hold should cover, as far as the funds allow. It never shrinks.
    pub target: Option<Usage>,
    /// How long the hold lasts from now on.
    pub ttl: TimeDelta,
}

/// The end of a reservation whose call was delivered.
#[derive(Debug, Clone)]
pub struct Commit {
    pub user: UserId,
    pub trace: TraceId,
    /// Units delivered; as many as reserved when absent. Where units are tokens, `usage` says
    /// how many, and this nothing.
    pub count: Option<u32>,
    /// Of all units if none were free; when absent, what the pinned prices make of `usage`,
    /// and without any the unit cost of the reserve.
    pub cost: Option<Money>,
    pub usage: Option<Usage>,
    /// Tokens that were counted of the output, in place of `usage`. The input is as it was told
    /// or estimated, and so is the output where its stream has reported more: not all of it is
    /// text.
    pub counted_output: Option<u32>,
    /// The stream that says so, if one does: it has to be the one that meters the reservation.
    pub stream: Option<Uuid>,
    /// As [`Charge::record_ids`].
    pub record_ids: RecordIds,
}

/// The end of a reservation whose call delivered nothing.
#[derive(Debug, Clone)]
pub struct Release {
    pub user: UserId,
    pub trace: TraceId,
    /// Marks this very request.
    pub request: Uuid,
}

/// Ends a reservation that nobody ends: what was reported of its stream is charged, unless the
/// policy of its service frees it, and a hold without a report is freed.
#[derive(Debug, Clone)]
pub struct Expire {
    pub user: UserId,
    pub trace: TraceId,
    pub cause: Cause,
    /// As [`Charge::record_ids`].
    pub record_ids: RecordIds,
}

/// Why a reservation is ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Cause {
    /// It is past its expiry; what happens then is the policy of its service.
    Expired,
    /// Its stream broke, and no other took its place. `usage` is what it had delivered.
    Broken { stream: Uuid, usage: Option<Usage> },
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

/// News of a user's top-up order.
#[derive(Debug, Clone)]
pub struct OrderUpdate {
    pub user: UserId,
    pub order: OrderId,
    pub payment_update: PaymentUpdate,
}

/// What payment-service did with a top-up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PaymentUpdate {
    /// It opened a payment, which waits for the user.
    Opened { payment: PaymentId, url: String },
    /// The money is in.
    Paid { payment: PaymentId, amount: Money },
    /// The payment failed, or none could be opened.
    Failed { payment: Option<PaymentId>, amount: Option<Money> },
    /// Nobody paid in time.
    Expired,
}

impl PaymentUpdate {
    /// The payment it is about.
    pub fn payment(&self) -> Option<&PaymentId> {
        match self {
            Self::Opened { payment, .. } | Self::Paid { payment, .. } => Some(payment),
            Self::Failed { payment, .. } => payment.as_ref(),
            Self::Expired => None,
        }
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

impl Batch {
    /// The same batch without the postings of some accounts.
    pub fn without(&self, left_out: &LeftOut) -> Batch {
        let kept = self.postings.iter().filter(|posting| !left_out.contains(posting.user()));
        Batch { postings: kept.cloned().collect(), at: self.at, catalog: self.catalog.clone() }
    }
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

/// What a posting did for the transaction that it answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effect {
    /// The transaction is where it is by it.
    Made,
    /// Nothing: it stood already, by another posting or by the same, when what came of that was
    /// lost and it left no mark of its own.
    Found,
    /// Charged this beyond what stood.
    Added { split: Split, shortfall: Money },
}

impl Effect {
    /// Whether the transaction was settled before it.
    pub fn is_repeat(self) -> bool {
        self != Self::Made
    }
}

/// What became of a posting. A refusal changed nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    Opened {
        /// Whether the account is new.
        created: bool,
    },
    /// Of a charge, a reserve, a commit and a release.
    Settled {
        transaction: Transaction,
        effect: Effect,
    },
    Reported {
        /// PENDING. Where the sweep came first EXPIRED, or COMMITTED by what had been reported,
        /// by a text too: then nothing was kept.
        transaction: Transaction,
        /// The API key has no tokens left for it.
        is_exhausted: bool,
    },
    Ended {
        /// EXPIRED or COMMITTED; `None` where there was nothing to end.
        ended: Option<(Transaction, Effect)>,
    },
    Adjusted {
        adjusted: Adjusted,
        replayed: bool,
    },
    OrderUpdated {
        order: Order,
        /// A repeat changes nothing.
        changed: bool,
    },
    Refused(Error),
}

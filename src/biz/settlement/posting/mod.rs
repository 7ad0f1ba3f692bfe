//! Postings to an account, and their outcomes.

mod payments;

use std::sync::Arc;

use chrono::{DateTime, TimeDelta, Utc};
use sha2::{Digest, Sha256};
use uuid::{Builder, Uuid};

pub use self::payments::{
    OrderRefundRequest, OrderRefundUpdate, OrderUpdate, PaymentCredit, PaymentUpdate, RefundEvent, ReportedRefund,
    UNAPPLIED_PREFIX,
};
use super::{
    lock::LeftOut,
    transaction::{ChargeContent, Transaction},
};
use crate::biz::{
    account::catalog::Catalog,
    audit_trail::AuditedCall,
    charge::{
        Split,
        prices::PriceBook,
        quote::{Quote, Tariff},
    },
    events::alerts::Alerts,
    settlement::{
        order::Order,
        order_refund::OrderRefund,
        refund::{RefundContent, Refunded},
        unapplied::UnappliedPayment,
    },
    values::{
        account_status::AccountStatus,
        calendar::{BillingTime, Periods},
        error::Error,
        ids::{AdjustmentId, ModelName, OrderId, PaymentId, PlanName, RefundId, ServiceTier, TraceId, UserId},
        money::Money,
        usage::Usage,
    },
};

/// One change of one account.
#[derive(Debug, Clone)]
pub enum Posting {
    /// Opens the account. Every other posting of a new user does so too.
    Open(Opening),
    Charge(Charge),
    Reserve(Reserve),
    Report(Report),
    Commit(Commit),
    Release(Release),
    Expire(Expire),
    Adjust(Adjustment),
    Refund(Refund),
    UpdateOrder(OrderUpdate),
    RefundOrder(OrderRefundRequest),
    UpdateOrderRefund(OrderRefundUpdate),
    CreditPayment(PaymentCredit),
    SetStatus(StatusChange),
    SetPlan(PlanChange),
    SetAlerts(AlertsChange),
    /// Notes that a check was refused for money.
    NoteRefusal(RefusedCall),
}

impl Posting {
    pub fn user(&self) -> &UserId {
        match self {
            Posting::Open(opening) => &opening.user,
            Posting::Charge(charge) => &charge.user,
            Posting::Reserve(reserve) => &reserve.call.user,
            Posting::Report(report) => &report.user,
            Posting::Commit(commit) => &commit.user,
            Posting::Release(release) => &release.user,
            Posting::Expire(expire) => &expire.user,
            Posting::Adjust(adjustment) => &adjustment.user,
            Posting::Refund(refund) => &refund.user,
            Posting::UpdateOrder(update) => &update.user,
            Posting::RefundOrder(request) => &request.user,
            Posting::UpdateOrderRefund(update) => &update.user,
            Posting::CreditPayment(credit) => &credit.user,
            Posting::SetStatus(change) => &change.user,
            Posting::SetPlan(change) => &change.user,
            Posting::SetAlerts(change) => &change.user,
            Posting::NoteRefusal(refused) => &refused.call.user,
        }
    }

    /// The order that the posting changes.
    pub fn order(&self) -> Option<&OrderId> {
        match self {
            Posting::UpdateOrder(update) => Some(&update.order),
            Posting::RefundOrder(request) => Some(&request.content.order),
            Posting::UpdateOrderRefund(update) => Some(&update.order),
            _ => None,
        }
    }

    /// The stop of a stream that the posting carries.
    pub fn stop(&self) -> Option<Stop> {
        match self {
            Posting::Report(report) => report.stop,
            Posting::Commit(commit) => commit.stop,
            Posting::Expire(Expire { cause: Cause::Broken { stop, .. }, .. }) => *stop,
            _ => None,
        }
    }

    /// The call of an operator that makes the posting. An opening has none: it changes nothing that is there.
    pub fn call(&self) -> Option<&AuditedCall> {
        match self {
            Posting::Adjust(adjustment) => Some(&adjustment.call),
            Posting::Refund(refund) => Some(&refund.call),
            Posting::RefundOrder(request) => Some(&request.call),
            Posting::CreditPayment(credit) => Some(&credit.call),
            Posting::SetStatus(change) => Some(&change.call),
            Posting::SetPlan(change) => Some(&change.call),
            Posting::SetAlerts(change) => Some(&change.call),
            Posting::Open(_)
            | Posting::Charge(_)
            | Posting::Reserve(_)
            | Posting::Report(_)
            | Posting::Commit(_)
            | Posting::Release(_)
            | Posting::Expire(_)
            | Posting::UpdateOrder(_)
            | Posting::UpdateOrderRefund(_)
            | Posting::NoteRefusal(_) => None,
        }
    }

    /// The refund of an order that the posting changes.
    pub fn order_refund(&self) -> Option<&RefundId> {
        match self {
            Posting::RefundOrder(request) => Some(&request.id),
            Posting::UpdateOrderRefund(update) => Some(&update.id),
            _ => None,
        }
    }

    /// The payment that the posting may credit.
    pub fn credited_payment(&self) -> Option<&PaymentId> {
        match self {
            Posting::UpdateOrder(OrderUpdate { payment_update: PaymentUpdate::Paid { payment, .. }, .. }) => {
                Some(payment)
            }
            Posting::CreditPayment(credit) => Some(&credit.payment),
            _ => None,
        }
    }
}

/// The opening of an account.
#[derive(Debug, Clone)]
pub struct Opening {
    pub user: UserId,
    /// The call that opens the account by name; `None` if a read opens it.
    pub call: Option<AuditedCall>,
}

/// The charge of a call.
#[derive(Debug, Clone)]
pub struct Charge {
    pub user: UserId,
    pub trace: TraceId,
    /// Two requests with one trace id are the same request if their contents are equal.
    pub content: ChargeContent,
    /// Whether the work is done. Such a charge is not refused for money, caps or key quotas: the policy
    /// of the service decides about the cost that the balance does not cover.
    pub is_delivered: bool,
    /// The price, or the reason that there is none. Without a price, a repeat of a priced call still
    /// finds its outcome.
    /// Without a plan of the user.
    pub quote: Result<Quote, Error>,
    /// The prices for a user with a plan; `None` if no plan is configured, or if the service is unknown.
    pub tariff: Option<Tariff>,
    /// Set before the first attempt. If an attempt committed with an unknown outcome, the next one
    /// recognises the charge as its own and not as an earlier request's.
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
            // The ids are ordered by time, and the free part comes first.
            free_part: Uuid::now_v7(),
            main: Uuid::now_v7(),
        }
    }
}

/// A hold for a call that is about to be made.
#[derive(Debug, Clone)]
pub struct Reserve {
    /// The expected call. Its main record id identifies this request.
    pub call: Charge,
    /// Lifetime of the hold.
    pub ttl: TimeDelta,
}

/// The usage that a stream has delivered so far for its reservation. The hold grows with it.
#[derive(Debug, Clone)]
pub struct Report {
    pub user: UserId,
    pub trace: TraceId,
    /// The id of the stream: [`RecordIds::main`] of the reserve that opened the stream, or of the
    /// one that took over.
    pub stream: Uuid,
    /// Whether this stream replaces any other stream of the reservation.
    pub takes_over: bool,
    /// `None` before the first delivery. Output that was reported before still counts.
    pub usage: Option<Usage>,
    /// The usage that the hold should cover, as far as the funds allow. The hold never shrinks.
    pub target: Option<Usage>,
    /// Lifetime of the hold from now on.
    pub ttl: TimeDelta,
    /// The stop that subscribers must learn of.
    pub stop: Option<Stop>,
}

/// A stop of a stream: the service has told the gateway that hold and funds are used up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stop {
    /// The id of its event. Several postings may carry the same stop, and only the first one writes the event.
    pub id: Uuid,
    /// Output tokens that were delivered when the gateway was told.
    pub output_tokens: u32,
}

impl Stop {
    /// The stop of a stream with this hold. The same hold gives the same id, so a stream that is opened again and stops
    /// again leaves no second event. The hold grows before the gateway is asked to go on.
    pub fn of(stream: &Transaction, output_tokens: u32) -> Self {
        let held = stream.reservation.as_ref().map(|held| (held.free, held.amount.micros()));
        let (free, amount) = held.unwrap_or_default();
        let mut hash = Sha256::new();
        hash.update(stream.user.as_str());
        // No id has this byte.
        hash.update([0]);
        hash.update(stream.trace.as_str());
        hash.update([0]);
        hash.update(free.to_be_bytes());
        hash.update(amount.to_be_bytes());
        let hash = hash.finalize();
        let mut random = [0; 10];
        random.copy_from_slice(&hash[..10]);
        let millis = u64::try_from(stream.created_at.timestamp_millis()).unwrap_or_default();
        Self { id: Builder::from_unix_timestamp_millis(millis, &random).into_uuid(), output_tokens }
    }
}

/// The end of a reservation whose call was delivered.
#[derive(Debug, Clone)]
pub struct Commit {
    pub user: UserId,
    pub trace: TraceId,
    /// Delivered units; `None` means the reserved ones. If units are tokens, `usage` gives the units
    /// and this field is ignored.
    pub count: Option<u32>,
    /// The cost of all units without free quota. `None` means the cost of `usage` at the pinned
    /// prices or, without pinned prices, the unit cost of the reserve.
    pub cost: Option<Money>,
    pub usage: Option<Usage>,
    /// Output tokens that were counted from a text, in place of `usage`. The input is the reported or
    /// estimated one. If the stream has reported more output, the report counts, because not all
    /// output is text.
    pub counted_output: Option<u32>,
    /// The tier of service, if it was not that of the reserve.
    pub service_tier: Option<ServiceTier>,
    /// The model that served the call, if it was not that of the reserve.
    pub served: Option<Served>,
    /// The stream that commits, if any. It must be the current stream of the reservation.
    pub stream: Option<Uuid>,
    /// As [`Report::stop`].
    pub stop: Option<Stop>,
    /// As [`Charge::record_ids`].
    pub record_ids: RecordIds,
}

/// The model that served a call. Its version in force at the reserve prices the call.
#[derive(Debug, Clone)]
pub struct Served {
    pub model: ModelName,
    pub book: Arc<PriceBook>,
}

/// The end of a reservation whose call delivered nothing.
#[derive(Debug, Clone)]
pub struct Release {
    pub user: UserId,
    pub trace: TraceId,
    /// Id of this request.
    pub request: Uuid,
}

/// The end of a reservation without a commit or release. The reported usage of its stream is charged,
/// unless the policy of the service frees the hold. A hold without a report is freed.
#[derive(Debug, Clone)]
pub struct Expire {
    pub user: UserId,
    pub trace: TraceId,
    pub cause: Cause,
    /// As [`Charge::record_ids`].
    pub record_ids: RecordIds,
}

/// The cause of the end of a reservation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Cause {
    /// The reservation is past its expiry. The policy of its service applies.
    Expired,
    /// Its stream broke, and no other took over. `usage` is the delivered usage; `stop` is as [`Report::stop`].
    Broken { stream: Uuid, usage: Option<Usage>, stop: Option<Stop> },
}

/// An operator's credit or debit.
#[derive(Debug, Clone)]
pub struct Adjustment {
    pub user: UserId,
    pub id: AdjustmentId,
    pub content: AdjustmentContent,
    /// Whether a debit may take the balance below zero, and below the holds.
    pub allow_negative: bool,
    /// Id of this request, with the purpose of [`Charge::record_ids`].
    pub request: Uuid,
    pub call: AuditedCall,
}

/// The caller's side of an adjustment. A retry must repeat all of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AdjustmentContent {
    /// A positive amount is a credit, a negative one a debit.
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

/// A refund of a charge, in whole or in part.
#[derive(Debug, Clone)]
pub struct Refund {
    pub user: UserId,
    pub id: RefundId,
    pub content: RefundContent,
    /// The ids of its records; the main one belongs to the balance, and identifies this request. Set
    /// before the first attempt, as those of a charge.
    pub record_ids: RecordIds,
    pub call: AuditedCall,
}

/// A new status of an account.
#[derive(Debug, Clone)]
pub struct StatusChange {
    pub user: UserId,
    pub status: AccountStatus,
    pub call: AuditedCall,
}

/// A new plan of a user.
#[derive(Debug, Clone)]
pub struct PlanChange {
    pub user: UserId,
    /// `None` for the default.
    pub plan: Option<PlanName>,
    pub call: AuditedCall,
}

/// New alerts of a user.
#[derive(Debug, Clone)]
pub struct AlertsChange {
    pub user: UserId,
    /// `None` for the configured ones.
    pub alerts: Option<Arc<Alerts>>,
    pub call: AuditedCall,
}

/// A call that a check refused for money. The balance may have changed since.
#[derive(Debug, Clone)]
pub struct RefusedCall {
    /// The checked call. Its trace id and its record ids mean nothing.
    pub call: Charge,
}

/// Postings settled together, in arrival order, at one instant.
#[derive(Debug, Clone)]
pub struct Batch {
    pub postings: Vec<Posting>,
    pub at: BillingTime,
    /// The services of new accounts, and the policies of reservations.
    pub catalog: Arc<Catalog>,
    /// The months that have closed.
    pub periods: Periods,
}

impl Batch {
    /// The same batch without the postings of some accounts.
    pub fn without(&self, left_out: &LeftOut) -> Batch {
        let kept = self.postings.iter().filter(|posting| !left_out.contains(posting.user()));
        Batch { postings: kept.cloned().collect(), at: self.at, catalog: self.catalog.clone(), periods: self.periods }
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

/// The effect of a posting on its transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effect {
    /// The posting changed the transaction.
    Applied,
    /// The transaction was already in its state, because of another posting or of an earlier
    /// attempt of this one. The answer to that attempt was lost, and it left no id.
    Unchanged,
    /// The posting charged this in addition to the earlier charge.
    Added { split: Split, shortfall: Money },
}

impl Effect {
    /// Whether the transaction was settled before this posting.
    pub fn is_repeat(self) -> bool {
        self != Self::Applied
    }
}

/// The outcome of a posting. A refused posting changed nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    Opened {
        /// Whether the account is new.
        created: bool,
    },
    /// The outcome of a charge, a reserve, a commit or a release.
    Settled {
        transaction: Transaction,
        effect: Effect,
    },
    Reported {
        /// PENDING if the report was stored. If the reservation had ended before, EXPIRED or, with
        /// a charge of earlier reports, COMMITTED; the report was then not stored.
        transaction: Transaction,
        /// Whether the API key has no tokens left for the reservation.
        is_exhausted: bool,
    },
    Ended {
        /// The ended reservation, EXPIRED or COMMITTED; `None` if there was none to end.
        ended: Option<(Transaction, Effect)>,
    },
    Adjusted {
        adjusted: Adjusted,
        replayed: bool,
    },
    Refunded {
        refunded: Refunded,
        replayed: bool,
    },
    OrderUpdated {
        order: Order,
        /// False for a repeat, which changes nothing.
        changed: bool,
    },
    OrderRefunded {
        refund: OrderRefund,
        order: Order,
        /// False for a repeat, which changes nothing.
        changed: bool,
    },
    PaymentCredited {
        payment: UnappliedPayment,
        /// False for a repeat, which changes nothing.
        changed: bool,
    },
    StatusSet {
        /// False if the account had the status already, and nothing changed.
        changed: bool,
    },
    PlanSet {
        /// False if the user had the plan already, and nothing changed.
        changed: bool,
    },
    AlertsSet {
        /// False if the user had the alerts already, and nothing changed.
        changed: bool,
    },
    /// A refused check was noted, if the account is still short of money.
    RefusalNoted,
    Refused(Error),
}

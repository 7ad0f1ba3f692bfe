//! Converts answers and stored rows of the service to the values of the model.

use std::collections::BTreeMap;

use chrono::Datelike;
use uuid::Uuid;

use super::{
    model::{Answer, Call, Entry, Model, Moment, OrderRefundState, OrderState, State, Step, Tokens},
    postings::{service, stream_id, version_id},
};
use crate::biz::{
    reports::record::{Record, RecordType},
    settlement::{
        order::{Order, OrderStatus},
        order_refund::RefundStatus,
        posting::Outcome,
        transaction::{Status, Transaction},
    },
    values::{calendar::Month, error::Error, ids::ServiceName, usage::Usage},
};

fn tokens(usage: Usage) -> Tokens {
    Tokens {
        input: usage.input_tokens,
        cached: usage.cached_input_tokens,
        output: usage.output_tokens,
        reasoning: usage.reasoning_tokens,
    }
}

pub fn answer(step: &Step, outcome: &Outcome) -> Answer {
    match (step, outcome) {
        (Step::Charge { .. } | Step::Commit(_), Outcome::Settled { transaction, effect }) => {
            charged(transaction, effect.is_repeat())
        }
        (Step::Reserve { .. }, Outcome::Settled { transaction, effect }) => {
            let held = transaction.reservation.as_ref().unwrap();
            Answer::Held { free: held.free, amount: held.amount.micros(), replayed: effect.is_repeat() }
        }
        (Step::Report(_), Outcome::Reported { transaction, is_exhausted }) => {
            if transaction.status != Status::Pending {
                return Answer::RanOut;
            }
            let held = transaction.reservation.as_ref().unwrap();
            Answer::Reported {
                free: held.free,
                amount: held.amount.micros(),
                tokens: held.reported.map(tokens),
                expires: held.expires_at.timestamp_micros(),
                is_exhausted: *is_exhausted,
            }
        }
        (Step::Release { .. }, Outcome::Settled { transaction, effect }) => {
            assert_eq!(transaction.status, Status::Released);
            Answer::Released { replayed: effect.is_repeat() }
        }
        (Step::Expire { .. } | Step::Break { .. }, Outcome::Ended { ended }) => match ended {
            None => Answer::NothingToEnd,
            Some((transaction, _)) if transaction.status == Status::Expired => Answer::Freed,
            Some((transaction, _)) => charged(transaction, false),
        },
        (Step::Adjust { .. }, Outcome::Adjusted { adjusted, replayed }) => {
            Answer::Adjusted { balance: adjusted.balance_after.micros(), replayed: *replayed }
        }
        (Step::Refund(_), Outcome::Refunded { refunded, replayed }) => Answer::Refunded {
            free: refunded.free,
            paid: refunded.paid,
            amount: refunded.amount.micros(),
            balance: refunded.balance_after.micros(),
            sum: (refunded.sum.units(), refunded.sum.amount.micros()),
            replayed: *replayed,
        },
        (Step::Order { .. }, Outcome::OrderUpdated { order, changed }) => {
            let (state, payment) = order_state(order);
            Answer::Order { state, payment, changed: *changed }
        }
        (Step::OrderRefund { .. }, Outcome::OrderRefunded { refund, order, changed }) => Answer::OrderRefunded {
            state: order_refund_state(refund.status),
            amount: refund.amount.micros(),
            order: order_state(order).0,
            changed: *changed,
        },
        (Step::CreditPayment { .. }, Outcome::PaymentCredited { changed, .. }) => {
            Answer::PaymentCredited { changed: *changed }
        }
        (Step::SetStatus { .. }, Outcome::StatusSet { changed })
        | (Step::SetPlan { .. }, Outcome::PlanSet { changed })
        | (Step::SetAlerts { .. }, Outcome::AlertsSet { changed }) => Answer::StatusSet { changed: *changed },
        (Step::RefusedCheck { .. }, Outcome::RefusalNoted) => Answer::Noted,
        (_, Outcome::Refused(Error::AccountNotActive(_))) => Answer::NotActive,
        (_, Outcome::Refused(Error::OrderNotFound(_) | Error::PaymentNotFound(_))) => Answer::NotFound,
        (_, Outcome::Refused(Error::AmountMismatch(_))) => Answer::WrongAmount,
        (_, Outcome::Refused(Error::DuplicateRecharge(_))) => Answer::Duplicate,
        (Step::OrderRefund { .. }, Outcome::Refused(Error::PaymentUnavailable(_))) => Answer::NotYet,
        (Step::OrderRefund { .. }, Outcome::Refused(Error::Internal(_))) => Answer::Defect,
        (_, Outcome::Refused(Error::InsufficientQuota(_))) => Answer::Capped,
        (_, Outcome::Refused(Error::InsufficientBalance { .. })) => Answer::Insufficient,
        (_, Outcome::Refused(Error::IdempotencyConflict { .. })) => Answer::Conflict,
        (_, Outcome::Refused(Error::TransactionNotFound(_))) => Answer::NotFound,
        (_, Outcome::Refused(Error::TransactionState(_))) => Answer::WrongState,
        (_, Outcome::Refused(Error::Invalid(_))) => Answer::Invalid,
        other => panic!("{other:?}"),
    }
}

fn charged(transaction: &Transaction, replayed: bool) -> Answer {
    assert_eq!(transaction.status, Status::Committed);
    Answer::Charged {
        free: transaction.free,
        paid: transaction.paid,
        amount: transaction.amount.micros(),
        shortfall: transaction.shortfall.micros(),
        balance: transaction.balance_after.micros(),
        free_left: transaction.free_remaining_after.try_into().unwrap(),
        replayed,
    }
}

pub fn order_state(order: &Order) -> (OrderState, Option<u8>) {
    let state = match order.status {
        OrderStatus::Pending => OrderState::Pending,
        OrderStatus::Success => OrderState::Paid,
        OrderStatus::Failed => OrderState::Failed,
        OrderStatus::Expired => OrderState::Expired,
        OrderStatus::Refunded => OrderState::Refunded,
    };
    (state, order.payment.as_ref().map(|payment| number(payment.as_str())))
}

pub fn order_refund_state(status: RefundStatus) -> OrderRefundState {
    match status {
        RefundStatus::Pending => OrderRefundState::Pending,
        RefundStatus::Success => OrderRefundState::Success,
        RefundStatus::Failed => OrderRefundState::Failed,
    }
}

/// The number at the end of an id of the model.
fn number(id: &str) -> u8 {
    id.trim_start_matches(|last: char| !last.is_ascii_digit()).rsplit('-').next().unwrap().parse().unwrap()
}

/// The stored state of a transaction.
#[derive(Debug, PartialEq, Eq)]
pub struct Stored {
    call: Call,
    made: i64,
    state: State,
    version: Option<String>,
    /// Free units, paid ones, the amount and the shortfall.
    charged: (u32, u32, i64, i64),
    /// Refunded free units, paid ones, and the amount.
    refunded: (u32, u32, i64),
    /// The day of a late charge.
    late_day: Option<i32>,
    /// The hold of a reservation.
    hold: Option<StoredHold>,
    delivered: Option<(u32, Option<i64>)>,
    /// The delivered tokens, or the reported ones.
    tokens: Option<Tokens>,
}

#[derive(Debug, PartialEq, Eq)]
struct StoredHold {
    free: u32,
    amount: i64,
    full: i64,
    expires: i64,
    day: i32,
    /// The last stream of a pending or expired reservation.
    stream: Option<Uuid>,
}

impl From<&Transaction> for Stored {
    fn from(transaction: &Transaction) -> Self {
        let content = &transaction.content;
        let hold = transaction.reservation.as_ref();
        let delivered = hold.and_then(|hold| hold.delivered.as_ref());
        let holds_stream = matches!(transaction.status, Status::Pending | Status::Expired);
        Self {
            call: Call {
                trace: number(transaction.trace.as_str()),
                service: number(content.service.as_str()),
                count: content.count,
                cost: content.cost.map(|cost| cost.micros()),
                keyed: content.api_key.is_some(),
                model: number(content.model.as_ref().unwrap().as_str()),
                tokens: content.usage.or(content.estimate).map(tokens),
            },
            made: transaction.created_at.timestamp_micros(),
            state: match transaction.status {
                Status::Pending => State::Open,
                Status::Committed => State::Committed,
                Status::Released => State::Released,
                Status::Expired => State::Expired,
            },
            version: transaction.price_version.as_ref().map(|version| version.id.to_string()),
            charged: (transaction.free, transaction.paid, transaction.amount.micros(), transaction.shortfall.micros()),
            refunded: {
                let refunded = transaction.refunded;
                (refunded.free, refunded.paid, refunded.amount.micros())
            },
            late_day: hold.and_then(|hold| hold.late_day).map(|day| day.num_days_from_ce()),
            hold: hold.map(|hold| StoredHold {
                free: hold.free,
                amount: hold.amount.micros(),
                full: hold.full_cost.micros(),
                expires: hold.expires_at.timestamp_micros(),
                day: hold.day.num_days_from_ce(),
                stream: holds_stream.then_some(transaction.record_id),
            }),
            delivered: delivered.map(|delivered| (delivered.count, delivered.cost.map(|cost| cost.micros()))),
            tokens: hold.and_then(|hold| hold.usage()).map(tokens),
        }
    }
}

impl From<&Entry> for Stored {
    fn from(entry: &Entry) -> Self {
        let holds_stream = matches!(entry.state, State::Open | State::Expired);
        let reported = entry.hold.as_ref().and_then(|hold| hold.reported);
        Self {
            call: entry.call,
            made: entry.made.micros,
            state: entry.state,
            version: entry.version.map(|(model, place, _)| version_id(model, place)),
            charged: entry.charged(),
            refunded: entry.refunded(),
            late_day: entry.late.map(|late| late.day),
            hold: entry.hold.as_ref().map(|hold| StoredHold {
                free: hold.free,
                amount: hold.amount,
                full: hold.full,
                expires: hold.expires,
                day: entry.made.day,
                stream: holds_stream.then(|| stream_id(entry.call.trace, hold.owner)),
            }),
            delivered: entry.delivered.map(|delivered| (delivered.count, delivered.cost)),
            tokens: entry.delivered.map_or(reported, |delivered| delivered.tokens),
        }
    }
}

/// A line of consumption: the trace, the type of its record, units, amount, tokens, its instant, and
/// the number of the month that it is late of.
pub type Line = (u8, i32, u32, i64, Option<Tokens>, i64, Option<u32>);

pub fn line(record: &Record) -> Line {
    let trace = number(record.trace.as_ref().unwrap().as_str());
    let made = record.created_at.timestamp_micros();
    let late_of = record.late_of.map(month_number);
    (trace, record.kind as i32, record.count, record.amount.micros(), record.usage.map(tokens), made, late_of)
}

/// The expected consumption of an account.
pub fn lines(model: &Model) -> Vec<Line> {
    let (free_kind, paid_kind) = (RecordType::Free as i32, RecordType::Balance as i32);
    let mut lines = Vec::new();
    for (trace, entry) in &model.entries {
        let (free, paid, amount, _) = entry.charged();
        let mut first = (free, paid, amount, entry.late);
        for rest in &entry.rest {
            first = (first.0 - rest.0, first.1 - rest.1, first.2 - rest.2, first.3);
        }
        let parts: Vec<_> = [first].into_iter().chain(entry.rest.iter().copied()).collect();
        let is_paid = |part: &(u32, u32, i64, Option<Moment>)| part.1 > 0 || part.2 > 0;
        // The tokens belong to one line: the paid line, if there is one.
        let main = parts.iter().position(is_paid).unwrap_or(0);
        let taken = entry.delivered.map_or(entry.call.tokens, |delivered| delivered.tokens);
        for (index, part) in parts.iter().enumerate() {
            let &(free, paid, amount, late) = part;
            let at = late.unwrap_or(entry.made).micros;
            let late_of = late.map(|_| entry.made.month);
            let taken = taken.filter(|_| index == main);
            if free > 0 {
                lines.push((*trace, free_kind, free, 0, taken.filter(|_| !is_paid(part)), at, late_of));
            }
            if is_paid(part) {
                lines.push((*trace, paid_kind, paid, amount, taken, at, late_of));
            }
        }
        for refund in &entry.refunds {
            let late_of = refund.is_late.then(|| entry.charged_at().month);
            if refund.free > 0 {
                let kind = RecordType::FreeRefund as i32;
                lines.push((*trace, kind, refund.free, 0, None, refund.at.micros, late_of));
            }
            if refund.paid > 0 || refund.amount > 0 {
                let kind = RecordType::BalanceRefund as i32;
                lines.push((*trace, kind, refund.paid, refund.amount, None, refund.at.micros, late_of));
            }
        }
    }
    lines.sort_unstable();
    lines
}

/// Units and money of a day: free units, paid ones, the amount; refunded units and their amount.
type Day = (u64, u64, i64, u64, i64);

/// The expected rollup of an account, by day and service.
pub fn days(model: &Model) -> BTreeMap<(i32, ServiceName), Day> {
    let mut days = BTreeMap::new();
    for entry in model.entries.values().filter(|entry| entry.state == State::Committed) {
        let (free, paid, amount, _) = entry.charged();
        let mut first = (free, paid, amount);
        let mut add = |day: i32, more: Day| {
            let totals: &mut Day = days.entry((day, service(entry.call.service))).or_default();
            *totals = (totals.0 + more.0, totals.1 + more.1, totals.2 + more.2, totals.3 + more.3, totals.4 + more.4);
        };
        for (free, paid, amount, late) in entry.rest.iter().filter(|rest| rest.3.is_some()) {
            first = (first.0 - free, first.1 - paid, first.2 - amount);
            // An addition without units and amount writes no record.
            if *free + *paid > 0 || *amount > 0 {
                add(late.unwrap_or(entry.made).day, ((*free).into(), (*paid).into(), *amount, 0, 0));
            }
        }
        add(entry.charged_at().day, (first.0.into(), first.1.into(), first.2, 0, 0));
        for refund in &entry.refunds {
            if refund.free + refund.paid > 0 || refund.amount > 0 {
                add(refund.at.day, (0, 0, 0, (refund.free + refund.paid).into(), refund.amount));
            }
        }
    }
    days
}

fn month_number(month: Month) -> u32 {
    let first = month.first_day();
    u32::try_from(first.year()).unwrap() * 12 + first.month0()
}

//! Converts answers and stored rows of the service to the values of the model.

use chrono::Datelike;
use uuid::Uuid;

use super::{
    model::{Answer, Call, Entry, Model, OrderState, State, Step, Tokens},
    postings::{stream_id, version_id},
};
use crate::biz::{
    reports::record::{Record, RecordType},
    settlement::{
        order::{Order, OrderStatus},
        posting::Outcome,
        transaction::{Status, Transaction},
    },
    values::{error::Error, usage::Usage},
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
        (Step::Charge(_) | Step::Commit(_), Outcome::Settled { transaction, effect }) => {
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
        (Step::Order { .. }, Outcome::OrderUpdated { order, changed }) => {
            let (state, payment) = order_state(order);
            Answer::Order { state, payment, changed: *changed }
        }
        (Step::SetStatus { .. }, Outcome::StatusSet { changed })
        | (Step::SetPlan { .. }, Outcome::PlanSet { changed }) => Answer::StatusSet { changed: *changed },
        (_, Outcome::Refused(Error::AccountNotActive(_))) => Answer::NotActive,
        (Step::Order { .. }, Outcome::Refused(Error::OrderNotFound(_))) => Answer::NotFound,
        (Step::Order { .. }, Outcome::Refused(Error::AmountMismatch(_))) => Answer::WrongAmount,
        (Step::Order { .. }, Outcome::Refused(Error::DuplicateRecharge(_))) => Answer::Duplicate,
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
    };
    (state, order.payment.as_ref().map(|payment| number(payment.as_str())))
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

/// A line of consumption: the trace, whether it was paid, units, amount, tokens, and the instant of
/// the call.
pub type Line = (u8, bool, u32, i64, Option<Tokens>, i64);

pub fn line(record: &Record) -> Line {
    let is_paid = record.kind == RecordType::Balance;
    let trace = number(record.trace.as_ref().unwrap().as_str());
    let made = record.created_at.timestamp_micros();
    (trace, is_paid, record.count, record.amount.micros(), record.usage.map(tokens), made)
}

/// The expected consumption of an account.
pub fn lines(model: &Model) -> Vec<Line> {
    let mut lines = Vec::new();
    for (trace, entry) in &model.entries {
        let (free, paid, amount, _) = entry.charged();
        let mut first = (free, paid, amount);
        for rest in &entry.rest {
            first = (first.0 - rest.0, first.1 - rest.1, first.2 - rest.2);
        }
        let parts: Vec<_> = [first].into_iter().chain(entry.rest.iter().copied()).collect();
        let is_paid = |part: &(u32, u32, i64)| part.1 > 0 || part.2 > 0;
        // The tokens belong to one line: the paid line, if there is one.
        let main = parts.iter().position(is_paid).unwrap_or(0);
        let taken = entry.delivered.map_or(entry.call.tokens, |delivered| delivered.tokens);
        for (index, part) in parts.iter().enumerate() {
            let &(free, paid, amount) = part;
            let taken = taken.filter(|_| index == main);
            if free > 0 {
                lines.push((*trace, false, free, 0, taken.filter(|_| !is_paid(part)), entry.made.micros));
            }
            if is_paid(part) {
                lines.push((*trace, true, paid, amount, taken, entry.made.micros));
            }
        }
    }
    lines.sort_unstable();
    lines
}

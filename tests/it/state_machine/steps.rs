//! Random steps, as postings for the service and as steps of the model, and the
//! answers of both in one form.

use billing_service::biz::{
    calendar::{BillingTime, Month},
    error::Error,
    ids::{AdjustmentId, ServiceName, TraceId, UserId},
    money::Money,
    settlement::{
        posting::{
            Adjustment, AdjustmentContent, Charge, Commit, Expire, Outcome, Posting, RecordIds, Release, Reserve,
        },
        transaction::{ChargeContent, Status},
    },
};
use chrono::{DateTime, Datelike, TimeDelta, Utc};
use proptest::prelude::*;
use uuid::Uuid;

use super::model::{Answer, Call, Moment, Step, TTL_MINUTES};

pub const USERS: u8 = 2;
pub const SERVICES: u8 = 2;

/// Steps that are settled together, after some time has passed.
#[derive(Debug, Clone)]
pub struct Round {
    pub minutes: u32,
    /// The commit happens, and the news of it is lost.
    pub answer_is_lost: bool,
    /// Each with its user.
    pub steps: Vec<(u8, Step)>,
}

/// Few ids and small numbers, so that retries, conflicts and exhausted accounts are common.
pub fn rounds() -> impl Strategy<Value = Vec<Round>> {
    let steps = prop::collection::vec((0..USERS, step()), 1..9);
    // No time, less and more than a hold lasts, and over the end of a month.
    let minutes = prop_oneof![4 => Just(0u32), 3 => 1..8u32, 2 => 9..30u32, 1 => Just(20 * 24 * 60)];
    let round = (minutes, prop::bool::weighted(0.2), steps).prop_map(|(minutes, answer_is_lost, steps)| Round {
        minutes,
        answer_is_lost,
        steps,
    });
    prop::collection::vec(round, 1..9)
}

fn step() -> impl Strategy<Value = Step> {
    let trace = || 0..5u8;
    let call = || {
        (trace(), 0..SERVICES, 1..8u32, prop_oneof![Just(0i64), 1..40i64])
            .prop_map(|(trace, service, count, cost)| Call { trace, service, count, cost })
    };
    prop_oneof![
        4 => call().prop_map(Step::Charge),
        4 => call().prop_map(Step::Reserve),
        4 => (trace(), prop::option::of(1..12u32), prop::option::of(1..60i64))
            .prop_map(|(trace, count, cost)| Step::Commit { trace, count, cost }),
        2 => trace().prop_map(|trace| Step::Release { trace }),
        2 => trace().prop_map(|trace| Step::Expire { trace }),
        3 => (0..5u8, prop_oneof![-30..0i64, 1..60i64]).prop_map(|(id, amount)| Step::Adjust { id, amount }),
    ]
}

pub fn user(case: &str, user: u8) -> UserId {
    UserId::from_stored(format!("{case}-{user}"))
}

pub fn service(service: u8) -> ServiceName {
    ServiceName::from_stored(format!("s{service}"))
}

fn trace(trace: u8) -> TraceId {
    TraceId::from_stored(format!("t{trace}"))
}

/// The moment of the model that an instant is.
pub fn moment(at: BillingTime, start: DateTime<Utc>) -> Moment {
    let months = at.day.year() * 12 + i32::try_from(at.day.month0()).unwrap();
    Moment { month: u32::try_from(months).unwrap(), minute: u32::try_from((at.utc - start).num_minutes()).unwrap() }
}

/// The month that a number of the model means.
pub fn month(number: u32) -> Month {
    format!("{:04}-{:02}", number / 12, number % 12 + 1).parse().unwrap()
}

pub fn posting(user: &UserId, step: &Step) -> Posting {
    let user = user.clone();
    match step {
        Step::Charge(call) => Posting::Charge(charge(user, *call)),
        Step::Reserve(call) => {
            Posting::Reserve(Reserve { call: charge(user, *call), ttl: TimeDelta::minutes(TTL_MINUTES.into()) })
        }
        Step::Commit { trace: id, count, cost } => Posting::Commit(Commit {
            user,
            trace: trace(*id),
            count: *count,
            cost: cost.map(Money::from_micros),
            usage: None,
            record_ids: RecordIds::fresh(),
        }),
        Step::Release { trace: id } => Posting::Release(Release { user, trace: trace(*id), request: Uuid::now_v7() }),
        Step::Expire { trace: id } => Posting::Expire(Expire { user, trace: trace(*id) }),
        Step::Adjust { id, amount } => Posting::Adjust(Adjustment {
            user,
            id: AdjustmentId::from_stored(format!("a{id}")),
            content: AdjustmentContent {
                amount: Money::from_micros(*amount),
                reason: "random".into(),
                operator: String::new(),
            },
            request: Uuid::now_v7(),
        }),
    }
}

fn charge(user: UserId, call: Call) -> Charge {
    let cost = Money::from_micros(call.cost);
    Charge {
        user,
        trace: trace(call.trace),
        content: ChargeContent {
            service: service(call.service),
            count: call.count,
            cost: Some(cost),
            api_key: None,
            model: None,
            usage: None,
        },
        full_cost: cost,
        record_ids: RecordIds::fresh(),
    }
}

/// An outcome in the words of the model.
pub fn answer(step: &Step, outcome: &Outcome) -> Answer {
    match (step, outcome) {
        (Step::Charge(_) | Step::Commit { .. }, Outcome::Settled { transaction, replayed }) => {
            assert_eq!(transaction.status, Status::Committed);
            Answer::Charged {
                free: transaction.free,
                paid: transaction.paid,
                amount: transaction.amount.micros(),
                balance: transaction.balance_after.micros(),
                free_left: transaction.free_remaining_after,
                replayed: *replayed,
            }
        }
        (Step::Reserve(_), Outcome::Settled { transaction, replayed }) => {
            let held = transaction.reservation.as_ref().unwrap();
            Answer::Held { free: held.free, amount: held.amount.micros(), replayed: *replayed }
        }
        (Step::Release { .. }, Outcome::Settled { transaction, replayed }) => {
            assert_eq!(transaction.status, Status::Released);
            Answer::Released { replayed: *replayed }
        }
        (Step::Expire { .. }, Outcome::Swept { freed }) => Answer::Swept { freed: *freed },
        (Step::Adjust { .. }, Outcome::Adjusted { adjusted, replayed }) => {
            Answer::Adjusted { balance: adjusted.balance_after.micros(), replayed: *replayed }
        }
        (_, Outcome::Refused(Error::InsufficientBalance { .. })) => Answer::Insufficient,
        (_, Outcome::Refused(Error::IdempotencyConflict { .. })) => Answer::Conflict,
        (_, Outcome::Refused(Error::TransactionNotFound(_))) => Answer::NotFound,
        (_, Outcome::Refused(Error::TransactionState(_))) => Answer::WrongState,
        other => panic!("{other:?}"),
    }
}

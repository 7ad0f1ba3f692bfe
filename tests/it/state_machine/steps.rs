//! Random steps, as postings for the service and as steps of the model, and the
//! answers of both in one form.

use billing_service::biz::{
    calendar::{BillingTime, Month},
    error::Error,
    ids::{AdjustmentId, ApiKeyId, OrderId, PaymentId, ServiceName, TraceId, UserId},
    money::Money,
    quote::Quote,
    recharge::order::{Order, OrderStatus},
    settlement::{
        posting::{
            Adjustment, AdjustmentContent, Cause, Charge, Commit, Expire, OrderNews, OrderUpdate, Outcome, Posting,
            RecordIds, Release, Reserve,
        },
        transaction::{ChargeContent, Status},
    },
};
use chrono::{DateTime, Datelike, TimeDelta, Utc};
use proptest::prelude::*;
use uuid::Uuid;

use super::model::{Answer, Call, Caps, Moment, News, ORDERS, OrderState, Step, TTL_MINUTES, order_amount};

pub const USERS: u8 = 2;
pub const SERVICES: u8 = 2;

/// Steps that are settled together, after some time has passed.
#[derive(Debug, Clone)]
pub struct Round {
    pub minutes: u32,
    /// The commit happens, and the news of it is lost.
    pub answer_is_lost: bool,
    /// Before the steps: new caps of a user, or none any more.
    pub caps: Option<(u8, Option<Caps>)>,
    /// Each with its user.
    pub steps: Vec<(u8, Step)>,
}

/// Few ids and small numbers, so that retries, conflicts and exhausted accounts are common.
pub fn rounds() -> impl Strategy<Value = Vec<Round>> {
    let steps = prop::collection::vec((0..USERS, step()), 1..9);
    // No time, less and more than a hold lasts, over the end of a day and of a month.
    let minutes =
        prop_oneof![4 => Just(0u32), 3 => 1..8u32, 2 => 9..30u32, 1 => Just(24 * 60), 1 => Just(20 * 24 * 60)];
    let caps = prop::option::weighted(0.3, (0..USERS, prop::option::weighted(0.8, (0..4usize, 1..6usize))));
    let round = (minutes, prop::bool::weighted(0.2), caps, steps)
        .prop_map(|(minutes, answer_is_lost, caps, steps)| Round { minutes, answer_is_lost, caps, steps });
    prop::collection::vec(round, 1..9)
}

fn step() -> impl Strategy<Value = Step> {
    let trace = || 0..8u8;
    let call = || {
        (trace(), 0..SERVICES, 1..8u32, prop_oneof![Just(0i64), 1..40i64], prop::bool::weighted(0.4))
            .prop_map(|(trace, service, count, cost, keyed)| Call { trace, service, count, cost, keyed })
    };
    prop_oneof![
        4 => call().prop_map(Step::Charge),
        4 => call().prop_map(Step::Reserve),
        4 => (trace(), prop::option::of(1..12u32), prop::option::of(1..60i64))
            .prop_map(|(trace, count, cost)| Step::Commit { trace, count, cost }),
        2 => trace().prop_map(|trace| Step::Release { trace }),
        2 => trace().prop_map(|trace| Step::Expire { trace }),
        3 => (0..5u8, prop_oneof![-30..0i64, 1..60i64]).prop_map(|(id, amount)| Step::Adjust { id, amount }),
        // One number more than there are orders.
        4 => (0..=ORDERS, news()).prop_map(|(order, news)| Step::Order { order, news }),
    ]
}

/// Few payments, so that orders and users meet in them.
fn news() -> impl Strategy<Value = News> {
    let payment = || 0..4u8;
    let wrong_amount = || prop::bool::weighted(0.1);
    prop_oneof![
        2 => payment().prop_map(|payment| News::Opened { payment }),
        4 => (payment(), wrong_amount()).prop_map(|(payment, wrong_amount)| News::Paid { payment, wrong_amount }),
        2 => (prop::option::of(payment()), wrong_amount())
            .prop_map(|(payment, wrong_amount)| News::Failed { payment, wrong_amount }),
        1 => Just(News::Expired),
    ]
}

pub fn order_id(case: &str, user: u8, order: u8) -> OrderId {
    OrderId::from_stored(format!("order-{case}-{user}-{order}"))
}

/// An order as it begins.
pub fn new_order(case: &str, number: u8, order: u8, at: DateTime<Utc>) -> Order {
    Order {
        id: order_id(case, number, order),
        user: user(case, number),
        amount: Money::from_micros(order_amount(order)),
        method: None,
        status: OrderStatus::Pending,
        payment: None,
        payment_url: None,
        created_at: at,
        updated_at: at,
    }
}

fn payment_id(case: &str, payment: u8) -> PaymentId {
    PaymentId::from_stored(format!("pay-{case}-{payment}"))
}

fn order_news(case: &str, order: u8, news: News) -> OrderNews {
    let amount = |is_wrong| Money::from_micros(order_amount(order) + i64::from(is_wrong));
    match news {
        News::Opened { payment } => OrderNews::Opened { payment: payment_id(case, payment), url: "https://pay".into() },
        News::Paid { payment, wrong_amount } => {
            OrderNews::Paid { payment: payment_id(case, payment), amount: amount(wrong_amount) }
        }
        News::Failed { payment, wrong_amount } => OrderNews::Failed {
            payment: payment.map(|payment| payment_id(case, payment)),
            amount: wrong_amount.then(|| amount(true)),
        },
        News::Expired => OrderNews::Expired,
    }
}

/// An order in the words of the model.
pub fn order_state(order: &Order) -> (OrderState, Option<u8>) {
    let state = match order.status {
        OrderStatus::Pending => OrderState::Pending,
        OrderStatus::Success => OrderState::Paid,
        OrderStatus::Failed => OrderState::Failed,
        OrderStatus::Expired => OrderState::Expired,
    };
    let number = |payment: &PaymentId| payment.as_str().rsplit('-').next().unwrap().parse().unwrap();
    (state, order.payment.as_ref().map(number))
}

pub fn user(case: &str, user: u8) -> UserId {
    UserId::from_stored(format!("{case}-{user}"))
}

pub fn api_key(case: &str) -> ApiKeyId {
    ApiKeyId::from_stored(format!("key-{case}"))
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
    let day = at.day.num_days_from_ce();
    Moment {
        month: u32::try_from(months).unwrap(),
        day,
        micros: at.utc.timestamp_micros(),
        minute: u32::try_from((at.utc - start).num_minutes()).unwrap(),
    }
}

/// The month that a number of the model means.
pub fn month(number: u32) -> Month {
    format!("{:04}-{:02}", number / 12, number % 12 + 1).parse().unwrap()
}

pub fn posting(case: &str, number: u8, step: &Step) -> Posting {
    let user = user(case, number);
    match step {
        Step::Charge(call) => Posting::Charge(charge(case, user, *call)),
        Step::Reserve(call) => {
            Posting::Reserve(Reserve { call: charge(case, user, *call), ttl: TimeDelta::minutes(TTL_MINUTES.into()) })
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
        Step::Expire { trace: id } => {
            let (cause, record_ids) = (Cause::Expired, RecordIds::fresh());
            Posting::Expire(Expire { user, trace: trace(*id), cause, record_ids })
        }
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
        Step::Order { order, news } => Posting::UpdateOrder(OrderUpdate {
            user,
            order: order_id(case, number, *order),
            news: order_news(case, *order, *news),
        }),
    }
}

fn charge(case: &str, user: UserId, call: Call) -> Charge {
    let cost = Money::from_micros(call.cost);
    Charge {
        user,
        trace: trace(call.trace),
        content: ChargeContent {
            service: service(call.service),
            count: call.count,
            cost: Some(cost),
            api_key: call.keyed.then(|| api_key(case)),
            model: None,
            usage: None,
            estimate: None,
        },
        quote: Ok(Quote::of_calls(call.count, cost)),
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
        (Step::Expire { .. }, Outcome::Ended { transaction }) => Answer::Swept { freed: transaction.is_some() },
        (Step::Adjust { .. }, Outcome::Adjusted { adjusted, replayed }) => {
            Answer::Adjusted { balance: adjusted.balance_after.micros(), replayed: *replayed }
        }
        (Step::Order { .. }, Outcome::OrderUpdated { order, changed }) => {
            let (state, payment) = order_state(order);
            Answer::Order { state, payment, changed: *changed }
        }
        (Step::Order { .. }, Outcome::Refused(Error::OrderNotFound(_))) => Answer::NotFound,
        (Step::Order { .. }, Outcome::Refused(Error::AmountMismatch(_))) => Answer::WrongAmount,
        (Step::Order { .. }, Outcome::Refused(Error::DuplicateRecharge(_))) => Answer::Duplicate,
        (_, Outcome::Refused(Error::InsufficientQuota(_))) => Answer::Capped,
        (_, Outcome::Refused(Error::InsufficientBalance { .. })) => Answer::Insufficient,
        (_, Outcome::Refused(Error::IdempotencyConflict { .. })) => Answer::Conflict,
        (_, Outcome::Refused(Error::TransactionNotFound(_))) => Answer::NotFound,
        (_, Outcome::Refused(Error::TransactionState(_))) => Answer::WrongState,
        other => panic!("{other:?}"),
    }
}

//! Random histories.

use proptest::prelude::*;

use super::{
    events::OWN_ALERTS,
    model::{
        Call, Caps, Commit, MODELS, ORDERS, OrderRefundStep, OrderStep, Overrun, Policy, RefundRequest, Report,
        SERVICES, STRAYS, Status, Step, Tokens,
    },
};

pub const USERS: u8 = 2;
/// Number of refund ids, over all users.
pub const ORDER_REFUNDS: u8 = 6;

/// The events of several accounts.
#[derive(Debug, Clone)]
pub struct History {
    pub start: &'static str,
    /// The policy of each service.
    pub policies: [Policy; SERVICES.len()],
    /// The minutes after the end of a month at which it closes.
    pub close_minutes: u32,
    /// Whether the amount quota of the API key is per day.
    pub daily_amount: bool,
    /// Whether some rounds archive and seal. At the end all records are archived and all months sealed.
    pub archives: bool,
    pub rounds: Vec<Round>,
}

/// Steps that are settled together, after some time has passed.
#[derive(Debug, Clone)]
pub struct Round {
    pub minutes: u32,
    /// The commit succeeds, and its answer is lost.
    pub answer_is_lost: bool,
    /// The last step is settled once more, alone.
    pub is_repeated: bool,
    /// The jobs have archived all records and sealed the closed months before the steps, and archive once more before a
    /// repeat.
    pub archives: bool,
    /// New caps of a user, or their removal, before the steps.
    pub caps: Option<(u8, Option<Caps>)>,
    /// The steps, each with its user.
    pub steps: Vec<(u8, Step)>,
}

/// Few ids and small numbers, so that retries, conflicts and exhausted accounts are common.
pub fn histories() -> impl Strategy<Value = History> {
    // By day, and some minutes before midnight and the end of a month in the billing zone.
    let start = prop_oneof![
        Just("2026-11-15T00:00:00Z"),
        Just("2026-11-20T15:55:00Z"),
        Just("2026-11-30T15:50:00Z"),
        Just("2026-12-31T15:58:00Z"),
    ];
    let policies = prop::array::uniform5(policy());
    // A user without a balance can only use the free quotas.
    let credits = prop::option::weighted(0.8, 5..120i64);
    let streams = prop::collection::vec(stream(), 0..5);
    let refund = prop_oneof![3 => order_refund_life().boxed(), 1 => retried_order_refund().boxed()];
    let refunds = prop::collection::vec(refund, 0..3);
    let has_debt = prop::bool::weighted(0.2);
    let close_minutes = prop_oneof![2 => Just(3u32), 1 => Just(72 * 60)];
    let opening = (credits, has_debt, close_minutes);
    // Few histories archive, because the jobs take longer than the rounds.
    let flags = (any::<bool>(), prop::bool::weighted(0.3));
    (start, policies, flags, opening, prop::collection::vec(round(), 1..9), (streams, refunds)).prop_map(
        |(start, policies, flags, (credits, has_debt, close_minutes), mut rounds, (streams, refunds))| {
            let (daily_amount, archives) = flags;
            if !archives {
                rounds.iter_mut().for_each(|round| round.archives = false);
            }
            for (user, mut places, steps) in streams.into_iter().chain(refunds) {
                places.sort_unstable();
                for (place, step) in places.into_iter().zip(steps) {
                    let number = place * rounds.len() / PLACES;
                    rounds[number].steps.push((user, step));
                }
            }
            if has_debt {
                let middle = rounds.len() / 2;
                rounds[middle].steps.extend(debt());
            }
            let opening = |amount| (0..USERS).map(move |user| (user, opening_credit(amount)));
            rounds[0].steps.splice(0..0, credits.into_iter().flat_map(opening));
            History { start, policies, close_minutes, daily_amount, archives, rounds }
        },
    )
}

fn opening_credit(amount: i64) -> Step {
    Step::Adjust { id: u8::MAX, amount, allow_negative: false }
}

/// A commit far beyond the free quota and every balance. The policy may take the balance below zero
/// for it.
fn debt() -> [(u8, Step); 2] {
    let trace = u8::MAX;
    let call = Call { trace, service: 0, count: 1, cost: None, keyed: false, model: 0, tokens: None };
    let count = Some(2 * SERVICES[0].free_units);
    let commit = Commit { trace, count, cost: Some(1_000), tokens: None, text: None, stream: None, stop: None };
    [(0, Step::Reserve { call, stream: 0 }), (0, Step::Commit(commit))]
}

/// Number of positions in a history.
const PLACES: usize = 1_000;

/// The life of a stream among the other steps: its user, and its steps with a position for each.
fn stream() -> impl Strategy<Value = (u8, Vec<usize>, Vec<Step>)> {
    (0..3u8).prop_flat_map(|trace| {
        let trace = Just(trace).boxed();
        let service = prop_oneof![1 => 0..2u8, 2 => Just(2u8), 4 => 3..5u8];
        let reserve = (call(trace.clone(), service.boxed()), owner()).prop_map(reserve);
        let reports = prop::collection::vec(report(trace.clone()), 1..5);
        // A step after the end finds the reservation ended, or charges a freed hold.
        let ends = prop::collection::vec(prop_oneof![4 => end(trace.clone()), 1 => refund(trace)], 1..4);
        let steps =
            (reserve, reports, ends).prop_map(|(reserve, reports, ends)| [vec![reserve], reports, ends].concat());
        (user(), prop::collection::vec(0..PLACES, 8), steps)
    })
}

/// The life of a refund among the other steps: its order is paid, and then it begins and ends.
fn order_refund_life() -> impl Strategy<Value = (u8, Vec<usize>, Vec<Step>)> {
    (user(), 0..ORDERS, 0..ORDER_REFUNDS).prop_flat_map(|(user, order, refund)| {
        let payment = own_payment(user, order);
        let order_step = OrderStep::Paid { payment, wrong_amount: false };
        let refund_steps = prop::collection::vec(order_refund_step(prop::option::of(Just(payment)).boxed()), 1..5);
        let places = prop::collection::vec(0..PLACES, 6);
        (places, prop::option::weighted(0.8, begin_order_refund()), refund_steps).prop_map(
            move |(places, begin, steps)| {
                let refund = |refund_step| Step::OrderRefund { order, refund, refund_step };
                let steps = begin.into_iter().chain(steps).map(refund);
                (user, places, [Step::Order { order, order_step }].into_iter().chain(steps).collect())
            },
        )
    })
}

/// A payment of the order's own.
fn own_payment(user: u8, order: u8) -> u8 {
    4 + user * ORDERS + order
}

/// A refund that fails, is requested again under another id, and is made after all.
fn retried_order_refund() -> impl Strategy<Value = (u8, Vec<usize>, Vec<Step>)> {
    let ends = prop_oneof![Just(OrderRefundStep::Failed), Just(OrderRefundStep::Succeeded)];
    let places = prop::collection::vec(0..PLACES, 7);
    (user(), 0..ORDERS, 0..ORDER_REFUNDS, ends, places).prop_map(|(user, order, first, end, places)| {
        let second = (first + 1) % ORDER_REFUNDS;
        let begin = OrderRefundStep::Begin { amount: None, is_forced: true };
        let refund_steps = [
            (first, begin),
            (first, OrderRefundStep::Failed),
            (second, begin),
            (first, OrderRefundStep::Succeeded),
            (second, end),
            (first, OrderRefundStep::Succeeded),
        ];
        let order_step = OrderStep::Paid { payment: own_payment(user, order), wrong_amount: false };
        let refund_steps = refund_steps.map(|(refund, refund_step)| Step::OrderRefund { order, refund, refund_step });
        (user, places, [Step::Order { order, order_step }].into_iter().chain(refund_steps).collect())
    })
}

fn begin_order_refund() -> impl Strategy<Value = OrderRefundStep> {
    (prop::option::weighted(0.7, 1..70i64), prop::bool::weighted(0.3))
        .prop_map(|(amount, is_forced)| OrderRefundStep::Begin { amount, is_forced })
}

fn order_refund_step(payment: BoxedStrategy<Option<u8>>) -> impl Strategy<Value = OrderRefundStep> {
    prop_oneof![
        2 => begin_order_refund(),
        2 => Just(OrderRefundStep::Succeeded),
        2 => Just(OrderRefundStep::Failed),
        3 => (1..70i64, any::<bool>(), payment)
            .prop_map(|(amount, is_chargeback, payment)| OrderRefundStep::Reported { amount, is_chargeback, payment }),
    ]
}

fn policy() -> impl Strategy<Value = Policy> {
    let overrun = prop_oneof![Just(Overrun::Charged), Just(Overrun::Capped), Just(Overrun::Spilled)];
    (any::<bool>(), overrun).prop_map(|(charges_expired, overrun)| Policy { charges_expired, overrun })
}

fn user() -> BoxedStrategy<u8> {
    prop_oneof![3 => Just(0u8), 1 => 1..USERS].boxed()
}

fn round() -> impl Strategy<Value = Round> {
    let steps = prop::collection::vec((user(), step()), 1..6);
    // No time, less and more than the lifetime of a hold, and beyond the end of a day and a month.
    let minutes =
        prop_oneof![4 => Just(0u32), 4 => 1..8u32, 2 => 9..30u32, 1 => Just(24 * 60), 1 => Just(20 * 24 * 60)];
    let caps = prop::option::weighted(0.15, (user(), prop::option::weighted(0.7, (0..6usize, 1..9usize))));
    let repeats = (prop::bool::weighted(0.2), prop::bool::weighted(0.2), any::<bool>());
    (minutes, repeats, caps, steps).prop_map(|(minutes, (answer_is_lost, is_repeated, archives), caps, steps)| Round {
        minutes,
        answer_is_lost,
        is_repeated,
        archives,
        caps,
        steps,
    })
}

fn step() -> impl Strategy<Value = Step> {
    // Some trace ids are frequent, so that their reservations see many steps before they end.
    let trace = || prop_oneof![1 => 0..3u8, 1 => 3..8u8].boxed();
    let any_call = || call(trace(), (0..SERVICES.len() as u8).boxed());
    prop_oneof![
        4 => (any_call(), prop::bool::weighted(0.2))
            .prop_map(|(call, is_delivered)| Step::Charge { call, is_delivered }),
        4 => (any_call(), owner()).prop_map(reserve),
        3 => report(trace()),
        6 => end(trace()),
        2 => (0..5u8, prop_oneof![-30..0i64, 1..60i64], prop::bool::weighted(0.2))
            .prop_map(|(id, amount, allow_negative)| Step::Adjust { id, amount, allow_negative }),
        3 => refund(trace()),
        // The largest number has no order.
        3 => (0..=ORDERS, order_step()).prop_map(|(order, order_step)| Step::Order { order, order_step }),
        // Few refund ids, so that orders and users share them.
        3 => (0..=ORDERS, 0..ORDER_REFUNDS, order_refund_step(prop::option::weighted(0.2, 0..10u8).boxed()))
            .prop_map(|(order, refund, refund_step)| Step::OrderRefund { order, refund, refund_step }),
        // The largest number has no payment.
        1 => (0..=STRAYS).prop_map(|payment| Step::CreditPayment { payment }),
        1 => (any::<u8>(), status()).prop_map(|(id, status)| Step::SetStatus { id, status }),
        1 => (any::<u8>(), any::<bool>()).prop_map(|(id, is_planned)| Step::SetPlan { id, is_planned }),
        1 => (any::<u8>(), prop::option::weighted(0.7, 0..OWN_ALERTS)).prop_map(|(id, alerts)| Step::SetAlerts { id, alerts }),
        // The quotas of an API key have no part in it.
        2 => any_call().prop_map(|call| Step::RefusedCheck { call: of_estimate(Call { keyed: false, ..call }) }),
    ]
}

fn refund(trace: BoxedStrategy<u8>) -> impl Strategy<Value = Step> {
    let count = prop::option::weighted(0.6, 1..5u32);
    (trace, 0..8u8, count).prop_map(|(trace, id, count)| Step::Refund(RefundRequest { trace, id, count }))
}

/// Mostly the end of a freeze, so that most histories go on.
fn status() -> impl Strategy<Value = Status> {
    prop_oneof![3 => Just(Status::Active), 1 => Just(Status::Frozen), 1 => Just(Status::Closed)]
}

/// Streams of a reservation: mostly the one that reserved.
fn owner() -> BoxedStrategy<u8> {
    prop_oneof![6 => Just(0u8), 2 => Just(1u8), 1 => Just(2u8)].boxed()
}

fn report(trace: BoxedStrategy<u8>) -> impl Strategy<Value = Step> {
    let target = prop::option::weighted(0.9, tokens(30));
    (trace, owner(), prop::bool::weighted(0.2), some_tokens(), target, 1..30u32, stop()).prop_map(
        |(trace, stream, takes_over, tokens, target, ttl_minutes, stop)| {
            Step::Report(Report { trace, stream, takes_over, tokens, target, ttl_minutes, stop })
        },
    )
}

fn end(trace: BoxedStrategy<u8>) -> impl Strategy<Value = Step> {
    // Some costs are so high that they leave a debt.
    let cost = prop::option::weighted(0.4, prop_oneof![1 => 1..60i64, 1 => 60..400i64]);
    prop_oneof![
        4 => (trace.clone(), prop::option::of(1..12u32), cost, some_tokens(), commits_by()).prop_map(
            |(trace, count, cost, tokens, (text, stream, stop))| {
                let tokens = tokens.filter(|_| text.is_none());
                Step::Commit(Commit { trace, count, cost, tokens, text, stream, stop })
            },
        ),
        1 => trace.clone().prop_map(|trace| Step::Release { trace }),
        3 => trace.clone().prop_map(|trace| Step::Expire { trace }),
        2 => (trace, owner(), some_tokens(), stop())
            .prop_map(|(trace, stream, tokens, stop)| Step::Break { trace, stream, tokens, stop }),
    ]
}

/// Few numbers, so that several postings tell of the same stop.
fn stop() -> impl Strategy<Value = Option<u8>> {
    prop::option::weighted(0.3, 0..4u8)
}

/// The origin of a commit: a text, a stream with a stop, or neither.
fn commits_by() -> impl Strategy<Value = (Option<u32>, Option<u8>, Option<u8>)> {
    prop_oneof![
        2 => Just((None, None, None)),
        2 => (0..24u32).prop_map(|output| (Some(output), None, None)),
        1 => (owner(), stop()).prop_map(|(stream, stop)| (None, Some(stream), stop)),
    ]
}

fn call(trace: BoxedStrategy<u8>, service: BoxedStrategy<u8>) -> impl Strategy<Value = Call> {
    let cost = prop_oneof![7 => Just(None), 1 => Just(Some(0)), 3 => (1..40i64).prop_map(Some)];
    let tokens = prop::option::weighted(0.9, tokens(12));
    (trace, service, 1..8u32, cost, prop::bool::weighted(0.4), 0..MODELS.len() as u8, tokens).prop_map(
        |(trace, service, count, cost, keyed, model, tokens)| Call {
            trace,
            service,
            count,
            cost,
            keyed,
            model,
            tokens,
        },
    )
}

fn reserve((call, stream): (Call, u8)) -> Step {
    Step::Reserve { call: of_estimate(call), stream }
}

/// The call of a reserve. The number of cached tokens is not known before the call, and zero tokens
/// are no estimate.
fn of_estimate(call: Call) -> Call {
    let tokens =
        call.tokens.map(|tokens| Tokens { cached: 0, reasoning: 0, ..tokens }).filter(|tokens| tokens.all() > 0);
    Call { tokens, ..call }
}

fn some_tokens() -> impl Strategy<Value = Option<Tokens>> {
    prop::option::weighted(0.8, tokens(24))
}

/// Tokens: sometimes none, and sometimes more of a part than of its whole.
fn tokens(most: u32) -> impl Strategy<Value = Tokens> {
    let some = (0..most, 0..most, 0..most, 0..most).prop_map(|(input, cached, output, reasoning)| Tokens {
        input,
        cached: cached.min(input),
        output,
        reasoning: reasoning.min(output),
    });
    prop_oneof![
        30 => some,
        1 => Just(Tokens { input: 0, cached: 0, output: 0, reasoning: 0 }),
        1 => Just(Tokens { input: 3, cached: 4, output: 2, reasoning: 1 }),
        1 => Just(Tokens { input: 3, cached: 1, output: 2, reasoning: 3 }),
    ]
}

/// Steps with few payments, so that orders and users share them.
fn order_step() -> impl Strategy<Value = OrderStep> {
    let payment = || 0..4u8;
    let wrong_amount = || prop::bool::weighted(0.1);
    prop_oneof![
        2 => payment().prop_map(|payment| OrderStep::Opened { payment }),
        4 => (payment(), wrong_amount()).prop_map(|(payment, wrong_amount)| OrderStep::Paid { payment, wrong_amount }),
        2 => (prop::option::of(payment()), wrong_amount())
            .prop_map(|(payment, wrong_amount)| OrderStep::Failed { payment, wrong_amount }),
        1 => Just(OrderStep::Expired),
    ]
}

//! Plays a history on a stage, and compares it with the model after every batch.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use chrono::{DateTime, Datelike, TimeDelta, Utc};
use proptest::{prop_assert, prop_assert_eq, test_runner::TestCaseError};

use super::{
    StoppedClock,
    answers::{Stored, answer, days, line, lines, order_refund_state, order_state},
    events::{Fired, Foreseen, Levels, Taken},
    model::{
        Answer, KEY_LIMITS, Model, Moment, ORDERS, OrderRefundState, OrderRefundStep, SERVICES, STRAYS, Shared, State,
        Step,
    },
    postings::{
        Postings, account_status, api_key, catalog, moment, new_order, order_id, order_refund_id, plan, quoter,
        service, stray, stray_id, trace, user,
    },
    stage::Stage,
    steps::{History, Round, USERS},
};
use crate::biz::{
    account::Account,
    audit_trail::{
        ADJUST_BALANCE, REFUND_CHARGE, REFUND_RECHARGE, RESOLVE_PAYMENT, SET_ACCOUNT_STATUS, SET_ALERTS,
        SET_USER_LIMITS, SET_USER_PLAN,
    },
    jobs::audit::{self, counts::Counting},
    limits::{
        caps::Caps,
        key_quota::{NewKeyQuota, Period, QuotaType},
    },
    settlement::posting::{Batch, Posting},
    values::{
        calendar::{BillingTime, Calendar, DaySpan},
        ids::UserId,
        money::Money,
    },
};

/// A time when all months of all histories have closed.
const AFTER_ALL: &str = "2028-01-10T00:00:00Z";

type Played<T = ()> = Result<T, TestCaseError>;

/// Plays one history, and returns the rare events in it.
pub async fn play(stage: &impl Stage, case: &str, history: &History) -> Played<BTreeSet<&'static str>> {
    let mut play = Play::begin(stage, case, history).await;
    for round in &history.rounds {
        play.round(round).await?;
        play.compare().await?;
    }
    play.compare_all().await?;
    play.close().await?;
    play.compare().await?;
    play.compare_all().await?;
    if history.archives {
        play.seal_all().await?;
    }
    Ok(play.models.into_iter().flat_map(|model| model.seen).collect())
}

struct Play<'h, S> {
    stage: &'h S,
    postings: Postings<'h>,
    calendar: Calendar,
    /// The clock of the calendar and of the prices.
    clock: StoppedClock,
    start: DateTime<Utc>,
    at: BillingTime,
    months: BTreeSet<u32>,
    models: Vec<Model>,
    shared: Shared,
    /// The events of each user.
    foreseen: Vec<Foreseen>,
    fired_key: [Fired; 3],
    daily_amount: bool,
}

/// No server ends a stream twice in one batch. A repeat of such a batch would know the second end
/// already, and its first end would deliver more than before.
fn breaks_a_stream_twice(steps: &[(u8, Step)]) -> bool {
    let mut broken = BTreeSet::new();
    steps.iter().any(|(number, step)| match step {
        Step::Break { trace, stream, .. } => !broken.insert((number, trace, stream)),
        _ => false,
    })
}

impl<'h, S: Stage> Play<'h, S> {
    async fn begin(stage: &'h S, case: &'h str, history: &History) -> Self {
        let close_after = TimeDelta::minutes(history.close_minutes.into());
        let start: DateTime<Utc> = history.start.parse().unwrap();
        let clock = StoppedClock::at(start);
        let calendar = Calendar::new(chrono_tz::Asia::Shanghai, clock.clone()).closing_after(close_after);
        let at = calendar.at(start);
        let amounts = if history.daily_amount { Period::Day } else { Period::Total };
        let periods = [Period::Day, Period::Month, amounts];
        for ((kind, period), limit) in QuotaType::ALL.into_iter().zip(periods).zip(KEY_LIMITS) {
            let quota = NewKeyQuota { key: api_key(case), kind, period, limit: Some(limit) };
            stage.set_key_quota(&quota, at).await;
        }
        for (number, order) in (0..USERS).flat_map(|number| (0..ORDERS).map(move |order| (number, order))) {
            stage.keep_order(&new_order(case, number, order, start)).await;
        }
        for payment in 0..STRAYS {
            stage.keep_unapplied(&stray(case, payment), start).await;
        }
        let catalog = Arc::new(catalog(&history.policies));
        Self {
            stage,
            postings: Postings { case, catalog, quoter: quoter(start, clock.clone()) },
            calendar,
            clock,
            start,
            at,
            months: BTreeSet::new(),
            models: (0..USERS).map(|number| Model::of(number, history.policies, history.close_minutes)).collect(),
            shared: Shared::new(history.daily_amount),
            foreseen: vec![Foreseen::default(); USERS.into()],
            fired_key: <[Fired; 3]>::default(),
            daily_amount: history.daily_amount,
        }
    }

    fn moment(&self) -> Moment {
        moment(&self.calendar, self.at, self.start)
    }

    /// No two rounds happen at the same instant.
    fn pass(&mut self, minutes: u32) {
        let now = self.at.utc + TimeDelta::minutes(minutes.into()) + TimeDelta::milliseconds(1);
        self.clock.set(now);
        self.at = self.calendar.at(now);
        self.months.insert(self.moment().month);
    }

    async fn round(&mut self, round: &Round) -> Played {
        self.pass(round.minutes);
        if round.archives {
            self.archive().await;
            self.stage.seal(self.postings.case, &self.calendar).await;
        }
        if let Some((number, caps)) = round.caps {
            let cap = |cap: usize| u32::try_from(cap).unwrap();
            let (daily, monthly) = caps.map(|(daily, monthly)| (cap(daily), cap(monthly))).unzip();
            self.stage.set_caps(&user(self.postings.case, number), Caps { daily, monthly }, self.at).await;
            let moment = self.moment();
            let model = &mut self.models[usize::from(number)];
            self.foreseen[usize::from(number)].set_caps(model.caps(), caps);
            model.set_caps(caps, moment);
        }
        let postings: Vec<_> = round.steps.iter().map(|(number, step)| self.postings.of(*number, step)).collect();
        let last = postings.last().cloned();
        let (answers, expected) = self.settle(postings.clone(), &round.steps).await;
        prop_assert_eq!(&answers, &expected);
        let may_pass_now = match round.steps.last() {
            // A payment of another order at the begin of the batch is free after the batch.
            Some((_, Step::Order { .. })) => answers.last() == Some(&Answer::Duplicate),
            _ => false,
        };
        if round.archives {
            self.archive().await;
        }
        if round.answer_is_lost && !breaks_a_stream_twice(&round.steps) {
            // The engine settles the same batch again. The service finds the settled postings and
            // reports no replay. The model knows no batches and reports a replay.
            let (mut answers, mut expected) = self.settle(postings, &round.steps).await;
            answers.iter_mut().chain(&mut expected).for_each(Answer::forget_replay);
            prop_assert_eq!(answers, expected);
        }
        if let (true, Some(last), Some(step)) = (round.is_repeated, last, round.steps.last()) {
            let before = self.books();
            let (mut answers, mut expected) = self.settle(vec![last], std::slice::from_ref(step)).await;
            answers.iter_mut().chain(&mut expected).for_each(Answer::forget_replay);
            prop_assert_eq!(answers, expected);
            prop_assert!(may_pass_now || self.books() == before, "{:?} is {:?}", self.books(), before);
        }
        Ok(())
    }

    /// Moves all records so far to the archive. The job moves only old ones, but their age makes no difference.
    async fn archive(&self) {
        self.stage.archive(&self.users(), self.at.utc + TimeDelta::milliseconds(1)).await;
    }

    fn users(&self) -> Vec<UserId> {
        (0..USERS).map(|number| user(self.postings.case, number)).collect()
    }

    /// The answers of the stage and of the model.
    async fn settle(&mut self, postings: Vec<Posting>, steps: &[(u8, Step)]) -> (Vec<Answer>, Vec<Answer>) {
        let (catalog, periods) = (self.postings.catalog.clone(), self.calendar.periods());
        let batch = Batch { postings, at: self.at, catalog, periods };
        let outcomes = self.stage.settle(&batch).await;
        let answers = steps.iter().zip(&outcomes).map(|((_, step), outcome)| answer(step, outcome)).collect();
        let (now, shared) = (self.moment(), &mut self.shared);
        let models = &mut self.models;
        let (months, foreseen) = (&self.months, &mut self.foreseen);
        let (fired_key, daily_amount) = (&mut self.fired_key, self.daily_amount);
        let expected = steps.iter().map(|(number, step)| {
            let number = usize::from(*number);
            let before = Levels::of(&models[number], shared, months.iter().copied(), now);
            let is_refused_check = models[number].is_refused_check(step, now, shared);
            let answer = models[number].step(step, now, shared);
            let after = Levels::of(&models[number], shared, months.iter().copied(), now);
            let taken = Taken { step, answer: &answer, before, after, now, daily_amount, is_refused_check };
            foreseen[number].take(&taken, fired_key);
            answer
        });
        let expected = expected.collect();
        self.shared.payments.end_batch();
        (answers, expected)
    }

    /// The whole state, to check that a repeat changes nothing.
    fn books(&self) -> (Vec<Model>, [i64; 3]) {
        (self.models.iter().map(Model::without_notes).collect(), self.shared.key.used(self.moment()))
    }

    /// Compares accounts, caps and quotas, and audits the books.
    async fn compare(&self) -> Played {
        let (case, moment) = (self.postings.case, self.moment());
        for (number, model) in (0u8..).zip(&self.models) {
            let user = user(case, number);
            for month in &self.months {
                let Account { balance, quotas, requests } = self.stage.account(&user, *month).await;
                prop_assert_eq!((balance.amount.micros(), balance.held.micros()), (model.balance, model.held()));
                prop_assert_eq!(balance.status, account_status(model.status));
                prop_assert_eq!(balance.plan, model.is_planned.then(plan));
                prop_assert!(model.overdrawn || balance.available() >= Money::ZERO);
                let calls = requests.map(|requests| requests.used(self.at));
                let expected = model.calls(moment).map(|(daily, monthly)| (daily as u32, monthly as u32));
                // A user with caps only has no account yet.
                let nothing = calls.is_none() && expected == Some((0, 0));
                prop_assert!(nothing || calls == expected, "{:?} is {:?}", calls, expected);
                for of in 0..SERVICES.len() as u8 {
                    let quota = quotas.get(&service(of)).copied().unwrap_or_default();
                    let expected = (model.used(*month, of).into(), model.held_free(*month, of).into());
                    prop_assert_eq!((quota.used, quota.held), expected);
                    prop_assert!(quota.used + quota.held <= SERVICES[usize::from(of)].free_units.into());
                }
            }
        }
        let key = api_key(case);
        let quotas = self.stage.key_quotas(&key).await;
        let used = QuotaType::ALL.map(|kind| quotas[&(key.clone(), kind)].used(self.at));
        prop_assert_eq!(used, self.shared.key.used(moment));
        for evidence in self.stage.evidence(case).await {
            prop_assert_eq!(audit::compare(&evidence), vec![]);
        }
        // The rounds have one clock, and no two settle at once.
        let rule = Counting { periods: self.calendar.periods(), unsure: TimeDelta::zero() };
        prop_assert_eq!(self.stage.differing_limits(&self.users(), &key, rule).await, vec![]);
        Ok(())
    }

    /// Compares every transaction, record, order and day, and the reservations that a sweep finds.
    async fn compare_all(&self) -> Played {
        for (number, model) in (0u8..).zip(&self.models) {
            let user = user(self.postings.case, number);
            for (id, entry) in &model.entries {
                let stored = self.stage.transaction(&user, &trace(*id)).await;
                prop_assert_eq!(stored.as_ref().map(Stored::from), Some(Stored::from(entry)));
            }
            let mut records: Vec<_> = self.stage.records(&user).await.iter().map(line).collect();
            records.sort_unstable();
            prop_assert_eq!(records, lines(model));

            for order in 0..ORDERS {
                let stored = self.stage.order(&order_id(self.postings.case, number, order)).await.unwrap();
                prop_assert_eq!(order_state(&stored), model.orders[usize::from(order)]);
                prop_assert_eq!(stored.refunded.micros(), model.order_refunded(order));
            }
            for (id, refund) in &model.order_refunds {
                let stored = self.stage.order_refund(&order_refund_id(self.postings.case, *id)).await.unwrap();
                prop_assert_eq!(stored.order, order_id(self.postings.case, number, refund.order));
                let is_settled = stored.settled_at.is_some();
                let stored = (order_refund_state(stored.status), stored.amount.micros(), is_settled);
                prop_assert_eq!(stored, (refund.state, refund.amount, refund.state == OrderRefundState::Success));
            }

            // In the order of the steps. The events of one step may come in any order.
            let mut told = self.stage.events(&user).await;
            let mut foreseen = self.foreseen[usize::from(number)].steps.clone();
            let mut rest = &mut told[..];
            for events in &mut foreseen {
                let (of_step, later) = rest.split_at_mut(events.len().min(rest.len()));
                of_step.sort_unstable();
                events.sort_unstable();
                rest = later;
            }
            prop_assert_eq!(told, foreseen.concat());

            let mut events = BTreeMap::new();
            for event in self.stage.audit_events(&user).await {
                *events.entry(event.rpc.into_owned()).or_default() += 1;
            }
            let mut expected = BTreeMap::from([
                (ADJUST_BALANCE.to_owned(), model.adjustments.len()),
                (REFUND_CHARGE.to_owned(), model.refunds.len()),
                (
                    REFUND_RECHARGE.to_owned(),
                    model.order_refunds.values().filter(|refund| refund.is_requested()).count(),
                ),
                (RESOLVE_PAYMENT.to_owned(), model.credits),
                (SET_ACCOUNT_STATUS.to_owned(), model.status_changes.len()),
                (SET_USER_PLAN.to_owned(), model.plan_changes.len()),
                (SET_ALERTS.to_owned(), model.alerts_changes.len()),
                (SET_USER_LIMITS.to_owned(), model.caps_changes),
            ]);
            expected.retain(|_, count| *count > 0);
            prop_assert_eq!(events, expected);

            let span = DaySpan { first: self.calendar.at(self.start).day, last: self.at.day };
            let stored = self.stage.daily(&user, span).await.into_iter().map(|of| {
                let totals = of.totals;
                let charged = (totals.free_count, totals.paid_count, totals.amount.micros());
                let refunded = (totals.refunded_count, totals.refunded_amount.micros());
                ((of.day.num_days_from_ce(), of.service), (charged.0, charged.1, charged.2, refunded.0, refunded.1))
            });
            prop_assert_eq!(stored.collect::<BTreeMap<_, _>>(), days(model));
        }
        for payment in 0..STRAYS {
            let owner = self.shared.strays.get(&payment).map(|owner| user(self.postings.case, *owner));
            prop_assert_eq!(self.stage.credited_to(&stray_id(self.postings.case, payment)).await, owner);
        }
        let Some(due) = self.stage.due(self.at.utc).await else { return Ok(()) };
        let now = self.at.utc.timestamp_micros();
        for (number, model) in (0u8..).zip(&self.models) {
            for (id, entry) in &model.entries {
                let is_listed = due.contains(&(user(self.postings.case, number), trace(*id)));
                let hold = entry.hold.as_ref().filter(|_| entry.state == State::Open);
                let is_due = hold.is_some_and(|hold| hold.expires <= now);
                // A report may shorten a hold. The sweep may still find it at its longest expiry only.
                let may_wait = hold.is_some_and(|hold| hold.longest > now);
                prop_assert!(is_listed == is_due || (is_due && may_wait), "{:?} of {:?}", is_listed, entry);
            }
        }
        Ok(())
    }

    /// Lets every reservation expire, releases those that can't be charged, ends the pending refunds, and
    /// checks that nothing is held any more.
    async fn close(&mut self) -> Played {
        self.pass(60);
        let steps = (0u8..).zip(&self.models).flat_map(|(number, model)| {
            let pending = model.order_refunds.iter().filter(|(_, refund)| refund.state == OrderRefundState::Pending);
            pending.map(move |(id, refund)| {
                let refund_step = if id % 2 == 0 { OrderRefundStep::Succeeded } else { OrderRefundStep::Failed };
                (number, Step::OrderRefund { order: refund.order, refund: *id, refund_step })
            })
        });
        let steps: Vec<_> = steps.collect();
        // No server settles an empty batch.
        if !steps.is_empty() {
            let postings = steps.iter().map(|(number, step)| self.postings.of(*number, step)).collect();
            let (answers, expected) = self.settle(postings, &steps).await;
            prop_assert_eq!(answers, expected);
        }
        for ending in [|trace| Step::Expire { trace }, |trace| Step::Release { trace }] {
            let steps = (0u8..).zip(&self.models).flat_map(|(number, model)| {
                let open = model.entries.iter().filter(|(_, entry)| entry.state == State::Open);
                open.map(move |(id, _)| (number, ending(*id)))
            });
            let steps: Vec<_> = steps.collect();
            if steps.is_empty() {
                break;
            }
            let postings = steps.iter().map(|(number, step)| self.postings.of(*number, step)).collect();
            let (answers, expected) = self.settle(postings, &steps).await;
            prop_assert_eq!(answers, expected);
        }
        for user in self.users() {
            let account = self.stage.account(&user, self.moment().month).await;
            prop_assert_eq!(account.balance.held, Money::ZERO);
        }
        Ok(())
    }

    /// Archives and seals the whole history. It reads as before, and the whole audit finds nothing.
    async fn seal_all(&self) -> Played {
        let case = self.postings.case;
        self.archive().await;
        // All histories end before, and seal the same months: no account may lack one that another has.
        self.clock.set(AFTER_ALL.parse().unwrap());
        self.stage.seal(case, &self.calendar).await;
        prop_assert_eq!(self.stage.audit(case, &self.calendar).await, vec![]);
        self.compare_all().await
    }
}

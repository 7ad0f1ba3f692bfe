//! The events that a history must leave: the levels of the model before and after each step.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value};

use super::model::{Answer, KEY_LIMITS, Model, Moment, OrderRefundState, OrderState, SERVICES, Shared, Step};
use crate::biz::{
    events::{EventType, alerts::Alerts},
    values::money::Money,
};

/// Thresholds: balances and percentages.
type Thresholds = (&'static [i64], &'static [u8]);

const OF_ALL_USERS: Thresholds = (&[0, 10, 30], &[50, 100]);
const OWN: [Thresholds; 3] = [(&[5, 40], &[30, 100]), (&[], &[80]), (&[20], &[])];
/// The number of thresholds that a user may choose.
pub const OWN_ALERTS: u8 = OWN.len() as u8;

pub fn alerts() -> Alerts {
    alerts_of(OF_ALL_USERS)
}

pub fn own_alerts(number: u8) -> Alerts {
    alerts_of(OWN[usize::from(number)])
}

fn alerts_of((balances, percents): Thresholds) -> Alerts {
    Alerts::new(balances.iter().copied().map(Money::from_micros).collect(), percents.to_vec()).unwrap()
}

/// An event, as the histories compare it.
pub fn shown(kind: EventType, data: &Map<String, Value>) -> String {
    let text = |name: &str| data.get(name).map(|value| value.as_str().map_or(value.to_string(), str::to_owned));
    match kind {
        EventType::BalanceLow => format!("low {}", text("threshold").unwrap()),
        EventType::BalanceExhausted => format!("exhausted {}", text("refused").unwrap()),
        EventType::QuotaThreshold => match text("quota").unwrap().as_str() {
            "cap" => format!("cap {} {}", text("period").unwrap(), text("percent").unwrap()),
            "api_key" => format!("key {} {}", text("quota_type").unwrap(), text("percent").unwrap()),
            _ => format!("free {}", text("percent").unwrap()),
        },
        // The histories compare the state of a refund, and not its kind.
        EventType::RechargeRefunded | EventType::RechargeChargedBack => "money back".into(),
        EventType::AccountStatus => format!("status {}", text("after").unwrap()),
        other => other.name().into(),
    }
}

/// The levels of one user, and those of the API key.
pub struct Levels {
    balance: i64,
    status: super::model::Status,
    free: BTreeMap<(u32, u8), u32>,
    caps: Option<((usize, usize), (usize, usize))>,
    key: [i64; 3],
    thresholds: Thresholds,
}

impl Levels {
    pub fn of(model: &Model, shared: &Shared, months: impl Iterator<Item = u32>, now: Moment) -> Self {
        let services = 0..SERVICES.len() as u8;
        let rows = months.flat_map(|month| services.clone().map(move |service| (month, service)));
        Self {
            balance: model.balance,
            status: model.status,
            free: rows.map(|row| (row, model.used(row.0, row.1))).collect(),
            caps: model.caps().zip(model.calls(now)),
            key: shared.key.used(now),
            thresholds: model.alerts.map_or(OF_ALL_USERS, |number| OWN[usize::from(number)]),
        }
    }
}

/// The events of one user.
#[derive(Debug, Default, Clone)]
pub struct Foreseen {
    is_exhausted: bool,
    /// The stops that are known.
    stops: BTreeSet<u8>,
    /// The events of each step, in any order.
    pub steps: Vec<Vec<String>>,
}

/// A step with its answer, and the levels around it.
pub struct Taken<'s> {
    pub step: &'s Step,
    pub answer: &'s Answer,
    pub before: Levels,
    pub after: Levels,
    /// Whether it is a check that was refused for money.
    pub is_refused_check: bool,
}

impl Foreseen {
    pub fn take(&mut self, taken: &Taken<'_>) {
        let Taken { step, answer, before, after, .. } = taken;
        let mut events = Vec::new();
        match (step, answer) {
            (_, Answer::Refunded { replayed: false, .. }) => events.push("charge.refunded".into()),
            (_, Answer::Order { state, changed: true, .. }) => {
                let kind = match state {
                    OrderState::Paid => Some("recharge.succeeded"),
                    OrderState::Failed => Some("recharge.failed"),
                    OrderState::Expired => Some("recharge.expired"),
                    _ => None,
                };
                events.extend(kind.map(str::to_owned));
            }
            (_, Answer::OrderRefunded { state: OrderRefundState::Success, changed: true, .. }) => {
                events.push("money back".into());
            }
            _ => {}
        }
        events.extend(self.exhausted(taken));
        events.extend(self.stopped(step, answer));
        if before.status != after.status {
            events.push(format!("status {}", format!("{:?}", after.status).to_uppercase()));
        }
        if after.balance > before.balance {
            self.is_exhausted = false;
        }
        for threshold in after.thresholds.0 {
            if before.balance >= *threshold && after.balance < *threshold {
                events.push(format!("low {}", Money::from_micros(*threshold)));
            }
        }
        let mut reached = |quota: &str, (limit, before, after): (i64, i64, i64)| {
            for percent in taken.after.thresholds.1 {
                let is_at = |used: i64| used.max(0) * 100 >= limit * i64::from(*percent);
                if limit > 0 && !is_at(before) && is_at(after) {
                    events.push(format!("{quota} {percent}"));
                }
            }
        };
        for (row, used) in &after.free {
            let limit = SERVICES[usize::from(row.1)].free_units;
            reached("free", (limit.into(), before.free[row].into(), (*used).into()));
        }
        if let (Some((caps, was)), Some((_, is))) = (before.caps, after.caps) {
            reached("cap day", (caps.0 as i64, was.0 as i64, is.0 as i64));
            reached("cap month", (caps.1 as i64, was.1 as i64, is.1 as i64));
        }
        for (index, kind) in ["requests", "tokens", "amount"].into_iter().enumerate() {
            reached(&format!("key {kind}"), (KEY_LIMITS[index], before.key[index], after.key[index]));
        }
        self.steps.push(events);
    }

    /// The first refusal for money since the last credit.
    fn exhausted(&mut self, taken: &Taken<'_>) -> Option<String> {
        let by = match (taken.step, taken.answer) {
            (Step::Charge { .. }, Answer::Insufficient) => "charge",
            (Step::Reserve { .. }, Answer::Insufficient) => "reserve",
            _ if taken.is_refused_check => "check",
            _ => return None,
        };
        (!std::mem::replace(&mut self.is_exhausted, true)).then(|| format!("exhausted {by}"))
    }

    /// A stop that no step has told of before. A refused step tells of none.
    fn stopped(&mut self, step: &Step, answer: &Answer) -> Option<String> {
        let stop = match (step, answer) {
            (Step::Report(report), Answer::Reported { .. } | Answer::RanOut) => report.stop,
            (Step::Commit(commit), Answer::Charged { .. }) => commit.stop,
            (Step::Break { stop, .. }, Answer::Charged { .. } | Answer::Freed) => *stop,
            _ => None,
        };
        stop.filter(|stop| self.stops.insert(*stop)).map(|_| EventType::StreamStopped.name().into())
    }
}

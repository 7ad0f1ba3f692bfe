//! The events that a history must leave: the levels of the model before and after each step.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use super::model::{Answer, KEY_LIMITS, Model, Moment, OrderRefundState, OrderState, SERVICES, Shared, Step};
use crate::biz::{
    events::{EventType, alerts::Alerts},
    values::money::Money,
};

/// The thresholds of all users.
const BALANCES: [i64; 3] = [0, 10, 30];
const PERCENTS: [u8; 2] = [50, 100];

pub fn alerts() -> Alerts {
    Alerts::new(BALANCES.map(Money::from_micros).into(), PERCENTS.into()).unwrap()
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
        }
    }
}

/// The events of one user.
#[derive(Debug, Default, Clone)]
pub struct Foreseen {
    is_exhausted: bool,
    pub events: Vec<String>,
}

impl Foreseen {
    pub fn step(&mut self, step: &Step, answer: &Answer, before: &Levels, after: &Levels) {
        match (step, answer) {
            (Step::Charge { .. } | Step::Reserve { .. }, Answer::Insufficient) if !self.is_exhausted => {
                self.is_exhausted = true;
                let by = if matches!(step, Step::Charge { .. }) { "charge" } else { "reserve" };
                self.events.push(format!("exhausted {by}"));
            }
            (_, Answer::Refunded { replayed: false, .. }) => self.events.push("charge.refunded".into()),
            (_, Answer::Order { state, changed: true, .. }) => {
                let kind = match state {
                    OrderState::Paid => Some("recharge.succeeded"),
                    OrderState::Failed => Some("recharge.failed"),
                    OrderState::Expired => Some("recharge.expired"),
                    _ => None,
                };
                self.events.extend(kind.map(str::to_owned));
            }
            (_, Answer::OrderRefunded { state: OrderRefundState::Success, changed: true, .. }) => {
                self.events.push("money back".into());
            }
            _ => {}
        }
        if before.status != after.status {
            self.events.push(format!("status {}", format!("{:?}", after.status).to_uppercase()));
        }
        if after.balance > before.balance {
            self.is_exhausted = false;
        }
        for threshold in BALANCES {
            if before.balance >= threshold && after.balance < threshold {
                self.events.push(format!("low {}", Money::from_micros(threshold)));
            }
        }
        for (row, used) in &after.free {
            let limit = SERVICES[usize::from(row.1)].free_units;
            self.reached("free", (limit.into(), before.free[row].into(), (*used).into()));
        }
        if let (Some((caps, was)), Some((_, is))) = (before.caps, after.caps) {
            self.reached("cap day", (caps.0 as i64, was.0 as i64, is.0 as i64));
            self.reached("cap month", (caps.1 as i64, was.1 as i64, is.1 as i64));
        }
        for (index, kind) in ["requests", "tokens", "amount"].into_iter().enumerate() {
            let name = format!("key {kind}");
            self.reached(&name, (KEY_LIMITS[index], before.key[index], after.key[index]));
        }
    }

    fn reached(&mut self, quota: &str, (limit, before, after): (i64, i64, i64)) {
        for percent in PERCENTS {
            let is_at = |used: i64| used.max(0) * 100 >= limit * i64::from(percent);
            if limit > 0 && !is_at(before) && is_at(after) {
                self.events.push(format!("{quota} {percent}"));
            }
        }
    }
}

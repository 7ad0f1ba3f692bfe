//! The reference model: one user's account, in a slow and obvious form. Holds are never stored; each
//! read sums them over the open reservations.

mod keys;
mod order_refunds;
mod orders;
mod prices;
mod refunds;
mod reservations;
mod strays;
mod streams;

use std::collections::{BTreeMap, BTreeSet};

pub use self::{
    keys::KEY_LIMITS,
    order_refunds::{OrderRefund, OrderRefundState, OrderRefundStep},
    orders::{ORDERS, OrderState, OrderStep, Payments, order_amount},
    prices::{MODELS, Priced, SERVICES, Service, Tokens},
    refunds::Refund,
    reservations::{Entry, State, TTL_MINUTES},
    strays::{STRAYS, stray_amount},
    streams::Report,
};
use self::{
    keys::{Key, one_call},
    reservations::Hold,
};

/// An event of an account.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    Charge {
        call: Call,
        /// Whether the work is done.
        is_delivered: bool,
    },
    /// `stream` may report the delivery.
    Reserve {
        call: Call,
        stream: u8,
    },
    Report(Report),
    Commit(Commit),
    Release {
        trace: u8,
    },
    Expire {
        trace: u8,
    },
    /// The end of a stream that broke.
    Break {
        trace: u8,
        stream: u8,
        tokens: Option<Tokens>,
        /// As of a report.
        stop: Option<u8>,
    },
    Adjust {
        id: u8,
        amount: i64,
        allow_negative: bool,
    },
    Refund(RefundRequest),
    Order {
        order: u8,
        order_step: OrderStep,
    },
    OrderRefund {
        order: u8,
        /// Refunds are numbered over all users.
        refund: u8,
        refund_step: OrderRefundStep,
    },
    /// The credit of an unapplied payment to the user.
    CreditPayment {
        /// Unapplied payments are numbered over all users.
        payment: u8,
    },
    SetStatus {
        /// Identifies the request.
        id: u8,
        status: Status,
    },
    SetPlan {
        /// Identifies the request.
        id: u8,
        is_planned: bool,
    },
    SetAlerts {
        /// Identifies the request.
        id: u8,
        /// The number of the thresholds; `None` for those of all users.
        alerts: Option<u8>,
    },
    /// A check that was refused for money, on a state that may be old.
    RefusedCheck {
        call: Call,
    },
}

/// A refund of a charge; of all that is left without a count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RefundRequest {
    pub trace: u8,
    pub id: u8,
    pub count: Option<u32>,
}

/// The status of an account.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    Active,
    Frozen,
    Closed,
}

/// The delivery of a reservation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Commit {
    pub trace: u8,
    pub count: Option<u32>,
    pub cost: Option<i64>,
    pub tokens: Option<Tokens>,
    /// Output that was counted from a text, in place of the tokens.
    pub text: Option<u32>,
    /// The stream that commits, if any.
    pub stream: Option<u8>,
    /// As of a report.
    pub stop: Option<u8>,
}

/// A call to charge or to hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Call {
    pub trace: u8,
    pub service: u8,
    pub count: u32,
    /// The cost of all units without free quota; `None` means the price of the service.
    pub cost: Option<i64>,
    /// Whether the call has the API key.
    pub keyed: bool,
    pub model: u8,
    pub tokens: Option<Tokens>,
}

/// The policy of a service for reservations.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Policy {
    /// Whether the reported usage is charged at the expiry.
    pub charges_expired: bool,
    pub overrun: Overrun,
}

/// The charge of a cost above the hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Overrun {
    Charged,
    Capped,
    Spilled,
}

/// The caps of calls per day and per month.
pub type Caps = (usize, usize);

/// The state that all users share: payments, the owners of refund ids, and one API key.
#[derive(Debug)]
pub struct Shared {
    pub payments: Payments,
    /// The user of each refund.
    pub order_refunds: BTreeMap<u8, u8>,
    /// The user of each unapplied payment that was credited.
    pub strays: BTreeMap<u8, u8>,
    pub key: Key,
}

impl Shared {
    pub fn new(daily_amount: bool) -> Self {
        Self {
            payments: Payments::default(),
            order_refunds: BTreeMap::new(),
            strays: BTreeMap::new(),
            key: Key::new(daily_amount),
        }
    }
}

/// The answer of a step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    Charged {
        free: u32,
        paid: u32,
        amount: i64,
        shortfall: i64,
        balance: i64,
        free_left: u32,
        replayed: bool,
    },
    Held {
        free: u32,
        amount: i64,
        replayed: bool,
    },
    Reported {
        free: u32,
        amount: i64,
        tokens: Option<Tokens>,
        expires: i64,
        is_exhausted: bool,
    },
    /// The hold ended before the report.
    RanOut,
    Released {
        replayed: bool,
    },
    Freed,
    NothingToEnd,
    Adjusted {
        balance: i64,
        replayed: bool,
    },
    Refunded {
        free: u32,
        paid: u32,
        amount: i64,
        balance: i64,
        /// Units and amount of all refunds of the charge.
        sum: (u32, i64),
        replayed: bool,
    },
    Order {
        state: OrderState,
        payment: Option<u8>,
        changed: bool,
    },
    OrderRefunded {
        state: OrderRefundState,
        amount: i64,
        order: OrderState,
        changed: bool,
    },
    PaymentCredited {
        changed: bool,
    },
    /// The report must come again.
    NotYet,
    /// A step that the service never takes.
    Defect,
    StatusSet {
        changed: bool,
    },
    Noted,
    NotActive,
    WrongAmount,
    Duplicate,
    Capped,
    Insufficient,
    Conflict,
    NotFound,
    WrongState,
    Invalid,
}

impl Answer {
    pub fn forget_replay(&mut self) {
        match self {
            Self::Charged { replayed, .. }
            | Self::Held { replayed, .. }
            | Self::Released { replayed }
            | Self::Adjusted { replayed, .. }
            | Self::Refunded { replayed, .. } => *replayed = false,
            Self::Order { changed, .. } | Self::OrderRefunded { changed, .. } | Self::PaymentCredited { changed } => {
                *changed = false;
            }
            _ => {}
        }
    }

    fn again(&self) -> Self {
        let mut again = self.clone();
        if let Self::Charged { replayed, .. } | Self::Refunded { replayed, .. } = &mut again {
            *replayed = true;
        }
        again
    }
}

/// The time of a step: the numbers of the month, the day and the microsecond in absolute time, and
/// of the minute within the history; and the microsecond at which its month began.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Moment {
    pub month: u32,
    pub day: i32,
    pub micros: i64,
    pub minute: u32,
    pub month_began: i64,
}

/// One account.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Model {
    user: u8,
    policies: [Policy; SERVICES.len()],
    /// The minutes after the end of a month at which it closes.
    close_minutes: u32,
    /// The caps, and the start of the count.
    caps: Option<(Caps, i64)>,
    pub balance: i64,
    pub status: Status,
    /// The requests that changed the status.
    pub status_changes: BTreeSet<u8>,
    /// Whether the user has the plan.
    pub is_planned: bool,
    /// The requests that changed the plan.
    pub plan_changes: BTreeSet<u8>,
    /// The number of the user's own thresholds.
    pub alerts: Option<u8>,
    /// The requests that changed the thresholds.
    pub alerts_changes: BTreeSet<u8>,
    /// The number of changes of the caps.
    pub caps_changes: usize,
    /// The state of each order, and its payment.
    pub orders: Vec<(OrderState, Option<u8>)>,
    pub order_refunds: BTreeMap<u8, OrderRefund>,
    pub entries: BTreeMap<u8, Entry>,
    pub adjustments: BTreeMap<u8, (i64, i64)>,
    /// The number of unapplied payments that were credited.
    pub credits: usize,
    /// The refunds, each with its answer.
    pub refunds: BTreeMap<u8, (RefundRequest, Answer)>,
    /// Whether delivered work has taken the balance, less what is held, below zero.
    pub overdrawn: bool,
    /// The rare events so far.
    pub seen: BTreeSet<&'static str>,
}

impl Model {
    pub fn of(user: u8, policies: [Policy; SERVICES.len()], close_minutes: u32) -> Self {
        Self {
            user,
            policies,
            close_minutes,
            caps: None,
            balance: 0,
            status: Status::Active,
            status_changes: BTreeSet::new(),
            is_planned: false,
            plan_changes: BTreeSet::new(),
            alerts: None,
            alerts_changes: BTreeSet::new(),
            caps_changes: 0,
            orders: vec![(OrderState::Pending, None); ORDERS.into()],
            order_refunds: BTreeMap::new(),
            entries: BTreeMap::new(),
            adjustments: BTreeMap::new(),
            credits: 0,
            refunds: BTreeMap::new(),
            overdrawn: false,
            seen: BTreeSet::new(),
        }
    }

    /// The holds of open reservations and of pending refunds on the balance.
    pub fn held(&self) -> i64 {
        self.open().map(|hold| hold.amount).sum::<i64>() + self.pending_refunds()
    }

    fn open(&self) -> impl Iterator<Item = &Hold> {
        self.entries.values().filter(|entry| entry.state == State::Open).filter_map(|entry| entry.hold.as_ref())
    }

    /// The held free units of open reservations.
    pub fn held_free(&self, month: u32, service: u8) -> u32 {
        let of_it = self.entries.values().filter(|entry| (entry.made.month, entry.call.service) == (month, service));
        let open = of_it.filter(|entry| entry.state == State::Open);
        open.filter_map(|entry| entry.hold.as_ref()).map(|hold| hold.free).sum()
    }

    /// Free units of the charges of a month, without those that refunds gave back.
    pub fn used(&self, month: u32, service: u8) -> u32 {
        let of_it =
            self.entries.values().filter(|entry| (entry.charged_at().month, entry.call.service) == (month, service));
        of_it.map(|entry| entry.charged().0 - entry.refunds.iter().map(|refund| refund.free).sum::<u32>()).sum()
    }

    /// Whether a month has closed.
    fn is_closed(&self, month: u32, now: Moment) -> bool {
        let close = i64::from(self.close_minutes) * 60_000_000;
        month + 1 < now.month || (month + 1 == now.month && now.month_began + close <= now.micros)
    }

    fn free_left(&self, month: u32, service: u8) -> u32 {
        SERVICES[usize::from(service)].free_units - self.used(month, service) - self.held_free(month, service)
    }

    /// The caps of calls per day and per month.
    pub fn caps(&self) -> Option<Caps> {
        self.caps.map(|(caps, _)| caps)
    }

    /// The account without its notes, for comparisons.
    pub fn without_notes(&self) -> Self {
        Self { seen: BTreeSet::new(), ..self.clone() }
    }

    fn note(&mut self, what: &'static str, happened: bool) {
        if happened {
            self.seen.insert(what);
        }
    }

    /// Sets the caps, or removes them together with their counts.
    pub fn set_caps(&mut self, caps: Option<Caps>, now: Moment) {
        let since = self.caps.map_or(now.micros, |(_, since)| since);
        self.caps_changes += usize::from(self.caps.map(|(caps, _)| caps) != caps);
        self.caps = caps.map(|caps| (caps, since));
    }

    /// The calls of this day and month, if there are caps. Released and expired reservations do not
    /// count, nor do charges that are refunded in whole.
    pub fn calls(&self, now: Moment) -> Option<Caps> {
        let (_, since) = self.caps?;
        let is_call = |entry: &&Entry| {
            matches!(entry.state, State::Open | State::Committed) && !entry.is_refunded() && entry.made.micros >= since
        };
        let calls = || self.entries.values().filter(is_call);
        let daily = calls().filter(|entry| entry.made.day == now.day).count();
        Some((daily, calls().filter(|entry| entry.made.month == now.month).count()))
    }

    /// Whether a cap refuses further calls.
    fn is_capped(&self, now: Moment) -> bool {
        let Some((((daily, monthly), _), calls)) = self.caps.zip(self.calls(now)) else { return false };
        calls.0 >= daily || calls.1 >= monthly
    }

    /// Takes a step.
    pub fn step(&mut self, step: &Step, now: Moment, shared: &mut Shared) -> Answer {
        let key = &mut shared.key;
        match step {
            Step::Charge { call, is_delivered } => self.charge(*call, *is_delivered, now, key),
            Step::Reserve { call, stream } => self.reserve(*call, *stream, now, key),
            Step::Report(report) => self.report(*report, now, key),
            Step::Commit(commit) => self.commit(*commit, now, key),
            Step::Release { trace } => self.release(*trace, key),
            Step::Expire { trace } => self.expire(*trace, now, key),
            Step::Break { trace, stream, tokens, .. } => self.break_off(*trace, *stream, *tokens, now, key),
            Step::Adjust { id, amount, allow_negative } => self.adjust(*id, *amount, *allow_negative),
            Step::Refund(refund) => self.refund(*refund, now, key),
            Step::Order { order, order_step } => self.order(*order, *order_step, &mut shared.payments),
            Step::OrderRefund { order, refund, refund_step } => {
                self.order_refund(*order, *refund, *refund_step, &mut shared.order_refunds)
            }
            Step::CreditPayment { payment } => self.credit_payment(*payment, &mut shared.strays),
            Step::SetStatus { id, status } => self.set_status(*id, *status),
            Step::SetPlan { id, is_planned } => self.set_plan(*id, *is_planned),
            Step::SetAlerts { id, alerts } => self.set_alerts(*id, *alerts),
            Step::RefusedCheck { call } => match self.cover(*call, now, key) {
                Ok(_) | Err(Answer::Insufficient) => Answer::Noted,
                Err(refusal) => refusal,
            },
        }
    }

    /// Whether the step is a check that would be refused for money now.
    pub fn is_refused_check(&self, step: &Step, now: Moment, shared: &Shared) -> bool {
        let Step::RefusedCheck { call } = step else { return false };
        matches!(self.clone().cover(*call, now, &shared.key), Err(Answer::Insufficient))
    }

    /// The free units and the amount that a call takes now, with its price; or the refusal.
    fn cover(&mut self, call: Call, now: Moment, key: &Key) -> Result<(prices::Quoted, u32, i64), Answer> {
        let Some(quoted) = prices::quote(call, now, self.is_planned) else {
            self.note("a call has no price", true);
            return Err(Answer::Invalid);
        };
        if self.status != Status::Active {
            self.note("an account that is not active refuses a call", true);
            return Err(Answer::NotActive);
        }
        if self.is_capped(now) {
            return Err(Answer::Capped);
        }
        let (free, amount) = prices::split(quoted.units, quoted.cost, self.free_left(now.month, call.service));
        if amount > 0 && amount > self.balance - self.held() {
            return Err(Answer::Insufficient);
        }
        if key.refuses(call, one_call(call.tokens, amount), now) {
            return Err(Answer::Capped);
        }
        Ok((quoted, free, amount))
    }

    /// The free units and the amount that a delivered call takes now, with its price, and the part that
    /// is not charged; or the refusal.
    fn cover_delivered(&mut self, call: Call, now: Moment) -> Result<(prices::Quoted, u32, i64, i64), Answer> {
        let Some(quoted) = prices::quote(call, now, self.is_planned) else {
            self.note("a call has no price", true);
            return Err(Answer::Invalid);
        };
        if self.status != Status::Active {
            return Err(Answer::NotActive);
        }
        let (free, due) = prices::split(quoted.units, quoted.cost, self.free_left(now.month, call.service));
        let funds = self.balance - self.held();
        let is_charged = self.policies[usize::from(call.service)].overrun == Overrun::Charged;
        let (mut amount, mut shortfall) = (0, 0);
        for _ in 0..due {
            if is_charged || amount < funds {
                amount += 1;
            } else {
                shortfall += 1;
            }
        }
        self.note("delivered work falls short", shortfall > 0);
        self.note("delivered work overdraws", amount > funds);
        self.note("delivered work passes a cap", self.is_capped(now));
        self.overdrawn |= amount > 0 && amount > funds;
        Ok((quoted, free, amount, shortfall))
    }

    fn charge(&mut self, call: Call, is_delivered: bool, now: Moment, key: &mut Key) -> Answer {
        if let Some(first) = self.entries.get(&call.trace) {
            return match &first.answer {
                Some(answer) if first.hold.is_none() && first.call == call => answer.again(),
                _ => Answer::Conflict,
            };
        }
        let covered = match is_delivered {
            true => self.cover_delivered(call, now),
            false => self.cover(call, now, key).map(|(quoted, free, amount)| (quoted, free, amount, 0)),
        };
        let (quoted, free, amount, shortfall) = match covered {
            Ok(covered) => covered,
            Err(refusal) => return refusal,
        };
        key.take(call, now, one_call(call.tokens, amount));
        self.balance -= amount;
        let answer = Answer::Charged {
            free,
            paid: quoted.units - free,
            amount,
            shortfall,
            balance: self.balance,
            free_left: self.free_left(now.month, call.service) - free,
            replayed: false,
        };
        self.note("a plan prices a charge", self.is_planned && quoted.version.is_some() && amount > 0);
        self.note("a charge in tokens is partly free", quoted.version.is_some() && free > 0 && amount > 0);
        let entry = Entry { answer: Some(answer.clone()), ..Entry::new(call, now, State::Committed, quoted.version) };
        self.entries.insert(call.trace, entry);
        answer
    }

    fn set_status(&mut self, id: u8, status: Status) -> Answer {
        if self.status_changes.contains(&id) {
            self.note("a request that has set the status comes again", true);
            return Answer::StatusSet { changed: true };
        }
        let changed = self.status != status;
        if changed {
            self.status_changes.insert(id);
        }
        self.note("an account is active again", changed && status == Status::Active);
        self.status = status;
        Answer::StatusSet { changed }
    }

    fn set_plan(&mut self, id: u8, is_planned: bool) -> Answer {
        if self.plan_changes.contains(&id) {
            return Answer::StatusSet { changed: true };
        }
        let changed = self.is_planned != is_planned;
        if changed {
            self.plan_changes.insert(id);
        }
        self.note("a user has a plan", changed && is_planned);
        self.is_planned = is_planned;
        Answer::StatusSet { changed }
    }

    fn set_alerts(&mut self, id: u8, alerts: Option<u8>) -> Answer {
        if self.alerts_changes.contains(&id) {
            return Answer::StatusSet { changed: true };
        }
        let changed = self.alerts != alerts;
        if changed {
            self.alerts_changes.insert(id);
        }
        self.note("a user has thresholds of its own", changed && alerts.is_some());
        self.alerts = alerts;
        Answer::StatusSet { changed }
    }

    fn adjust(&mut self, id: u8, amount: i64, allow_negative: bool) -> Answer {
        if let Some((first, balance)) = self.adjustments.get(&id) {
            return if *first == amount {
                Answer::Adjusted { balance: *balance, replayed: true }
            } else {
                Answer::Conflict
            };
        }
        let overdraws = amount < 0 && self.balance - self.held() + amount < 0;
        if overdraws && !allow_negative {
            return Answer::Insufficient;
        }
        self.note("an adjustment overdraws", overdraws);
        self.overdrawn |= overdraws;
        self.balance += amount;
        self.adjustments.insert(id, (amount, self.balance));
        Answer::Adjusted { balance: self.balance, replayed: false }
    }
}

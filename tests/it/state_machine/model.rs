//! The reference: one user's account, kept the slow and obvious way. What is held is
//! never stored, but summed over the open reservations whenever it is asked for.

use std::collections::BTreeMap;

/// What happens to an account.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    Charge(Call),
    Reserve(Call),
    Commit { trace: u8, count: Option<u32>, cost: Option<i64> },
    Release { trace: u8 },
    Expire { trace: u8 },
    Adjust { id: u8, amount: i64 },
    Order { order: u8, news: News },
}

/// What payment-service says of a top-up order. Payments are numbered over all users.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum News {
    Opened { payment: u8 },
    Paid { payment: u8, wrong_amount: bool },
    Failed { payment: Option<u8>, wrong_amount: bool },
    Expired,
}

impl News {
    fn payment(self) -> Option<u8> {
        match self {
            Self::Opened { payment } | Self::Paid { payment, .. } => Some(payment),
            Self::Failed { payment, .. } => payment,
            Self::Expired => None,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OrderState {
    Pending,
    Paid,
    Failed,
    Expired,
}

/// The orders that each user has from the beginning; later numbers have none.
pub const ORDERS: u8 = 3;

/// On the calls of a day and of a month.
pub type Caps = (usize, usize);

/// What an order is over.
pub fn order_amount(order: u8) -> i64 {
    i64::from(order + 1) * 20
}

/// What all users share: payments, and one API key.
#[derive(Debug, Default)]
pub struct Shared {
    pub payments: Payments,
    key: Key,
}

/// What the calls of the key took, as a list: when, how many requests, how much.
#[derive(Debug, Default)]
struct Key(Vec<(Moment, i64, i64)>);

/// Of the key: requests of a day, and an amount in all.
pub const KEY_REQUESTS: i64 = 5;
pub const KEY_AMOUNT: i64 = 60;

impl Key {
    fn refuses(&self, call: Call, amount: i64, now: Moment) -> bool {
        let today = self.0.iter().filter(|(at, ..)| at.day == now.day).map(|(_, requests, _)| requests).sum::<i64>();
        let all: i64 = self.0.iter().map(|(.., amount)| amount).sum();
        call.keyed && (today + 1 > KEY_REQUESTS || (amount > 0 && all + amount > KEY_AMOUNT))
    }

    fn take(&mut self, call: Call, at: Moment, requests: i64, amount: i64) {
        if call.keyed {
            self.0.push((at, requests, amount));
        }
    }
}

/// Which order of which user has a payment.
#[derive(Debug, Default)]
pub struct Payments {
    taken: BTreeMap<u8, (u8, u8)>,
    /// No longer an order's, but taken until the batch is over.
    given_up: Vec<u8>,
}

impl Payments {
    pub fn end_batch(&mut self) {
        for payment in self.given_up.drain(..) {
            self.taken.remove(&payment);
        }
    }
}

/// A call, to be charged or held.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Call {
    pub trace: u8,
    pub service: u8,
    pub count: u32,
    /// Of all units if none were free.
    pub cost: i64,
    /// Whether it is made with the API key.
    pub keyed: bool,
}

/// What a step answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    Charged { free: u32, paid: u32, amount: i64, balance: i64, free_left: u32, replayed: bool },
    Held { free: u32, amount: i64, replayed: bool },
    Released { replayed: bool },
    Swept { freed: bool },
    Adjusted { balance: i64, replayed: bool },
    Order { state: OrderState, payment: Option<u8>, changed: bool },
    WrongAmount,
    Duplicate,
    Capped,
    Insufficient,
    Conflict,
    NotFound,
    WrongState,
}

impl Answer {
    pub fn forget_replay(&mut self) {
        match self {
            Self::Charged { replayed, .. }
            | Self::Held { replayed, .. }
            | Self::Released { replayed }
            | Self::Adjusted { replayed, .. } => *replayed = false,
            Self::Order { changed, .. } => *changed = false,
            _ => {}
        }
    }
}

/// When a step happens: the numbers of the month, the day, the minute and the
/// microsecond within all time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Moment {
    pub month: u32,
    pub day: i32,
    pub micros: i64,
    pub minute: u32,
}

pub const FREE_UNITS: u32 = 10;
pub const TTL_MINUTES: u32 = 10;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Open,
    Committed,
    Released,
    Expired,
}

#[derive(Debug, Clone)]
struct Entry {
    is_reservation: bool,
    call: Call,
    made: Moment,
    state: State,
    held_free: u32,
    held_amount: i64,
    delivered: Option<(u32, Option<i64>)>,
    charged: Option<Answer>,
}

/// One account.
#[derive(Debug)]
pub struct Model {
    user: u8,
    /// Calls of a day and of a month, and since when they are counted.
    caps: Option<(Caps, i64)>,
    pub balance: i64,
    /// The state of each order, and its payment.
    pub orders: Vec<(OrderState, Option<u8>)>,
    /// By month and service.
    pub used: BTreeMap<(u32, u8), u32>,
    entries: BTreeMap<u8, Entry>,
    adjustments: BTreeMap<u8, (i64, i64)>,
    /// Whether delivered work has taken the balance, less what is held, below zero.
    pub overdrawn: bool,
}

impl Model {
    pub fn of(user: u8) -> Self {
        Self {
            user,
            caps: None,
            balance: 0,
            orders: vec![(OrderState::Pending, None); ORDERS.into()],
            used: BTreeMap::new(),
            entries: BTreeMap::new(),
            adjustments: BTreeMap::new(),
            overdrawn: false,
        }
    }

    /// What open reservations hold of the balance.
    pub fn held(&self) -> i64 {
        self.open().map(|entry| entry.held_amount).sum()
    }

    /// What open reservations hold of a quota.
    pub fn held_free(&self, month: u32, service: u8) -> u32 {
        let of_it = self.open().filter(|entry| (entry.made.month, entry.call.service) == (month, service));
        of_it.map(|entry| entry.held_free).sum()
    }

    fn open(&self) -> impl Iterator<Item = &Entry> {
        self.entries.values().filter(|entry| entry.state == State::Open)
    }

    pub fn used(&self, month: u32, service: u8) -> u32 {
        self.used.get(&(month, service)).copied().unwrap_or(0)
    }

    fn free_left(&self, month: u32, service: u8) -> u32 {
        FREE_UNITS - self.used(month, service) - self.held_free(month, service)
    }

    /// Sets the caps, or takes them away, and with them what was counted.
    pub fn set_caps(&mut self, caps: Option<Caps>, now: Moment) {
        let since = self.caps.map_or(now.micros, |(_, since)| since);
        self.caps = caps.map(|caps| (caps, since));
    }

    /// The calls of this day and month, where there are caps. What was released or expired
    /// was none.
    pub fn calls(&self, now: Moment) -> Option<Caps> {
        let (_, since) = self.caps?;
        let is_call =
            |entry: &&Entry| matches!(entry.state, State::Open | State::Committed) && entry.made.micros >= since;
        let calls = || self.entries.values().filter(is_call);
        let daily = calls().filter(|entry| entry.made.day == now.day).count();
        Some((daily, calls().filter(|entry| entry.made.month == now.month).count()))
    }

    /// Whether no more calls may be made.
    fn is_capped(&self, now: Moment) -> bool {
        let Some((((daily, monthly), _), calls)) = self.caps.zip(self.calls(now)) else { return false };
        calls.0 >= daily || calls.1 >= monthly
    }

    /// Takes a step.
    pub fn step(&mut self, step: &Step, now: Moment, shared: &mut Shared) -> Answer {
        match step {
            Step::Charge(call) => self.charge(*call, now, &mut shared.key),
            Step::Reserve(call) => self.reserve(*call, now, &mut shared.key),
            Step::Commit { trace, count, cost } => self.commit(*trace, *count, *cost, &mut shared.key),
            Step::Release { trace } => self.release(*trace, &mut shared.key),
            Step::Expire { trace } => self.expire(*trace, now, &mut shared.key),
            Step::Adjust { id, amount } => self.adjust(*id, *amount),
            Step::Order { order, news } => self.order(*order, *news, &mut shared.payments),
        }
    }

    fn charge(&mut self, call: Call, now: Moment, key: &mut Key) -> Answer {
        if let Some(first) = self.entries.get(&call.trace) {
            return match &first.charged {
                Some(answer) if !first.is_reservation && first.call == call => again(answer),
                _ => Answer::Conflict,
            };
        }
        if self.is_capped(now) {
            return Answer::Capped;
        }
        let (free, amount) = split(call.count, call.cost, self.free_left(now.month, call.service));
        if amount > 0 && amount > self.balance - self.held() {
            return Answer::Insufficient;
        }
        if key.refuses(call, amount, now) {
            return Answer::Capped;
        }
        key.take(call, now, 1, amount);
        self.balance -= amount;
        *self.used.entry((now.month, call.service)).or_default() += free;
        let answer = Answer::Charged {
            free,
            paid: call.count - free,
            amount,
            balance: self.balance,
            free_left: self.free_left(now.month, call.service),
            replayed: false,
        };
        let entry = Entry {
            is_reservation: false,
            call,
            made: now,
            state: State::Committed,
            held_free: 0,
            held_amount: 0,
            delivered: None,
            charged: Some(answer.clone()),
        };
        self.entries.insert(call.trace, entry);
        answer
    }

    fn reserve(&mut self, call: Call, now: Moment, key: &mut Key) -> Answer {
        if let Some(first) = self.entries.get(&call.trace) {
            return if first.state == State::Released && first.call == call {
                Answer::WrongState
            } else if first.is_reservation && first.call == call {
                Answer::Held { free: first.held_free, amount: first.held_amount, replayed: true }
            } else {
                Answer::Conflict
            };
        }
        if self.is_capped(now) {
            return Answer::Capped;
        }
        let (free, amount) = split(call.count, call.cost, self.free_left(now.month, call.service));
        if amount > 0 && amount > self.balance - self.held() {
            return Answer::Insufficient;
        }
        if key.refuses(call, amount, now) {
            return Answer::Capped;
        }
        key.take(call, now, 1, amount);
        let entry = Entry {
            is_reservation: true,
            call,
            made: now,
            state: State::Open,
            held_free: free,
            held_amount: amount,
            delivered: None,
            charged: None,
        };
        self.entries.insert(call.trace, entry);
        Answer::Held { free, amount, replayed: false }
    }

    fn commit(&mut self, trace: u8, count: Option<u32>, cost: Option<i64>, key: &mut Key) -> Answer {
        let Some(entry) = self.entries.get_mut(&trace) else { return Answer::NotFound };
        if !entry.is_reservation || entry.state == State::Released {
            return Answer::WrongState;
        }
        let count = count.unwrap_or(entry.call.count);
        if let (Some(delivered), Some(answer)) = (&entry.delivered, &entry.charged) {
            return if *delivered == (count, cost) { again(answer) } else { Answer::Conflict };
        }
        // No longer open, so that what it held is free for it.
        let (made, call, was) = (entry.made, entry.call, (entry.state, entry.held_amount));
        entry.state = State::Committed;
        entry.delivered = Some((count, cost));
        let (month, service) = (entry.made.month, entry.call.service);
        let full = cost.unwrap_or_else(|| nearest(entry.call.cost, count, entry.call.count));
        let (free, amount) = split(count, full, self.free_left(month, service));
        match was {
            (State::Open, held) => key.take(call, made, 0, amount - held),
            _ => key.take(call, made, 1, amount),
        }
        self.balance -= amount;
        self.overdrawn |= self.balance < self.held();
        *self.used.entry((month, service)).or_default() += free;
        let answer = Answer::Charged {
            free,
            paid: count - free,
            amount,
            balance: self.balance,
            free_left: self.free_left(month, service),
            replayed: false,
        };
        if let Some(entry) = self.entries.get_mut(&trace) {
            entry.charged = Some(answer.clone());
        }
        answer
    }

    fn release(&mut self, trace: u8, key: &mut Key) -> Answer {
        let Some(entry) = self.entries.get_mut(&trace) else { return Answer::NotFound };
        if !entry.is_reservation || entry.state == State::Committed {
            return Answer::WrongState;
        }
        let replayed = entry.state == State::Released;
        if entry.state == State::Open {
            key.take(entry.call, entry.made, -1, -entry.held_amount);
        }
        entry.state = State::Released;
        Answer::Released { replayed }
    }

    fn expire(&mut self, trace: u8, now: Moment, key: &mut Key) -> Answer {
        match self.entries.get_mut(&trace) {
            Some(entry) if !entry.is_reservation => Answer::WrongState,
            Some(entry) if entry.state == State::Open && entry.made.minute + TTL_MINUTES <= now.minute => {
                entry.state = State::Expired;
                key.take(entry.call, entry.made, -1, -entry.held_amount);
                Answer::Swept { freed: true }
            }
            _ => Answer::Swept { freed: false },
        }
    }

    fn adjust(&mut self, id: u8, amount: i64) -> Answer {
        if let Some((first, balance)) = self.adjustments.get(&id) {
            return if *first == amount {
                Answer::Adjusted { balance: *balance, replayed: true }
            } else {
                Answer::Conflict
            };
        }
        if amount < 0 && self.balance - self.held() + amount < 0 {
            return Answer::Insufficient;
        }
        self.balance += amount;
        self.adjustments.insert(id, (amount, self.balance));
        Answer::Adjusted { balance: self.balance, replayed: false }
    }

    fn order(&mut self, order: u8, news: News, payments: &mut Payments) -> Answer {
        let Some((state, payment)) = self.orders.get(usize::from(order)).copied() else { return Answer::NotFound };
        let me = (self.user, order);
        if news.payment().is_some_and(|named| payments.taken.get(&named).is_some_and(|owner| *owner != me)) {
            return Answer::Duplicate;
        }
        if let News::Paid { wrong_amount: true, .. } | News::Failed { wrong_amount: true, .. } = news {
            return Answer::WrongAmount;
        }
        let is_other = |named: Option<u8>| named.is_some() && named != payment;
        let (new_state, new_payment) = match (news, state) {
            (News::Paid { .. } | News::Failed { .. }, OrderState::Paid) if is_other(news.payment()) => {
                return Answer::Duplicate;
            }
            (_, OrderState::Paid) => (state, payment),
            (News::Paid { payment, .. }, _) => {
                self.balance += order_amount(order);
                (OrderState::Paid, Some(payment))
            }
            (News::Failed { payment: named, .. }, OrderState::Pending | OrderState::Expired) => {
                (OrderState::Failed, payment.or(named))
            }
            (News::Opened { payment: opened }, OrderState::Pending) => (state, payment.or(Some(opened))),
            (News::Expired, OrderState::Pending) => (OrderState::Expired, payment),
            _ => (state, payment),
        };
        let changed = (new_state, new_payment) != (state, payment);
        if new_payment != payment {
            payments.given_up.extend(payment);
            payments.taken.extend(new_payment.map(|new| (new, me)));
        }
        self.orders[usize::from(order)] = (new_state, new_payment);
        Answer::Order { state: new_state, payment: new_payment, changed }
    }
}

fn again(answer: &Answer) -> Answer {
    match answer.clone() {
        Answer::Charged { free, paid, amount, balance, free_left, .. } => {
            Answer::Charged { free, paid, amount, balance, free_left, replayed: true }
        }
        other => other,
    }
}

/// Free units, and what the others cost.
fn split(count: u32, cost: i64, free_left: u32) -> (u32, i64) {
    let free = count.min(free_left);
    (free, nearest(cost, count - free, count))
}

/// `cost * part / whole` to the nearest, halves up.
fn nearest(cost: i64, part: u32, whole: u32) -> i64 {
    let (cost, part, whole) = (i128::from(cost), i128::from(part), i128::from(whole));
    i64::try_from((2 * cost * part + whole) / (2 * whole)).unwrap()
}

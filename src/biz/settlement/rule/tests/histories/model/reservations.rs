//! Reservations: a hold, and then its end.

use super::{
    Answer, Call, Commit, Model, Moment, Overrun, Refund, Status,
    keys::{Key, one_call, one_end},
    prices::{self, Priced, SERVICES, Tokens, VersionNumber},
};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    Open,
    Committed,
    Released,
    Expired,
}

/// A charge or a reservation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    pub call: Call,
    pub made: Moment,
    pub state: State,
    /// The price version, if no cost was given.
    pub version: Option<VersionNumber>,
    /// The hold of a reservation. It stays after the end.
    pub hold: Option<Hold>,
    pub delivered: Option<Delivered>,
    /// The answer of the charge, once it is charged.
    pub answer: Option<Answer>,
    /// Whether the charge is for reported usage, so that a commit may add to it.
    pub is_provisional: bool,
    /// Whether a commit has added to it.
    pub was_added_to: bool,
    /// Whether its id is still the one of the stream that reported.
    pub has_stream: bool,
    /// The moment of the charge, if the month of the reserve had closed.
    pub late: Option<Moment>,
    /// The additions: free units, paid units, and the amount; and the moment of a late one.
    pub rest: Vec<(u32, u32, i64, Option<Moment>)>,
    pub refunds: Vec<Refund>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hold {
    pub free: u32,
    pub amount: i64,
    /// The reserved units, and their cost without free quota.
    units: u32,
    pub full: i64,
    /// The stream that may report.
    pub owner: u8,
    pub reported: Option<Tokens>,
    pub expires: i64,
    /// The latest expiry of the hold so far.
    pub longest: i64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Delivered {
    pub count: u32,
    pub cost: Option<i64>,
    pub tokens: Option<Tokens>,
}

impl Entry {
    pub fn new(call: Call, made: Moment, state: State, version: Option<VersionNumber>) -> Self {
        Self {
            call,
            made,
            state,
            version,
            hold: None,
            delivered: None,
            answer: None,
            is_provisional: false,
            was_added_to: false,
            has_stream: false,
            late: None,
            rest: Vec::new(),
            refunds: Vec::new(),
        }
    }

    /// The moment whose day and month the charge counts to.
    pub fn charged_at(&self) -> Moment {
        self.late.unwrap_or(self.made)
    }

    /// The tokens that its charge is known to have taken from the quota of its key.
    pub fn charged_tokens(&self) -> i64 {
        let (free, paid, ..) = self.charged();
        if self.hold.is_some() && matches!(SERVICES[usize::from(self.call.service)].priced, Priced::Tokens) {
            return i64::from(free + paid);
        }
        // Of a commit without tokens, at least the estimate is known.
        let told = self.delivered.and_then(|delivered| delivered.tokens).filter(|tokens| tokens.all() > 0);
        told.or(self.call.tokens).map_or(0, |tokens| tokens.all().into())
    }

    /// Free units, paid units, the amount and the shortfall.
    pub fn charged(&self) -> (u32, u32, i64, i64) {
        match self.answer {
            Some(Answer::Charged { free, paid, amount, shortfall, .. }) => (free, paid, amount, shortfall),
            _ => (0, 0, 0, 0),
        }
    }

    /// The tokens that it takes from the quota of its key while it is open: the estimate or the report.
    pub fn held_tokens(&self) -> i64 {
        let reported = self.hold.as_ref().and_then(|hold| hold.reported);
        [self.call.tokens, reported].into_iter().flatten().map(|tokens| i64::from(tokens.all())).max().unwrap_or(0)
    }

    /// The tokens that its end takes from the quota of its key: the units if units are all tokens,
    /// otherwise the delivered tokens or, without those, the held ones.
    fn taken_tokens(&self, units: u32, tokens: Option<Tokens>) -> i64 {
        if matches!(SERVICES[usize::from(self.call.service)].priced, Priced::Tokens) {
            return units.into();
        }
        let told = tokens.map(Tokens::all).filter(|tokens| *tokens > 0);
        told.map_or_else(|| self.held_tokens(), i64::from)
    }

    /// The delivered units, and their cost without free quota. `None` if there is no price.
    pub fn priced(&self, delivered: Delivered) -> Option<(u32, i64)> {
        let hold = self.hold.as_ref()?;
        let tokens = delivered.tokens.filter(|tokens| tokens.all() > 0);
        let units = match SERVICES[usize::from(self.call.service)].priced {
            Priced::Tokens => tokens.map_or(hold.units, Tokens::all),
            Priced::Weighed => tokens.map_or(Some(hold.units), Tokens::weighed)?,
            Priced::PerUnit(_) | Priced::Calls => delivered.count,
        };
        let cost = match (delivered.cost, self.version) {
            (Some(cost), _) => cost,
            (None, Some(version)) => prices::cost_of(tokens, version)?,
            (None, None) => prices::nearest(hold.full, units, hold.units),
        };
        Some((units, cost))
    }
}

/// Lifetime of a hold without reports, in minutes.
pub const TTL_MINUTES: u32 = 10;

impl Model {
    pub(super) fn reserve(&mut self, call: Call, stream: u8, now: Moment, key: &mut Key) -> Answer {
        if let Some(first) = self.entries.get(&call.trace) {
            let Some(hold) = first.hold.as_ref().filter(|_| first.call == call) else { return Answer::Conflict };
            // A commit replaced the stream's id by its own; a sweep kept the stream's.
            let is_the_same = hold.owner == stream && (first.state != State::Committed || first.has_stream);
            return match first.state {
                State::Released => Answer::WrongState,
                _ => Answer::Held { free: hold.free, amount: hold.amount, replayed: !is_the_same },
            };
        }
        let (quoted, free, amount) = match self.cover(call, now, key) {
            Ok(covered) => covered,
            Err(refusal) => return refusal,
        };
        key.take(call, now, one_call(call.tokens, amount));
        let expires = now.micros + i64::from(TTL_MINUTES) * 60_000_000;
        let (units, full) = (quoted.units, quoted.cost);
        let hold = Hold { free, amount, units, full, owner: stream, reported: None, expires, longest: expires };
        let entry = Entry { hold: Some(hold), ..Entry::new(call, now, State::Open, quoted.version) };
        self.entries.insert(call.trace, entry);
        Answer::Held { free, amount, replayed: false }
    }

    pub(super) fn commit(&mut self, commit: Commit, now: Moment, key: &mut Key) -> Answer {
        let Commit { trace, cost, text, stream, .. } = commit;
        let Some(entry) = self.entries.get(&trace) else { return Answer::NotFound };
        let Some(hold) = entry.hold.as_ref().filter(|_| entry.state != State::Released) else {
            return Answer::WrongState;
        };
        let is_replaced = stream.is_some_and(|stream| stream != hold.owner);
        let nothing = Tokens { input: 0, cached: 0, output: 0, reasoning: 0 };
        let known = entry.delivered.map_or(hold.reported, |delivered| delivered.tokens).or(entry.call.tokens);
        let tokens = match text {
            Some(output) => Some(known.unwrap_or(nothing).with_output(output)),
            None => commit.tokens,
        };
        let of_units = !matches!(SERVICES[usize::from(entry.call.service)].priced, Priced::Tokens | Priced::Weighed);
        let told = commit.count.filter(|_| of_units);
        let count = told.unwrap_or(entry.call.count);
        let delivered = Delivered { count, cost, tokens };
        let (Some(answer), Some(before)) = (&entry.answer, entry.delivered) else {
            if is_replaced {
                self.note("a stream that was replaced commits", true);
                return Answer::WrongState;
            }
            let is_less = |had: &Tokens| cost.is_none() && text.is_some_and(|output| output < had.output);
            let Some(more) = hold.reported.filter(is_less) else {
                return self.deliver(trace, delivered, now, key);
            };
            self.note("a text has less than its stream had reported", true);
            return self.deliver_reported(trace, Delivered { tokens: Some(more), ..delivered }, now, key);
        };
        let is_less = |had: Tokens| text.is_some_and(|output| output < had.output);
        let delivered = match before.tokens {
            Some(had) if entry.is_provisional && is_less(had) => Delivered { tokens: Some(had), ..delivered },
            _ => delivered,
        };
        let delivered = if entry.is_provisional || entry.was_added_to {
            // Absent fields keep their values, and zero tokens count as absent.
            let tokens = delivered.tokens.filter(|tokens| tokens.all() > 0).or(before.tokens);
            let count = told.map_or(before.count, |count| count.max(before.count));
            Delivered { count, tokens, ..delivered }
        } else {
            delivered
        };
        if delivered == before {
            answer.again()
        } else if entry.is_provisional && stream.is_some() && (is_replaced || !entry.has_stream) {
            self.note("a stream that was replaced commits", true);
            Answer::WrongState
        } else if entry.is_provisional {
            self.deliver_rest(trace, delivered, false, now, key).again()
        } else {
            Answer::Conflict
        }
    }

    /// Charges the delivered work to the month and the day of the reserve or, if that month has closed,
    /// to this day.
    pub(super) fn deliver(&mut self, trace: u8, delivered: Delivered, now: Moment, key: &mut Key) -> Answer {
        let entry = self.entries[&trace].clone();
        let (Some(hold), Some((units, cost))) = (&entry.hold, entry.priced(delivered)) else {
            self.note("a delivery has no price", true);
            return Answer::Invalid;
        };
        self.note("a hold of an account that is not active is charged", self.status != Status::Active);
        let (made, call) = (entry.made, entry.call);
        let mut after = entry.clone();
        // The reservation is no longer open, so its hold is available for the charge.
        after.state = State::Committed;
        after.delivered = Some(delivered);
        after.late = self.is_closed(made.month, now).then_some(now);
        let month = after.charged_at().month;
        self.note("a charge comes after its month has closed", after.late.is_some());
        self.entries.insert(trace, after.clone());

        let (free, due) = prices::split(units, cost, self.free_left(month, call.service));
        self.note("a late charge takes the free quota of this month", after.late.is_some() && free > 0);
        let overrun = self.policies[usize::from(call.service)].overrun;
        let is_in_debt = due > 0 && self.balance < self.held();
        self.note("a spill meets a debt", is_in_debt && overrun == Overrun::Spilled);
        let limit = match overrun {
            Overrun::Charged => due,
            Overrun::Capped => hold.amount,
            Overrun::Spilled => hold.amount.max(self.balance - self.held()),
        };
        let (mut amount, mut shortfall) = (0, 0);
        for _ in 0..due {
            if amount < limit {
                amount += 1;
            } else {
                shortfall += 1;
            }
        }
        if entry.state == State::Open {
            key.give_back(call, made, [1, entry.held_tokens(), hold.amount]);
        }
        key.take(call, made, one_end(entry.taken_tokens(units, delivered.tokens), amount));
        self.balance -= amount;
        // The hold itself is available again. Beyond it, a spill takes no money that other
        // reservations hold.
        let may_overdraw = overrun == Overrun::Charged || entry.state != State::Open;
        self.overdrawn |= may_overdraw && self.balance < self.held();
        let answer = Answer::Charged {
            free,
            paid: units - free,
            amount,
            shortfall,
            balance: self.balance,
            free_left: self.free_left(month, call.service) - free,
            replayed: false,
        };
        after.answer = Some(answer.clone());
        self.note_delivery(&entry, &after, now);
        self.entries.insert(trace, after);
        answer
    }

    /// Charges the last report of a stream. A commit may add to it.
    fn deliver_reported(&mut self, trace: u8, delivered: Delivered, now: Moment, key: &mut Key) -> Answer {
        let answer = self.deliver(trace, delivered, now, key);
        if let Some(entry) = self.entries.get_mut(&trace) {
            entry.is_provisional = answer != Answer::Invalid;
            entry.has_stream = entry.is_provisional;
        }
        answer
    }

    /// Charges the delivered work beyond the report.
    fn deliver_rest(&mut self, trace: u8, delivered: Delivered, is_report: bool, now: Moment, key: &mut Key) -> Answer {
        let mut entry = self.entries[&trace].clone();
        let (Some(hold), Some((units, cost))) = (entry.hold.clone(), entry.priced(delivered)) else {
            return Answer::Invalid;
        };
        let (made, call) = (entry.made, entry.call);
        let (free, paid, amount, shortfall) = entry.charged();
        let (mut rest_free, mut rest_paid) = (0, 0);
        let free_left = self.free_left(made.month, call.service);
        let late = (entry.late.is_some() || self.is_closed(made.month, now)).then_some(now);
        for _ in free + paid..units {
            if rest_free < free_left && late.is_none() {
                rest_free += 1;
            } else {
                rest_paid += 1;
            }
        }
        let all = free + paid + rest_free + rest_paid;
        let due = prices::nearest(cost, paid + rest_paid, all) - amount - shortfall;
        let limit = match self.policies[usize::from(call.service)].overrun {
            Overrun::Charged => i64::MAX,
            Overrun::Capped => hold.amount - amount,
            Overrun::Spilled => (hold.amount - amount).max(self.balance - self.held()),
        };
        let rest = due.min(limit).max(0);
        if let (0, 0, ..=0, Some(answer)) = (rest_free, rest_paid, due, &entry.answer) {
            self.note("a commit has less than the report", true);
            return answer.clone();
        }
        self.note("an addition comes after its month has closed", late.is_some());
        self.note("an addition meets a refund", !entry.refunds.is_empty());
        let is_call_again = entry.is_refunded() && rest_free + rest_paid > 0;
        self.note("a call that was refunded is a call again", is_call_again);
        self.note("an addition falls short", rest < due);
        self.note("an addition is partly free", rest_free > 0 && rest > 0);
        self.note("a stream has more than the sweep charged", is_report && rest > 0);
        self.note("a commit has more than the report", rest > 0);
        self.balance -= rest;
        self.overdrawn |= rest > 0 && self.balance < self.held();
        let kept = entry.kept();
        let answer = Answer::Charged {
            free: free + rest_free,
            paid: paid + rest_paid,
            amount: amount + rest,
            shortfall: shortfall + due.max(0) - rest,
            balance: self.balance,
            free_left: free_left - rest_free,
            replayed: false,
        };
        entry.rest.push((rest_free, rest_paid, rest, late));
        // The balance record replaces the free one as the main record.
        let (was_free, is_paid) = (paid == 0 && amount == 0, rest_paid > 0 || rest > 0);
        entry.has_stream &= !(was_free && is_paid);
        (entry.delivered, entry.answer) = (Some(delivered), Some(answer.clone()));
        (entry.is_provisional, entry.was_added_to) = (is_report, !is_report);
        let still = entry.kept();
        key.take(call, made, [0, 1, 2].map(|kind| still[kind] - kept[kind]));
        self.entries.insert(trace, entry);
        answer
    }

    fn note_delivery(&mut self, before: &Entry, after: &Entry, now: Moment) {
        let (free, _, amount, shortfall) = after.charged();
        let Some(hold) = &before.hold else { return };
        let overrun = self.policies[usize::from(before.call.service)].overrun;
        let was_stream = hold.reported.is_some();
        self.note("an expired hold is charged late", before.state == State::Expired);
        self.note("a capped commit falls short", shortfall > 0 && overrun == Overrun::Capped);
        self.note("a spilled commit falls short", shortfall > 0 && overrun == Overrun::Spilled);
        self.note("a commit spills", amount > hold.amount && overrun == Overrun::Spilled);
        self.note("a commit overdraws", self.balance < 0 && amount > hold.amount);
        self.note("a stream goes on after midnight", was_stream && before.made.day != now.day);
        self.note("a stream goes on after the end of the month", was_stream && before.made.month != now.month);
        self.note("tokens are partly free", before.version.is_some() && free > 0 && amount > 0);
        let is_priced_by_tokens = after.delivered.is_some_and(|delivered| delivered.cost.is_none());
        let in_force = prices::version_in_force(before.call.model, now, false);
        let has_other = before.version.is_some_and(|(_, number, _)| number != in_force.1);
        self.note("prices changed since the reserve", has_other && is_priced_by_tokens && amount > 0);
        self.note("a cost takes the place of the prices", before.version.is_some() && !is_priced_by_tokens);
    }

    pub(super) fn release(&mut self, trace: u8, key: &mut Key) -> Answer {
        match self.entries.get(&trace) {
            None => Answer::NotFound,
            Some(entry) if entry.hold.is_none() || entry.state == State::Committed => Answer::WrongState,
            Some(entry) => {
                let replayed = entry.state == State::Released;
                self.let_go(trace, State::Released, key);
                Answer::Released { replayed }
            }
        }
    }

    /// Ends a reservation without a charge.
    fn let_go(&mut self, trace: u8, after: State, key: &mut Key) {
        let Some(entry) = self.entries.get_mut(&trace) else { return };
        if let (State::Open, Some(hold)) = (entry.state, &entry.hold) {
            key.give_back(entry.call, entry.made, [1, entry.held_tokens(), hold.amount]);
        }
        entry.state = after;
    }

    pub(super) fn expire(&mut self, trace: u8, now: Moment, key: &mut Key) -> Answer {
        self.end(trace, now, key, |hold, state, charges_expired| {
            (state == State::Open && hold.expires <= now.micros).then_some(hold.reported.filter(|_| charges_expired))
        })
    }

    /// Ends a broken stream, independent of the policy.
    pub(super) fn break_off(
        &mut self,
        trace: u8,
        stream: u8,
        tokens: Option<Tokens>,
        now: Moment,
        key: &mut Key,
    ) -> Answer {
        if let Some((answer, mut delivered)) = self.charged_as_reported(trace, stream) {
            let Some(tokens) = tokens.filter(|tokens| tokens.all() > 0) else { return answer };
            delivered.tokens = Some(tokens.with_output_of(delivered.tokens));
            return self.deliver_rest(trace, delivered, true, now, key);
        }
        self.end(trace, now, key, |hold, state, _| {
            // The work of an expired reservation is delivered too.
            let can_end = matches!(state, State::Open | State::Expired);
            let counted = tokens.filter(|tokens| tokens.all() > 0);
            (can_end && hold.owner == stream).then(|| counted.map_or(hold.reported, |tokens| Some(hold.with(tokens))))
        })
    }

    /// The charge, if the sweep has charged the last report of this stream.
    pub(super) fn charged_as_reported(&self, trace: u8, stream: u8) -> Option<(Answer, Delivered)> {
        let entry = self.entries.get(&trace)?;
        let is_its_own = entry.has_stream && entry.is_provisional && entry.hold.as_ref()?.owner == stream;
        is_its_own.then_some((entry.answer.clone()?, entry.delivered?))
    }

    /// Ends a reservation with the delivery that `of` returns, if it is time.
    fn end(
        &mut self,
        trace: u8,
        now: Moment,
        key: &mut Key,
        of: impl Fn(&Hold, State, bool) -> Option<Option<Tokens>>,
    ) -> Answer {
        let Some(entry) = self.entries.get(&trace) else { return Answer::NothingToEnd };
        let Some(hold) = &entry.hold else { return Answer::WrongState };
        let policy = self.policies[usize::from(entry.call.service)];
        if entry.state == State::Committed {
            return Answer::NothingToEnd;
        }
        let Some(tokens) = of(hold, entry.state, policy.charges_expired) else {
            return Answer::NothingToEnd;
        };
        let (had_reported, count) = (hold.reported, entry.call.count);
        // Zero tokens count as no delivery.
        match tokens.filter(|tokens| tokens.all() > 0) {
            Some(_) => {
                self.note("an unfinished stream is charged", true);
                let is_more = had_reported.map_or(0, |had| had.output) < tokens.map_or(0, |now| now.output);
                self.note("a stream that broke had reported more", had_reported.is_some() && !is_more);
                self.deliver_reported(trace, Delivered { count, cost: None, tokens }, now, key)
            }
            None => {
                self.note("a hold with a report is freed", had_reported.is_some());
                self.let_go(trace, State::Expired, key);
                Answer::Freed
            }
        }
    }
}

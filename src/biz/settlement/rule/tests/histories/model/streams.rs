//! The reports of streams, and the growth of their holds.

use super::{
    Answer, Model, Moment, Status,
    keys::Key,
    prices,
    prices::Tokens,
    reservations::{Delivered, Hold, State},
};

/// A report of a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Report {
    pub trace: u8,
    pub stream: u8,
    pub takes_over: bool,
    pub tokens: Option<Tokens>,
    /// The usage that the hold should cover.
    pub target: Option<Tokens>,
    pub ttl_minutes: u32,
    /// The stop that it tells of, if any. The stops of a user are numbered.
    pub stop: Option<u8>,
}

impl Hold {
    /// `tokens` with at least the output of every earlier report.
    pub fn with(&self, tokens: Tokens) -> Tokens {
        tokens.with_output_of(self.reported)
    }
}

fn reported(hold: &Hold, is_exhausted: bool) -> Answer {
    Answer::Reported {
        free: hold.free,
        amount: hold.amount,
        tokens: hold.reported,
        expires: hold.expires,
        is_exhausted,
    }
}

impl Model {
    pub(super) fn report(&mut self, report: Report, now: Moment, key: &mut Key) -> Answer {
        let Some(entry) = self.entries.get(&report.trace) else { return Answer::NotFound };
        let Some(hold) = entry.hold.clone() else { return Answer::WrongState };
        let (call, made) = (entry.call, entry.made);
        if entry.state == State::Expired && hold.owner == report.stream {
            self.note("a stream reports after its expiry", true);
            return Answer::RanOut;
        }
        if self.charged_as_reported(report.trace, report.stream).is_some() {
            self.note("a stream reports after its charge", true);
            return Answer::RanOut;
        }
        if entry.state != State::Open {
            return Answer::WrongState;
        }
        let tokens = report.tokens.filter(|tokens| tokens.all() > 0);
        let is_priced = tokens.is_none() || entry.priced(Delivered { count: call.count, cost: None, tokens }).is_some();
        let before = entry.held_tokens();
        let (is_owner, is_late) = (hold.owner == report.stream, hold.expires <= now.micros);
        if !report.takes_over && !is_owner {
            self.note("a stream that was replaced reports", true);
            return Answer::WrongState;
        }
        if !is_priced {
            self.note("a report has no price", true);
            return Answer::Invalid;
        }
        self.note("a stream takes over", !is_owner);
        self.note("a report comes late", is_late);
        if let Some(target) = report.target {
            self.grow(report.trace, target, now, key);
        }
        let Some(hold) = self.hold_mut(report.trace) else { return Answer::WrongState };
        hold.owner = report.stream;
        hold.reported = tokens.map(|tokens| hold.with(tokens)).or(hold.reported);
        hold.expires = now.micros + i64::from(report.ttl_minutes) * 60_000_000;
        hold.longest = hold.longest.max(hold.expires);
        let hold = hold.clone();
        let held = self.entries[&report.trace].held_tokens();
        key.take(call, made, [0, held - before, 0]);
        let has_used_all = hold.reported.map_or(0, |tokens| i64::from(tokens.all())) >= held;
        let is_exhausted = has_used_all && key.left(call, made, 1) == Some(0);
        self.note("a key has no tokens left for a stream", is_exhausted);
        reported(&hold, is_exhausted)
    }

    fn hold_mut(&mut self, trace: u8) -> Option<&mut Hold> {
        self.entries.get_mut(&trace)?.hold.as_mut()
    }

    /// Increases the hold by one unit or one millionth at a time, until the target is covered or the
    /// funds are used up.
    fn grow(&mut self, trace: u8, target: Tokens, now: Moment, key: &mut Key) {
        if self.status != Status::Active {
            self.note("a hold of an account that is not active stays", true);
            return;
        }
        let entry = &self.entries[&trace];
        let (call, made) = (entry.call, entry.made);
        let delivered = Delivered { count: call.count, cost: None, tokens: Some(target) };
        let (Some(held), Some((units, cost))) = (entry.hold.clone(), entry.priced(delivered)) else { return };
        let mut free_left = self.free_left(made.month, call.service);
        let mut free = held.free;
        while free < units && free_left > 0 {
            free += 1;
            free_left -= 1;
        }
        let (_, wanted) = prices::split(units, cost, free);
        let mut funds = self.balance - self.held();
        let mut allowed = key.left(call, made, 2);
        let mut amount = held.amount;
        while amount < wanted && funds > 0 && allowed.is_none_or(|left| left > 0) {
            amount += 1;
            funds -= 1;
            allowed = allowed.map(|left| left - 1);
        }
        key.take(call, made, [0, 0, amount - held.amount]);
        if let Some(hold) = self.hold_mut(trace) {
            (hold.free, hold.amount) = (free, amount);
        }
        self.note("free units are held with a stream", free > held.free);
        self.note("a hold grows", amount > held.amount);
        self.note("a hold grows as far as the balance", amount < wanted && funds <= 0);
        self.note("a hold grows as far as the key", amount < wanted && allowed == Some(0));
        self.note("a hold grows after midnight", amount > held.amount && made.day != now.day);
    }
}

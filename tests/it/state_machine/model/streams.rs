//! What streams report, and how that makes their holds grow.

use super::{
    Answer, Model, Moment,
    keys::Key,
    prices,
    prices::Tokens,
    reservations::{Delivered, Hold, State},
};

/// What a stream says of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Report {
    pub trace: u8,
    pub stream: u8,
    pub takes_over: bool,
    pub tokens: Option<Tokens>,
    /// What the hold should cover.
    pub target: Option<Tokens>,
    pub ttl_minutes: u32,
}

impl Hold {
    /// Tokens of which as much was output as any report had.
    pub fn with(&self, tokens: Tokens) -> Tokens {
        Tokens { output: self.reported.map_or(0, |before| before.output).max(tokens.output), ..tokens }
    }
}

impl Model {
    pub(super) fn report(&mut self, report: Report, now: Moment, key: &mut Key) -> Answer {
        let Some(entry) = self.entries.get(&report.trace) else { return Answer::NotFound };
        let Some(hold) = entry.hold.clone().filter(|_| entry.state == State::Open) else { return Answer::WrongState };
        let (is_owner, is_late) = (hold.owner == report.stream, hold.expires <= now.micros);
        if !report.takes_over && !is_owner {
            self.note("a stream that was replaced reports", true);
            return Answer::WrongState;
        }
        self.note("a stream takes over", !is_owner);
        self.note("a report comes late", is_late);
        if let Some(target) = report.target {
            self.grow(report.trace, target, now, key);
        }
        let Some(hold) = self.hold_mut(report.trace) else { return Answer::WrongState };
        hold.owner = report.stream;
        hold.reported = report.tokens.map(|tokens| hold.with(tokens)).or(hold.reported);
        hold.expires = now.micros + i64::from(report.ttl_minutes) * 60_000_000;
        hold.longest = hold.longest.max(hold.expires);
        Answer::Reported { free: hold.free, amount: hold.amount, tokens: hold.reported, expires: hold.expires }
    }

    fn hold_mut(&mut self, trace: u8) -> Option<&mut Hold> {
        self.entries.get_mut(&trace)?.hold.as_mut()
    }

    /// Holds one more unit, and one more millionth, for as long as the target asks for it and
    /// anything is left.
    fn grow(&mut self, trace: u8, target: Tokens, now: Moment, key: &mut Key) {
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
        let mut allowed = key.amount_left(call, now);
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

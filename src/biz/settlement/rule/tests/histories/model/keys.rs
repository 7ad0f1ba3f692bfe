//! The API key of all users: its quotas, and a list of the amounts that its calls took.

use super::{Call, Moment};

/// Limits of the key: requests of a day, tokens of a month, and an amount.
pub const KEY_LIMITS: [i64; 3] = [6, 90, 60];

/// An amount of requests, tokens and money.
pub type Take = [i64; 3];

/// The take of a reservation's end with this many tokens.
pub fn one_end(tokens: i64, amount: i64) -> Take {
    [1, tokens, amount]
}

/// The take of a call.
pub fn one_call(tokens: Option<super::Tokens>, amount: i64) -> Take {
    [1, tokens.map_or(0, |tokens| tokens.all().into()), amount]
}

/// The amounts that calls took or gave back, each with the moment of its call.
#[derive(Debug)]
pub struct Key {
    /// Whether the amount quota is per day; otherwise it is in total.
    daily_amount: bool,
    takes: Vec<(Moment, Take)>,
}

impl Key {
    pub fn new(daily_amount: bool) -> Self {
        Self { daily_amount, takes: Vec::new() }
    }

    /// The used amount of each quota in its period.
    pub fn used(&self, now: Moment) -> Take {
        let mut used = [0; 3];
        for (at, [requests, tokens, amount]) in &self.takes {
            if at.day == now.day {
                used[0] += requests;
            }
            if at.month == now.month {
                used[1] += tokens;
            }
            if !self.daily_amount || at.day == now.day {
                used[2] += amount;
            }
        }
        used
    }

    /// Whether a quota refuses a call.
    pub fn refuses(&self, call: Call, take: Take, now: Moment) -> bool {
        let used = self.used(now);
        call.keyed && (0..3).any(|kind| take[kind] > 0 && used[kind] + take[kind] > KEY_LIMITS[kind])
    }

    /// The tokens or the amount that a call made at `made` may still take. `None` once calls of a
    /// later period have counted.
    pub fn left(&self, call: Call, made: Moment, kind: usize) -> Option<i64> {
        let is_over = |at: &Moment| match kind {
            1 => at.month > made.month,
            _ => self.daily_amount && at.day > made.day,
        };
        let is_unbound = self.takes.iter().any(|(at, take)| take[kind] != 0 && is_over(at));
        (call.keyed && !is_unbound).then(|| (KEY_LIMITS[kind] - self.used(made)[kind]).max(0))
    }

    pub fn take(&mut self, call: Call, made: Moment, take: Take) {
        if call.keyed {
            self.takes.push((made, take));
        }
    }

    pub fn give_back(&mut self, call: Call, made: Moment, take: Take) {
        self.take(call, made, take.map(|taken| -taken));
    }
}

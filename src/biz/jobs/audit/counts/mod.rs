//! The counts of caps and of quotas of API keys, and their comparison with the transactions of their periods.
//!
//! A settlement counts a transaction if it is settled after the caps or the quota were set, on its own day or, behind
//! a server whose clock is ahead, on a later one. A transaction has the time at which its batch began, and not that of
//! its commit. So close to the begin of a count, or before the begin of its period, a transaction may count or not.

mod key;

use std::{fmt, time::Duration};

use chrono::{DateTime, NaiveDate, TimeDelta, Utc};

pub use self::key::KeyCounts;
use super::differences::{Difference, Listed, Owner};
use crate::biz::{
    limits::{caps::Requests, key_quota::Period},
    settlement::transaction::Transaction,
    values::{
        calendar::{Month, Periods},
        ids::UserId,
    },
};

/// [`Counting::unsure`] of a configuration without long waits.
pub(super) const LEAST_UNSURE: TimeDelta = TimeDelta::minutes(2);

/// [`Counting::unsure`] of every configuration.
const MOST_UNSURE: TimeDelta = TimeDelta::days(1);

/// The most time between the begin of a batch and its commit, with the skew of two clocks.
pub fn unsure(retry_timeout: Duration, max_clock_skew: Duration) -> TimeDelta {
    let most = retry_timeout.saturating_add(max_clock_skew.saturating_mul(2));
    TimeDelta::from_std(most).unwrap_or(MOST_UNSURE).clamp(LEAST_UNSURE, MOST_UNSURE)
}

/// The rule by which transactions are counted.
#[derive(Debug, Clone, Copy)]
pub struct Counting {
    pub periods: Periods,
    /// So close to the begin of a count, it is not known whether a transaction counts.
    pub unsure: TimeDelta,
}

/// The least and the most that transactions can have counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Count {
    least: i64,
    most: i64,
}

impl Count {
    fn add(&mut self, least: i64, most: i64) {
        self.least = self.least.saturating_add(least);
        self.most = self.most.saturating_add(most);
    }

    /// A stored count is never below zero.
    fn bounds(self) -> (i64, i64) {
        (self.least.max(0), self.most.max(0))
    }

    fn shown(self, show: impl Fn(i64) -> String) -> String {
        match self.bounds() {
            (least, most) if least == most => show(least),
            (least, i64::MAX) => format!("{} or more", show(least)),
            (least, most) => format!("{} to {}", show(least), show(most)),
        }
    }
}

/// The count of one period.
#[derive(Debug, Clone, Copy)]
struct Counter {
    period: Period,
    /// The last counted day.
    day: NaiveDate,
    since: DateTime<Utc>,
    /// The begin of the period of `day`.
    start: DateTime<Utc>,
    unsure: TimeDelta,
    count: Count,
}

impl Counter {
    fn new(rule: Counting, period: Period, day: NaiveDate, since: DateTime<Utc>) -> Self {
        let start = match period {
            Period::Day => rule.periods.start_of(day),
            Period::Month => rule.periods.start_of(Month::of(day).first_day()),
            Period::Total => since,
        };
        Self { period, day, since, start, unsure: rule.unsure, count: Count::default() }
    }

    /// Earlier transactions do not count.
    fn from(&self) -> DateTime<Utc> {
        self.since.max(self.start) - self.unsure
    }

    /// Adds a transaction of `day` that began at `made`, takes `now`, and took at most `most` at any time.
    fn add(&mut self, (day, made): (NaiveDate, DateTime<Utc>), now: i64, most: impl FnOnce() -> i64) {
        if made < self.from() {
            return;
        }
        let is_in_period = self.period.is_same(self.day, day);
        // A server whose clock is ahead may have begun the period.
        let may_be_moved = made < self.start;
        let is_unsure_of_begin = (made - self.since).abs() < self.unsure;
        match (is_in_period, is_unsure_of_begin) {
            // An end may also give back a call that was not counted.
            (true, true) => {
                let most = most();
                self.count.add(-most, most);
            }
            (true, false) if made >= self.since => self.count.add(now, now),
            (false, _) if may_be_moved => {
                let most = most();
                self.count.add(if is_unsure_of_begin { -most } else { 0 }, most);
            }
            _ => {}
        }
    }

    fn shown_period(&self) -> String {
        match self.period {
            Period::Day => format!("on {}", self.day),
            Period::Month => format!("in {}", Month::of(self.day)),
            Period::Total => "in total".to_owned(),
        }
    }
}

/// The last day on which something certainly counted.
#[derive(Debug, Clone, Copy, Default)]
struct LastDay(Option<NaiveDate>);

impl LastDay {
    fn add(&mut self, counter: &Counter, (day, made): (NaiveDate, DateTime<Utc>), now: i64) {
        if now > 0 && made >= counter.since + counter.unsure {
            self.0 = self.0.max(Some(day));
        }
    }
}

/// The differences of one owner.
struct Found {
    owner: Owner,
    differences: Vec<Difference>,
}

impl Found {
    fn expect(&mut self, book: String, says: i64, count: Count, show: impl Fn(i64) -> String) {
        let (least, most) = count.bounds();
        if says < least || says > most {
            self.note(book, show(says), count.shown(show));
        }
    }

    fn expect_day(&mut self, book: String, says: NaiveDate, LastDay(last): LastDay) {
        if let Some(last) = last.filter(|last| *last > says) {
            self.note(book, says.to_string(), format!("{last} or later"));
        }
    }

    fn note(&mut self, book: String, says: impl fmt::Display, should_be: String) {
        self.differences.push(Difference { owner: self.owner.clone(), book, says: says.to_string(), should_be });
    }
}

/// The caps of a user, beside the calls of their periods.
#[derive(Debug, Clone)]
pub struct CapCounts {
    user: UserId,
    stored: Requests,
    day: Counter,
    month: Counter,
    last_day: LastDay,
    /// Transactions.
    unreadable: Listed<String>,
    rule: Counting,
}

impl CapCounts {
    pub fn new(user: UserId, stored: Requests, rule: Counting) -> Self {
        let counter = |period| Counter::new(rule, period, stored.day, stored.since);
        let (day, month) = (counter(Period::Day), counter(Period::Month));
        Self { user, stored, day, month, last_day: LastDay::default(), unreadable: Listed::default(), rule }
    }

    pub fn user(&self) -> &UserId {
        &self.user
    }

    /// The month that the counts end in. Accounts in use have the same.
    pub fn of_month(&self) -> Month {
        Month::of(self.stored.day)
    }

    /// Earlier transactions do not count.
    pub fn from(&self) -> DateTime<Utc> {
        self.month.from()
    }

    pub fn add(&mut self, transaction: &Transaction) {
        let when = (transaction.counted_day(self.rule.periods), transaction.created_at);
        let now = transaction.taken().requests;
        self.day.add(when, now, || 1);
        self.month.add(when, now, || 1);
        self.last_day.add(&self.day, when, now);
    }

    /// Adds a transaction that cannot be read. The counts are then not compared.
    pub fn add_unreadable(&mut self, why: String) {
        self.unreadable.push(why);
    }

    /// The counts that differ from the transactions.
    pub fn differences(&self) -> Vec<Difference> {
        let owner = Owner::User(self.user.clone());
        if !self.unreadable.is_empty() {
            return self.unreadable.unreadable(&owner);
        }
        let mut found = Found { owner, differences: Vec::new() };
        let stored = [(&self.day, self.stored.daily), (&self.month, self.stored.monthly)];
        for (counter, says) in stored {
            let book = format!("calls counted for the caps {}", counter.shown_period());
            found.expect(book, says.into(), counter.count, |count| count.to_string());
        }
        found.expect_day("last day counted for the caps".to_owned(), self.stored.day, self.last_day);
        found.differences
    }
}

#[cfg(test)]
mod tests;

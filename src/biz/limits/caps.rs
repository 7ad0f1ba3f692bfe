//! Request caps: the most calls of a user per day and per month of the billing zone, free or paid.
//! A charge is one call, for any number of units. A reservation is one call until it is released or
//! expires.

use async_trait::async_trait;
use chrono::{DateTime, NaiveDate, Utc};
use serde_json::json;

use crate::biz::{
    audit_trail::{AuditEvent, AuditedCall},
    values::{
        calendar::{BillingTime, Month},
        error::{self, Error, StoreError},
        ids::UserId,
        limit::Limit,
    },
};

/// The caps of a user, in calls; `None` means no cap.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Caps {
    pub daily: Option<u32>,
    pub monthly: Option<u32>,
}

/// The caps of a user, and the counted calls of `day`, the last day with a call, and of its month.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Requests {
    pub caps: Caps,
    /// Start of the count. Earlier reservations do not count.
    pub since: DateTime<Utc>,
    pub day: NaiveDate,
    pub daily: u32,
    pub monthly: u32,
    /// The alerts of the counts. The caches do not keep them.
    pub fired: Fired,
}

/// The highest percentage of each cap that has fired in the period of its count.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Fired {
    pub daily: u8,
    pub monthly: u8,
}

impl Requests {
    /// Caps that start at `at`, with no calls.
    pub fn new(caps: Caps, at: BillingTime) -> Self {
        Self { caps, since: at.utc, day: at.day, daily: 0, monthly: 0, fired: Fired::default() }
    }

    /// The calls of this day and of this month. If the clock of another server is ahead and has
    /// begun the next day, that day counts for all servers.
    pub fn used(&self, at: BillingTime) -> (u32, u32) {
        let daily = if self.day >= at.day { self.daily } else { 0 };
        let monthly = if Month::of(self.day) >= at.month { self.monthly } else { 0 };
        (daily, monthly)
    }

    /// The remaining calls of this day and of this month; `None` without a cap.
    pub fn left(&self, at: BillingTime) -> (Option<u32>, Option<u32>) {
        let (daily, monthly) = self.used(at);
        (self.caps.daily.map(|cap| cap.saturating_sub(daily)), self.caps.monthly.map(|cap| cap.saturating_sub(monthly)))
    }

    /// Checks that one more call is within the caps.
    ///
    /// # Errors
    /// [`Error::InsufficientQuota`] names the cap that is reached.
    pub fn check(&self, at: BillingTime) -> Result<(), Error> {
        match self.left(at) {
            (Some(0), _) => Err(Error::InsufficientQuota(Limit::Daily)),
            (_, Some(0)) => Err(Error::InsufficientQuota(Limit::Monthly)),
            _ => Ok(()),
        }
    }

    /// Counts a call that is made now.
    pub fn add(&mut self, at: BillingTime) {
        self.add_to(at.day.max(self.day));
    }

    /// Counts a reservation again that is committed after it had ended. It was made at `made`, on
    /// `day`. Only the month counts if the day is over, and neither if the month is over.
    pub fn add_late(&mut self, day: NaiveDate, made: DateTime<Utc>) {
        if made >= self.since {
            self.add_to(day);
        }
    }

    fn add_to(&mut self, day: NaiveDate) {
        if day > self.day {
            if Month::of(day) != Month::of(self.day) {
                (self.monthly, self.fired.monthly) = (0, 0);
            }
            (self.day, self.daily, self.fired.daily) = (day, 0, 0);
        }
        self.monthly += u32::from(Month::of(day) == Month::of(self.day));
        self.daily += u32::from(day == self.day);
    }

    /// Takes back the call of a reservation that was made at `made`, on `day`, and is released or
    /// expired.
    pub fn take_back(&mut self, day: NaiveDate, made: DateTime<Utc>) {
        if made < self.since {
            return;
        }
        self.monthly = self.monthly.saturating_sub(u32::from(Month::of(day) == Month::of(self.day)));
        self.daily = self.daily.saturating_sub(u32::from(day == self.day));
    }
}

/// The event of a call that sets caps; `None` if they are the same as before.
///
/// # Errors
/// [`Error::NotMade`](crate::biz::values::error::Error::NotMade) without the consent of the caller.
pub fn audited(
    call: &AuditedCall,
    user: &UserId,
    before: Caps,
    after: Caps,
    at: BillingTime,
) -> error::Result<Option<AuditEvent>> {
    let state = |caps: Caps| {
        let is_set = caps != Caps::default();
        is_set.then(|| json!({"daily_limit": caps.daily, "monthly_limit": caps.monthly}))
    };
    call.consented((before != after).then(|| call.event(at.utc, Some(user), state(before), state(after))))
}

/// Stores caps.
#[async_trait]
pub trait LimitStore: Send + Sync + 'static {
    /// Sets the caps of a user from the next call on, or refuses as [`audited`]. Counted calls stay counted until both
    /// caps are removed. The alerts of a changed cap begin anew. Writes the event of `call` with the change. The
    /// same caps as before change nothing.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`]: the outcome is unknown; a repeat is safe.
    /// [`StoreError::Conflict`]: nothing was set. [`StoreError::Failed`].
    async fn set_caps(
        &self,
        user: &UserId,
        caps: Caps,
        call: &AuditedCall,
        at: BillingTime,
    ) -> Result<error::Result<()>, StoreError>;
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::biz::values::calendar::{Calendar, SystemClock};

    fn at(day: &str) -> BillingTime {
        let calendar = Calendar::new(chrono_tz::UTC, SystemClock);
        calendar.at(format!("{day}T12:00:00Z").parse().unwrap())
    }

    fn requests(daily: u32, monthly: u32) -> Requests {
        Requests::new(Caps { daily: Some(daily), monthly: Some(monthly) }, at("2026-11-30"))
    }

    #[test]
    fn the_cap_that_is_reached_is_named_and_ends_with_its_period() {
        let mut requests = requests(2, 3);
        for _ in 0..2 {
            requests.check(at("2026-11-30")).unwrap();
            requests.add(at("2026-11-30"));
        }
        assert_eq!(requests.check(at("2026-11-30")), Err(Error::InsufficientQuota(Limit::Daily)));
        requests.add(at("2026-11-30"));
        assert_eq!(requests.left(at("2026-11-30")), (Some(0), Some(0)));
        assert_eq!(requests.left(at("2026-12-01")), (Some(2), Some(3)));
        requests.add(at("2026-12-01"));
        assert_eq!(requests.left(at("2026-12-01")), (Some(1), Some(2)));
    }

    #[test]
    fn a_late_call_counts_to_its_own_period_and_only_after_the_start_of_the_count() {
        let mut requests = requests(5, 5);
        let late = |day: &str| (at(day).day, at("2026-12-02").utc);
        let add = |requests: &mut Requests, (day, made)| requests.add_late(day, made);
        requests.add(at("2026-12-02"));
        add(&mut requests, late("2026-12-01"));
        assert_eq!(requests.used(at("2026-12-02")), (1, 2));
        add(&mut requests, late("2026-11-30"));
        requests.take_back(at("2026-11-30").day, at("2026-12-02").utc);
        requests.take_back(at("2026-12-01").day, at("2026-12-02").utc);
        assert_eq!(requests.used(at("2026-12-02")), (1, 1));
        let before = at("2026-11-29").utc;
        requests.take_back(at("2026-12-02").day, before);
        requests.add_late(at("2026-12-02").day, before);
        assert_eq!(requests.used(at("2026-12-02")), (1, 1));
    }

    #[test]
    fn a_server_whose_clock_is_behind_is_bound_too() {
        let mut requests = requests(1, 1);
        requests.add(at("2026-12-01"));
        assert_eq!(requests.check(at("2026-11-30")), Err(Error::InsufficientQuota(Limit::Daily)));
        requests.add(at("2026-11-30"));
        assert_eq!(requests.used(at("2026-12-01")), (2, 2));
    }

    #[test]
    fn the_cap_of_a_month_outlasts_its_days() {
        let mut requests = Requests::new(Caps { daily: None, monthly: Some(1) }, at("2026-11-29"));
        requests.add(at("2026-11-29"));
        assert_eq!(requests.left(at("2026-11-30")), (None, Some(0)));
        assert_eq!(requests.check(at("2026-11-30")), Err(Error::InsufficientQuota(Limit::Monthly)));
        assert_eq!(requests.check(at("2026-12-01")), Ok(()));
    }

    #[test]
    fn a_call_at_the_instant_of_the_caps_counts() {
        let (mut requests, now) = (requests(5, 5), at("2026-11-30"));
        requests.add_late(now.day, now.utc);
        assert_eq!(requests.used(now), (1, 1));
        requests.take_back(now.day, now.utc);
        assert_eq!(requests.used(now), (0, 0));
        // The count is zero, as after the caps were removed and set again.
        requests.take_back(now.day, now.utc);
        assert_eq!(requests.used(now), (0, 0));
    }

    #[test]
    fn limits_have_the_names_of_the_contract() {
        let rate = Limit::Rate { retry_after: Duration::from_secs(1) };
        let names = [Limit::Daily, Limit::Monthly, Limit::ApiKey, rate].map(|limit| limit.to_string());
        assert_eq!(names, ["daily limit", "monthly limit", "api key quota", "rate limit"]);
    }
}

//! The month of a statement: its bounds, and whether it can still change.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};

use crate::biz::values::{
    calendar::{BillingTime, Calendar, DaySpan, Month},
    invalid::Invalid,
};

/// Difference between the clocks of two servers, and the time of one commit.
const MOST_SKEW: TimeDelta = TimeDelta::minutes(1);

/// The month of a statement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StatementPeriod {
    pub month: Month,
    pub days: DaySpan,
    /// The first instant of the month.
    pub start: DateTime<Utc>,
    /// The first instant after the month.
    pub end: DateTime<Utc>,
    /// Whether nothing counts to the month any more.
    pub is_closed: bool,
}

impl StatementPeriod {
    /// The period of `month`. A batch keeps the time at which it began, and is retried for `retry_timeout`: so
    /// long after its close a month is final. `taken_over_at` is the time at which a database of the legacy
    /// service was taken over.
    ///
    /// # Errors
    /// The month has not begun, or has no statement because the legacy service kept a part of its books.
    pub fn of(
        month: Month,
        calendar: &Calendar,
        retry_timeout: Duration,
        taken_over_at: Option<DateTime<Utc>>,
    ) -> Result<Self, Invalid> {
        let now = calendar.now();
        if month > now.month {
            return Err(Invalid::new("month", format!("has not begun; the running month is {}", now.month)));
        }
        if let Some(taken_over) = taken_over_at.map(|at| calendar.at(at).month)
            && month <= taken_over
        {
            let first = taken_over.next();
            let why = format!(
                "has no statement: this service took the accounts over from the legacy service in {taken_over}, and \
                 {first} is the first full month"
            );
            return Err(Invalid::new("month", why));
        }
        let days = month.days();
        let (start, end) = calendar.bounds(days);
        Ok(Self { month, days, start, end, is_closed: is_final(month, calendar, now, retry_timeout) })
    }
}

fn is_final(month: Month, calendar: &Calendar, now: BillingTime, retry_timeout: Duration) -> bool {
    calendar.periods().is_closed(month, calendar.at(now.utc - MOST_SKEW - retry_timeout))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::biz::values::calendar::Clock;

    struct At(&'static str);
    impl Clock for At {
        fn now(&self) -> DateTime<Utc> {
            self.0.parse().unwrap()
        }
    }

    fn period(month: &str, now: &'static str, taken_over: Option<&str>) -> Result<StatementPeriod, Invalid> {
        let calendar = Calendar::new("Asia/Shanghai".parse().unwrap(), At(now));
        let taken_over = taken_over.map(|at| at.parse().unwrap());
        StatementPeriod::of(month.parse().unwrap(), &calendar, Duration::from_secs(10), taken_over)
    }

    #[test]
    fn a_month_begins_and_ends_in_the_billing_zone() {
        let period = period("2026-10", "2026-10-20T00:00:00Z", None).unwrap();
        assert_eq!(period.start.to_rfc3339(), "2026-09-30T16:00:00+00:00");
        assert_eq!(period.end.to_rfc3339(), "2026-10-31T16:00:00+00:00");
        assert_eq!((period.days.days(), period.is_closed), (31, false));
    }

    #[test]
    fn a_month_is_final_once_its_last_batches_are_committed() {
        // It closes three days after the midnight of Shanghai.
        for (now, is_closed) in [
            ("2026-11-03T16:00:00Z", false),
            ("2026-11-03T16:01:09.999999Z", false),
            ("2026-11-03T16:01:10Z", true),
            ("2027-11-03T16:01:00Z", true),
        ] {
            assert_eq!(period("2026-10", now, None).unwrap().is_closed, is_closed, "{now}");
        }
    }

    #[test]
    fn a_month_that_has_not_begun_has_no_statement() {
        let refused = period("2026-12", "2026-11-30T15:59:59Z", None).unwrap_err();
        assert_eq!(refused.to_string(), "month: has not begun; the running month is 2026-11");
        assert!(period("2026-12", "2026-11-30T16:00:00Z", None).is_ok());
    }

    #[test]
    fn statements_of_a_legacy_database_begin_with_its_first_full_month() {
        // Taken over on the first of December in Shanghai.
        let taken_over = Some("2026-11-30T16:00:00Z");
        let refused = period("2026-12", "2027-02-01T00:00:00Z", taken_over).unwrap_err();
        assert!(refused.to_string().contains("in 2026-12, and 2027-01 is the first full month"), "{refused}");
        assert!(period("2027-01", "2027-02-01T00:00:00Z", taken_over).is_ok());
    }
}

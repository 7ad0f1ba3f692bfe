//! The limits of a user in the headers `RateLimit` and `RateLimit-Policy` of the IETF draft
//! ratelimit-headers, with the reason of a refusal beside them.

use std::{fmt::Write, time::Duration};

use chrono::TimeDelta;
use http::{HeaderName, header::RETRY_AFTER};

use super::reason;
use crate::{
    biz::{
        check::{Decision, Verdict},
        values::{
            calendar::{Calendar, DaySpan},
            error::Error,
            limit::Limit,
        },
    },
    service::errors,
};

/// The headers of a check.
pub type Headers = Vec<(HeaderName, String)>;

const POLICY: HeaderName = HeaderName::from_static("ratelimit-policy");
const RATE_LIMIT: HeaderName = HeaderName::from_static("ratelimit");
const REASON: HeaderName = HeaderName::from_static("x-billing-reason");
const ERROR_CODE: HeaderName = HeaderName::from_static("x-billing-error-code");

/// The policy of the free units of the month.
pub const FREE_QUOTA: &str = "free-quota";

/// The period of a policy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Period {
    Day,
    Month,
}

/// A limit of calls or units within a period.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Policy {
    pub name: &'static str,
    pub quota: u64,
    pub remaining: u64,
    pub period: Period,
    /// The length of the period.
    window: TimeDelta,
    /// The time until the period ends.
    pub reset: TimeDelta,
}

/// The limits that bind a user. The free quota is one of them as long as the balance pays for nothing.
pub fn policies(verdict: &Verdict, calendar: &Calendar) -> Vec<Policy> {
    let policy = |name, period, quota, remaining| {
        let days = match period {
            Period::Day => DaySpan { first: verdict.at.day, last: verdict.at.day },
            Period::Month => verdict.at.month.days(),
        };
        let (begin, end) = calendar.bounds(days);
        Policy { name, quota, remaining, period, window: end - begin, reset: end - verdict.at.utc }
    };
    let cap = |name, period, cap: Option<u32>, left: Option<u32>| {
        cap.zip(left).map(|(cap, left)| policy(name, period, cap.into(), left.into()))
    };
    let is_free_only = verdict.available.is_zero() || verdict.available.is_negative();
    let free = || policy(FREE_QUOTA, Period::Month, verdict.free_total, verdict.free_remaining);
    let policies = [
        cap("daily", Period::Day, verdict.caps.daily, verdict.daily_remaining),
        cap("monthly", Period::Month, verdict.caps.monthly, verdict.monthly_remaining),
        is_free_only.then(free),
    ];
    policies.into_iter().flatten().collect()
}

/// The headers for a verdict.
pub fn headers(verdict: &Verdict, policies: &[Policy]) -> Headers {
    let (mut all, mut left) = (String::new(), String::new());
    for Policy { name, quota, remaining, window, reset, .. } in policies {
        let _ = write!(all, "{}\"{name}\";q={quota};w={}", comma(&all), seconds(*window));
        let _ = write!(left, "{}\"{name}\";r={remaining};t={}", comma(&left), seconds(*reset));
    }
    let mut headers = Headers::new();
    if let Decision::Refused(refusal) = &verdict.decision {
        match refusal {
            Error::InsufficientQuota(Limit::Rate { retry_after }) => {
                let after = whole_seconds(*retry_after);
                let _ = write!(left, "{}\"rate\";r=0;t={after}", comma(&left));
                headers.push((RETRY_AFTER, after.to_string()));
            }
            Error::InsufficientQuota(Limit::ApiKey) => {
                let _ = write!(left, "{}\"api-key\";r=0", comma(&left));
            }
            _ => {}
        }
        headers.push((REASON, reason(&verdict.decision)));
        headers.push((ERROR_CODE, errors::kind(refusal).error_code.to_owned()));
    }
    let lists = [(POLICY, all), (RATE_LIMIT, left)];
    headers.extend(lists.into_iter().filter(|(_, list)| !list.is_empty()));
    headers
}

fn comma(list: &str) -> &'static str {
    if list.is_empty() { "" } else { ", " }
}

fn seconds(span: TimeDelta) -> u64 {
    whole_seconds(span.to_std().unwrap_or_default())
}

/// Rounded up, so that a retry after them is not too early.
fn whole_seconds(span: Duration) -> u64 {
    span.as_secs() + u64::from(span.subsec_nanos() > 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::biz::{
        limits::caps::Caps,
        values::{calendar::SystemClock, money::Money},
    };

    fn shown(decision: Decision, balance: i64, caps: Caps) -> Vec<String> {
        let calendar = Calendar::new(chrono_tz::UTC, SystemClock);
        let verdict = Verdict {
            decision,
            free_remaining: 7,
            balance: Money::from_micros(balance),
            available: Money::from_micros(balance),
            amount: Money::ZERO,
            daily_remaining: caps.daily.map(|_| 2),
            monthly_remaining: caps.monthly.map(|_| 3),
            free_total: 10,
            caps,
            at: calendar.at("2026-11-29T23:59:58.5Z".parse().unwrap()),
            version: 1,
        };
        let headers = headers(&verdict, &policies(&verdict, &calendar));
        headers.into_iter().map(|(name, value)| format!("{name}: {value}")).collect()
    }

    #[test]
    fn a_user_sees_the_limits_that_bind() {
        let caps = Caps { daily: Some(20), monthly: Some(30) };
        assert_eq!(
            shown(Decision::Free, 0, caps),
            [
                r#"ratelimit-policy: "daily";q=20;w=86400, "monthly";q=30;w=2592000, "free-quota";q=10;w=2592000"#,
                r#"ratelimit: "daily";r=2;t=2, "monthly";r=3;t=86402, "free-quota";r=7;t=86402"#,
            ]
        );
        // A balance pays for the calls after the free ones.
        assert_eq!(shown(Decision::Free, 1, Caps::default()), [""; 0]);
        let rate = Limit::Rate { retry_after: Duration::from_millis(1_001) };
        assert_eq!(
            shown(Decision::Refused(Error::InsufficientQuota(rate)), 1, Caps::default()),
            [
                "retry-after: 2",
                "x-billing-reason: rate limit",
                "x-billing-error-code: 10002",
                r#"ratelimit: "rate";r=0;t=2"#
            ]
        );
    }
}

//! The counts of quotas that an older release has used.

use super::*;
use crate::biz::{
    limits::key_quota::Taken,
    values::calendar::{Calendar, SystemClock},
};

fn at(text: &str) -> DateTime<Utc> {
    text.parse().unwrap()
}

/// The lines of a quota of `period` without transactions, which was migrated at `migrated`.
fn lines(period: Period, day: &str, migrated: &str) -> Vec<String> {
    let rule = Counting { periods: Calendar::new(chrono_tz::UTC, SystemClock).periods(), unsure: LEAST_UNSURE };
    let since = at("2026-01-20T10:00:00Z");
    // As the migration does.
    let known = |other| if other == period { since } else { at(migrated) };
    let known = KnownSince { day: known(Period::Day), month: known(Period::Month), total: known(Period::Total) };
    let taken = Taken { day: 1, month: 2, total: 3 };
    let stored = KeyQuota { period, limit: 9, taken, since, day: day.parse().unwrap(), fired: 0, version: 0 };
    let counts = KeyCounts::new((ApiKeyId::from_stored("k"), QuotaType::Requests), stored, known, rule);
    counts.differences().iter().map(|difference| format!("{} says {}", difference.book, difference.says)).collect()
}

#[test]
fn beside_older_servers_only_the_period_of_the_quota_is_compared() {
    let (day, month, total) =
        ("used requests on 2026-12-01 says 1", "used requests in 2026-12 says 2", "used requests in total says 3");
    let of = |period, migrated| lines(period, "2026-12-01", migrated);
    for migrated in ["2026-12-01T09:00:00Z", "2026-11-30T00:00:01Z"] {
        assert_eq!(of(Period::Day, migrated), [day], "{migrated}");
        assert_eq!(of(Period::Month, migrated), [month], "{migrated}");
        assert_eq!(of(Period::Total, migrated), [total], "{migrated}");
    }
    // The day and the month have begun after the last older server has ended.
    assert_eq!(of(Period::Day, "2026-11-30T00:00:00Z"), [day, month]);
    assert_eq!(of(Period::Month, "2026-11-30T00:00:00Z"), [day, month]);
    assert_eq!(of(Period::Total, "2026-11-30T00:00:00Z"), [day, month, total]);
}

#[test]
fn the_unsure_time_follows_the_configuration_within_bounds() {
    let seconds = Duration::from_secs;
    assert_eq!(unsure(seconds(10), seconds(5)), TimeDelta::minutes(2));
    assert_eq!(unsure(seconds(100), seconds(15)), TimeDelta::seconds(130));
    assert_eq!(unsure(Duration::MAX, seconds(15)), TimeDelta::days(1));
}

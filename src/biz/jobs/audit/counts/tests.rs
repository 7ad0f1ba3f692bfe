//! The counts of quotas that an older release has used.

use super::{super::differences::MAX_NAMED, *};
use crate::biz::{
    limits::key_quota::{KeyQuota, KnownSince, QuotaType, Taken},
    values::{
        calendar::{Calendar, SystemClock},
        ids::ApiKeyId,
    },
};

fn at(text: &str) -> DateTime<Utc> {
    text.parse().unwrap()
}

fn rule() -> Counting {
    Counting { periods: Calendar::new(chrono_tz::UTC, SystemClock).periods(), unsure: LEAST_UNSURE }
}

/// The lines of a quota of `period` without transactions, which was migrated at `migrated`.
fn lines(period: Period, day: &str, migrated: &str) -> Vec<String> {
    let rule = rule();
    let since = at("2026-01-20T10:00:00Z");
    // As the migration does.
    let known = |other| if other == period { since } else { at(migrated) };
    let known = KnownSince { day: known(Period::Day), month: known(Period::Month), total: known(Period::Total) };
    let taken = Taken { day: 1, month: 2, total: 3 };
    let stored = KeyQuota { period, limit: 9, taken, since, day: day.parse().unwrap(), fired: 0, version: 0 };
    let mut counts = KeyCounts::new(ApiKeyId::from_stored("k"), rule);
    counts.add_quota(QuotaType::Requests, stored, known);
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

#[test]
fn unreadable_transactions_are_named_once_for_all_quotas_of_a_key_and_then_counted() {
    let since = at("2026-01-20T10:00:00Z");
    let known = KnownSince { day: since, month: since, total: since };
    let taken = Taken { day: 1, month: 2, total: 3 };
    let day = since.date_naive();
    let stored = KeyQuota { period: Period::Day, limit: 9, taken, since, day, fired: 0, version: 0 };
    let mut counts = KeyCounts::new(ApiKeyId::from_stored("k"), rule());
    QuotaType::ALL.into_iter().for_each(|kind| counts.add_quota(kind, stored, known));
    for number in 0..MAX_NAMED + 3 {
        counts.add_unreadable(format!("transaction t{number}: wrong"));
    }
    let found = counts.differences();
    assert_eq!(found.len(), MAX_NAMED + 1);
    let line = "API key k: stored row says transaction t0: wrong, should be one that the service can read";
    assert_eq!(found[0].to_string(), line);
    let line = "API key k: number of further rows that the service cannot read says 3, should be 0";
    assert_eq!(found[MAX_NAMED].to_string(), line);
}

use super::*;
use crate::biz::values::calendar::{Calendar, SystemClock};

fn at(day: &str) -> BillingTime {
    Calendar::new(chrono_tz::UTC, SystemClock).at(format!("{day}T12:00:00Z").parse().unwrap())
}

/// A quota of 9 that counts since noon of the 29th of November.
fn quota(period: Period, used: i64, day: &str) -> KeyQuota {
    let taken = Taken { day: used, month: used, total: used };
    KeyQuota { period, limit: 9, taken, since: at("2026-11-29").utc, day: at(day).day, fired: 0, version: 0 }
}

fn key() -> ApiKeyId {
    ApiKeyId::from_stored("k")
}

fn quotas(kind: QuotaType, quota: KeyQuota) -> KeyQuotas {
    KeyQuotas::from([((key(), kind), quota)])
}

#[test]
fn a_quota_starts_at_zero_in_each_period() {
    for (period, next_day, next_month) in [(Period::Day, 0, 0), (Period::Month, 5, 0), (Period::Total, 5, 5)] {
        let mut quota = quota(period, 0, "2026-11-29");
        quota.add(at("2026-11-29").day, 5);
        assert_eq!(quota.used(at("2026-11-29")), 5);
        assert_eq!(quota.used(at("2026-11-30")), next_day, "{period:?}");
        assert_eq!(quota.used(at("2026-12-01")), next_month, "{period:?}");
    }
}

#[test]
fn the_first_call_of_a_period_counts_from_zero() {
    let mut quota = quota(Period::Day, 5, "2026-11-29");
    quota.add(at("2026-11-30").day, 2);
    assert_eq!((quota.taken.day, quota.day), (2, at("2026-11-30").day));
}

#[test]
fn a_late_call_counts_to_its_own_day_and_month() {
    let mut quota = quota(Period::Day, 3, "2026-11-30");
    quota.add(at("2026-11-29").day, -2);
    quota.add(at("2026-11-29").day, 4);
    assert_eq!(quota.used(at("2026-11-30")), 3);
    quota.period = Period::Month;
    quota.add(at("2026-11-29").day, 3);
    assert_eq!((quota.used(at("2026-11-30")), quota.remaining(at("2026-11-30"))), (8, 1));
    quota.add(at("2026-10-31").day, 4);
    assert_eq!(quota.taken, Taken { day: 3, month: 8, total: 12 });
}

#[test]
fn every_period_is_counted_for_each_quota() {
    for period in Period::ALL {
        let mut quota = quota(period, 0, "2026-11-01");
        for (day, taken) in [("2026-11-29", 60), ("2026-11-30", 20), ("2026-11-30", -5)] {
            quota.add(at(day).day, taken);
        }
        assert_eq!(quota.taken, Taken { day: 15, month: 75, total: 75 });
        assert_eq!(quota.taken.of(period), quota.used(at("2026-11-30")));
        quota.add(at("2026-12-01").day, 1);
        assert_eq!(quota.taken, Taken { day: 1, month: 1, total: 76 });
    }
}

#[test]
fn a_server_whose_clock_is_behind_sees_the_period_that_has_begun() {
    assert_eq!(quota(Period::Day, 3, "2026-11-30").used(at("2026-11-29")), 3);
}

#[test]
fn a_quota_that_was_lowered_has_nothing_left_and_none_is_used_below_zero() {
    let mut quota = quota(Period::Total, 12, "2026-11-29");
    assert_eq!(quota.remaining(at("2026-11-29")), 0);
    quota.add(at("2026-11-29").day, -13);
    assert_eq!((quota.taken.total, quota.remaining(at("2026-11-29"))), (0, 9));
}

#[test]
fn a_call_needs_room_in_each_quota() {
    let usage = Usage::of_text(2, 4);
    let take = Take::call(Some(usage), Money::from_micros(7));
    for (kind, needed) in [(QuotaType::Requests, 1), (QuotaType::Tokens, 6), (QuotaType::Amount, 7)] {
        let check = |left: i64| {
            let quotas = quotas(kind, quota(Period::Total, 9 - left, "2026-11-30"));
            super::check(&quotas, &key(), take, at("2026-11-30"))
        };
        assert_eq!(check(needed), Ok(()), "{kind}");
        assert_eq!(check(needed - 1), Err(Error::InsufficientQuota(Limit::ApiKey)), "{kind}");
    }
}

#[test]
fn a_call_that_takes_nothing_of_a_quota_is_not_bound_by_it() {
    let quotas = quotas(QuotaType::Amount, quota(Period::Total, 9, "2026-11-30"));
    assert_eq!(check(&quotas, &key(), Take::call(None, Money::ZERO), at("2026-11-30")), Ok(()));
    let paid = Take::call(None, Money::from_micros(1));
    assert_eq!(check(&quotas, &key(), paid, at("2026-11-30")), Err(Error::InsufficientQuota(Limit::ApiKey)));
    assert_eq!(check(&quotas, &ApiKeyId::from_stored("other"), paid, at("2026-11-30")), Ok(()));
}

#[test]
fn a_call_changes_the_quotas_of_its_key_of_which_it_takes_anything() {
    let mut quotas: KeyQuotas = QuotaType::ALL.map(|kind| ((key(), kind), quota(Period::Day, 0, "2026-11-29"))).into();
    let take = Take::call(None, Money::from_micros(7));
    let changed = count(&mut quotas, &key(), at("2026-11-30"), take);
    assert_eq!(changed, [(key(), QuotaType::Requests), (key(), QuotaType::Amount)]);
    assert_eq!(quotas.values().map(|quota| quota.taken.day).collect::<Vec<_>>(), [1, 0, 7]);
    // The clock is behind. The call counts to the period that has begun.
    count(&mut quotas, &key(), at("2026-11-29"), take);
    assert_eq!(quotas[&(key(), QuotaType::Requests)].taken.day, 2);
    assert_eq!(count(&mut quotas, &ApiKeyId::from_stored("other"), at("2026-11-30"), take), []);
}

#[test]
fn the_end_of_a_reservation_counts_if_the_reserve_came_after_the_quota() {
    let take = Take { requests: -1, ..Take::default() };
    for (made, used) in [("2026-11-28", 3), ("2026-11-29", 2), ("2026-11-30", 2)] {
        let mut quotas = quotas(QuotaType::Requests, quota(Period::Month, 3, "2026-11-30"));
        count_end(&mut quotas, &key(), (at(made).day, at(made).utc), take);
        assert_eq!(quotas[&(key(), QuotaType::Requests)].taken.month, used, "{made}");
    }
}

#[test]
fn a_reservation_may_take_the_rest_of_its_own_period() {
    for (period, made, left_of_it) in [
        (Period::Day, "2026-11-30", Some(6)),
        // The day of the reservation is over and does not count.
        (Period::Day, "2026-11-29", None),
        (Period::Month, "2026-11-29", Some(6)),
        // The first call of a new period.
        (Period::Day, "2026-12-01", Some(9)),
        (Period::Total, "2026-12-01", Some(6)),
        // The reservation was made before the quota.
        (Period::Total, "2026-11-28", None),
    ] {
        let quotas = quotas(QuotaType::Tokens, quota(period, 3, "2026-11-30"));
        let made_at = (at(made).day, at(made).utc);
        assert_eq!(left(&quotas, Some(&key()), QuotaType::Tokens, made_at), left_of_it, "{period:?} {made}");
        assert_eq!(left(&quotas, None, QuotaType::Tokens, made_at), None);
        assert_eq!(left(&quotas, Some(&key()), QuotaType::Amount, made_at), None);
    }
    let used_up = quotas(QuotaType::Tokens, quota(Period::Total, 12, "2026-11-30"));
    let made_at = (at("2026-11-30").day, at("2026-11-30").utc);
    assert_eq!(left(&used_up, Some(&key()), QuotaType::Tokens, made_at), Some(0));
}

#[test]
fn the_difference_of_two_takes_is_that_of_each_quota() {
    let take = |requests, tokens, amount| Take { requests, tokens, amount: Money::from_micros(amount) };
    assert_eq!(take(1, 5, 9) - take(1, 7, 2), take(0, -2, 7));
}

#[test]
fn quotas_and_periods_are_read_by_the_names_they_are_written_with() {
    for (kind, name) in QuotaType::ALL.into_iter().zip(["requests", "tokens", "amount"]) {
        assert_eq!((name.parse(), kind.to_string().as_str()), (Ok(kind), name));
    }
    for (period, name) in Period::ALL.into_iter().zip(["day", "month", "total"]) {
        assert_eq!((name.parse(), period.name()), (Ok(period), name));
    }
    assert_eq!("calls".parse::<QuotaType>().unwrap_err().field, "quota_type");
    assert_eq!("week".parse::<Period>().unwrap_err().field, "period");
}

use chrono::{DateTime, NaiveDate};

use super::*;
use crate::biz::{
    limits::caps::{Caps, Fired, Requests},
    settlement::lock::{LeftOut, Lock, Obstacle},
    values::money::Money,
};

fn month() -> Month {
    "2026-11".parse().unwrap()
}

fn user() -> UserId {
    UserId::from_stored("u")
}

fn quota_key(service: &str) -> QuotaKey {
    (user(), month(), ServiceName::from_stored(service))
}

fn quota(used: u64) -> Quota {
    Quota { total: 10, used, held: 0 }
}

/// The user's state under lock, with a quota of 10 `asset`.
fn read(capped: bool) -> Read {
    let mut state = State::default();
    state.quotas.insert(quota_key("asset"), quota(0));
    if capped {
        let (since, day) = (DateTime::UNIX_EPOCH, NaiveDate::default());
        state.requests.insert(
            user(),
            Requests { caps: Caps::default(), since, day, daily: 0, monthly: 0, fired: Fired::default() },
        );
    }
    Read::of(&state)
}

/// A change to `version`, with `used` units of `asset`.
fn to(version: i64, used: u64) -> SettledBatch {
    let balance = Balance { amount: Money::from_micros(version), version, ..Balance::default() };
    let (_, month, service) = quota_key("asset");
    let quotas = BTreeMap::from([((month, service), quota(used))]);
    let change = AccountChange { user: user(), before: version - 1, balance, requests: None, quotas };
    SettledBatch { changes: vec![Change::Account(change)], ..SettledBatch::default() }
}

/// The version and the used units that a call of `asset` with the API key `k` would be decided on.
fn recalled(recent: &RecentAccounts, at: At) -> Option<(i64, u64)> {
    recalled_for(recent, "asset", at)
}

fn recalled_for(recent: &RecentAccounts, service: &str, at: At) -> Option<(i64, u64)> {
    let (user, service, key) = (user(), ServiceName::from_stored(service), ApiKeyId::from_stored("k"));
    let state = recent.recall(&call(&user, &service, &key), at)?;
    Some((state.balances[&user].version, state.quotas[&(user.clone(), at.0, service.clone())].used))
}

fn call<'k>(user: &'k UserId, service: &'k ServiceName, key: &'k ApiKeyId) -> Keys<'k> {
    let mut keys = Keys::default();
    keys.users.insert(user);
    keys.quotas.insert((user, service));
    keys.api_keys.insert(key);
    keys
}

fn keep(recent: &RecentAccounts, settled: &SettledBatch, read: &Read, at: At) {
    let (user, service, key) = (user(), ServiceName::from_stored("asset"), ApiKeyId::from_stored("k"));
    recent.keep(&call(&user, &service, &key), settled, read, at);
}

fn forget_stale(recent: &RecentAccounts) {
    let (user, service, key) = (user(), ServiceName::from_stored("asset"), ApiKeyId::from_stored("k"));
    recent.forget_stale(&call(&user, &service, &key));
}

#[test]
fn a_state_is_known_from_its_settlement_on_and_follows_each_change() {
    let (recent, at) = (RecentAccounts::default(), (month(), 1));
    assert_eq!(recalled(&recent, at), None);
    keep(&recent, &to(5, 3), &read(false), at);
    assert_eq!(recalled(&recent, at), Some((5, 3)));
    recent.keep_on(&to(6, 4), at);
    assert_eq!(recalled(&recent, at), Some((6, 4)));
}

#[test]
fn a_state_of_another_month_or_of_earlier_connections_is_not_used() {
    let (recent, at) = (RecentAccounts::default(), (month(), 1));
    keep(&recent, &to(5, 3), &read(false), at);
    assert_eq!(recalled(&recent, ("2026-12".parse().unwrap(), 1)), None);
    assert_eq!(recalled(&recent, (month(), 2)), None);
}

#[test]
fn a_change_that_does_not_follow_the_state_ends_it() {
    let (recent, at) = (RecentAccounts::default(), (month(), 1));
    keep(&recent, &to(5, 3), &read(false), at);
    recent.keep_on(&to(7, 4), at);
    assert_eq!(recalled(&recent, at), None);
}

#[test]
fn quotas_of_other_services_are_kept_only_behind_an_unbroken_row_of_changes() {
    let (recent, at) = (RecentAccounts::default(), (month(), 1));
    let mut state = State::default();
    state.quotas.insert(quota_key("passport"), quota(1));
    keep(&recent, &to(5, 3), &Read::of(&state), at);
    keep(&recent, &to(6, 4), &read(false), at);
    assert_eq!(recalled_for(&recent, "passport", at), Some((6, 1)));
    // Another server settled version 7.
    keep(&recent, &to(8, 5), &read(false), at);
    assert_eq!((recalled_for(&recent, "passport", at), recalled(&recent, at)), (None, Some((8, 5))));
}

#[test]
fn users_with_caps_are_not_known_even_if_a_posting_counts_toward_none() {
    let (recent, at) = (RecentAccounts::default(), (month(), 1));
    keep(&recent, &to(5, 3), &read(true), at);
    assert_eq!(recalled(&recent, at), None);
}

#[test]
fn a_key_with_a_quota_or_behind_a_lock_is_not_known() {
    let (recent, at) = (RecentAccounts::default(), (month(), 1));
    let limited = SettledBatch { api_keys: vec![ApiKeyId::from_stored("k")], ..to(5, 3) };
    keep(&recent, &limited, &read(false), at);
    assert_eq!(recalled(&recent, at), None);
    let mut left_out = LeftOut::default();
    let lock = Lock::ApiKey(ApiKeyId::from_stored("k"));
    left_out.insert(&UserId::from_stored("another"), Obstacle::Locked(lock));
    keep(&recent, &SettledBatch { left_out, ..to(6, 4) }, &read(false), at);
    assert_eq!(recalled(&recent, at), None);
    keep(&recent, &to(7, 5), &read(false), at);
    assert_eq!(recalled(&recent, at), Some((7, 5)));
}

#[test]
fn stale_states_make_rests_that_double_up_to_a_bound_and_halve_with_each_success() {
    let (recent, at) = (RecentAccounts::default(), (month(), 1));
    let mut version = 5;
    let mut rest_after_stale = || {
        forget_stale(&recent);
        version += 1;
        keep(&recent, &to(version, 0), &read(false), at);
        (0..100).take_while(|_| recalled(&recent, at).is_none()).count()
    };
    let rests: Vec<usize> = (0..9).map(|_| rest_after_stale()).collect();
    assert_eq!(rests, [0, 1, 2, 4, 8, 16, 32, 32, 32]);
    for _ in 0..6 {
        recent.keep_on(&SettledBatch::default(), at);
    }
    assert_eq!(rest_after_stale(), 0);
}

#[test]
fn the_number_of_known_accounts_is_bounded() {
    let (recent, at) = (RecentAccounts::default(), (month(), 1));
    keep(&recent, &to(5, 3), &read(false), at);
    let changes = (0..MAX_ENTRIES).map(|number| {
        let user = UserId::from_stored(format!("u{number}"));
        let balance = Balance::default();
        Change::Account(AccountChange { user, before: -1, balance, requests: None, quotas: BTreeMap::new() })
    });
    let many = SettledBatch { changes: changes.collect(), ..SettledBatch::default() };
    keep(&recent, &many, &read(false), at);
    assert_eq!(recalled(&recent, at), None);
    assert_eq!(recent.lock().accounts.len(), MAX_ENTRIES);
}

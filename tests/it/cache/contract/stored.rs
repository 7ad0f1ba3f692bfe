//! A stored entry is found complete until it is dropped. Changes keep it complete.

use std::{collections::BTreeMap, time::Duration};

use billing_service::biz::{
    account::{Balance, Quota},
    check::cache::entry::{AccountEntry, CacheEntry},
    limits::key_quota::{KeyQuota, Period, QuotaType, Taken},
    settlement::change::{AccountChange, Change, KeyChange},
    values::{
        account_status::AccountStatus,
        cache_key::CacheKey,
        ids::{ApiKeyId, UserId},
    },
};
use rstest::rstest;

use super::{
    backends::{Backend, Caches, Cluster, Memory, Redis, Sentinel, look},
    states::*,
};
use crate::harness::wait::until;

const EXTREME: i64 = 999_999_999_999_999;

fn accounts() -> Vec<AccountEntry> {
    let quotas = |rows: &[(&str, &str, Quota)]| rows.iter().map(|(m, s, quota)| (row(m, s), *quota)).collect();
    let full = Quota { total: 1 << 53, used: (1 << 53) - 1, held: u64::from(u32::MAX) + 1 };
    let months = quotas(&[
        (NOVEMBER, "asset", quota(7)),
        (NOVEMBER, "a-b_c.d", full),
        (DECEMBER, "asset", Quota::default()),
        ("0001-01", "asset", quota(8)),
    ]);
    vec![
        AccountEntry { balance: balance(1, 0, 0), requests: None, quotas: BTreeMap::new() },
        AccountEntry { balance: balance(7, -1, -2), requests: None, quotas: months },
        AccountEntry {
            balance: balance(1 << 40, -EXTREME, EXTREME),
            requests: Some(requests(Some(u32::MAX), Some(0), u32::MAX - 5)),
            quotas: quotas(&[(NOVEMBER, "asset", quota(0))]),
        },
        AccountEntry {
            balance: balance(2, EXTREME, -500_000),
            requests: Some(requests(None, Some(3), 0)),
            quotas: BTreeMap::new(),
        },
        AccountEntry {
            balance: Balance {
                status: AccountStatus::Frozen,
                exhausted: Some("2026-11".parse().unwrap()),
                ..balance(4, 1, 0)
            },
            requests: None,
            quotas: BTreeMap::new(),
        },
        AccountEntry {
            balance: Balance { status: AccountStatus::Closed, ..balance(3, -10_500_000, 1) },
            requests: Some(requests(Some(3), None, 1)),
            quotas: BTreeMap::new(),
        },
    ]
}

#[rstest]
#[tokio::test]
async fn an_account_is_found_as_it_was_stored(#[values(Memory, Redis, Cluster, Sentinel)] on: Backend) {
    let caches = Caches::start(on).await;
    for account in accounts() {
        let user = fresh_user();
        assert_eq!(caches.look(&user_of(&user)).await, None);
        let entry = CacheEntry::Account(user.clone(), account);
        caches.load(&entry).await;
        assert_eq!(caches.look(&user_of(&user)).await, Some(entry));
    }
}

#[rstest]
#[tokio::test]
async fn an_api_key_with_any_name_is_found_as_it_was_stored(#[values(Memory, Redis, Cluster, Sentinel)] on: Backend) {
    let caches = Caches::start(on).await;
    let n = number();
    let names =
        ["k", " ", "{", "}", "{}", "}{", "{a}b", "%7B", "%", "%257D", "a b", "a:b\"'\\", "fence", &"x".repeat(120)];
    let most = Taken { day: i64::MAX, month: i64::MAX, total: i64::MAX };
    let kinds = [
        (QuotaType::Requests, key_quota(1)),
        (
            QuotaType::Tokens,
            KeyQuota { period: Period::Month, limit: i64::MAX, taken: Taken::default(), since: at(5), ..key_quota(9) },
        ),
        (QuotaType::Amount, KeyQuota { period: Period::Total, limit: 0, taken: most, ..key_quota(i64::MAX / 4) }),
    ];
    let entries = names.iter().flat_map(|name| (0..=3).map(move |first| (name, first))).map(|(name, first)| {
        let key = ApiKeyId::from_stored(format!("{name}{first}{n}"));
        let quotas = kinds[first..].iter().map(|(kind, quota)| ((key.clone(), *kind), KeyQuota { ..*quota }));
        CacheEntry::ApiKey(key.clone(), quotas.collect())
    });
    let entries: Vec<CacheEntry> = entries.collect();
    for entry in &entries {
        caches.load(entry).await;
    }
    // No entry has overwritten another one.
    for entry in entries {
        assert_eq!(caches.look(&entry.cache_key()).await, Some(entry));
    }
}

#[rstest]
#[tokio::test]
async fn a_user_and_an_api_key_with_the_same_name_have_two_entries(
    #[values(Memory, Redis, Cluster, Sentinel)] on: Backend,
) {
    let caches = Caches::start(on).await;
    let name = format!("both-{}", number());
    let (user, key) = (UserId::from_stored(name.clone()), ApiKeyId::from_stored(name));
    caches.load(&account(&user, 1)).await;
    assert_eq!(caches.look(&key_of(&key)).await, None);
    caches.load(&api_key(&key, 1)).await;
    assert_eq!(caches.one.forget(&[user_of(&user)]).await, vec![]);
    assert_eq!(caches.look(&key_of(&key)).await, Some(api_key(&key, 1)));
}

#[rstest]
#[tokio::test]
async fn a_load_replaces_the_whole_entry(#[values(Memory, Redis, Cluster, Sentinel)] on: Backend) {
    let caches = Caches::start(on).await;
    let user = fresh_user();
    for account in accounts().into_iter().rev() {
        let entry = CacheEntry::Account(user.clone(), account);
        caches.load(&entry).await;
        assert_eq!(caches.look(&user_of(&user)).await, Some(entry));
    }
}

#[rstest]
#[tokio::test]
async fn a_change_turns_its_base_entry_into_the_next_one(#[values(Memory, Redis, Cluster, Sentinel)] on: Backend) {
    let caches = Caches::start(on).await;
    let user = fresh_user();
    let first = AccountEntry {
        balance: balance(9, 5_000_000, 0),
        requests: Some(requests(Some(10), None, 1)),
        quotas: BTreeMap::from([(row(NOVEMBER, "asset"), quota(7)), (row(NOVEMBER, "passport"), quota(8))]),
    };
    caches.load(&CacheEntry::Account(user.clone(), first.clone())).await;
    // As text, the longer number would sort first.
    let change = AccountChange {
        user: user.clone(),
        before: 9,
        balance: Balance { status: AccountStatus::Frozen, ..balance(10, -1, 2) },
        requests: None,
        quotas: BTreeMap::from([(row(NOVEMBER, "asset"), quota(70)), (row(DECEMBER, "asset"), quota(1))]),
    };
    caches.apply(&[Change::Account(change.clone())]).await;
    let mut expected = first;
    expected.balance = change.balance;
    expected.quotas.extend(change.quotas.clone());
    assert_eq!(caches.look(&user_of(&user)).await, Some(CacheEntry::Account(user.clone(), expected.clone())));

    let counted = Some(requests(Some(10), None, 2));
    let change =
        AccountChange { before: 10, balance: balance(12, 0, 0), requests: counted, quotas: BTreeMap::new(), ..change };
    caches.apply(&[Change::Account(change)]).await;
    let expected = AccountEntry { balance: balance(12, 0, 0), requests: counted, ..expected };
    assert_eq!(caches.look(&user_of(&user)).await, Some(CacheEntry::Account(user, expected)));
}

#[rstest]
#[tokio::test]
async fn a_change_of_an_api_key_replaces_all_its_quotas(#[values(Memory, Redis, Cluster, Sentinel)] on: Backend) {
    let caches = Caches::start(on).await;
    let key = fresh_key();
    let all = |version| QuotaType::ALL.map(|kind| ((key.clone(), kind), key_quota(version))).into_iter().collect();
    caches.load(&CacheEntry::ApiKey(key.clone(), all(1))).await;
    caches.apply(&[Change::ApiKey(KeyChange::new(&key, &all(1), all(2)))]).await;
    assert_eq!(caches.look(&key_of(&key)).await, Some(CacheEntry::ApiKey(key.clone(), all(2))));
    // A quota that is not in the change is removed.
    caches.apply(&[Change::ApiKey(KeyChange::new(&key, &all(2), quotas(&key, 3)))]).await;
    assert_eq!(caches.look(&key_of(&key)).await, Some(api_key(&key, 3)));
}

#[rstest]
#[tokio::test]
async fn a_repeated_change_is_ignored_and_a_gap_drops_the_entry(
    #[values(Memory, Redis, Cluster, Sentinel)] on: Backend,
) {
    let caches = Caches::start(on).await;
    let (user, key) = (fresh_user(), fresh_key());
    caches.load(&account(&user, 10)).await;
    caches.load(&api_key(&key, 10)).await;
    for (before, after) in [(9, 10), (8, 9), (8, 10)] {
        caches.apply(&[change(&user, before, after)]).await;
        assert_eq!(caches.look(&user_of(&user)).await, Some(account(&user, 10)));
    }
    caches.apply(&[key_change(&key, 9, 10)]).await;
    assert_eq!(caches.look(&key_of(&key)).await, Some(api_key(&key, 10)));

    caches.apply(&[change(&user, 11, 12), key_change(&key, 11, 12)]).await;
    assert_eq!((caches.look(&user_of(&user)).await, caches.look(&key_of(&key)).await), (None, None));
}

#[rstest]
#[tokio::test]
async fn a_change_without_an_entry_stores_nothing(#[values(Memory, Redis, Cluster, Sentinel)] on: Backend) {
    let caches = Caches::start(on).await;
    let (user, key) = (fresh_user(), fresh_key());
    caches.apply(&[change(&user, 1, 2), key_change(&key, 1, 2)]).await;
    assert_eq!((caches.look(&user_of(&user)).await, caches.look(&key_of(&key)).await), (None, None));
}

#[rstest]
#[tokio::test]
async fn changes_of_many_entries_are_applied_at_once(#[values(Memory, Redis, Cluster, Sentinel)] on: Backend) {
    let caches = Caches::start(on).await;
    let users: Vec<UserId> = (0..60).map(|_| fresh_user()).collect();
    for user in &users[..40] {
        caches.load(&account(user, 1)).await;
    }
    let changes: Vec<Change> = users[20..].iter().map(|user| change(user, 1, 2)).collect();
    caches.apply(&changes).await;
    let forgotten: Vec<CacheKey> = users[..30].iter().step_by(3).map(user_of).collect();
    assert_eq!(caches.one.forget(&forgotten).await, vec![]);
    for (number, user) in users.iter().enumerate() {
        let expected = match number {
            0..30 if number % 3 == 0 => None,
            0..20 => Some(account(user, 1)),
            20..40 => Some(account(user, 2)),
            _ => None,
        };
        assert_eq!(caches.look(&user_of(user)).await, expected, "{number}");
    }
    assert_eq!((caches.one.apply(&[]).await, caches.one.forget(&[]).await), (vec![], vec![]));
}

#[rstest]
#[tokio::test]
async fn clear_drops_every_entry_and_every_load_in_flight(#[values(Memory, Redis, Cluster, Sentinel)] on: Backend) {
    let caches = Caches::start_alone(on).await;
    let users: Vec<UserId> = (0..30).map(|_| fresh_user()).collect();
    let (key, loading, loading_key) = (fresh_key(), fresh_user(), fresh_key());
    for user in &users {
        caches.load(&account(user, 1)).await;
    }
    caches.load(&api_key(&key, 1)).await;
    let (fence, key_fence) = (caches.fence(&user_of(&loading)).await, caches.fence(&key_of(&loading_key)).await);
    caches.other.clear().await.unwrap();
    // These loads may have read the state before a change whose update was lost.
    caches.store(fence, &account(&loading, 1)).await;
    caches.store(key_fence, &api_key(&loading_key, 1)).await;
    for user in users.iter().chain([&loading]) {
        assert_eq!(caches.look(&user_of(user)).await, None);
    }
    assert_eq!((caches.look(&key_of(&key)).await, caches.look(&key_of(&loading_key)).await), (None, None));
    caches.load(&account(&loading, 2)).await;
    assert_eq!(caches.look(&user_of(&loading)).await, Some(account(&loading, 2)));
}

#[rstest]
#[tokio::test]
async fn a_server_without_its_scripts_loses_no_entry(#[values(Redis, Cluster, Sentinel)] on: Backend) {
    let caches = Caches::start_alone(on).await;
    let users: Vec<UserId> = (0..20).map(|_| fresh_user()).collect();
    for user in &users {
        caches.forget_scripts().await;
        caches.load(&account(user, 1)).await;
    }
    caches.forget_scripts().await;
    caches.apply(&users.iter().map(|user| change(user, 1, 2)).collect::<Vec<_>>()).await;
    for user in &users {
        caches.forget_scripts().await;
        assert_eq!(caches.look(&user_of(user)).await, Some(account(user, 2)));
    }
}

#[rstest]
#[tokio::test]
async fn an_entry_expires_even_if_it_changes_often(#[values(Redis, Cluster, Sentinel)] on: Backend) {
    let caches = Caches::start_with(on, Duration::from_millis(300)).await;
    let mut was_changed = false;
    // On a busy machine, both may expire before the test reads them.
    for _ in 0..20 {
        let (quiet, busy) = (fresh_user(), fresh_user());
        caches.load(&account(&quiet, 1)).await;
        caches.load(&account(&busy, 1)).await;
        let mut version = 1;
        until("both have expired", async || {
            caches.apply(&[change(&busy, version, version + 1)]).await;
            version += 1;
            let busy = look(&*caches.one, &user_of(&busy)).await;
            was_changed |= busy.is_some();
            busy.is_none() && look(&*caches.one, &user_of(&quiet)).await.is_none()
        })
        .await;
        if was_changed {
            return;
        }
    }
    panic!("every entry expired before its change");
}

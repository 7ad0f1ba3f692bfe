//! A slow load never stores a stale entry.

use std::time::Duration;

use billing_service::{biz::check::cache::account_cache::AccountCache, data::redis::RedisLayout};
use rstest::rstest;

use super::{
    backends::{Backend, Caches, Cluster, Memory, Redis, Sentinel, connect_to, look, settings_of, store},
    states::*,
};
use crate::harness::{redis::OwnRedis, wait::until};

#[rstest]
#[tokio::test]
async fn a_slow_load_never_replaces_a_newer_commit(#[values(Memory, Redis, Cluster, Sentinel)] on: Backend) {
    let caches = Caches::start(on).await;
    for (read, is_stored) in [(8, false), (9, false), (10, false), (11, true), (12, true)] {
        let user = fresh_user();
        let fence = caches.fence(&user_of(&user)).await;
        // Another process sends the update, while nothing is cached. A late older update does not
        // make the load newer.
        for (before, after) in [(9, 10), (10, 11), (8, 9)] {
            assert_eq!(caches.other.apply(&[change(&user, before, after)]).await, vec![]);
        }
        caches.store(fence, &account(&user, read)).await;
        let expected = is_stored.then(|| account(&user, read));
        assert_eq!(caches.look(&user_of(&user)).await, expected, "{read}");
    }
}

#[rstest]
#[tokio::test]
async fn a_slow_load_does_not_replace_an_entry_that_changed_after_its_fence(
    #[values(Memory, Redis, Cluster, Sentinel)] on: Backend,
) {
    let caches = Caches::start(on).await;
    let user = fresh_user();
    caches.load(&account(&user, 1)).await;
    let fence = caches.fence(&user_of(&user)).await;
    caches.apply(&[change(&user, 1, 2)]).await;
    caches.store(fence, &account(&user, 1)).await;
    assert_eq!(caches.look(&user_of(&user)).await, Some(account(&user, 2)));
}

#[rstest]
#[tokio::test]
async fn a_slow_load_of_an_api_key_is_stored_only_if_it_equals_its_last_change(
    #[values(Memory, Redis, Cluster, Sentinel)] on: Backend,
) {
    let caches = Caches::start(on).await;
    for (read, is_stored) in [(1, false), (2, true), (3, false)] {
        let key = fresh_key();
        let fence = caches.fence(&key_of(&key)).await;
        caches.apply(&[key_change(&key, 1, 2)]).await;
        caches.store(fence, &api_key(&key, read)).await;
        // The versions of two sets of quotas have no order.
        assert_eq!(caches.look(&key_of(&key)).await, is_stored.then(|| api_key(&key, read)), "{read}");
    }
}

#[rstest]
#[tokio::test]
async fn a_second_load_takes_the_fence_of_the_first(#[values(Memory, Redis, Cluster, Sentinel)] on: Backend) {
    let caches = Caches::start(on).await;
    let user = fresh_user();
    let first = caches.fence(&user_of(&user)).await;
    let second = caches.other.fence(&user_of(&user)).await.unwrap();
    assert_ne!(first, second);
    caches.store(first, &account(&user, 1)).await;
    assert_eq!(caches.look(&user_of(&user)).await, None);
    store(&*caches.other, second, &account(&user, 2)).await;
    assert_eq!(caches.look(&user_of(&user)).await, Some(account(&user, 2)));
    // No fence can be used twice.
    caches.store(first, &account(&user, 3)).await;
    store(&*caches.other, second, &account(&user, 3)).await;
    assert_eq!(caches.look(&user_of(&user)).await, Some(account(&user, 2)));
}

#[rstest]
#[tokio::test]
async fn a_second_load_is_stopped_only_by_changes_after_its_fence(
    #[values(Memory, Redis, Cluster, Sentinel)] on: Backend,
) {
    let caches = Caches::start(on).await;
    let key = fresh_key();
    caches.fence(&key_of(&key)).await;
    caches.apply(&[key_change(&key, 1, 2)]).await;
    // This load began after the update, so it has read the change.
    caches.load(&api_key(&key, 3)).await;
    assert_eq!(caches.look(&key_of(&key)).await, Some(api_key(&key, 3)));
}

#[rstest]
#[tokio::test]
async fn forget_drops_the_entry_and_the_load_in_flight(#[values(Memory, Redis, Cluster, Sentinel)] on: Backend) {
    let caches = Caches::start(on).await;
    let (user, key) = (fresh_user(), fresh_key());
    caches.load(&account(&user, 1)).await;
    caches.load(&api_key(&key, 1)).await;
    let (fence, key_fence) = (caches.fence(&user_of(&user)).await, caches.fence(&key_of(&key)).await);
    assert_eq!(caches.other.forget(&[user_of(&user), key_of(&key)]).await, vec![]);
    assert_eq!((caches.look(&user_of(&user)).await, caches.look(&key_of(&key)).await), (None, None));
    caches.store(fence, &account(&user, 9)).await;
    caches.store(key_fence, &api_key(&key, 9)).await;
    assert_eq!((caches.look(&user_of(&user)).await, caches.look(&key_of(&key)).await), (None, None));
    caches.load(&account(&user, 9)).await;
    assert_eq!(caches.look(&user_of(&user)).await, Some(account(&user, 9)));
}

#[rstest]
#[tokio::test]
async fn changes_of_a_shared_api_key_leave_no_stale_entry_in_any_order(
    #[values(Memory, Redis, Cluster, Sentinel)] on: Backend,
    #[values([1, 2], [2, 1])] order: [i64; 2],
) {
    let caches = Caches::start(on).await;
    // The entry that was cached before, and the entry of a load that began before the updates.
    for cached in [None, Some(1), Some(2), Some(3)] {
        for loaded in [None, Some(1), Some(2), Some(3)] {
            let key = fresh_key();
            if let Some(version) = cached {
                caches.load(&api_key(&key, version)).await;
            }
            let fence = caches.fence(&key_of(&key)).await;
            for (cache, before) in [&caches.other, &caches.one].into_iter().zip(order) {
                assert_eq!(cache.apply(&[key_change(&key, before, before + 1)]).await, vec![]);
            }
            if let Some(version) = loaded {
                caches.store(fence, &api_key(&key, version)).await;
            }
            let found = caches.look(&key_of(&key)).await;
            assert!(found.is_none() || found == Some(api_key(&key, 3)), "{cached:?} {loaded:?} {found:?}");
            caches.load(&api_key(&key, 3)).await;
            assert_eq!(caches.look(&key_of(&key)).await, Some(api_key(&key, 3)));
        }
    }
}

#[tokio::test]
async fn a_load_that_began_before_a_restart_from_a_snapshot_is_not_stored() {
    let mut server = OwnRedis::start().await;
    let settings = || settings_of(RedisLayout::Single, vec![server.addr()], Duration::from_secs(600));
    let (cache, loader) = (connect_to(settings()).await, connect_to(settings()).await);
    let (user, key) = (fresh_user(), fresh_key());
    let fence = loader.fence(&user_of(&user)).await.unwrap();
    let key_fence = loader.fence(&key_of(&key)).await.unwrap();
    let snapshot = server.keep_snapshot().await;
    // The snapshot contains neither of these.
    assert_eq!(cache.apply(&[change(&user, 1, 2), key_change(&key, 1, 2)]).await, vec![]);
    server.restart_with_snapshot(&snapshot).await;
    until("the loader is connected again", async || loader.fence(&user_of(&fresh_user())).await.is_ok()).await;
    store(&*loader, fence, &account(&user, 1)).await;
    store(&*loader, key_fence, &api_key(&key, 1)).await;
    assert_eq!(look(&*loader, &user_of(&user)).await, None);
    assert_eq!(look(&*loader, &key_of(&key)).await, None);
}

#[tokio::test]
async fn a_server_that_became_a_replica_is_not_used_until_it_is_a_master() {
    let server = OwnRedis::start().await;
    let cache = connect_to(settings_of(RedisLayout::Single, vec![server.addr()], Duration::from_secs(600))).await;
    let mut connection = server.connection().await;
    let nobody = ["REPLICAOF", "127.0.0.1", "1"];
    let () = redis::cmd(nobody[0]).arg(&nobody[1..]).query_async(&mut connection).await.unwrap();
    let user = fresh_user();
    assert!(cache.fence(&user_of(&user)).await.is_err());
    assert!(!cache.is_up());
    assert!(cache.look(&user_of(&user)).await.is_err());
    assert_eq!(cache.apply(&[change(&user, 1, 2)]).await, vec![user_of(&user)]);
    let () = redis::cmd("REPLICAOF").arg("NO").arg("ONE").query_async(&mut connection).await.unwrap();
    until("the cache is connected again", async || cache.is_up()).await;
    cache.fence(&user_of(&user)).await.unwrap();
}

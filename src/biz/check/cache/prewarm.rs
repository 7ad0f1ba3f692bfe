//! Warms the caches: loads recently active accounts before a check needs them, so that a cold
//! cache does not send all checks to the database at once. The warm-up also repairs stale
//! entries of a process that was killed between a commit and its cache update.

use std::{num::NonZeroU32, time::Duration};

use futures_util::future::join_all;

use super::ReadModel;
use crate::biz::{
    account::{AccountStore, ActiveUsers},
    values::{cache_key::CacheKey, calendar::Calendar, error::Result, ids::UserId},
};

/// Users that were active within this time are loaded.
const ACTIVE_WITHIN: chrono::TimeDelta = chrono::TimeDelta::hours(1);
/// Pause between two pages, because a page may hold no active user.
const PAGE_PAUSE: Duration = Duration::from_millis(20);
/// Accounts loaded concurrently: few, to leave the database to checks.
const CONCURRENT_LOADS: usize = 8;

/// Loads every recently active account, at most `per_second` per second, and returns the number
/// of loaded accounts. An account that can't be loaded is skipped.
///
/// # Errors
/// [`crate::biz::values::error::Error::Overloaded`] or Internal if the users can't be listed.
pub async fn prewarm(
    model: &ReadModel,
    store: &dyn AccountStore,
    calendar: &Calendar,
    per_second: NonZeroU32,
) -> Result<u64> {
    let since = calendar.now().utc - ACTIVE_WITHIN;
    let pause = Duration::from_secs(1) * CONCURRENT_LOADS as u32 / per_second.get();
    let (mut loaded, mut last) = (0, None::<UserId>);
    // Ends, because each page begins after the last one.
    loop {
        let ActiveUsers { users, next } = store.active_users(since, last.as_ref()).await?;
        for some in users.chunks(CONCURRENT_LOADS) {
            let begun = tokio::time::Instant::now();
            let cache_keys: Vec<CacheKey> = some.iter().cloned().map(CacheKey::User).collect();
            let loads = join_all(cache_keys.iter().map(|cache_key| model.load(cache_key))).await;
            loaded += loads.iter().filter(|load| load.is_ok()).count() as u64;
            tokio::time::sleep_until(begun + pause).await;
        }
        tokio::time::sleep(PAGE_PAUSE).await;
        match next {
            Some(next) => last = Some(next),
            None => return Ok(loaded),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{
        collections::BTreeMap,
        sync::{Arc, Mutex},
    };

    use async_trait::async_trait;
    use chrono::{DateTime, Utc};
    use tokio::time::Instant;

    use super::*;
    use crate::biz::{
        account::{ACTIVE_PAGE, Account, Balance, catalog::Catalog},
        audit_trail::AuditedCall,
        check::cache::{
            Caches, Trust,
            account_cache::{AccountCache, Fence, Found},
            entry::CacheEntry,
        },
        limits::key_quota::{KeyQuotaStore, KeyQuotas, KnownSince, NewKeyQuota, QuotaType},
        settlement::{
            accounts::Accounts,
            change::Change,
            engine::{Engine, LaneLimits, ParkingLimits},
            ledger::{Gather, Ledger, SettledBatch},
            lock::Lock,
            posting::Batch,
        },
        values::{
            calendar::{BillingTime, Month, SystemClock},
            error::StoreError,
            ids::ApiKeyId,
        },
    };

    /// `count` users in order, of which every third was active recently; and the time of each load.
    struct Users {
        count: usize,
        loaded: Mutex<Vec<(UserId, Instant)>>,
        fails: fn(&UserId) -> bool,
    }

    #[async_trait]
    impl AccountStore for Users {
        async fn account(&self, user: &UserId, _: Month) -> std::result::Result<Option<Account>, StoreError> {
            self.loaded.lock().unwrap().push((user.clone(), Instant::now()));
            if (self.fails)(user) {
                return Err(StoreError::Unavailable("this one".into()));
            }
            Ok(Some(Account { balance: Balance::default(), quotas: Default::default(), requests: None }))
        }

        async fn active_users(
            &self,
            since: DateTime<Utc>,
            after: Option<&UserId>,
        ) -> std::result::Result<ActiveUsers, StoreError> {
            // One second after `since`, or one second before it.
            let all = (0..self.count).map(|number| {
                let behind = if number % 3 == 0 { 1 } else { -1 };
                (UserId::from_stored(format!("{number:06}")), since + chrono::TimeDelta::seconds(behind))
            });
            let page = all.filter(|(user, _)| after.is_none_or(|after| user.as_str() > after.as_str()));
            Ok(ActiveUsers::of_page(page.take(ACTIVE_PAGE).collect(), since))
        }
    }

    #[async_trait]
    impl Ledger for Users {
        async fn settle(&self, _: &Batch) -> std::result::Result<SettledBatch, StoreError> {
            Err(StoreError::Failed("nothing is settled here".into()))
        }

        async fn settle_behind(&self, _: &Lock, _: &Gather) -> std::result::Result<SettledBatch, StoreError> {
            Err(StoreError::Failed("nothing is settled here".into()))
        }
    }

    #[async_trait]
    impl KeyQuotaStore for Users {
        async fn set_key_quota(
            &self,
            _: &NewKeyQuota,
            _: &AuditedCall,
            _: BillingTime,
        ) -> std::result::Result<Result<()>, StoreError> {
            Ok(Ok(()))
        }

        async fn key_quotas(&self, _: &ApiKeyId) -> std::result::Result<KeyQuotas, StoreError> {
            Ok(KeyQuotas::new())
        }

        async fn known_since(&self, _: &ApiKeyId) -> std::result::Result<BTreeMap<QuotaType, KnownSince>, StoreError> {
            Ok(BTreeMap::new())
        }
    }

    #[async_trait]
    impl AccountCache for Users {
        async fn look(&self, _: &CacheKey) -> std::result::Result<Option<Found>, StoreError> {
            Ok(None)
        }

        async fn look_all(&self, _: &[CacheKey]) -> std::result::Result<Vec<Option<Arc<CacheEntry>>>, StoreError> {
            Ok(Vec::new())
        }

        async fn fence(&self, _: &CacheKey) -> std::result::Result<Fence, StoreError> {
            Ok(Fence(0))
        }

        async fn store(&self, _: Fence, _: Found) -> std::result::Result<(), StoreError> {
            Ok(())
        }

        async fn apply(&self, _: &[Change]) -> Vec<CacheKey> {
            Vec::new()
        }

        async fn forget(&self, _: &[CacheKey]) -> Vec<CacheKey> {
            Vec::new()
        }

        async fn clear(&self) -> std::result::Result<(), StoreError> {
            Ok(())
        }
    }

    async fn warm(users: Users, per_second: u32) -> (u64, Vec<(UserId, Instant)>) {
        let users = Arc::new(users);
        let calendar = Arc::new(Calendar::new(chrono_tz::UTC, SystemClock));
        let (catalog, seconds) = (Arc::new(Catalog::new([])), Duration::from_secs);
        let caches = Arc::new(Caches::new(users.clone(), Trust::Always, None));
        let parking = ParkingLimits { accounts: 1, postings: 1, connections: 1, quarantine: seconds(1) };
        let limits =
            LaneLimits { lanes: 1, queue: 1, batch: 1, max_wait: seconds(1), retry_timeout: seconds(1), parking };
        let engine = Arc::new(Engine::start(users.clone(), caches.clone(), catalog.clone(), calendar.clone(), limits));
        let accounts = Arc::new(Accounts::new(users.clone(), engine, catalog, calendar.clone()));
        let model = ReadModel::new(caches, accounts, users.clone());
        let loaded = prewarm(&model, &*users, &calendar, per_second.try_into().unwrap()).await.unwrap();
        let loads = users.loaded.lock().unwrap().clone();
        (loaded, loads)
    }

    #[tokio::test(start_paused = true)]
    async fn active_accounts_are_loaded_once_at_the_given_rate() {
        let users = Users { count: 7_000, loaded: Mutex::default(), fails: |_| false };
        let (loaded, loads) = warm(users, 200).await;
        let expected: Vec<String> = (0..7_000).step_by(3).map(|number| format!("{number:06}")).collect();
        assert_eq!(loads.iter().map(|(user, _)| user.as_str()).collect::<Vec<_>>(), expected);
        assert_eq!(loaded, expected.len() as u64);
        for (begin, (_, at)) in loads.iter().enumerate() {
            let within = loads[begin..].iter().take_while(|(_, other)| *other < *at + Duration::from_secs(1));
            assert!(within.count() <= 200 + CONCURRENT_LOADS);
        }
        let took = loads[loads.len() - 1].1 - loads[0].1;
        assert!((10..15).contains(&took.as_secs()), "{took:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn an_account_that_fails_to_load_is_skipped() {
        let users = Users { count: 30, loaded: Mutex::default(), fails: |user| user.as_str() == "000003" };
        let (loaded, loads) = warm(users, 1_000).await;
        assert_eq!((loaded, loads.len()), (9, 10));
    }
}

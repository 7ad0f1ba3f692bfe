//! The committed state of the accounts that this process settled last.
//!
//! A batch of calls on such accounts is decided without a read, and written behind a guard of their
//! versions. The guard decides. If another process changed one of the accounts, nothing is written,
//! and the batch is settled again under locks.

use std::{
    collections::BTreeMap,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU32, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use lru::LruCache;

use crate::biz::{
    account::{Balance, Quota},
    settlement::{
        change::{AccountChange, Change},
        keys::Keys,
        ledger::SettledBatch,
        rule::{QuotaKey, State},
    },
    values::{
        calendar::Month,
        ids::{ApiKeyId, ServiceName, UserId},
    },
};

/// Most accounts, and most API keys. Each account takes some 300 bytes.
const MAX_ENTRIES: usize = 32_768;
/// Age at which a state is read again. A version that returns with another state, as after a failover
/// to a replica that lacks the last commits, is not told apart for longer.
const MAX_AGE: Duration = Duration::from_secs(5);
/// Batches that are settled under locks after a stale state. Where several processes settle the same
/// accounts, nearly every state is stale.
const REST: u32 = 32;

/// Accounts without caps, and API keys without quotas.
pub struct RecentAccounts {
    known: Mutex<Known>,
    /// Batches that are still to be settled under locks.
    rest: AtomicU32,
}

struct Known {
    accounts: LruCache<UserId, Recent>,
    /// Each with the time of the read that found no quota.
    unlimited_keys: LruCache<ApiKeyId, Instant>,
}

/// The month of a batch, and the number of connections that were opened before it. A server that comes back or is replaced
/// closes its connections, so no state from before is used on it.
type At = (Month, u64);

struct Recent {
    since: Instant,
    at: At,
    balance: Balance,
    /// The known quotas of the month.
    quotas: BTreeMap<ServiceName, Quota>,
}

impl Default for RecentAccounts {
    fn default() -> Self {
        // Without a bound of their own, because bounded ones allocate their tables at once.
        let known = Known { accounts: LruCache::unbounded(), unlimited_keys: LruCache::unbounded() };
        Self { known: Mutex::new(known), rest: AtomicU32::new(0) }
    }
}

impl RecentAccounts {
    /// The state of all accounts and API keys of a batch of calls; `None` if a part is not known.
    pub fn recall(&self, keys: &Keys<'_>, at: At) -> Option<State> {
        if self.rest.fetch_update(Relaxed, Relaxed, |left| left.checked_sub(1)).is_ok() {
            return None;
        }
        let mut state = State::default();
        let mut known = self.lock();
        let Known { accounts, unlimited_keys } = &mut *known;
        for &user in &keys.users {
            let recent = accounts.get(user).filter(|recent| recent.at == at && recent.since.elapsed() < MAX_AGE)?;
            state.balances.insert(user.clone(), recent.balance);
        }
        for &(user, service) in &keys.quotas {
            let quota = accounts.peek(user)?.quotas.get(service)?;
            state.quotas.insert((user.clone(), at.0, service.clone()), *quota);
        }
        for &key in &keys.api_keys {
            unlimited_keys.get(key).filter(|since| since.elapsed() < MAX_AGE)?;
        }
        Some(state)
    }

    /// Keeps the state that a committed batch left. `loaded` has the quotas that were read for it; those of
    /// recalled accounts are known.
    pub fn keep(&self, keys: &Keys<'_>, settled: &SettledBatch, loaded: &BTreeMap<QuotaKey, Quota>, at: At) {
        let mut known = self.lock();
        let Known { accounts, unlimited_keys } = &mut *known;
        for change in &settled.changes {
            let Change::Account(change) = change else { continue };
            let before = accounts.pop(&change.user);
            if change.requests.is_none() {
                let before = before.filter(|recent| recent.at == at && recent.balance.version == change.before);
                let quotas = before.map(|recent| recent.quotas).unwrap_or_default();
                accounts.put(change.user.clone(), Recent::after(change, quotas, loaded, at));
            }
        }
        for &key in &keys.api_keys {
            if settled.api_keys.contains(key) {
                unlimited_keys.pop(key);
            } else {
                unlimited_keys.put(key.clone(), Instant::now());
            }
        }
        while accounts.len() > MAX_ENTRIES {
            accounts.pop_lru();
        }
        while unlimited_keys.len() > MAX_ENTRIES {
            unlimited_keys.pop_lru();
        }
    }

    /// Forgets accounts and API keys whose state has changed or may have.
    pub fn forget(&self, keys: &Keys<'_>) {
        let mut known = self.lock();
        for &user in &keys.users {
            known.accounts.pop(user);
        }
        for &key in &keys.api_keys {
            known.unlimited_keys.pop(key);
        }
    }

    /// As [`Self::forget`], after a guard found that another process changes the accounts.
    pub fn forget_stale(&self, keys: &Keys<'_>) {
        self.forget(keys);
        self.rest.store(REST, Relaxed);
    }

    fn lock(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Recent {
    /// The state after a change. `quotas` are those from before it.
    fn after(
        change: &AccountChange,
        mut quotas: BTreeMap<ServiceName, Quota>,
        loaded: &BTreeMap<QuotaKey, Quota>,
        at: At,
    ) -> Self {
        let first = (change.user.clone(), at.0, ServiceName::from_stored(""));
        let of_user = loaded.range(first..).take_while(|((user, month, _), _)| *user == change.user && *month == at.0);
        quotas.extend(of_user.map(|((_, _, service), quota)| (service.clone(), *quota)));
        let changed = change.quotas.iter().filter(|((month, _), _)| *month == at.0);
        quotas.extend(changed.map(|((_, service), quota)| (service.clone(), *quota)));
        Self { since: Instant::now(), at, balance: change.balance, quotas }
    }
}

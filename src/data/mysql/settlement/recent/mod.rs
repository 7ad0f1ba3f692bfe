//! The committed state of the accounts that this process settled last.
//!
//! A batch of calls on such accounts is decided without a read, and written behind a guard of their
//! versions. The guard decides. If another process changed one of the accounts, nothing is written,
//! and the batch is settled again under locks.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU32, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use lru::LruCache;

use crate::biz::{
    account::{Balance, Quota},
    events::alerts::Watch,
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

/// Most accounts, and most API keys. Each account takes less than a kilobyte.
const MAX_ENTRIES: usize = 32_768;
/// Age at which a state is read under lock again, also while it is in use. Nothing else ends a state whose version
/// came back with another balance, as after a change by hand or a failover behind a proxy.
const MAX_AGE: Duration = Duration::from_secs(5);
/// Most batches that are settled under locks after a stale state. Where several servers settle the same accounts, nearly
/// every state is stale.
const LONGEST_REST: u32 = 32;

/// Accounts without caps, and API keys without quotas.
#[derive(Default)]
pub struct RecentAccounts {
    known: Mutex<Known>,
    /// Batches that are still to be settled under locks.
    rest: AtomicU32,
    /// The rest after the next stale state. It doubles with each, and halves with each batch behind guards.
    next_rest: AtomicU32,
}

struct Known {
    accounts: LruCache<UserId, Recent>,
    /// Each with the time of the read that found no quota.
    unlimited_keys: LruCache<ApiKeyId, Instant>,
}

impl Default for Known {
    fn default() -> Self {
        // Without a bound of their own, because bounded ones allocate their tables at once.
        Self { accounts: LruCache::unbounded(), unlimited_keys: LruCache::unbounded() }
    }
}

/// The month of a batch, and the number of connections that were opened before it. A server that comes back or is
/// replaced closes its connections, so no state from before is used on it.
type At = (Month, u64);

struct Recent {
    /// The time of the last read under lock.
    since: Instant,
    at: At,
    balance: Balance,
    watch: Watch,
    /// The known quotas of the month.
    quotas: BTreeMap<ServiceName, Quota>,
}

/// The rows that a batch read under lock and that its changes do not repeat.
pub struct Read {
    quotas: BTreeMap<QuotaKey, Quota>,
    /// Users with caps.
    capped: BTreeSet<UserId>,
}

impl Read {
    pub fn of(state: &State) -> Self {
        Self { quotas: state.quotas.clone(), capped: state.requests.keys().cloned().collect() }
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
            if !recent.watch.is_default() {
                state.watches.insert(user.clone(), recent.watch.clone());
            }
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

    /// Keeps the state that a batch left which was settled under locks.
    pub fn keep(&self, keys: &Keys<'_>, settled: &SettledBatch, read: &Read, at: At) {
        let now = Instant::now();
        let mut known = self.lock();
        let Known { accounts, unlimited_keys } = &mut *known;
        for change in accounts_of(settled) {
            let before = accounts.pop(&change.user).filter(|recent| recent.leads_to(change, at));
            if read.capped.contains(&change.user) {
                continue;
            }
            let mut quotas = before.map(|recent| recent.quotas).unwrap_or_default();
            let first = (change.user.clone(), at.0, ServiceName::from_stored(""));
            let of_user = read.quotas.range(first..);
            let of_user = of_user.take_while(|((user, month, _), _)| *user == change.user && *month == at.0);
            quotas.extend(of_user.map(|((_, _, service), quota)| (service.clone(), *quota)));
            let watch = settled.watches.get(&change.user).cloned().unwrap_or_default();
            let mut recent = Recent { since: now, at, balance: change.balance, watch, quotas };
            recent.apply(change);
            accounts.put(change.user.clone(), recent);
        }
        // The quotas of an API key that another transaction holds are not known.
        if settled.left_out.is_empty() {
            for &key in &keys.api_keys {
                match settled.api_keys.contains(key) {
                    true => drop(unlimited_keys.pop(key)),
                    false => drop(unlimited_keys.put(key.clone(), now)),
                }
            }
        }
        while accounts.len() > MAX_ENTRIES {
            accounts.pop_lru();
        }
        while unlimited_keys.len() > MAX_ENTRIES {
            unlimited_keys.pop_lru();
        }
    }

    /// Keeps the state that a batch left which was settled on [`Self::recall`]. No such batch changes a watch: it has
    /// neither a credit nor a refusal.
    pub fn keep_on(&self, settled: &SettledBatch, at: At) {
        let halve = |rest: u32| Some(rest / 2);
        let _ = self.next_rest.fetch_update(Relaxed, Relaxed, halve);
        let mut known = self.lock();
        for change in accounts_of(settled) {
            match known.accounts.get_mut(&change.user) {
                Some(recent) if recent.leads_to(change, at) => recent.apply(change),
                Some(_) => drop(known.accounts.pop(&change.user)),
                None => {}
            }
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

    /// Forgets an account that this process has changed outside of a settlement.
    pub fn forget_account(&self, user: &UserId) {
        self.lock().accounts.pop(user);
    }

    /// As [`Self::forget`], after a guard found that another server changed an account.
    pub fn forget_stale(&self, keys: &Keys<'_>) {
        self.forget(keys);
        let double = |rest: u32| Some((rest * 2).clamp(1, LONGEST_REST));
        let rest = self.next_rest.fetch_update(Relaxed, Relaxed, double).unwrap_or_default();
        self.rest.store(rest, Relaxed);
    }

    fn lock(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Recent {
    /// Whether `change` is the next one of this state.
    fn leads_to(&self, change: &AccountChange, at: At) -> bool {
        self.at == at && self.balance.version == change.before
    }

    fn apply(&mut self, change: &AccountChange) {
        self.balance = change.balance;
        let of_month = change.quotas.iter().filter(|((month, _), _)| *month == self.at.0);
        self.quotas.extend(of_month.map(|((_, service), quota)| (service.clone(), *quota)));
    }
}

fn accounts_of(settled: &SettledBatch) -> impl Iterator<Item = &AccountChange> {
    settled.changes.iter().filter_map(|change| match change {
        Change::Account(change) => Some(change),
        Change::ApiKey(_) => None,
    })
}

#[cfg(test)]
mod tests;

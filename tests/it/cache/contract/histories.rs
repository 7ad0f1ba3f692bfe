//! Random histories in every possible order: loads, commits of two processes, changed limits, and
//! losses of entries. No entry is older than the last update that its cache got. After all updates
//! every entry equals the database.

use std::collections::VecDeque;

use billing_service::biz::{
    account::Balance,
    check::cache::{
        account_cache::{AccountCache, Fence},
        entry::{AccountEntry, CacheEntry},
    },
    limits::{
        caps::Requests,
        key_quota::{KeyQuota, KeyQuotas, QuotaType},
    },
    settlement::change::{AccountChange, Change, KeyChange},
    values::{
        account_status::AccountStatus,
        cache_key::CacheKey,
        ids::{ApiKeyId, UserId},
        money::Money,
    },
};
use proptest::{collection, prelude::*, test_runner::TestCaseError};
use rstest::rstest;

use super::{
    backends::{Backend, Caches, Cluster, Memory, Redis, Sentinel, look, store},
    states::*,
};
use crate::state_machine::runner;

/// Two users and an API key.
const CACHE_KEYS: usize = 3;
const PROCESSES: usize = 2;
const MONTHS: [&str; 2] = [NOVEMBER, DECEMBER];

#[derive(Debug, Clone, Copy)]
enum Step {
    /// A process commits a change, and queues the update of the cache.
    Commit {
        process: usize,
        cache_key: usize,
        choice: u8,
    },
    /// A process sets limits, and queues the invalidation of the entry.
    Set {
        process: usize,
        cache_key: usize,
        choice: u8,
    },
    /// A process sends its first queued update of a cache key, or merges and sends the first two.
    Send {
        process: usize,
        cache_key: usize,
        merged: bool,
    },
    Fence {
        process: usize,
        cache_key: usize,
    },
    /// A load in flight reads the database. For an account, it reads one month.
    Read {
        load: usize,
        month: usize,
    },
    /// A load that has read the database stores its entry.
    Store {
        load: usize,
    },
    Forget {
        process: usize,
        cache_key: usize,
    },
    Flush,
    ForgetScripts,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let (process, cache_key) = (0..PROCESSES, 0..CACHE_KEYS);
    let of = (process, cache_key).boxed();
    let step = prop_oneof![
        20 => (of.clone(), any::<u8>()).prop_map(|((process, cache_key), choice)| Step::Commit { process, cache_key, choice }),
        3 => (of.clone(), any::<u8>()).prop_map(|((process, cache_key), choice)| Step::Set { process, cache_key, choice }),
        20 => (of.clone(), any::<bool>()).prop_map(|((process, cache_key), merged)| Step::Send { process, cache_key, merged }),
        15 => of.clone().prop_map(|(process, cache_key)| Step::Fence { process, cache_key }),
        15 => (0..9_usize, 0..MONTHS.len()).prop_map(|(load, month)| Step::Read { load, month }),
        15 => (0..9_usize).prop_map(|load| Step::Store { load }),
        2 => of.prop_map(|(process, cache_key)| Step::Forget { process, cache_key }),
        1 => Just(Step::Flush),
        1 => Just(Step::ForgetScripts),
    ];
    collection::vec(step, 1..80)
}

/// An update of a cache key that a process has not sent yet.
enum Update {
    Changed(Change),
    Forget,
}

struct Load {
    process: usize,
    cache_key: usize,
    fence: Fence,
    read: Option<CacheEntry>,
}

struct Play<'a> {
    caches: &'a Caches,
    /// All states of each cache key. The database has the last one.
    states: [Vec<CacheEntry>; CACHE_KEYS],
    /// The newest state of each cache key in an update that was sent to the cache.
    sent: [usize; CACHE_KEYS],
    /// Whether limits were set without a new version. Until the entry is invalidated, it may mix both states.
    was_set: [bool; CACHE_KEYS],
    updates: [[VecDeque<Update>; CACHE_KEYS]; PROCESSES],
    loads: Vec<Load>,
    instants: i64,
}

impl<'a> Play<'a> {
    fn new(caches: &'a Caches) -> Self {
        let states = [open(&fresh_user()), open(&fresh_user()), api_key(&fresh_key(), 1)].map(|state| vec![state]);
        let (sent, was_set, updates, loads) = Default::default();
        Self { caches, states, sent, was_set, updates, loads, instants: 1 }
    }

    fn cache(&self, process: usize) -> &'a dyn AccountCache {
        if process == 0 { &*self.caches.one } else { &*self.caches.other }
    }

    fn now(&self, cache_key: usize) -> &CacheEntry {
        self.states[cache_key].last().unwrap()
    }

    fn cache_key(&self, cache_key: usize) -> CacheKey {
        self.now(cache_key).cache_key()
    }

    async fn step(&mut self, step: Step) {
        match step {
            Step::Commit { process, cache_key, choice } => self.commit(process, cache_key, choice),
            Step::Set { process, cache_key, choice } => self.set(process, cache_key, choice),
            Step::Send { process, cache_key, merged } => drop(self.send(process, cache_key, merged).await),
            Step::Fence { process, cache_key } => {
                let fence = self.cache(process).fence(&self.cache_key(cache_key)).await.unwrap();
                self.loads.push(Load { process, cache_key, fence, read: None });
            }
            Step::Read { load, month } => self.read(load, month),
            Step::Store { load } => self.store(load).await,
            Step::Forget { process, cache_key } => self.forget(process, cache_key).await,
            Step::Flush => self.caches.flush().await,
            Step::ForgetScripts => self.caches.forget_scripts().await,
        }
    }

    fn commit(&mut self, process: usize, cache_key: usize, choice: u8) {
        let Some((next, change)) = changed(self.now(cache_key), choice) else { return };
        self.states[cache_key].push(next);
        // A queued invalidation makes later updates unnecessary.
        let updates = &mut self.updates[process][cache_key];
        if !matches!(updates.front(), Some(Update::Forget)) {
            updates.push_back(Update::Changed(change));
        }
    }

    fn set(&mut self, process: usize, cache_key: usize, choice: u8) {
        self.instants += 1;
        let next = with_limits(self.now(cache_key), choice, self.instants);
        self.was_set[cache_key] |= next.version() == self.now(cache_key).version();
        self.states[cache_key].push(next);
        self.updates[process][cache_key] = VecDeque::from([Update::Forget]);
    }

    /// False if no update was queued.
    async fn send(&mut self, process: usize, cache_key: usize, merged: bool) -> bool {
        let updates = &mut self.updates[process][cache_key];
        let change = match updates.pop_front() {
            None => return false,
            Some(Update::Forget) => None,
            Some(Update::Changed(first)) => match updates.front() {
                Some(Update::Changed(second)) if merged => {
                    let both = first.then(second);
                    updates.pop_front();
                    both
                }
                _ => Some(first),
            },
        };
        match change {
            Some(change) => {
                assert_eq!(self.cache(process).apply(std::slice::from_ref(&change)).await, vec![]);
                let version = change.after();
                let state = self.states[cache_key].iter().position(|state| state.version() == version).unwrap();
                self.sent[cache_key] = self.sent[cache_key].max(state);
            }
            // Another process changed the state between the two changes, so they can't be merged.
            None => {
                self.updates[process][cache_key].clear();
                self.forget(process, cache_key).await;
            }
        }
        true
    }

    async fn forget(&mut self, process: usize, cache_key: usize) {
        assert_eq!(self.cache(process).forget(&[self.cache_key(cache_key)]).await, vec![]);
    }

    fn read(&mut self, load: usize, month: usize) {
        let Some(load) = pick(&self.loads, load) else { return };
        let mut entry = self.now(self.loads[load].cache_key).clone();
        if let CacheEntry::Account(_, account) = &mut entry {
            account.quotas.retain(|(of, _), _| *of == MONTHS[month].parse().unwrap());
        }
        self.loads[load].read.get_or_insert(entry);
    }

    async fn store(&mut self, load: usize) {
        let Some(load) = pick(&self.loads, load).filter(|load| self.loads[*load].read.is_some()) else { return };
        let Load { process, fence, read, .. } = self.loads.swap_remove(load);
        store(self.cache(process), fence, &read.unwrap()).await;
    }

    /// No entry is older than its last update, and each entry equals some state.
    async fn assert_not_stale(&self, process: usize) -> Result<(), TestCaseError> {
        for cache_key in 0..CACHE_KEYS {
            let Some(found) = look(self.cache(process), &self.cache_key(cache_key)).await else { continue };
            let states = &self.states[cache_key];
            // New limits do not change the version of an account.
            let newest = states.iter().rposition(|state| state.version() == found.version());
            prop_assert!(newest.is_some_and(|newest| newest >= self.sent[cache_key]), "{found:?} of {states:#?}");
            let is_true = |state| is_of(&found, state);
            prop_assert!(self.was_set[cache_key] || states.iter().any(is_true), "{found:?} of {states:#?}");
        }
        Ok(())
    }

    /// Each entry equals the database. Returns the number of entries.
    async fn assert_current(&self) -> Result<usize, TestCaseError> {
        let mut cached = 0;
        for cache_key in 0..CACHE_KEYS {
            let Some(found) = self.caches.look(&self.cache_key(cache_key)).await else { continue };
            let stored = self.now(cache_key);
            prop_assert!(is_of(&found, stored), "cached {found:?}, stored {stored:?}");
            cached += 1;
        }
        Ok(cached)
    }

    async fn send_all(&mut self) {
        for (process, cache_key) in (0..PROCESSES).flat_map(|process| (0..CACHE_KEYS).map(move |of| (process, of))) {
            while self.send(process, cache_key, false).await {}
        }
    }
}

fn pick(loads: &[Load], load: usize) -> Option<usize> {
    (!loads.is_empty()).then(|| load % loads.len())
}

/// An account with caps, and a quota of each month.
fn open(user: &UserId) -> CacheEntry {
    let quotas = MONTHS.map(|month| (row(month, "asset"), quota(0)));
    let requests = Some(requests(Some(9), None, 0));
    CacheEntry::Account(user.clone(), AccountEntry { balance: balance(1, 0, 0), requests, quotas: quotas.into() })
}

/// The next state and its change. An API key without a quota has no change.
fn changed(entry: &CacheEntry, choice: u8) -> Option<(CacheEntry, Change)> {
    match entry {
        CacheEntry::Account(user, account) => {
            let (mut next, before) = (account.clone(), account.balance.version);
            let amount = account.balance.amount.plus(Money::from_micros(i64::from(choice) - 100));
            let status = AccountStatus::ALL[usize::from(choice) % AccountStatus::ALL.len()];
            next.balance = Balance { amount, version: before + 1, status, ..account.balance };
            if let Some(counted) = next.requests.as_mut().filter(|_| choice & 1 == 0) {
                *counted = Requests { daily: counted.daily + 1, monthly: counted.monthly + 1, ..*counted };
            }
            let months = MONTHS.iter().enumerate().filter(|(number, _)| choice >> (number + 1) & 1 == 1);
            for (_, month) in months {
                next.quotas.get_mut(&row(month, "asset")).unwrap().used += 1;
            }
            let written = next.quotas.iter().filter(|(row, quota)| account.quotas[row] != **quota);
            let quotas = written.map(|(row, quota)| (row.clone(), *quota)).collect();
            let requests = next.requests.filter(|_| choice & 1 == 0);
            let change = AccountChange { user: user.clone(), before, balance: next.balance, requests, quotas };
            Some((CacheEntry::Account(user.clone(), next), Change::Account(change)))
        }
        CacheEntry::ApiKey(key, quotas) => {
            let mut next = quotas.clone();
            for quota in next.values_mut().take(1 + usize::from(choice) % 3) {
                (quota.taken.total, quota.version) = (quota.taken.total + 1, quota.version + 1);
            }
            let change = KeyChange::new(key, quotas, next.clone());
            (!next.is_empty()).then(|| (CacheEntry::ApiKey(key.clone(), next), Change::ApiKey(change)))
        }
    }
}

/// The entry with other caps, or another set of quotas. A new quota begins at `instant`.
fn with_limits(entry: &CacheEntry, choice: u8, instant: i64) -> CacheEntry {
    match entry {
        CacheEntry::Account(user, account) => {
            let requests = (choice & 1 == 0).then(|| requests(Some(choice.into()), None, 0));
            CacheEntry::Account(user.clone(), AccountEntry { requests, ..account.clone() })
        }
        CacheEntry::ApiKey(key, quotas) => {
            CacheEntry::ApiKey(key.clone(), with_quotas(key, quotas.clone(), choice, instant))
        }
    }
}

fn with_quotas(key: &ApiKeyId, mut quotas: KeyQuotas, choice: u8, instant: i64) -> KeyQuotas {
    let row = (key.clone(), QuotaType::ALL[usize::from(choice) % 3]);
    match quotas.get_mut(&row) {
        Some(_) if choice & 4 == 0 => drop(quotas.remove(&row)),
        Some(quota) => (quota.limit, quota.version) = (quota.limit + 1, quota.version + 1),
        None => {
            let quota = KeyQuota { since: at(instant), ..key_quota(1) };
            quotas.insert(row, quota);
        }
    }
    quotas
}

/// Whether an entry is a part of this state.
fn is_of(found: &CacheEntry, state: &CacheEntry) -> bool {
    match (found, state) {
        (CacheEntry::Account(_, found), CacheEntry::Account(_, state)) => {
            let quotas = found.quotas.iter().all(|(row, quota)| state.quotas.get(row) == Some(quota));
            (found.balance, found.requests, quotas) == (state.balance, state.requests, true)
        }
        _ => found == state,
    }
}

async fn play(caches: &Caches, steps: Vec<Step>) -> Result<(), TestCaseError> {
    let mut play = Play::new(caches);
    for (number, step) in steps.into_iter().enumerate() {
        play.step(step).await;
        play.assert_not_stale(number % PROCESSES).await?;
    }
    play.send_all().await;
    play.assert_current().await?;
    // Loads that are still open.
    while !play.loads.is_empty() {
        play.read(0, 0);
        play.store(0).await;
        play.assert_current().await?;
    }
    for cache_key in 0..CACHE_KEYS {
        caches.load(play.now(cache_key)).await;
    }
    prop_assert_eq!(play.assert_current().await?, CACHE_KEYS);
    Ok(())
}

#[rstest]
#[case(Memory, 2_000)]
#[case(Redis, 60)]
#[case(Cluster, 30)]
#[case(Sentinel, 30)]
fn no_history_leaves_a_wrong_entry(#[case] on: Backend, #[case] cases: u32) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let caches = runtime.block_on(Caches::start_alone(on));
    runner(cases).run(&steps(), |steps| runtime.block_on(play(&caches, steps))).unwrap();
}

//! What the shared cache still has to be told. Until it was told, nobody here reads the
//! subject from it: what it has may be older than what was committed.

use std::{
    collections::{HashMap, HashSet},
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use tokio::{
    sync::Notify,
    time::{Instant, sleep_until},
};
use tokio_util::sync::CancellationToken;

use super::{
    account_cache::AccountCache,
    entry::{Change, Subject},
};

/// Told at once.
const CHUNK: usize = 256;
/// Subjects that may wait; with one more, the cache forgets all it has.
const MAX_WAITING: usize = 100_000;
/// Changes of one subject that may wait and do not follow each other.
const MAX_OF_ONE: usize = 16;
/// Between two attempts at what could not be told.
const RETRY: Duration = Duration::from_millis(250);

/// News for the shared cache.
#[derive(Default)]
pub(super) struct Outbox {
    waiting: Mutex<Waiting>,
    /// Whether anything waits, to be asked without the lock.
    is_busy: AtomicBool,
    news: Notify,
}

#[derive(Default)]
struct Waiting {
    /// In order; those that follow each other are one.
    changes: HashMap<Subject, Vec<Change>>,
    /// To be forgotten: changes were missed, or could not be told.
    stale: HashSet<Subject>,
    under_way: HashSet<Subject>,
    /// Too much was missed to tell what.
    everything: bool,
    is_clearing: bool,
}

impl Waiting {
    fn is_empty(&self) -> bool {
        self.changes.is_empty()
            && self.stale.is_empty()
            && self.under_way.is_empty()
            && !self.everything
            && !self.is_clearing
    }

    fn forget(&mut self, subject: Subject) {
        self.changes.remove(&subject);
        self.stale.insert(subject);
        self.bound();
    }

    fn change(&mut self, change: Change) {
        let subject = change.subject();
        if self.stale.contains(&subject) {
            return;
        }
        let changes = self.changes.entry(subject.clone()).or_default();
        match changes.pop() {
            None => changes.push(change),
            Some(last) => match last.then(&change) {
                Some(both) => changes.push(both),
                // Another process changed it in between.
                None => changes.extend([last, change]),
            },
        }
        if changes.len() > MAX_OF_ONE {
            self.forget(subject);
        } else {
            self.bound();
        }
    }

    fn bound(&mut self) {
        if self.changes.len() + self.stale.len() > MAX_WAITING {
            tracing::warn!("the cache has missed too much; all of it will be forgotten");
            (self.changes, self.stale) = Default::default();
            self.everything = true;
        }
    }
}

impl Outbox {
    pub fn changed(&self, changes: Vec<Change>) {
        self.put(|waiting| changes.into_iter().for_each(|change| waiting.change(change)));
    }

    pub fn forget(&self, subjects: &[Subject]) {
        self.put(|waiting| subjects.iter().for_each(|subject| waiting.forget(subject.clone())));
    }

    /// Has the shared cache forget all it has.
    pub fn forget_all(&self) {
        self.put(|waiting| waiting.everything = true);
    }

    /// Whether the shared cache may have something older of this subject.
    pub fn has(&self, subject: &Subject) -> bool {
        if !self.is_busy.load(Ordering::Acquire) {
            return false;
        }
        let waiting = self.lock();
        waiting.everything
            || waiting.is_clearing
            || waiting.changes.contains_key(subject)
            || waiting.stale.contains(subject)
            || waiting.under_way.contains(subject)
    }

    fn put(&self, put: impl FnOnce(&mut Waiting)) {
        let mut waiting = self.lock();
        put(&mut waiting);
        self.is_busy.store(!waiting.is_empty(), Ordering::Release);
        drop(waiting);
        self.news.notify_one();
    }

    /// Tells `cache` all there is, as it comes, until `stop`.
    pub async fn deliver(&self, cache: &dyn AccountCache, stop: &CancellationToken) {
        let mut retry_at = None;
        loop {
            let told = self.tell_changes(cache).await;
            // Between changes too: they may come without a pause.
            if retry_at.is_none_or(|at| Instant::now() >= at) {
                retry_at = if self.tell_stale(cache).await { None } else { Some(Instant::now() + RETRY) };
            }
            if !told {
                let retry = sleep_until(retry_at.unwrap_or_else(Instant::now));
                tokio::select! {
                    () = self.news.notified() => {}
                    () = stop.cancelled() => return,
                    () = retry, if retry_at.is_some() => {}
                }
            }
        }
    }

    /// Tells what waits now, and returns whether the cache knows all of it.
    pub async fn flush(&self, cache: &dyn AccountCache) -> bool {
        while self.tell_changes(cache).await {}
        self.tell_stale(cache).await && self.lock().is_empty()
    }

    /// Tells some of the changes; false when there are none.
    async fn tell_changes(&self, cache: &dyn AccountCache) -> bool {
        let changes: Vec<Change> = {
            let mut waiting = self.lock();
            let subjects: Vec<Subject> = waiting.changes.keys().take(CHUNK).cloned().collect();
            let changes = subjects.iter().filter_map(|subject| waiting.changes.remove(subject)).flatten().collect();
            waiting.under_way.extend(subjects);
            changes
        };
        if changes.is_empty() {
            return false;
        }
        let failed = cache.apply(&changes).await;
        self.told(changes.iter().map(Change::subject), failed);
        true
    }

    /// Tells what is to be forgotten; false when some of it could not be told.
    async fn tell_stale(&self, cache: &dyn AccountCache) -> bool {
        let mut is_told = true;
        let clears = {
            let mut waiting = self.lock();
            waiting.is_clearing = std::mem::take(&mut waiting.everything);
            waiting.is_clearing
        };
        if clears {
            is_told = cache.clear().await.is_ok();
            let mut waiting = self.lock();
            waiting.is_clearing = false;
            waiting.everything |= !is_told;
            self.is_busy.store(!waiting.is_empty(), Ordering::Release);
        }
        let stale: Vec<Subject> = {
            let mut waiting = self.lock();
            let stale: Vec<Subject> = waiting.stale.drain().collect();
            waiting.under_way.extend(stale.iter().cloned());
            stale
        };
        for chunk in stale.chunks(CHUNK) {
            // In a cluster some may fail where others do not.
            let failed = cache.forget(chunk).await;
            is_told &= failed.is_empty();
            self.told(chunk.iter().cloned(), failed);
        }
        is_told
    }

    fn told(&self, subjects: impl Iterator<Item = Subject>, failed: Vec<Subject>) {
        let mut waiting = self.lock();
        for subject in subjects {
            waiting.under_way.remove(&subject);
        }
        for subject in failed {
            waiting.forget(subject);
        }
        self.is_busy.store(!waiting.is_empty(), Ordering::Release);
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::{
        collections::BTreeMap,
        sync::{
            Arc,
            atomic::{AtomicI64, Ordering::Relaxed},
        },
    };

    use async_trait::async_trait;

    use super::*;
    use crate::biz::{
        account::Balance,
        check::cache::{
            account_cache::{Fence, Found},
            entry::{AccountChange, Entry},
        },
        values::{error::StoreError, ids::UserId, money::Money},
    };

    /// There is news again whenever it was told some.
    struct Busy {
        outbox: Arc<Outbox>,
        version: AtomicI64,
        forgets: Notify,
        /// Whether it does what it is told.
        answers: bool,
        forgotten: AtomicI64,
    }

    impl Busy {
        fn new(answers: bool) -> Self {
            let (outbox, version, forgotten) = Default::default();
            Self { outbox, version, forgets: Notify::new(), answers, forgotten }
        }

        fn next(&self) -> Change {
            let before = self.version.fetch_add(1, Relaxed);
            // In an outage each is another user's.
            let user = UserId::from_stored(if self.answers { "busy".to_owned() } else { format!("u{before}") });
            let balance = Balance { amount: Money::ZERO, held: Money::ZERO, version: before + 1 };
            Change::Account(AccountChange { user, before, balance, requests: None, quotas: BTreeMap::new() })
        }
    }

    #[async_trait]
    impl AccountCache for Busy {
        async fn look(&self, _: &Subject) -> Result<Option<Found>, StoreError> {
            Ok(None)
        }

        async fn look_all(&self, _: &[Subject]) -> Result<Vec<Option<Arc<Entry>>>, StoreError> {
            Ok(Vec::new())
        }

        async fn fence(&self, _: &Subject) -> Result<Fence, StoreError> {
            Ok(Fence(0))
        }

        async fn store(&self, _: Fence, _: Found) -> Result<(), StoreError> {
            Ok(())
        }

        async fn apply(&self, changes: &[Change]) -> Vec<Subject> {
            self.outbox.changed(vec![self.next()]);
            tokio::time::sleep(Duration::from_millis(1)).await;
            if self.answers { Vec::new() } else { changes.iter().map(Change::subject).collect() }
        }

        async fn forget(&self, subjects: &[Subject]) -> Vec<Subject> {
            self.forgets.notify_one();
            self.forgotten.fetch_add(1, Relaxed);
            if self.answers { Vec::new() } else { subjects.to_vec() }
        }

        async fn clear(&self) -> Result<(), StoreError> {
            Ok(())
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_stale_is_forgotten_while_changes_have_no_end() {
        let cache = Busy::new(true);
        let stale = Subject::User(UserId::from_stored("stale"));
        cache.outbox.changed(vec![cache.next()]);
        cache.outbox.forget(&[stale]);
        let stop = CancellationToken::new();
        let delivering = cache.outbox.deliver(&cache, &stop);
        let forgotten = tokio::time::timeout(Duration::from_secs(10), cache.forgets.notified());
        tokio::select! {
            () = delivering => panic!("it was not stopped"),
            in_time = forgotten => in_time.expect("it is forgotten in between"),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_cache_that_does_not_answer_is_not_told_all_that_is_stale_at_every_news() {
        let cache = Busy::new(false);
        cache.outbox.changed(vec![cache.next()]);
        let stop = CancellationToken::new();
        let delivering = cache.outbox.deliver(&cache, &stop);
        let _ = tokio::time::timeout(Duration::from_secs(1), delivering).await;
        assert!(cache.version.load(Relaxed) > 100);
        assert!((2..=20).contains(&cache.forgotten.load(Relaxed)), "{:?}", cache.forgotten);
    }
}

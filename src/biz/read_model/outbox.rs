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

use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::{
    cache::AccountCache,
    entry::{Change, Subject},
};

/// Told at once.
const CHUNK: usize = 256;
/// Subjects that may wait; with one more, the cache forgets all it has.
const MAX_WAITING: usize = 100_000;
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
    changes: HashMap<Subject, Change>,
    /// To be forgotten: changes were missed, or could not be told.
    stale: HashSet<Subject>,
    under_way: HashSet<Subject>,
    everything: bool,
}

impl Waiting {
    fn is_empty(&self) -> bool {
        self.changes.is_empty() && self.stale.is_empty() && self.under_way.is_empty() && !self.everything
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
        match self.changes.remove(&subject) {
            None => drop(self.changes.insert(subject, change)),
            Some(first) => match first.then(change) {
                Some(both) => drop(self.changes.insert(subject, both)),
                None => drop(self.stale.insert(subject)),
            },
        }
        self.bound();
    }

    fn bound(&mut self) {
        if self.changes.len() + self.stale.len() > MAX_WAITING {
            tracing::warn!("the cache has missed too much; all of it will be forgotten");
            (self.changes, self.stale, self.everything) = Default::default();
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

    /// Whether the shared cache may have something older of this subject.
    pub fn has(&self, subject: &Subject) -> bool {
        if !self.is_busy.load(Ordering::Acquire) {
            return false;
        }
        let waiting = self.lock();
        waiting.everything
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
        loop {
            // In turn: under load there are always changes.
            let has_more = self.tell_changes(cache).await;
            let has_failed = !self.tell_stale(cache).await;
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                () = std::future::ready(()), if has_more => {}
                () = self.news.notified() => {}
                () = tokio::time::sleep(RETRY), if has_failed => {}
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
            let changes = subjects.iter().filter_map(|subject| waiting.changes.remove(subject)).collect();
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
        if self.lock().everything {
            let is_cleared = cache.clear().await.is_ok();
            let mut waiting = self.lock();
            waiting.everything = !is_cleared;
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
            self.told(chunk.iter().cloned(), failed);
        }
        let waiting = self.lock();
        waiting.stale.is_empty() && !waiting.everything
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
    use async_trait::async_trait;

    use super::*;
    use crate::biz::{
        account::Balance,
        error::StoreError,
        ids::UserId,
        read_model::{
            cache::{Fence, Found},
            entry::AccountChange,
        },
    };

    fn change(user: &str) -> Change {
        Change::Account(AccountChange {
            user: UserId::from_stored(user),
            before: 1,
            balance: Balance { version: 2, ..Default::default() },
            requests: None,
            quotas: Default::default(),
        })
    }

    /// Whenever it is told a change there is another one; it tells that it forgot.
    struct Busy<'o> {
        outbox: &'o Outbox,
        forgot: CancellationToken,
    }

    #[async_trait]
    impl AccountCache for Busy<'static> {
        async fn look(&self, _: &Subject) -> Result<Option<Found>, StoreError> {
            Ok(None)
        }

        async fn fence(&self, _: &Subject) -> Result<Fence, StoreError> {
            Ok(Fence(0))
        }

        async fn store(&self, _: Fence, _: Found) -> Result<(), StoreError> {
            Ok(())
        }

        async fn apply(&self, _: &[Change]) -> Vec<Subject> {
            self.outbox.changed(vec![change("busy")]);
            tokio::task::yield_now().await;
            Vec::new()
        }

        async fn forget(&self, _: &[Subject]) -> Vec<Subject> {
            self.forgot.cancel();
            Vec::new()
        }

        async fn clear(&self) -> Result<(), StoreError> {
            Ok(())
        }
    }

    #[tokio::test]
    async fn what_is_to_be_forgotten_does_not_wait_for_the_end_of_the_changes() {
        let outbox: &'static Outbox = Box::leak(Box::default());
        let cache = Busy { outbox, forgot: CancellationToken::new() };
        outbox.changed(vec![change("busy")]);
        outbox.forget(&[Subject::User(UserId::from_stored("stale"))]);
        let forgot = cache.forgot.clone();
        let delivering = outbox.deliver(&cache, &forgot);
        assert!(tokio::time::timeout(Duration::from_secs(10), delivering).await.is_ok());
        assert!(!outbox.has(&Subject::User(UserId::from_stored("stale"))));
    }
}

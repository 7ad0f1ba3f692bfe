//! Turns at a resource: a bounded number of tasks of one key, such as the reads of an account, run at once.
//! A bounded number of further ones waits in line.

use std::{
    collections::HashMap,
    hash::Hash,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// The lines of all keys. A key without tasks takes no memory.
pub struct Turns<K> {
    lines: Mutex<HashMap<K, Line>>,
    /// Most tasks of one key at once.
    at_once: usize,
    /// Most tasks of one key that wait.
    waiting: usize,
}

/// The tasks of one key: those that run, and those that wait.
struct Line {
    turns: Arc<Semaphore>,
    members: usize,
}

impl<K: Clone + Eq + Hash> Turns<K> {
    pub fn new(at_once: usize, waiting: usize) -> Arc<Self> {
        Arc::new(Self { lines: Mutex::default(), at_once, waiting })
    }

    /// Waits for a turn, in the order of the calls. The turn ends when it is dropped. `None` if too many
    /// tasks of the key wait.
    pub async fn take(self: &Arc<Self>, key: &K) -> Option<Turn<K>> {
        let (place, turns) = self.join(key)?;
        let permit = turns.acquire_owned().await.ok()?;
        Some(Turn { _permit: permit, _place: place })
    }

    fn join(self: &Arc<Self>, key: &K) -> Option<(Place<K>, Arc<Semaphore>)> {
        let mut lines = self.lines();
        let new = || Line { turns: Arc::new(Semaphore::new(self.at_once)), members: 0 };
        let line = lines.entry(key.clone()).or_insert_with(new);
        if line.members >= self.at_once.saturating_add(self.waiting) {
            return None;
        }
        line.members += 1;
        Some((Place { lines: self.clone(), key: key.clone() }, line.turns.clone()))
    }

    fn lines(&self) -> MutexGuard<'_, HashMap<K, Line>> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The turn of one task.
pub struct Turn<K: Clone + Eq + Hash> {
    _permit: OwnedSemaphorePermit,
    _place: Place<K>,
}

/// The place of one task in the line of its key.
struct Place<K: Clone + Eq + Hash> {
    lines: Arc<Turns<K>>,
    key: K,
}

impl<K: Clone + Eq + Hash> Drop for Place<K> {
    fn drop(&mut self) {
        let mut lines = self.lines.lines();
        if let Some(line) = lines.get_mut(&self.key) {
            line.members -= 1;
            if line.members == 0 {
                lines.remove(&self.key);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    #[test]
    fn tasks_of_a_key_take_turns_and_those_of_another_key_do_not_wait() {
        let turns = Turns::new(2, 1);
        let take = |key: &'static str| turns.take(&key).now_or_never();
        let first = take("a").unwrap().unwrap();
        let _second = take("a").unwrap().unwrap();
        let mut third = Box::pin(turns.take(&"a"));
        assert!((&mut third).now_or_never().is_none(), "two at once");
        assert!(take("a").unwrap().is_none(), "the line is full");
        assert!(take("b").unwrap().is_some());
        drop(first);
        assert!(third.now_or_never().unwrap().is_some());
    }

    #[test]
    fn a_task_that_gives_up_leaves_the_line() {
        let turns = Turns::new(1, 1);
        let first = turns.take(&"a").now_or_never().unwrap().unwrap();
        assert!(turns.take(&"a").now_or_never().is_none());
        assert!(turns.take(&"a").now_or_never().is_none(), "the place is free again");
        drop(first);
        assert!(turns.lines().is_empty(), "a line without tasks is kept");
    }
}

//! Limits callback attempts in flight, in total and per destination, so that a destination that
//! never answers can't block the others.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use tokio::sync::{AcquireError, OwnedSemaphorePermit, Semaphore};

const IN_ALL: usize = 512;
/// Enough for all copies of a callback at once. Only four silent destinations together make
/// the others wait.
const TO_ONE: usize = 128;

pub struct Permits {
    in_all: Arc<Semaphore>,
    /// By authority. Unused entries are removed before the map grows.
    to_one: Mutex<HashMap<String, Arc<Semaphore>>>,
}

/// One attempt in flight; released when dropped.
#[derive(Debug)]
pub struct Permit {
    _in_all: OwnedSemaphorePermit,
    _to_one: OwnedSemaphorePermit,
}

impl Permits {
    pub fn new() -> Self {
        Self { in_all: Arc::new(Semaphore::new(IN_ALL)), to_one: Mutex::default() }
    }

    /// Waits for a permit, first come, first served. `authority` is the destination.
    ///
    /// # Errors
    /// Never, because the semaphores are never closed.
    pub async fn take(&self, authority: &str) -> Result<Permit, AcquireError> {
        // The destination's permit first: an attempt that waits for it holds no total permit.
        let to_one = self.to_one(authority).acquire_owned().await?;
        let in_all = self.in_all.clone().acquire_owned().await?;
        Ok(Permit { _in_all: in_all, _to_one: to_one })
    }

    fn to_one(&self, authority: &str) -> Arc<Semaphore> {
        let mut known = self.to_one.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(permits) = known.get(authority) {
            return permits.clone();
        }
        if known.len() == known.capacity() {
            // An attempt that holds or awaits a permit also holds the semaphore.
            known.retain(|_, permits| Arc::strong_count(permits) > 1);
        }
        let permits = Arc::new(Semaphore::new(TO_ONE));
        known.insert(authority.to_owned(), permits.clone());
        permits
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;
    use tokio::task::coop::unconstrained;

    use super::*;

    async fn take(permits: &Permits, authority: &str, count: usize) -> Vec<Permit> {
        let mut taken = Vec::new();
        for _ in 0..count {
            taken.push(permits.take(authority).await.unwrap());
        }
        taken
    }

    /// Unconstrained, because tokio makes a task yield after many permits, which looks like a wait.
    fn at_once(taking: impl Future<Output = Result<Permit, AcquireError>>) -> Option<Permit> {
        unconstrained(taking).now_or_never().map(Result::unwrap)
    }

    #[tokio::test]
    async fn one_destination_does_not_block_the_others() {
        let permits = Permits::new();
        let taken = take(&permits, "silent:80", TO_ONE).await;
        let mut next = Box::pin(permits.take("silent:80"));
        assert!(at_once(&mut next).is_none());
        assert!(at_once(permits.take("quick:80")).is_some());
        drop(taken);
        assert!(at_once(next).is_some());
    }

    #[tokio::test]
    async fn all_destinations_together_have_a_bound() {
        let permits = Permits::new();
        let mut taken = Vec::new();
        for number in 0..IN_ALL / TO_ONE {
            taken.extend(take(&permits, &format!("silent-{number}:80"), TO_ONE).await);
        }
        assert!(at_once(permits.take("quick:80")).is_none());
        taken.pop();
        assert!(at_once(permits.take("quick:80")).is_some());
    }

    #[tokio::test]
    async fn unused_destinations_are_removed() {
        let permits = Permits::new();
        let taken = take(&permits, "silent:80", TO_ONE).await;
        for number in 0..10_000 {
            drop(permits.take(&format!("quick-{number}:80")).await.unwrap());
        }
        assert!(permits.to_one.lock().unwrap().len() < 100);
        // A destination in use is kept.
        assert!(at_once(permits.take("silent:80")).is_none());
        drop(taken);
    }
}

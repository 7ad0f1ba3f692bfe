//! How many attempts to call back may be under way, in all and to one destination: a
//! destination that swallows callbacks must not take the places of the others.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use tokio::sync::{AcquireError, OwnedSemaphorePermit, Semaphore};

const IN_ALL: usize = 512;
/// Enough for all copies of a callback at once. It takes four silent destinations to
/// make the others wait.
const TO_ONE: usize = 128;

pub struct Permits {
    in_all: Arc<Semaphore>,
    /// By authority; those that nobody uses are forgotten before the map grows.
    to_one: Mutex<HashMap<String, Arc<Semaphore>>>,
}

/// Free again when dropped.
#[derive(Debug)]
pub struct Permit {
    _in_all: OwnedSemaphorePermit,
    _to_one: OwnedSemaphorePermit,
}

impl Permits {
    pub fn new() -> Self {
        Self { in_all: Arc::new(Semaphore::new(IN_ALL)), to_one: Mutex::default() }
    }

    /// Waits for a place, in turn. `authority` is the destination.
    ///
    /// # Errors
    /// None: the semaphores are never closed.
    pub async fn take(&self, authority: &str) -> Result<Permit, AcquireError> {
        // The narrower one first: who waits for it takes no place of the others.
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
            // Whoever has a place or waits for one holds on to its semaphore.
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

    /// Not constrained: a task that took many would seem to wait.
    fn at_once(taking: impl Future<Output = Result<Permit, AcquireError>>) -> Option<Permit> {
        unconstrained(taking).now_or_never().map(Result::unwrap)
    }

    #[tokio::test]
    async fn one_destination_does_not_take_the_places_of_the_others() {
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
    async fn destinations_that_nobody_uses_are_forgotten() {
        let permits = Permits::new();
        let taken = take(&permits, "silent:80", TO_ONE).await;
        for number in 0..10_000 {
            drop(permits.take(&format!("quick-{number}:80")).await.unwrap());
        }
        assert!(permits.to_one.lock().unwrap().len() < 100);
        // What is used is not.
        assert!(at_once(permits.take("silent:80")).is_none());
        drop(taken);
    }
}

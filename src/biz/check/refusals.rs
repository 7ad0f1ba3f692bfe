//! Checks that were refused for money. The first one since the last credit leads to the event
//! `balance.exhausted`, by a posting beside the request.

use std::sync::{Arc, Mutex, PoisonError};

use lru::LruCache;
use tokio::sync::Semaphore;

use crate::biz::{
    settlement::{
        engine::Engine,
        posting::{Charge, RefusedCall},
    },
    values::ids::UserId,
};

/// Accounts that are remembered. A forgotten one costs a posting that changes nothing.
const MAX_KNOWN: usize = 16_384;
/// Postings under way. A further refusal is noted by a later check of the account.
const MAX_NOTING: usize = 64;

/// Notes refused checks of accounts that do not have the flag yet. Each change of the flag moves the version of the
/// account, so a cached account has the flag of its version.
pub struct Refusals {
    engine: Arc<Engine>,
    /// Accounts whose cached state may not have the flag yet.
    known: Arc<Mutex<LruCache<UserId, Noting>>>,
    places: Arc<Semaphore>,
}

/// The last posting for an account.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Noting {
    UnderWay,
    /// On this version of the account.
    Done(i64),
}

impl Refusals {
    pub fn new(engine: Arc<Engine>) -> Self {
        Self {
            engine,
            // Without a bound of its own, because a bounded one allocates its table at once.
            known: Arc::new(Mutex::new(LruCache::unbounded())),
            places: Arc::new(Semaphore::new(MAX_NOTING)),
        }
    }

    /// Notes the refusal of a call on an account of this version, unless that is done or under way. Does not wait.
    pub fn note(&self, user: &UserId, version: i64, call: impl FnOnce() -> Charge) {
        let Ok(place) = self.places.clone().try_acquire_owned() else { return };
        if !begin(&mut self.known.lock().unwrap_or_else(PoisonError::into_inner), user, version) {
            return;
        }
        let (known, user) = (self.known.clone(), user.clone());
        let noting = self.engine.note_refusal(RefusedCall { call: call() });
        tokio::spawn(async move {
            let is_done = noting.await.is_ok();
            let mut known = known.lock().unwrap_or_else(PoisonError::into_inner);
            // After a failure the next refused check tries again.
            match is_done {
                true => drop(known.put(user, Noting::Done(version))),
                false => drop(known.pop(&user)),
            }
            while known.len() > MAX_KNOWN {
                known.pop_lru();
            }
            drop(place);
        });
    }
}

/// Marks a posting as under way. Returns whether one is needed.
fn begin(known: &mut LruCache<UserId, Noting>, user: &UserId, version: i64) -> bool {
    match known.get(user) {
        Some(Noting::UnderWay) => false,
        Some(Noting::Done(noted)) if *noted == version => false,
        _ => {
            known.put(user.clone(), Noting::UnderWay);
            true
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_is_noted_once_at_a_time_and_once_for_each_version() {
        let (mut known, user) = (LruCache::unbounded(), UserId::from_stored("u"));
        assert!(begin(&mut known, &user, 1));
        assert!(!begin(&mut known, &user, 1));
        assert!(!begin(&mut known, &user, 2), "a burst of one user takes one place");
        known.put(user.clone(), Noting::Done(1));
        assert!(!begin(&mut known, &user, 1));
        assert!(begin(&mut known, &user, 2));
    }
}

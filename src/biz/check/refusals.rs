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

/// Accounts whose refusal is remembered. A forgotten one costs a posting that changes nothing.
const MAX_KNOWN: usize = 16_384;
/// Postings under way. A further refusal is noted by a later check of the account.
const MAX_NOTING: usize = 64;

/// Notes refused checks.
pub struct Refusals {
    engine: Arc<Engine>,
    /// The version of each account with a refusal that is noted.
    known: Arc<Mutex<LruCache<UserId, i64>>>,
    places: Arc<Semaphore>,
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

    /// Notes the refusal of a call on an account of this version, unless it is known. Does not wait.
    pub fn note(&self, user: &UserId, version: i64, call: impl FnOnce() -> Charge) {
        let is_known = {
            let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
            known.get(user) == Some(&version)
        };
        if is_known {
            return;
        }
        let Ok(place) = self.places.clone().try_acquire_owned() else { return };
        let (known, user) = (self.known.clone(), user.clone());
        let noting = self.engine.note_refusal(RefusedCall { call: call() });
        tokio::spawn(async move {
            // After a failure the next refused check tries again.
            if noting.await.is_ok() {
                let mut known = known.lock().unwrap_or_else(PoisonError::into_inner);
                known.put(user, version);
                while known.len() > MAX_KNOWN {
                    known.pop_lru();
                }
            }
            drop(place);
        });
    }
}

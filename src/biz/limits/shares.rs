//! Shares of a resource: one key, such as a user or an address, holds a bounded number at once, so that
//! nobody uses it up for all others.

use std::{
    collections::HashMap,
    hash::Hash,
    sync::{Arc, Mutex, PoisonError},
};

/// The shares in use. Keys without one take no memory.
pub struct Shares<K> {
    held: Mutex<HashMap<K, usize>>,
    /// Most shares of one key.
    most: usize,
}

impl<K: Clone + Eq + Hash> Shares<K> {
    pub fn new(most: usize) -> Arc<Self> {
        Arc::new(Self { held: Mutex::default(), most })
    }

    /// Whether the key could take a share now.
    pub fn has_left(&self, key: &K) -> bool {
        let held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        held.get(key).is_none_or(|count| *count < self.most)
    }

    /// A share, until it is dropped; `None` if the key has all of its shares.
    pub fn take(self: &Arc<Self>, key: &K) -> Option<Share<K>> {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        match held.get_mut(key) {
            Some(count) if *count >= self.most => return None,
            Some(count) => *count += 1,
            None => drop(held.insert(key.clone(), 1)),
        }
        Some(Share { shares: self.clone(), key: key.clone() })
    }
}

/// One share in use.
pub struct Share<K: Clone + Eq + Hash> {
    shares: Arc<Shares<K>>,
    key: K,
}

impl<K: Clone + Eq + Hash> Drop for Share<K> {
    fn drop(&mut self) {
        let mut held = self.shares.held.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = held.get_mut(&self.key) {
            *count -= 1;
            if *count == 0 {
                held.remove(&self.key);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_has_its_shares_and_leaves_others_theirs() {
        let shares = Shares::new(2);
        let held = [shares.take(&"a"), shares.take(&"a")];
        assert!(held.iter().all(Option::is_some));
        assert!(!shares.has_left(&"a") && shares.has_left(&"b"));
        assert!(shares.take(&"a").is_none());
        assert!(shares.take(&"b").is_some());
        drop(held);
        assert!(shares.take(&"a").is_some());
        assert!(shares.held.lock().unwrap().is_empty(), "a share that ended is kept");
    }
}

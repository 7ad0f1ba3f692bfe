//! Slows down an address that guesses tokens.
//!
//! Each address may send [`BURST`] wrong tokens at once and one more each [`PAUSE`]. Beyond that no
//! token from the address is accepted, so that an answer tells nothing about the token. Callers that
//! were accepted from the address before go on.

use std::{
    net::IpAddr,
    num::NonZeroUsize,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use lru::LruCache;

use crate::service::origin::network;

/// Wrong tokens at once from one address.
const BURST: u32 = 20;
/// The time after which an address has one more wrong token.
const PAUSE: Duration = Duration::from_secs(3);
/// Most addresses in memory. The one that was silent for the longest time is forgotten.
const MAX_ADDRESSES: NonZeroUsize = NonZeroUsize::new(10_000).unwrap();

/// The wrong tokens of each address.
pub struct Guesses {
    started: Instant,
    /// For each address, the time in milliseconds at which all its wrong tokens are forgiven.
    forgiven_at: Mutex<LruCache<IpAddr, u64>>,
    /// The time in milliseconds until which some address may be slowed down. Before the first wrong
    /// token, a request pays for one read.
    any_until: AtomicU64,
}

impl Default for Guesses {
    fn default() -> Self {
        Self {
            started: Instant::now(),
            forgiven_at: Mutex::new(LruCache::new(MAX_ADDRESSES)),
            any_until: AtomicU64::new(0),
        }
    }
}

impl Guesses {
    /// Counts a wrong token.
    pub fn count(&self, address: IpAddr) {
        self.count_at(address, self.now_ms());
    }

    /// Whether the wrong tokens of an address are used up.
    pub fn are_used_up(&self, address: IpAddr) -> bool {
        let any_until = self.any_until.load(Relaxed);
        any_until > 0 && {
            let now_ms = self.now_ms();
            now_ms < any_until && self.are_used_up_at(address, now_ms)
        }
    }

    fn count_at(&self, address: IpAddr, now_ms: u64) {
        let mut addresses = self.forgiven_at.lock().unwrap_or_else(PoisonError::into_inner);
        let forgiven_at = addresses.get_or_insert_mut(network(address), || now_ms);
        let most = now_ms + pause_ms() * u64::from(BURST);
        *forgiven_at = ((*forgiven_at).max(now_ms) + pause_ms()).min(most);
        self.any_until.fetch_max(*forgiven_at, Relaxed);
    }

    fn are_used_up_at(&self, address: IpAddr, now_ms: u64) -> bool {
        let addresses = self.forgiven_at.lock().unwrap_or_else(PoisonError::into_inner);
        let forgiven_at = addresses.peek(&network(address)).copied().unwrap_or(0);
        forgiven_at > now_ms + pause_ms() * u64::from(BURST - 1)
    }

    fn now_ms(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX)
    }
}

fn pause_ms() -> u64 {
    u64::try_from(PAUSE.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const FIRST: u64 = 1_000;

    fn address(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn an_address_has_a_burst_of_wrong_tokens_and_then_one_a_pause() {
        let guesses = Guesses::default();
        let guesser = address("203.0.113.7");
        for _ in 0..BURST {
            assert!(!guesses.are_used_up_at(guesser, FIRST));
            guesses.count_at(guesser, FIRST);
        }
        assert!(guesses.are_used_up_at(guesser, FIRST));
        assert!(!guesses.are_used_up_at(address("203.0.113.8"), FIRST));
        let later = FIRST + pause_ms();
        assert!(!guesses.are_used_up_at(guesser, later));
        guesses.count_at(guesser, later);
        assert!(guesses.are_used_up_at(guesser, later));
    }

    #[test]
    fn a_network_of_ipv6_counts_as_one_address() {
        let guesses = Guesses::default();
        for last in 0..BURST {
            guesses.count_at(address(&format!("2001:db8::{last:x}")), FIRST);
        }
        assert!(guesses.are_used_up_at(address("2001:db8::ffff"), FIRST));
        assert!(!guesses.are_used_up_at(address("2001:db8:0:1::1"), FIRST));
    }

    #[test]
    fn more_wrong_tokens_do_not_lengthen_the_wait_for_ever() {
        let guesses = Guesses::default();
        let guesser = address("203.0.113.7");
        (0..10 * BURST).for_each(|_| guesses.count_at(guesser, FIRST));
        assert!(guesses.are_used_up_at(guesser, FIRST));
        assert!(!guesses.are_used_up_at(guesser, FIRST + pause_ms()));
    }
}

//! The places of a port: its connections in all, those of each address, and a few more for health.

use std::{
    collections::{BTreeMap, VecDeque},
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;

use super::limits::ListenerLimits;
use crate::{
    biz::limits::shares::{Share, Shares},
    service::origin::network,
};

/// Connections beyond the limits that are open at once. They reach health alone. The newest one takes
/// the place of the oldest, so that a probe, which asks at once, is answered.
pub const BEYOND_LIMIT: usize = 64;

/// The places of one port.
pub struct Places {
    free: Arc<Semaphore>,
    /// The connections of each address that has some. Bounded by the connections.
    addresses: Arc<Shares<IpAddr>>,
    /// The connections on which no request has proven itself; `None` for a port that asks for no proof.
    unproven: Option<Arc<Unproven>>,
    beyond: Mutex<VecDeque<CancellationToken>>,
}

/// A limit that a connection would exceed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Full {
    /// `server.limits.connections`.
    Port,
    /// `server.limits.connections_per_address`.
    Address,
}

impl Full {
    /// The label of the metric.
    pub fn reason(self) -> &'static str {
        match self {
            Full::Port => "full",
            Full::Address => "address",
        }
    }
}

impl Places {
    pub fn new(limits: &ListenerLimits) -> Arc<Self> {
        Arc::new(Self {
            free: Arc::new(Semaphore::new(limits.connections)),
            addresses: Shares::new(limits.connections_per_address),
            unproven: limits.unproven_connections.map(|most| Arc::new(Unproven { most, waiting: Mutex::default() })),
            beyond: Mutex::default(),
        })
    }

    /// Registers a connection that has proven nothing yet. Cancels the oldest such connection if there are
    /// too many, and frees its place, so that peers without a proof fill no port, and a caller, which proves
    /// itself at once, is served.
    pub fn take_unproven(&self, place: &Place, connection: CancellationToken) -> Option<UnprovenPlace> {
        let unproven = self.unproven.clone()?;
        let number = unproven.take(Waiter { connection, place: place.0.clone() });
        Some(UnprovenPlace { unproven, number })
    }

    /// Takes a place for a connection of `address`.
    ///
    /// # Errors
    /// The limit that is reached.
    pub fn take(&self, address: IpAddr) -> Result<Place, Full> {
        let permit = self.free.clone().try_acquire_owned().map_err(|_| Full::Port)?;
        let share = self.addresses.take(&network(address)).ok_or(Full::Address)?;
        Ok(Place(Arc::new(Mutex::new(Some(Held { _permit: permit, _share: share })))))
    }

    /// Registers a connection beyond the limits. Cancels the oldest one if there are too many.
    pub fn take_beyond(&self, connection: CancellationToken) {
        let mut beyond = lock(&self.beyond);
        if beyond.len() >= BEYOND_LIMIT
            && let Some(oldest) = beyond.pop_front()
        {
            oldest.cancel();
        }
        beyond.push_back(connection);
    }
}

/// The connections that have proven nothing yet.
struct Unproven {
    most: usize,
    waiting: Mutex<Waiting>,
}

#[derive(Default)]
struct Waiting {
    next: u64,
    /// By their number, so the oldest is the first.
    connections: BTreeMap<u64, Waiter>,
}

struct Waiter {
    connection: CancellationToken,
    place: Arc<Mutex<Option<Held>>>,
}

impl Unproven {
    fn take(&self, waiter: Waiter) -> u64 {
        let mut waiting = lock(&self.waiting);
        if waiting.connections.len() >= self.most
            && let Some((_, oldest)) = waiting.connections.pop_first()
        {
            // At once, because the connection takes a moment to end.
            drop(lock(&oldest.place).take());
            oldest.connection.cancel();
        }
        let number = waiting.next;
        waiting.next += 1;
        waiting.connections.insert(number, waiter);
        number
    }
}

/// The place of a connection that has proven nothing yet.
pub struct UnprovenPlace {
    unproven: Arc<Unproven>,
    number: u64,
}

impl Drop for UnprovenPlace {
    fn drop(&mut self) {
        lock(&self.unproven.waiting).connections.remove(&self.number);
    }
}

/// The place of one connection, which is free again when this is dropped.
pub struct Place(Arc<Mutex<Option<Held>>>);

struct Held {
    _permit: OwnedSemaphorePermit,
    _share: Share<IpAddr>,
}

impl Drop for Place {
    fn drop(&mut self) {
        drop(lock(&self.0).take());
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn places(connections: usize, connections_per_address: usize) -> Arc<Places> {
        Places::new(&ListenerLimits { connections, connections_per_address, ..Default::default() })
    }

    #[test]
    fn an_address_and_a_port_have_their_limits_and_places_come_back() {
        let places = places(3, 2);
        let take = |address: &str| places.take(address.parse().unwrap());
        let first = take("10.0.0.1").ok().unwrap();
        let _second = take("::ffff:10.0.0.1").ok().unwrap();
        assert_eq!(take("10.0.0.1").err(), Some(Full::Address));
        let third = take("10.0.0.2").ok().unwrap();
        assert_eq!(take("10.0.0.3").err(), Some(Full::Port));
        drop(third);
        drop(first);
        let _fourth = take("10.0.0.1").ok().unwrap();
        assert_eq!(take("10.0.0.1").err(), Some(Full::Address));
    }

    #[test]
    fn a_network_of_ipv6_counts_as_one_address() {
        let places = places(3, 1);
        let _first = places.take("2001:db8::1".parse().unwrap()).ok().unwrap();
        assert_eq!(places.take("2001:db8::ffff:2".parse().unwrap()).err(), Some(Full::Address));
        assert!(places.take("2001:db8:0:1::1".parse().unwrap()).is_ok());
    }

    #[test]
    fn the_oldest_connection_without_a_proof_makes_room_and_one_with_a_proof_does_not() {
        let limits = ListenerLimits { connections: 3, unproven_connections: Some(2), ..Default::default() };
        let places = Places::new(&limits);
        let tokens: Vec<_> = (0..5).map(|_| CancellationToken::new()).collect();
        let take = |number: usize| {
            let place = places.take("10.0.0.1".parse().unwrap()).ok().unwrap();
            let unproven = places.take_unproven(&place, tokens[number].clone()).unwrap();
            (place, unproven)
        };
        // Each place is free as soon as a newer connection needs it, and before its connection ends.
        let (_first, second, _third) = (take(0), take(1), take(2));
        assert!(tokens[0].is_cancelled() && !tokens[1].is_cancelled());
        let (proven, unproven) = second;
        drop(unproven);
        let _fourth = take(3);
        assert!(!tokens[1].is_cancelled() && !tokens[2].is_cancelled());
        assert_eq!(places.take("10.0.0.1".parse().unwrap()).err(), Some(Full::Port));
        drop(proven);
        let _fifth = take(4);
        assert!(tokens[2].is_cancelled() && !tokens[3].is_cancelled());
        let open = Places::new(&ListenerLimits::default());
        let place = open.take("10.0.0.1".parse().unwrap()).ok().unwrap();
        assert!(open.take_unproven(&place, tokens[4].clone()).is_none());
    }

    #[test]
    fn the_oldest_connection_beyond_the_limits_makes_room() {
        let places = places(1, 1);
        let tokens: Vec<_> = (0..BEYOND_LIMIT + 2).map(|_| CancellationToken::new()).collect();
        tokens.iter().for_each(|token| places.take_beyond(token.clone()));
        let cancelled: Vec<_> = tokens.iter().map(CancellationToken::is_cancelled).collect();
        assert_eq!(cancelled.iter().position(|cancelled| !cancelled), Some(2));
        assert!(cancelled[2..].iter().all(|cancelled| !cancelled));
    }
}

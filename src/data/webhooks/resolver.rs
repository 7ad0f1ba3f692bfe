//! Resolves the hosts of webhooks, and refuses those with an address that is not public.
//!
//! A name is resolved and checked before each delivery. The connector of the client takes the addresses of that check,
//! so an answer that changes in between leads to no other address.

use std::{
    collections::BTreeMap,
    io,
    net::{IpAddr, SocketAddr, ToSocketAddrs},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Instant,
};

use async_trait::async_trait;
use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use thiserror::Error;
use tokio::{sync::Semaphore, task::spawn_blocking};

use crate::biz::webhooks::{MAX_WEBHOOKS, address::is_public, delivery::SEND_TIMEOUT};

/// Most look-ups of the system at once. Each takes a thread, and all parts of the process share the threads.
const LOOKUPS: usize = 32;
/// Most hosts whose addresses are kept for the connector.
const MAX_CHECKED: usize = 2 * MAX_WEBHOOKS;

/// Finds the addresses of a name.
#[async_trait]
pub trait Lookup: Send + Sync + 'static {
    /// # Errors
    /// The name has none, or the resolver does not answer.
    async fn addresses(&self, host: &str) -> io::Result<Vec<IpAddr>>;
}

/// The resolver of the system.
pub struct SystemLookup {
    permits: Arc<Semaphore>,
    resolve: fn(&str) -> io::Result<Vec<IpAddr>>,
}

impl Default for SystemLookup {
    fn default() -> Self {
        Self { permits: Arc::new(Semaphore::new(LOOKUPS)), resolve: by_system }
    }
}

/// Blocks its thread.
fn by_system(host: &str) -> io::Result<Vec<IpAddr>> {
    Ok((host, 0).to_socket_addrs()?.map(|address| address.ip()).collect())
}

#[async_trait]
impl Lookup for SystemLookup {
    async fn addresses(&self, host: &str) -> io::Result<Vec<IpAddr>> {
        let permit = self.permits.clone().acquire_owned().await.map_err(io::Error::other)?;
        let (host, resolve) = (host.to_owned(), self.resolve);
        let lookup = move || {
            // A caller that waits no longer does not free the thread.
            let _permit = permit;
            resolve(&host)
        };
        spawn_blocking(lookup).await.map_err(io::Error::other)?
    }
}

/// The host has an address that may not be reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("the host has an address that is not public")]
pub struct AddressRefused;

/// The addresses that deliveries may reach.
#[derive(Clone)]
pub struct Resolver {
    lookup: Arc<dyn Lookup>,
    is_allowed: fn(IpAddr) -> bool,
    /// The addresses of the last check of each host.
    checked: Arc<Mutex<BTreeMap<String, Checked>>>,
}

struct Checked {
    addresses: Vec<IpAddr>,
    at: Instant,
}

impl Resolver {
    /// Allows the addresses of the public internet, or all.
    pub fn new(is_private_allowed: bool) -> Self {
        let is_allowed = if is_private_allowed { |_| true } else { is_public };
        Self::of(Arc::new(SystemLookup::default()), is_allowed)
    }

    /// Takes another look-up and another rule, for tests.
    pub fn of(lookup: Arc<dyn Lookup>, is_allowed: fn(IpAddr) -> bool) -> Self {
        Self { lookup, is_allowed, checked: Arc::default() }
    }

    /// Checks a host, and keeps its addresses for the connection of the delivery.
    ///
    /// # Errors
    /// As [`Self::addresses`].
    pub async fn check(&self, host: &str) -> io::Result<()> {
        let addresses = self.addresses(host).await?;
        let mut checked = self.checked();
        if checked.len() >= MAX_CHECKED {
            checked.retain(|_, checked| checked.at.elapsed() < SEND_TIMEOUT);
        }
        if checked.len() < MAX_CHECKED {
            checked.insert(host.to_owned(), Checked { addresses, at: Instant::now() });
        }
        Ok(())
    }

    fn checked(&self) -> MutexGuard<'_, BTreeMap<String, Checked>> {
        self.checked.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The addresses of a host. One that is not allowed refuses the host.
    ///
    /// # Errors
    /// [`AddressRefused`] in an error of any kind; the name has no address.
    pub async fn addresses(&self, host: &str) -> io::Result<Vec<IpAddr>> {
        // A host of IPv6 has brackets in a URL.
        let literal = host.trim_start_matches('[').trim_end_matches(']').parse();
        let addresses = match literal {
            Ok(address) => vec![address],
            Err(_) => self.lookup.addresses(host).await?,
        };
        match addresses.iter().all(|address| (self.is_allowed)(*address)) {
            true => Ok(addresses),
            false => Err(io::Error::other(AddressRefused)),
        }
    }
}

impl Resolve for Resolver {
    fn resolve(&self, name: Name) -> Resolving {
        let resolver = self.clone();
        Box::pin(async move {
            let recent = |checked: &&Checked| checked.at.elapsed() < SEND_TIMEOUT;
            let known = resolver.checked().get(name.as_str()).filter(recent).map(|checked| checked.addresses.clone());
            let addresses = match known {
                Some(addresses) => addresses,
                None => resolver.addresses(name.as_str()).await?,
            };
            // The client sets the port.
            let addresses: Addrs = Box::new(addresses.into_iter().map(|address| SocketAddr::new(address, 0)));
            Ok(addresses)
        })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{
        Condvar,
        atomic::{AtomicUsize, Ordering::SeqCst},
    };

    use tokio::task::yield_now;

    use super::*;

    static ENTERED: AtomicUsize = AtomicUsize::new(0);
    static HANGS: Mutex<bool> = Mutex::new(true);
    static ENDS: Condvar = Condvar::new();

    /// A resolver of the system that does not answer.
    fn hang(_: &str) -> io::Result<Vec<IpAddr>> {
        ENTERED.fetch_add(1, SeqCst);
        drop(ENDS.wait_while(HANGS.lock().unwrap(), |hangs| *hangs).unwrap());
        Ok(Vec::new())
    }

    #[tokio::test]
    async fn lookups_that_hang_take_a_bounded_number_of_threads() {
        let lookup = Arc::new(SystemLookup { resolve: hang, ..SystemLookup::default() });
        let start = || {
            let lookup = lookup.clone();
            tokio::spawn(async move { lookup.addresses("a.example").await })
        };
        let first: Vec<_> = (0..LOOKUPS).map(|_| start()).collect();
        while ENTERED.load(SeqCst) < LOOKUPS {
            yield_now().await;
        }
        // The callers wait no longer, and the threads are still in use.
        first.iter().for_each(|task| task.abort());
        for task in first {
            assert!(task.await.unwrap_err().is_cancelled());
        }
        assert_eq!(lookup.permits.available_permits(), 0);
        let next = start();
        *HANGS.lock().unwrap() = false;
        ENDS.notify_all();
        next.await.unwrap().unwrap();
    }
}

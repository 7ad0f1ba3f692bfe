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
use futures_util::{
    FutureExt,
    future::{BoxFuture, Shared},
};
use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use thiserror::Error;
use tokio::task::spawn_blocking;

use crate::biz::webhooks::{MAX_WEBHOOKS, address::is_public, delivery::SEND_TIMEOUT};

/// Most look-ups of the system at once, one a host. Each takes a thread, and all parts of the process share the threads.
const LOOKUPS: usize = MAX_WEBHOOKS;
/// Most hosts whose addresses are kept for the connector.
const MAX_CHECKED: usize = 2 * MAX_WEBHOOKS;

/// Finds the addresses of a name.
#[async_trait]
pub trait Lookup: Send + Sync + 'static {
    /// # Errors
    /// The name has none, or the resolver does not answer.
    async fn addresses(&self, host: &str) -> io::Result<Vec<IpAddr>>;
}

/// The resolver of the system. All deliveries to a host wait for one look-up of it, so a host whose name server does not
/// answer takes one thread, and holds up no other host.
pub struct SystemLookup {
    under_way: Arc<Mutex<BTreeMap<String, Found>>>,
    resolve: fn(&str) -> io::Result<Vec<IpAddr>>,
}

/// The end of a look-up.
type Found = Shared<BoxFuture<'static, Result<Vec<IpAddr>, Arc<io::Error>>>>;

impl Default for SystemLookup {
    fn default() -> Self {
        Self { under_way: Arc::default(), resolve: by_system }
    }
}

impl SystemLookup {
    /// Begins a look-up, or joins the one of this host that is under way.
    fn begin(&self, host: &str) -> io::Result<Found> {
        let mut under_way = self.under_way.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(found) = under_way.get(host) {
            return Ok(found.clone());
        }
        if under_way.len() >= LOOKUPS {
            return Err(io::Error::other("too many look-ups of other hosts have no answer yet"));
        }
        let (resolve, name, ending) = (self.resolve, host.to_owned(), self.under_way.clone());
        // It ends after its callers have given up, and is in the map until then.
        let lookup = spawn_blocking(move || {
            let found = resolve(&name).map_err(Arc::new);
            ending.lock().unwrap_or_else(PoisonError::into_inner).remove(&name);
            found
        });
        let ended = lookup.map(|ended| ended.unwrap_or_else(|error| Err(Arc::new(io::Error::other(error)))));
        let found = ended.boxed().shared();
        under_way.insert(host.to_owned(), found.clone());
        Ok(found)
    }
}

/// Blocks its thread.
fn by_system(host: &str) -> io::Result<Vec<IpAddr>> {
    Ok((host, 0).to_socket_addrs()?.map(|address| address.ip()).collect())
}

#[async_trait]
impl Lookup for SystemLookup {
    async fn addresses(&self, host: &str) -> io::Result<Vec<IpAddr>> {
        let found = self.begin(host)?;
        found.await.map_err(|error| io::Error::new(error.kind(), error))
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

    /// A resolver of the system that answers for one host alone.
    fn hang(host: &str) -> io::Result<Vec<IpAddr>> {
        if host == "well.example" {
            return Ok(vec![[192, 0, 2, 1].into()]);
        }
        ENTERED.fetch_add(1, SeqCst);
        drop(ENDS.wait_while(HANGS.lock().unwrap(), |hangs| *hangs).unwrap());
        Ok(Vec::new())
    }

    #[tokio::test]
    async fn a_host_whose_lookup_hangs_takes_one_thread_and_holds_up_no_other_host() {
        let lookup = Arc::new(SystemLookup { resolve: hang, ..SystemLookup::default() });
        let start = |host: String| {
            let lookup = lookup.clone();
            tokio::spawn(async move { lookup.addresses(&host).await })
        };
        let hosts = LOOKUPS - 1;
        let silent: Vec<_> = (0..3 * hosts).map(|number| start(format!("silent-{}.example", number % hosts))).collect();
        while ENTERED.load(SeqCst) < hosts {
            yield_now().await;
        }
        // The callers wait no longer, and the threads are still in use.
        silent.iter().for_each(|task| task.abort());
        for task in silent {
            assert!(task.await.unwrap_err().is_cancelled());
        }
        assert_eq!(start("well.example".into()).await.unwrap().unwrap(), [IpAddr::from([192, 0, 2, 1])]);
        let next = start("silent-0.example".into());
        yield_now().await;
        assert_eq!(ENTERED.load(SeqCst), hosts);
        *HANGS.lock().unwrap() = false;
        ENDS.notify_all();
        next.await.unwrap().unwrap();
        while !lookup.under_way.lock().unwrap().is_empty() {
            yield_now().await;
        }
    }
}

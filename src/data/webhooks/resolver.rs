//! Resolves the hosts of webhooks, and refuses those with an address that is not public.
//!
//! A name is resolved and checked before each delivery. The connector of the client resolves through the same check
//! and connects to the addresses that it got, so an answer that changes in between leads to no other address.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use async_trait::async_trait;
use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use thiserror::Error;

use crate::biz::webhooks::address::is_public;

/// Finds the addresses of a name.
#[async_trait]
pub trait Lookup: Send + Sync + 'static {
    /// # Errors
    /// The name has none, or the resolver does not answer.
    async fn addresses(&self, host: &str) -> io::Result<Vec<IpAddr>>;
}

/// The resolver of the system.
pub struct SystemLookup;

#[async_trait]
impl Lookup for SystemLookup {
    async fn addresses(&self, host: &str) -> io::Result<Vec<IpAddr>> {
        Ok(tokio::net::lookup_host((host, 0)).await?.map(|address| address.ip()).collect())
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
}

impl Resolver {
    /// Allows the addresses of the public internet, or all.
    pub fn new(is_private_allowed: bool) -> Self {
        let is_allowed = if is_private_allowed { |_| true } else { is_public };
        Self { lookup: Arc::new(SystemLookup), is_allowed }
    }

    /// Takes another look-up and another rule, for tests.
    pub fn of(lookup: Arc<dyn Lookup>, is_allowed: fn(IpAddr) -> bool) -> Self {
        Self { lookup, is_allowed }
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
            let addresses = resolver.addresses(name.as_str()).await?;
            // The client sets the port.
            let addresses: Addrs = Box::new(addresses.into_iter().map(|address| SocketAddr::new(address, 0)));
            Ok(addresses)
        })
    }
}

//! The most requests at once of a group of routes, shared between its callers, or between the addresses
//! of peers that need no proof.

use std::{net::IpAddr, sync::Arc};

use axum::extract::Request;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::{
    biz::limits::shares::{Share, Shares},
    service::origin::{Caller, Forwarding, network},
};

/// The permits of a group of routes.
#[derive(Clone)]
pub struct Permits {
    all: Arc<Semaphore>,
    of_caller: Option<Arc<Shares<Arc<str>>>>,
    of_address: Option<Arc<Shares<IpAddr>>>,
}

/// The permits of one request.
pub struct Permit {
    _one_of_all: OwnedSemaphorePermit,
    _of_caller: Option<Share<Arc<str>>>,
    _of_address: Option<Share<IpAddr>>,
}

impl Permits {
    pub fn new(requests: usize) -> Self {
        Self { all: Arc::new(Semaphore::new(requests)), of_caller: None, of_address: None }
    }

    /// One caller has at most `most` of them.
    pub fn shared_by_callers(self, most: usize) -> Self {
        Self { of_caller: Some(Shares::new(most)), ..self }
    }

    /// One address has at most `most` of them.
    pub fn shared_by_addresses(self, most: usize) -> Self {
        Self { of_address: Some(Shares::new(most)), ..self }
    }

    /// # Errors
    /// The reason of a refusal.
    pub fn admit(&self, request: &Request, forwarding: &Forwarding) -> Result<Permit, &'static str> {
        let caller = request.extensions().get::<Caller>().map(|caller| &caller.name);
        let of_caller = match self.of_caller.as_ref().zip(caller) {
            Some((shares, caller)) => Some(shares.take(caller).ok_or("too many requests of this caller are open")?),
            None => None,
        };
        let address = || forwarding.client_ip(request.headers(), request.extensions()).map(network);
        let of_address = match self.of_address.as_ref().and_then(|shares| Some((shares, address()?))) {
            Some((shares, address)) => Some(shares.take(&address).ok_or("too many requests of this address are open")?),
            None => None,
        };
        let one_of_all = self.all.clone().try_acquire_owned().map_err(|_| "too many requests are open")?;
        Ok(Permit { _one_of_all: one_of_all, _of_caller: of_caller, _of_address: of_address })
    }
}

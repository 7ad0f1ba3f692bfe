//! The bounds of top-ups that are being started. Each waits for payment-service and occupies a
//! connection to the database at times, so they must not use up either.

use std::{net::IpAddr, sync::Arc};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::{
    biz::{
        limits::shares::{Share, Shares},
        values::{
            error::{Error, Result},
            ids::UserId,
        },
    },
    config::ServerLimits,
    service::origin::network,
};

/// Admits top-ups.
pub struct Admission {
    all: Arc<Semaphore>,
    of_user: Arc<Shares<UserId>>,
    of_address: Arc<Shares<IpAddr>>,
}

/// The permits of one top-up.
pub struct Admitted {
    _one_of_all: OwnedSemaphorePermit,
    _of_user: Share<UserId>,
    _of_address: Option<Share<IpAddr>>,
}

impl Admission {
    pub fn new(limits: &ServerLimits) -> Self {
        Self {
            all: Arc::new(Semaphore::new(limits.recharges)),
            of_user: Shares::new(limits.recharges_per_user),
            of_address: Shares::new(limits.recharges_per_address),
        }
    }

    /// # Errors
    /// [`Error::Overloaded`]: the user, the address or the server has enough of them under way.
    pub fn admit(&self, user: &UserId, address: Option<IpAddr>) -> Result<Admitted> {
        let refused =
            |whose| Error::Overloaded(format!("too many top-ups {whose} are being started; retry later").into());
        let of_user = self.of_user.take(user).ok_or_else(|| refused("of this user"))?;
        let of_address = match address {
            Some(address) => Some(self.of_address.take(&network(address)).ok_or_else(|| refused("from this address"))?),
            None => None,
        };
        let one_of_all = self.all.clone().try_acquire_owned().map_err(|_| refused("of all users"))?;
        Ok(Admitted { _one_of_all: one_of_all, _of_user: of_user, _of_address: of_address })
    }
}

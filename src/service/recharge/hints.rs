//! The bounds of callbacks without a proof. Anyone can send them, and each costs a look at an order in the
//! database, and perhaps a log line.

use std::{net::IpAddr, time::Duration};

use crate::{
    biz::{
        limits::{bursts::Bursts, lines::Lines},
        values::error::{Error, Result},
    },
    config::ServerLimits,
    service::origin::network,
};

/// Unknown orders that an address may name at once. payment-service names none.
const UNKNOWN_ORDERS: usize = 20;
/// The time in which they come back.
const UNKNOWN_PERIOD: Duration = Duration::from_secs(60);

/// Admits callbacks without a proof.
pub struct Hints {
    looks: Bursts<()>,
    unknown_orders: Bursts<IpAddr>,
    lines: Lines,
}

impl Hints {
    pub fn new(limits: &ServerLimits) -> Self {
        Self {
            looks: Bursts::new(limits.callback_lookups, Duration::from_secs(1)),
            unknown_orders: Bursts::new(UNKNOWN_ORDERS, UNKNOWN_PERIOD),
            lines: Lines::default(),
        }
    }

    /// Admits a look at an order, on the word of `address`.
    ///
    /// # Errors
    /// [`Error::Overloaded`].
    pub fn admit(&self, address: Option<IpAddr>) -> Result<()> {
        if address.is_some_and(|address| self.unknown_orders.are_used_up(&network(address))) {
            return Err(Error::Overloaded("too many callbacks of this address name unknown orders".into()));
        }
        if !self.looks.take(&()) {
            return Err(Error::Overloaded("too many callbacks without a proof; send it again".into()));
        }
        Ok(())
    }

    /// Notes that `address` named an order that is not there.
    pub fn note_unknown(&self, address: Option<IpAddr>) {
        if let Some(address) = address {
            self.unknown_orders.count(&network(address));
        }
    }

    /// Whether a refusal may have a log line, and the number of those left out before.
    pub fn line(&self) -> Option<u64> {
        self.lines.admit()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hints(callback_lookups: usize) -> Hints {
        Hints::new(&ServerLimits { callback_lookups, ..Default::default() })
    }

    #[test]
    fn looks_have_a_bounded_rate() {
        let hints = hints(3);
        assert!((0..100).filter(|_| hints.admit(None).is_ok()).count() < 100);
    }

    #[test]
    fn an_address_that_names_unknown_orders_is_not_asked_about_more() {
        let hints = hints(1_000_000);
        let (forger, other) = ("203.0.113.7".parse().ok(), "203.0.113.8".parse().ok());
        for _ in 0..UNKNOWN_ORDERS {
            hints.admit(forger).unwrap();
            hints.note_unknown(forger);
        }
        assert!(hints.admit(forger).is_err());
        assert!(hints.admit(other).is_ok());
    }
}

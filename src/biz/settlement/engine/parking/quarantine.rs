//! Quarantine for accounts that the database cannot settle. For some seconds their postings are
//! refused. After that each posting of the account is settled alone, until one succeeds. So a
//! broken row fails a batch with other accounts once, and not again and again.

use std::{collections::HashMap, time::Duration};

use tokio::time::Instant;

use crate::biz::values::ids::UserId;

/// Most accounts in quarantine. Further accounts are not quarantined.
const MAX_ACCOUNTS: usize = 10_000;

pub(super) struct Quarantine {
    period: Duration,
    /// The end of each account's quarantine.
    accounts: HashMap<UserId, Instant>,
}

/// The treatment of an account's postings.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Standing {
    Good,
    /// Settled alone.
    Suspect,
    /// Refused.
    Quarantined,
}

impl Quarantine {
    pub fn new(period: Duration) -> Self {
        Self { period, accounts: HashMap::new() }
    }

    pub fn accounts(&self) -> usize {
        self.accounts.len()
    }

    pub fn standing(&self, user: &UserId, now: Instant) -> Standing {
        match self.accounts.get(user) {
            None => Standing::Good,
            Some(until) if *until <= now => Standing::Suspect,
            Some(_) => Standing::Quarantined,
        }
    }

    /// Begins the quarantine of an account. Returns whether the account was in good standing.
    pub fn begin(&mut self, user: &UserId, now: Instant) -> bool {
        self.keep(user, now, now + self.period)
    }

    /// Makes an account suspect, unless it is quarantined: its postings are settled alone.
    pub fn suspect(&mut self, user: &UserId, now: Instant) {
        if !self.accounts.contains_key(user) {
            self.keep(user, now, now);
        }
    }

    fn keep(&mut self, user: &UserId, now: Instant, until: Instant) -> bool {
        if self.accounts.len() >= MAX_ACCOUNTS && !self.accounts.contains_key(user) {
            self.accounts.retain(|_, until| *until > now);
            if self.accounts.len() >= MAX_ACCOUNTS {
                return true;
            }
        }
        self.accounts.insert(user.clone(), until).is_none()
    }

    /// Returns a settled account to good standing. False if it was in good standing already.
    pub fn end(&mut self, user: &UserId) -> bool {
        self.accounts.remove(user).is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_account_is_refused_for_the_period_and_then_alone_until_it_is_settled() {
        let mut quarantine = Quarantine::new(Duration::from_secs(10));
        let (user, now) = (UserId::from_stored("u"), Instant::now());
        let later = now + Duration::from_secs(10);
        assert_eq!(quarantine.standing(&user, now), Standing::Good);
        assert!(quarantine.begin(&user, now), "it is logged");
        assert_eq!(quarantine.standing(&user, now), Standing::Quarantined);
        assert_eq!(quarantine.standing(&user, later), Standing::Suspect);
        assert!(!quarantine.begin(&user, later), "it is not logged again");
        assert_eq!(quarantine.standing(&user, later), Standing::Quarantined);
        assert!(quarantine.end(&user));
        assert_eq!(quarantine.standing(&user, later), Standing::Good);
    }

    #[test]
    fn a_suspect_is_not_refused_and_a_suspicion_does_not_end_a_quarantine() {
        let mut quarantine = Quarantine::new(Duration::from_secs(10));
        let (user, now) = (UserId::from_stored("u"), Instant::now());
        quarantine.suspect(&user, now);
        assert_eq!(quarantine.standing(&user, now), Standing::Suspect);
        quarantine.begin(&user, now);
        quarantine.suspect(&user, now);
        assert_eq!(quarantine.standing(&user, now), Standing::Quarantined);
    }

    #[test]
    fn there_are_never_more_than_the_bound() {
        let mut quarantine = Quarantine::new(Duration::from_secs(10));
        let now = Instant::now();
        for number in 0..MAX_ACCOUNTS + 10 {
            quarantine.begin(&UserId::from_stored(number.to_string()), now);
        }
        assert_eq!(quarantine.accounts(), MAX_ACCOUNTS);
    }
}

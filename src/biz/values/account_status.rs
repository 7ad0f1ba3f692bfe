//! The status of an account, which decides whether it takes new calls and top-ups.

use std::{fmt, str::FromStr};

use super::invalid::Invalid;

/// The statuses of an account. An operator may set any of them at any time.
///
/// An account that is not active refuses new charges, reserves and top-ups, and the hold of a
/// running stream stops growing. All that has begun is settled in every status: commits, releases,
/// expiries, callbacks of payments, and replays.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum AccountStatus {
    #[default]
    Active,
    /// Stopped for a time.
    Frozen,
    /// Stopped for good, as far as the operator knows.
    Closed,
}

impl AccountStatus {
    pub const ALL: [Self; 3] = [Self::Active, Self::Frozen, Self::Closed];

    /// The name on the wire and in the caches.
    pub fn name(self) -> &'static str {
        match self {
            Self::Active => "ACTIVE",
            Self::Frozen => "FROZEN",
            Self::Closed => "CLOSED",
        }
    }

    /// Whether the account takes new calls and top-ups.
    pub fn is_active(self) -> bool {
        self == Self::Active
    }
}

impl fmt::Display for AccountStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for AccountStatus {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        Self::ALL
            .into_iter()
            .find(|status| status.name() == text)
            .ok_or_else(|| Invalid::new("status", "must be ACTIVE, FROZEN or CLOSED"))
    }
}

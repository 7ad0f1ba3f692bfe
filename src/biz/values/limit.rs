//! The limits that refuse a call, with their names in errors.

use std::{fmt, time::Duration};

/// A limit that refuses a call, apart from the balance.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Limit {
    Daily,
    Monthly,
    /// A quota of the API key.
    ApiKey,
    /// The most top-ups of a user that wait for their payment.
    OpenTopUps,
    /// A rate limit of the user or the API key.
    Rate {
        /// The time until a retry is admitted if no other request comes. Above zero.
        retry_after: Duration,
    },
}

impl fmt::Display for Limit {
    /// The name in the contract.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Daily => "daily limit",
            Self::Monthly => "monthly limit",
            Self::ApiKey => "api key quota",
            Self::OpenTopUps => "limit of open top-ups",
            Self::Rate { .. } => "rate limit",
        })
    }
}

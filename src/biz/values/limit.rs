//! The limits that refuse a call, as errors name them.

use std::{fmt, time::Duration};

/// What forbids a call although somebody would pay for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Limit {
    Daily,
    Monthly,
    /// A quota of the API key.
    ApiKey,
    /// A rate limit of the user or the API key.
    Rate {
        /// When a repeat would be admitted if nobody else made a request. Above zero.
        retry_after: Duration,
    },
}

impl fmt::Display for Limit {
    /// As the contract words it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Daily => "daily limit",
            Self::Monthly => "monthly limit",
            Self::ApiKey => "api key quota",
            Self::Rate { .. } => "rate limit",
        })
    }
}

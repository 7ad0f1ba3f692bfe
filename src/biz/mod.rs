//! The rules: what a charge costs, who pays for it, what a month is. Nothing here
//! knows a database, a cache or a wire format; the traits in this layer say what
//! it needs of them, and `crate::data` implements those.

#![deny(clippy::float_arithmetic)]

pub mod account;
pub mod archive;
pub mod audit;
pub mod calendar;
pub mod catalog;
pub mod charge;
pub mod error;
pub mod findings;
pub mod ids;
pub mod key_quota;
pub mod limit;
pub mod low;
pub mod metering;
pub mod money;
pub mod paging;
pub mod policy;
pub mod prices;
pub mod progress;
pub mod quota;
pub mod quote;
pub mod rate_limit;
pub mod read_model;
pub mod recharge;
pub mod record;
pub mod reset;
pub mod retry;
pub mod rollup;
pub mod runs;
pub mod settlement;
pub mod statistics;
pub mod tokens;
pub mod users;

//! The rules: what a charge costs, who pays for it, what a month is. Nothing here
//! knows a database, a cache or a wire format; the traits in this layer say what
//! it needs of them, and `crate::data` implements those.

#![deny(clippy::float_arithmetic)]

pub mod account;
pub mod charge;
pub mod check;
pub mod jobs;
pub mod limits;
pub mod metering;
pub mod recharge;
pub mod reports;
pub mod settlement;
pub mod values;

//! The rules: charges, settlement, checks, metering, top-ups, statements and jobs.
//! This layer depends on no database, cache or wire format. Its traits define the storage that it
//! needs, and `crate::data` implements them.

#![deny(clippy::float_arithmetic)]

pub mod account;
pub mod audit_trail;
pub mod charge;
pub mod check;
pub mod database;
pub mod events;
pub mod jobs;
pub mod limits;
pub mod metering;
pub mod recharge;
pub mod reports;
pub mod settlement;
pub mod statements;
pub mod values;
pub mod webhooks;

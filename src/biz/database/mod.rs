//! The identity and the clock of the database that a deployment runs on.

pub mod clock_skew;
pub mod identity;

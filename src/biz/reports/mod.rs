//! Reports for front ends: consumption records and statistics.

pub mod record;
pub mod statistics;
pub mod usage;

//! What front ends read: consumption records and statistics.

pub mod record;
pub mod statistics;

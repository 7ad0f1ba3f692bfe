//! Servers that share a database and a Redis.

mod cron;
mod ends;
mod loads;
mod metrics;
pub mod servers;
mod spending;
mod verdicts;
mod visibility;
mod warmth;

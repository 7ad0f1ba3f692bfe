//! Scheduled jobs and operators' figures on SQLite.

pub mod archive;
pub mod audit;
mod limits;
pub mod low_balance;
pub mod ops_stats;
pub mod reset;
pub mod rollup;
pub mod runs;
mod scope;
pub mod seals;
mod unreadable;

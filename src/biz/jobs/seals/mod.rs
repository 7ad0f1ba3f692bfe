//! Seals of closed months: the figures and the digest of the history of an account up to the end of a month.

pub mod content;
mod history;
pub mod job;
pub mod proof;
pub mod store;

//! Seals of closed months: the figures and the digest of the history of an account up to the end of a month.
//!
//! A run leaves an account with a difference unsealed. An account has lost its seal if it has seals, but not the row of the
//! last one. An account lacks a seal if months are unsealed that were sealed for all.

pub mod content;
mod history;
pub mod job;
pub mod proof;
pub mod store;

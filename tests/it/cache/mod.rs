//! The caches that checks read: a cache never gives a check a wrong answer.

pub mod contract;
mod outages;
pub mod processes;
mod reconcile;

//! What checks read, and that no cache can make it wrong.

pub mod contract;
mod outages;
pub mod processes;
mod reconcile;

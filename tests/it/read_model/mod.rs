//! What checks read, and that no cache can make it wrong.

mod contract;
mod outages;
mod processes;
mod reconcile;

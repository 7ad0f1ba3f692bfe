//! One settlement transaction on SQLite, and the transactions that it writes.

pub mod ledger;
pub mod transactions;

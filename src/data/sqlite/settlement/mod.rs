//! The settlement transaction on SQLite, and the rows of `billing_transaction` that it writes.

pub mod ledger;
mod refunds;
pub mod transactions;

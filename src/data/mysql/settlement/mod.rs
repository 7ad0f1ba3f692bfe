//! The settlement transaction on MySQL and MariaDB, and the rows of `billing_transaction` that it
//! writes.

pub mod ledger;
mod load;
mod optimistic;
pub mod recent;
mod refunds;
pub mod transactions;

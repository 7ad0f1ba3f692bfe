//! One settlement transaction on MySQL and MariaDB, and the transactions that it writes.

pub mod ledger;
mod load;
pub mod transactions;

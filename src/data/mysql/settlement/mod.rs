//! One settlement transaction on MySQL and MariaDB, and the transactions that it writes.

pub mod ledger;
pub mod transactions;

//! Statements of accounts by month, and the rows of all accounts from which they can be recomputed.

pub mod exports;
pub mod period;
pub mod statement;

//! One settlement transaction on MySQL and MariaDB, and the transactions that it writes.

pub mod ledger;
mod load;
pub mod transactions;

/// Whether a locking read waits for the locks that other transactions hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LockMode {
    Wait,
    /// Rows that others hold are missing from the result.
    Skip,
}

impl LockMode {
    /// The end of a locking read.
    pub fn suffix(self) -> &'static str {
        match self {
            Self::Wait => " FOR UPDATE; ",
            Self::Skip => " FOR UPDATE SKIP LOCKED; ",
        }
    }
}

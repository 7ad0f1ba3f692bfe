//! The audit: compares each account with its history.
//!
//! The whole audit reads everything, and computes each seal again. The nightly audit begins at the seals, and
//! audits whole only the accounts that differ from them.

pub mod books;
pub(super) mod unsealed;
mod whole;

pub use self::{
    books::{AuditStore, DayBook, Difference, DifferingDay, Evidence, MAX_DAYS, MAX_TRANSACTIONS, compare},
    unsealed::audit_unsealed,
    whole::{AuditReport, JOB, MAX_REPORTED, audit, differences_at},
};

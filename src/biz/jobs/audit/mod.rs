//! The audit: compares each account with its history.
//!
//! The whole audit reads everything, and computes each seal again. The nightly audit begins at the seals, and
//! audits whole only the accounts that differ from them.

pub mod books;
pub(super) mod charges;
pub mod counts;
pub mod differences;
pub mod limits;
pub(super) mod pieces;
pub(super) mod unsealed;
pub(super) mod whole;

pub use self::{
    books::{AuditStore, DayBook, DifferingDay, Evidence, MAX_DAYS, compare},
    counts::unsure,
    differences::{Difference, Owner},
    pieces::{AtOnce, Sources},
    unsealed::{audit_unsealed, proven_by},
    whole::{AuditReport, JOB, MAX_REPORTED, WHOLE_JOB, audit, differences_at},
};

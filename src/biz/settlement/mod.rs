//! Settlement: every change of a balance or a used quota passes through here.
//!
//! A posting goes to the lane of its user. A lane settles the waiting postings in one transaction: the
//! store loads the state under lock, [`rule::settle`] decides, the store writes the decision
//! and commits. The callers get their answers after the commit.

pub mod accounts;
pub mod adjustments;
pub mod audit_events;
pub mod change;
pub mod commit_listener;
pub mod engine;
pub mod keys;
pub mod ledger;
pub mod lock;
pub mod lookup;
pub mod order;
pub mod order_refund;
pub mod posting;
mod pricing;
pub mod refund;
pub mod rule;
mod sanity;
pub mod sweep;
pub mod transaction;
pub mod unapplied;

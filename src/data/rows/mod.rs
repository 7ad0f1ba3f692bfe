//! Rows as values of the rules, decoded once for both databases. A decoder reads the columns in
//! the order in which the statements of `mysql` and `sqlite` name them.

pub(super) mod account;
pub(super) mod audit;
pub(super) mod audit_trail;
pub(super) mod event;
pub(super) mod jobs;
pub(super) mod key_quota;
pub(super) mod order;
pub(super) mod order_refund;
pub(super) mod price;
pub(super) mod refund;
pub(super) mod report;
pub(super) mod statement;
pub(super) mod transaction;
pub(super) mod unapplied;
pub(super) mod webhook;

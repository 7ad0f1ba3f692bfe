//! Labels from bounded sets.

use crate::biz::{account::catalog::Catalog, values::error::Error};

/// Reason of a charge that was not settled in time, or refused because the queue was full.
pub(super) const OVERLOADED: &str = "overloaded";
/// Reasons of charges that fail because of the service. All other reasons are refusals, which the
/// caller or the user causes.
pub const FAILURES: [&str; 2] = [OVERLOADED, "internal"];

/// An error, in the form that metrics count.
#[derive(Debug, Clone, Copy)]
pub struct Failure<'e> {
    pub error: &'e Error,
    /// As in the error table.
    pub reason: &'static str,
}

impl Failure<'_> {
    /// The reason as a label.
    pub fn label(&self) -> String {
        self.reason.to_lowercase()
    }
}

/// The name of the service if it is in the catalog, or `unknown`. Callers may send any text.
pub(super) fn service_label<'a>(catalog: &'a Catalog, service: &str) -> &'a str {
    catalog.find(service).map_or("unknown", |(known, _)| known.as_str())
}

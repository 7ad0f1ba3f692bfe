//! Labels from bounded sets.

use crate::biz::{account::catalog::Catalog, values::error::Error};

/// Reason of a charge that was not settled in time, or for which there was no room.
pub(super) const OVERLOADED: &str = "overloaded";
/// Reasons for which a charge fails by the service's own doing. All others are refusals,
/// which the caller or the user brought about.
pub const FAILURES: [&str; 2] = [OVERLOADED, "internal"];

/// An error as metrics count it.
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

/// The service where it is in the catalog, whatever callers send.
pub(super) fn service_label<'a>(catalog: &'a Catalog, service: &str) -> &'a str {
    catalog.find(service).map_or("unknown", |(known, _)| known.as_str())
}

//! The policy for members and query parameters that a request message does not have. Without it, a
//! misspelt id would charge twice without an error.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use crate::{
    biz::values::{error::Result, invalid::Invalid},
    config::UnknownFields,
    metrics::Metrics,
};

/// Names of one request that are kept.
const MAX_NAMES: usize = 8;
/// Characters of a name in the log and in the error.
const MAX_CHARACTERS: usize = 64;
/// Interval between two log lines; the metric counts every field.
const LOG_INTERVAL: Duration = Duration::from_secs(1);

/// The unknown names in one request.
#[derive(Debug, Default)]
pub struct UnknownNames {
    /// The first of them.
    names: Vec<String>,
    count: u64,
}

impl UnknownNames {
    /// Adds a name, with the path to it.
    pub fn add(&mut self, path: impl FnOnce() -> String) {
        self.count += 1;
        if self.names.len() < MAX_NAMES {
            self.names.push(path().chars().take(MAX_CHARACTERS).collect());
        }
    }

    /// Adds the names of another part of the request.
    pub fn append(&mut self, other: Self) {
        self.count += other.count;
        self.names.extend(other.names);
        self.names.truncate(MAX_NAMES);
    }

    #[cfg(test)]
    pub fn names(&self) -> &[String] {
        &self.names
    }
}

/// Treats unknown names as configured.
#[derive(Clone)]
pub struct UnknownPolicy {
    policy: UnknownFields,
    metrics: Arc<Metrics>,
    logged: Arc<Mutex<Option<Instant>>>,
}

impl UnknownPolicy {
    pub fn new(policy: UnknownFields, metrics: Arc<Metrics>) -> Self {
        Self { policy, metrics, logged: Arc::default() }
    }

    /// Counts, logs or refuses the names of one request on `route`.
    ///
    /// # Errors
    /// [`crate::biz::values::error::Error::Invalid`] that names the first of them.
    pub fn apply(&self, route: &str, unknown: &UnknownNames) -> Result<()> {
        let Some(first) = unknown.names.first() else { return Ok(()) };
        if self.policy == UnknownFields::Ignore {
            return Ok(());
        }
        self.metrics.requests.count_unknown_fields(route, unknown.count);
        if self.policy == UnknownFields::Reject {
            return Err(Invalid::new(first, "is unknown").into());
        }
        if self.is_log_due() {
            tracing::warn!(route, names = ?unknown.names, count = unknown.count, "request has unknown fields");
        }
        Ok(())
    }

    fn is_log_due(&self) -> bool {
        let mut logged = self.logged.lock().unwrap_or_else(PoisonError::into_inner);
        let is_due = logged.is_none_or(|at| at.elapsed() >= LOG_INTERVAL);
        if is_due {
            *logged = Some(Instant::now());
        }
        is_due
    }
}

//! The jobs: their last runs, the one that goes on, and the next.

use chrono::{DateTime, Utc};

use crate::biz::jobs::runs::StoredRun;

/// The jobs with their schedules.
pub type Timetable = dyn Fn() -> Vec<Planned> + Send + Sync;

/// A job of the timetable.
#[derive(Debug, Clone)]
pub struct Planned {
    pub job: &'static str,
    /// Cron fields in the billing zone; `None` for a job that only runs by hand.
    pub schedule: Option<&'static str>,
    pub next: Option<DateTime<Utc>>,
}

/// A job, and its last runs.
#[derive(Debug, Clone)]
pub struct JobState {
    pub planned: Planned,
    /// Whether a process runs it now.
    pub is_running: bool,
    /// The run of the latest period first.
    pub runs: Vec<StoredRun>,
}

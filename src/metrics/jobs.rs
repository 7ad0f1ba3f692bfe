//! Runs of cron's jobs.

use std::time::Duration;

use chrono::{DateTime, Utc};
use prometheus::{HistogramVec, IntCounterVec, IntGaugeVec, Opts, Registry};

use super::registration::{counters, histograms};

/// Buckets in seconds, up to the longest run.
const SECONDS: &[f64] = &[0.01, 0.1, 1.0, 10.0, 60.0, 600.0, 3_600.0, 21_600.0];

/// The end of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RunEnd {
    /// Finished without errors or differences.
    Good,
    /// Finished, with errors or differences.
    Bad,
    /// Not finished; a later run continues it.
    Unfinished,
}

pub struct JobMetrics {
    /// By job and result: good, bad, unfinished.
    runs: IntCounterVec,
    duration_seconds: HistogramVec,
    last_finished_timestamp_seconds: IntGaugeVec,
}

impl JobMetrics {
    pub(super) fn new(registry: &Registry) -> prometheus::Result<Self> {
        let last_finished_timestamp_seconds = IntGaugeVec::new(
            Opts::new("billing_job_last_finished_timestamp_seconds", "When a run finished, in seconds since 1970"),
            &["job"],
        )?;
        registry.register(Box::new(last_finished_timestamp_seconds.clone()))?;
        Ok(Self {
            runs: counters(registry, "billing_job_runs_total", "Runs of jobs", &["job", "result"])?,
            duration_seconds: histograms(
                registry,
                "billing_job_duration_seconds",
                "Time of a run",
                &["job"],
                SECONDS.to_vec(),
            )?,
            last_finished_timestamp_seconds,
        })
    }

    /// Counts a run that ended at `at`.
    pub fn count(&self, job: &str, end: RunEnd, took: Duration, at: DateTime<Utc>) {
        let result = match end {
            RunEnd::Good => "good",
            RunEnd::Bad => "bad",
            RunEnd::Unfinished => "unfinished",
        };
        self.runs.with_label_values(&[job, result]).inc();
        self.duration_seconds.with_label_values(&[job]).observe(took.as_secs_f64());
        if end != RunEnd::Unfinished {
            self.last_finished_timestamp_seconds.with_label_values(&[job]).set(at.timestamp());
        }
    }
}

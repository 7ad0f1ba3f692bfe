//! Runs the regular jobs. Several processes may have the same schedules, but one of them runs each
//! period of a job, once. A period that was missed at its begin is run by the first process that
//! starts.

mod counted;
mod display;
mod job;
mod metrics;
mod perform;
mod settlement_file;
mod webhooks;

use std::{
    num::NonZeroU32,
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::anyhow;
use chrono::{DateTime, TimeDelta, Utc};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

pub use self::{
    display::{Beginning, Display},
    job::Job,
    metrics::serve_metrics,
    settlement_file::{MATCH_SETTLEMENTS, match_settlement_file},
};
use self::{
    display::{DryProgress, RunProgress},
    job::{period_began, schedule},
};
use super::ensure_clock_agrees;
use crate::{
    biz::{
        charge::prices::import::Conversion,
        jobs::{
            progress::Progress,
            reset::FreeUnits,
            retry::repeat,
            runs::{Begun, LEASE, Run, StoredRun, in_time},
        },
        values::calendar::{Calendar, Clock},
    },
    config::Config,
    data::Store,
    metrics::{Metrics, RunEnd},
    service::{Planned, Timetable},
};

/// The jobs that apply to the configuration, with the begin of their next period.
pub fn timetable(config: &Config, calendar: Arc<Calendar>) -> Arc<Timetable> {
    let (zone, jobs) = (config.billing.timezone, Job::ALL.map(|job| (job, job.applies(config))));
    let cron = config.cron.clone();
    Arc::new(move || {
        let now = calendar.now().utc.with_timezone(&zone);
        let planned = |(job, applies): (Job, bool)| {
            let next = || schedule(job, &cron).ok()?.find_next_occurrence(&now, false).ok();
            let next = job.schedule(&cron).and_then(|_| next()).map(|next| next.to_utc());
            applies.then(|| Planned { job: job.name(), schedule: job.schedule(&cron), next })
        };
        jobs.into_iter().filter_map(planned).collect()
    })
}

/// The report of a run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JobReport {
    /// The lines that were not shown during the run. The last line is the summary.
    pub lines: Vec<String>,
    /// Whether the run found no errors.
    pub is_good: bool,
}

/// Interval at which the lease is renewed.
const RENEWAL: Duration = Duration::from_secs(LEASE.as_secs() / 4);

/// Time in which an interrupted run sends its last updates to Redis.
const INTERRUPT_TIMEOUT: Duration = Duration::from_secs(8);

/// The form of the begin of a period.
const INSTANT: &str = "%Y-%m-%dT%H:%M:%SZ";
/// Behind the begin of a stored run that was made by hand.
const BY_REQUEST: &str = "by request";
/// Stored runs that are read to find those of the schedule.
const LAST_RUNS: u32 = 100;
/// The first run of a job that reads the whole history begins so long after the begin of a period, and not at any hour
/// of the day on which a new release starts.
const FIRST_RUN: TimeDelta = TimeDelta::minutes(10);

/// A new id of a lease holder, unique among all processes.
fn owner() -> String {
    Uuid::now_v7().to_string()
}

/// Runs jobs.
pub struct Runner {
    config: Arc<Config>,
    store: Arc<dyn Store>,
    clock: Arc<dyn Clock>,
    calendar: Calendar,
    stop: CancellationToken,
    /// `None` if the metrics have no reader.
    metrics: Option<Arc<Metrics>>,
    /// The file of an import of prices.
    import: Option<ImportOptions>,
}

/// The options of [`Job::ImportPrices`].
#[derive(Debug, Clone)]
pub struct ImportOptions {
    pub file: PathBuf,
    pub conversion: Conversion,
}

impl Runner {
    pub fn new(config: Arc<Config>, store: Arc<dyn Store>, clock: Arc<dyn Clock>, stop: CancellationToken) -> Self {
        let calendar = config.calendar(clock.clone());
        Self { config, store, clock, calendar, stop, metrics: None, import: None }
    }

    /// Counts the runs and their settlements in `metrics`.
    pub fn counting(self, metrics: Option<Arc<Metrics>>) -> Self {
        if let Some(metrics) = &metrics {
            metrics.jobs.show(self.scheduled().map(|(job, _)| job.name()));
        }
        Self { metrics, ..self }
    }

    /// Imports prices from a file.
    pub fn importing(self, import: Option<ImportOptions>) -> Self {
        Self { import, ..self }
    }

    /// The scheduled jobs that apply to the configuration, with their schedules.
    pub fn scheduled(&self) -> impl Iterator<Item = (Job, &'static str)> + '_ {
        let wanted = Job::ALL.into_iter().filter(|job| job.applies(&self.config));
        wanted.filter_map(|job| Some((job, self.schedule(job)?)))
    }

    /// Cron fields of a job; `None` if it only runs by hand.
    pub fn schedule(&self, job: Job) -> Option<&'static str> {
        job.schedule(&self.config.cron)
    }

    /// The zone of the schedules.
    pub fn zone(&self) -> chrono_tz::Tz {
        self.config.billing.timezone
    }

    /// The begin of the next period.
    ///
    /// # Errors
    /// The schedule can't be parsed. The built-in schedules can.
    pub fn next(&self, job: Job) -> anyhow::Result<DateTime<Utc>> {
        let now = self.calendar.now().utc.with_timezone(&self.config.billing.timezone);
        Ok(schedule(job, &self.config.cron)?.find_next_occurrence(&now, false)?.to_utc())
    }

    /// The current period of a job: its begin by the clock of the billing zone, and the settings
    /// that the run depends on. Changed settings make a new period.
    fn period(&self, job: Job) -> anyhow::Result<String> {
        let began = self.began(job, self.calendar.now().utc)?.format(INSTANT);
        Ok(match job {
            // Changed free quotas must be written to the rows of the next month.
            Job::ResetQuotas => format!("{began} {}", self.quotas_configured()),
            // A shorter retention finds more records to move in the same period.
            Job::ArchiveRecords => format!("{began} {}m", self.config.billing.record_months.map_or(0, NonZeroU32::get)),
            _ => began.to_string(),
        })
    }

    /// The begin of the period of a job that contains `at`.
    fn began(&self, job: Job, at: DateTime<Utc>) -> anyhow::Result<DateTime<Utc>> {
        period_began(job, at, self.config.billing.timezone, &self.config.cron)
    }

    /// A short hash of the configured free quotas.
    fn quotas_configured(&self) -> String {
        use sha2::{Digest, Sha256};
        let of_service = |quota: FreeUnits| {
            let in_plans = quota.in_plans.iter().map(|(plan, units)| format!(",{}@{plan}={units}", quota.service));
            format!("{}={}{}", quota.service, quota.units, in_plans.collect::<String>())
        };
        let quotas: Vec<String> = FreeUnits::of(&self.config.catalog()).into_iter().map(of_service).collect();
        let hash = Sha256::digest(quotas.join(","));
        hash.iter().take(8).map(|byte| format!("{byte:02x}")).collect()
    }

    /// Runs a job unless its period is done or another process runs the job; `None` then.
    ///
    /// # Errors
    /// The run failed, was interrupted or took too long. It is begun again later.
    pub async fn run_due(&self, job: Job, display: &dyn Display) -> anyhow::Result<Option<JobReport>> {
        if job.reads_all_history() && self.waits_for_its_first_run(job).await? {
            return Ok(None);
        }
        let run = Run { job: job.name(), period: self.period(job)?, is_by_hand: false, owner: owner() };
        self.run(job, run, true, display).await
    }

    /// Whether a job without any stored run of its schedule waits for the begin of its next period.
    async fn waits_for_its_first_run(&self, job: Job) -> anyhow::Result<bool> {
        let now = self.calendar.now().utc;
        if now < self.began(job, now)? + FIRST_RUN {
            return Ok(false);
        }
        // Those by hand have a word behind their period.
        let runs = in_time(self.store.last_runs(job.name(), LAST_RUNS)).await?;
        Ok(runs.iter().all(|stored| stored.period.contains(' ')))
    }

    /// Runs a job now, even if its period is done; `None` if another process runs the job. With
    /// `resumes`, the run continues from the checkpoint of the last unfinished run by hand of the
    /// same period.
    ///
    /// # Errors
    /// As [`Self::run_due`].
    pub async fn run_now(&self, job: Job, resumes: bool, display: &dyn Display) -> anyhow::Result<Option<JobReport>> {
        let run = Run { job: job.name(), period: self.period(job)?, is_by_hand: true, owner: owner() };
        self.run(job, run, resumes, display).await
    }

    /// Reports the changes that a job would make now. Changes nothing, and takes no lease.
    ///
    /// # Errors
    /// A dependency of the job is unavailable, or the process is asked to stop.
    pub async fn dry_run(&self, job: Job, display: &dyn Display) -> anyhow::Result<JobReport> {
        ensure_clock_agrees(&self.config, &*self.store, &*self.clock).await?;
        let progress = DryProgress { job, display };
        let preview = self.preview(job, &progress);
        self.stop.run_until_cancelled(preview).await.unwrap_or_else(|| Err(anyhow!("interrupted")))
    }

    async fn run(&self, job: Job, run: Run, resumes: bool, display: &dyn Display) -> anyhow::Result<Option<JobReport>> {
        ensure_clock_agrees(&self.config, &*self.store, &*self.clock).await?;
        let Begun::Ours { mut position } = in_time(self.store.begin_run(&run)).await? else { return Ok(None) };
        if position.is_none() && !run.is_by_hand && job.reads_all_history() {
            position = self.unfinished(job).await?;
        }
        let started = Instant::now();
        display.begins(match (&position, resumes) {
            (Some(_), true) => Beginning::Resumed,
            (Some(_), false) => Beginning::Restarted,
            (None, _) => Beginning::First,
        });
        // Without `resumes`, the old checkpoint stays until this run stores its first one.
        let position = position.filter(|_| resumes);
        let progress = RunProgress::new(&*self.store, &run, job, display, position);
        let interrupt = CancellationToken::new();
        let performing = self.perform(job, &run.owner, &progress, &interrupt);
        tokio::pin!(performing);
        let why = tokio::select! {
            done = &mut performing => Ok(done),
            () = self.until_lease_is_lost(&run) => Err("the lease of the run is lost"),
            () = tokio::time::sleep(job.limit()) => Err("the run took too long"),
            () = self.stop.cancelled() => Err("the run was interrupted"),
        };
        let done = match why {
            Ok(done) => done,
            Err(why) => {
                // The job still sends the updates of its settlements to Redis.
                interrupt.cancel();
                let _ = tokio::time::timeout(INTERRUPT_TIMEOUT, performing).await;
                Err(anyhow!(why))
            }
        };
        if run.is_by_hand && job == Job::AuditAll && done.is_ok() {
            self.store_result(job, progress.position()).await;
        }
        let end = || in_time(self.store.end_run(&run, done.is_ok()));
        // A period that is done would be run again. An interrupted process has no time to repeat.
        let ended = if done.is_ok() { repeat(end).await } else { end().await };
        if let Err(error) = ended {
            tracing::warn!(%error, %job, "release of the lease failed; the lease expires by itself");
        }
        self.count(job, &done, started.elapsed());
        done.map(Some)
    }

    /// The position of the run of the period before, if it has not finished and no run has finished since: an audit of
    /// everything may take longer than its period, and seals of all accounts longer than a night. An older checkpoint
    /// proves nothing about today.
    async fn unfinished(&self, job: Job) -> anyhow::Result<Option<String>> {
        let began = self.began(job, self.calendar.now().utc)?;
        let before = self.began(job, began - TimeDelta::seconds(1))?.format(INSTANT).to_string();
        let runs = in_time(self.store.last_runs(job.name(), LAST_RUNS)).await?;
        let before = runs.iter().find(|stored| stored.period == before && stored.finished_at.is_none());
        let since = |before: &StoredRun| runs.iter().any(|stored| stored.finished_at >= Some(before.started_at));
        Ok(before.filter(|before| !since(before)).and_then(|before| before.position.clone()))
    }

    /// Stores the result of a whole audit by hand beside those of the schedule, so that the metrics show it. The audit
    /// is good without that.
    async fn store_result(&self, job: Job, position: Option<String>) {
        let period = format!("{} {BY_REQUEST}", self.calendar.now().utc.format(INSTANT));
        if let Err(error) = repeat(|| in_time(self.store.store_run(job.name(), &period, position.as_deref()))).await {
            tracing::warn!(%error, %job, "result of the run not stored; the metrics do not show it");
        }
    }

    fn count(&self, job: Job, done: &anyhow::Result<JobReport>, took: Duration) {
        let Some(metrics) = &self.metrics else { return };
        let end = match done {
            Ok(report) if report.is_good => RunEnd::Good,
            Ok(_) => RunEnd::Bad,
            Err(_) => RunEnd::Unfinished,
        };
        metrics.jobs.count(job.name(), end, took, self.calendar.now().utc);
    }

    /// Returns when another process has the lease.
    async fn until_lease_is_lost(&self, run: &Run) {
        loop {
            tokio::time::sleep(RENEWAL).await;
            // An error is no loss of the lease: the run fails by itself in a database outage.
            if matches!(self.store.renew_run(run, None).await, Ok(false)) {
                return;
            }
        }
    }
}

//! The runs of regular jobs. Any number of processes may know the schedules; each period of
//! a job is run once, by one of them. A period that nobody ran when it began is run by the
//! first that is there.

mod display;
mod job;
mod perform;

use std::{num::NonZeroU32, sync::Arc, time::Duration};

use anyhow::anyhow;
use chrono::{DateTime, Utc};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

pub use self::{
    display::{Beginning, Display},
    job::Job,
};
use self::{
    display::{DryProgress, RunProgress},
    job::{period_began, schedule},
};
use crate::{
    biz::{
        jobs::runs::{Begun, LEASE, Run},
        values::calendar::{Calendar, Clock},
    },
    config::Config,
    data::Store,
};

/// What a run has to say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JobReport {
    /// What was not told while it ran; the last one sums it up.
    pub lines: Vec<String>,
    /// Whether all is as it should be.
    pub is_good: bool,
}

/// How often a lease is renewed.
const RENEWAL: Duration = Duration::from_secs(LEASE.as_secs() / 4);

/// How long a run that is cut short may take to tell what it did.
const CUT_TIMEOUT: Duration = Duration::from_secs(8);

/// Unique among all processes.
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
}

impl Runner {
    pub fn new(config: Arc<Config>, store: Arc<dyn Store>, clock: Arc<dyn Clock>, stop: CancellationToken) -> Self {
        let calendar = Calendar::new(config.billing.timezone, clock.clone());
        Self { config, store, clock, calendar, stop }
    }

    /// The jobs that are run regularly and that the configuration has a use for, with their
    /// schedules.
    pub fn scheduled(&self) -> impl Iterator<Item = (Job, &'static str)> + '_ {
        let wanted = Job::ALL.into_iter().filter(|job| match job {
            Job::ReconcileRecharges => self.config.payment_service.is_some(),
            Job::ReconcileCache => self.config.data.redis.is_some(),
            Job::ArchiveRecords => self.config.billing.record_months.is_some(),
            _ => true,
        });
        wanted.filter_map(|job| Some((job, job.schedule()?)))
    }

    /// In which the schedules are.
    pub fn zone(&self) -> chrono_tz::Tz {
        self.config.billing.timezone
    }

    /// When a period begins next.
    ///
    /// # Errors
    /// None of the schedules there are.
    pub fn next(&self, job: Job) -> anyhow::Result<DateTime<Utc>> {
        let now = self.calendar.now().utc.with_timezone(&self.config.billing.timezone);
        Ok(schedule(job)?.find_next_occurrence(&now, false)?.to_utc())
    }

    /// The period that a job is in: when it began, by the clock of the billing zone. What
    /// the job depends on makes another period of it.
    fn period(&self, job: Job) -> anyhow::Result<String> {
        let now = self.calendar.now().utc;
        let began = period_began(job, now, self.config.billing.timezone)?.format("%Y-%m-%dT%H:%M:%SZ");
        Ok(match job {
            // Quotas that are configured anew are those of the next month.
            Job::ResetQuotas => format!("{began} {}", self.quotas_configured()),
            // A shorter time finds records to move in a month that is done.
            Job::ArchiveRecords => format!("{began} {}m", self.config.billing.record_months.map_or(0, NonZeroU32::get)),
            _ => began.to_string(),
        })
    }

    /// A short name of the free quotas that are configured.
    fn quotas_configured(&self) -> String {
        use sha2::{Digest, Sha256};
        let quotas: Vec<String> =
            self.config.catalog().iter().map(|(service, plan)| format!("{service}={}", plan.free_quota)).collect();
        let hash = Sha256::digest(quotas.join(","));
        hash.iter().take(8).map(|byte| format!("{byte:02x}")).collect()
    }

    /// Runs a job if its period was not run yet and nobody runs it; `None` otherwise.
    ///
    /// # Errors
    /// The run failed, was cut short or took too long: it is begun again later.
    pub async fn run_due(&self, job: Job, display: &dyn Display) -> anyhow::Result<Option<JobReport>> {
        let run = Run { job: job.name(), period: self.period(job)?, is_by_hand: false, owner: owner() };
        self.run(job, run, true, display).await
    }

    /// Runs a job now, whatever was run; `None` where another process runs it. One that
    /// `resumes` goes on where the last run by hand of the same period got to, if that was
    /// not finished.
    ///
    /// # Errors
    /// As [`Self::run_due`].
    pub async fn run_now(&self, job: Job, resumes: bool, display: &dyn Display) -> anyhow::Result<Option<JobReport>> {
        let run = Run { job: job.name(), period: self.period(job)?, is_by_hand: true, owner: owner() };
        self.run(job, run, resumes, display).await
    }

    /// What a job would do now. Nothing is changed, and no lease is taken.
    ///
    /// # Errors
    /// What the job asks does not answer, or the process is asked to stop.
    pub async fn dry_run(&self, job: Job, display: &dyn Display) -> anyhow::Result<JobReport> {
        let progress = DryProgress { job, display };
        let preview = self.preview(job, &progress);
        self.stop.run_until_cancelled(preview).await.unwrap_or_else(|| Err(anyhow!("cut short")))
    }

    async fn run(&self, job: Job, run: Run, resumes: bool, display: &dyn Display) -> anyhow::Result<Option<JobReport>> {
        let Begun::Ours { position } = self.store.begin_run(&run).await? else { return Ok(None) };
        display.begins(match (&position, resumes) {
            (Some(_), true) => Beginning::Resumed,
            (Some(_), false) => Beginning::Anew,
            (None, _) => Beginning::First,
        });
        // What is kept of a run that is not gone on from stays until this one gets somewhere.
        let position = position.filter(|_| resumes);
        let progress = RunProgress::new(&*self.store, &run, job, display, position);
        let cut = CancellationToken::new();
        let performing = self.perform(job, &progress, &cut);
        tokio::pin!(performing);
        let why = tokio::select! {
            done = &mut performing => Ok(done),
            () = self.lose_lease(&run) => Err("the lease of the run is lost"),
            () = tokio::time::sleep(job.limit()) => Err("the run took too long"),
            () = self.stop.cancelled() => Err("the run was cut short"),
        };
        let done = match why {
            Ok(done) => done,
            Err(why) => {
                // What was settled by then is still told to Redis.
                cut.cancel();
                let _ = tokio::time::timeout(CUT_TIMEOUT, performing).await;
                Err(anyhow!(why))
            }
        };
        if let Err(error) = self.store.end_run(&run, done.is_ok()).await {
            tracing::warn!(%error, %job, "the lease of the run ends by itself");
        }
        done.map(Some)
    }

    /// Returns when the lease can't be renewed any more.
    async fn lose_lease(&self, run: &Run) {
        loop {
            tokio::time::sleep(RENEWAL).await;
            // An outage of the database ends the run by itself, or passes before the lease.
            if matches!(self.store.renew_run(run, None).await, Ok(false)) {
                return;
            }
        }
    }
}

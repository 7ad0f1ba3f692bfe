//! The runs of regular jobs. Any number of processes may know the schedules; each period of
//! a job is run once, by one of them. A period that nobody ran when it began is run by the
//! first that is there.

mod job;

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use anyhow::anyhow;
use async_trait::async_trait;
use chrono::{DateTime, Utc};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

pub use self::job::Job;
use self::job::{period_began, schedule};
use super::jobs;
use crate::{
    biz::{
        audit,
        calendar::{Calendar, Clock},
        error::StoreError,
        progress::Progress,
        reset::reset_quotas,
        runs::{Begun, LEASE, Run},
    },
    config::Config,
    data::Store,
};

/// What a run has to say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// The last one sums it up.
    pub lines: Vec<String>,
    /// Whether all is as it should be.
    pub is_good: bool,
}

/// How a run is shown while it goes on.
pub trait Display: Send + Sync {
    /// So many items more are done.
    fn advance(&self, items: u64);
}

/// How often a lease is renewed.
const RENEWAL: Duration = Duration::from_secs(LEASE.as_secs() / 4);

/// How long a run that is cut short may take to tell what it did.
const CUT_TIMEOUT: Duration = Duration::from_secs(8);

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

    /// The jobs that the configuration has a use for.
    pub fn jobs(&self) -> impl Iterator<Item = Job> + '_ {
        Job::ALL.into_iter().filter(|job| match job {
            Job::ReconcileRecharges => self.config.payment_service.is_some(),
            Job::ReconcileCache => self.config.data.redis.is_some(),
            _ => true,
        })
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
    pub async fn run_due(&self, job: Job, display: &dyn Display) -> anyhow::Result<Option<Report>> {
        self.run(job, self.period(job)?, display).await
    }

    /// Runs a job now, whatever was run; `None` where another process runs it.
    ///
    /// # Errors
    /// As [`Self::run_due`].
    pub async fn run_now(&self, job: Job, display: &dyn Display) -> anyhow::Result<Option<Report>> {
        self.run(job, format!("now {}", Uuid::now_v7()), display).await
    }

    async fn run(&self, job: Job, period: String, display: &dyn Display) -> anyhow::Result<Option<Report>> {
        let run = Run { job: job.name(), period, owner: Uuid::now_v7().to_string() };
        let Begun::Ours { position } = self.store.begin_run(&run).await? else { return Ok(None) };
        if position.is_some() {
            tracing::info!(%job, "going on where the last run got to");
        }
        let progress = RunProgress { store: &*self.store, run: &run, display, position: Mutex::new(position) };
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

    /// Ends soon after `cut`. Jobs that settle see to that themselves: Redis is told of what
    /// they did. The others may be dropped anywhere.
    async fn perform(&self, job: Job, progress: &dyn Progress, cut: &CancellationToken) -> anyhow::Result<Report> {
        match job {
            Job::ResetQuotas => unless(cut, self.reset(progress)).await,
            Job::ExpireReservations => self.expire(cut).await,
            Job::ReconcileRecharges => self.settle_recharges(cut).await,
            Job::ReconcileCache => unless(cut, self.compare_cache(false)).await,
            Job::Audit => unless(cut, self.audit()).await,
        }
    }

    async fn reset(&self, progress: &dyn Progress) -> anyhow::Result<Report> {
        let reset = reset_quotas(&*self.store, &self.config.catalog(), &self.calendar, progress).await?;
        let named = reset.named.iter().map(|user| format!("reset-quotas: user {user} was left out"));
        let sum = format!("reset-quotas: {} users open, {} failed", reset.users, reset.failed);
        Ok(Report { lines: named.chain([sum]).collect(), is_good: reset.failed == 0 })
    }

    async fn expire(&self, cut: &CancellationToken) -> anyhow::Result<Report> {
        let swept = jobs::sweep(&self.config, self.store.clone(), self.clock.clone(), cut).await?;
        let line = format!("expire-reservations: {} holds freed, {} failed", swept.freed, swept.failed);
        Ok(Report { lines: vec![line], is_good: swept.failed == 0 })
    }

    async fn settle_recharges(&self, cut: &CancellationToken) -> anyhow::Result<Report> {
        let done = jobs::reconcile_recharges(&self.config, self.store.clone(), self.clock.clone(), cut).await?;
        let line = format!(
            "reconcile-recharges: {} credited, {} failed, {} expired, {} left, {} errors",
            done.credited, done.failed, done.expired, done.left, done.errors
        );
        Ok(Report { lines: vec![line], is_good: done.errors == 0 })
    }

    async fn audit(&self) -> anyhow::Result<Report> {
        let report = audit::audit(&*self.store).await?;
        let differences = report.differences.iter().map(ToString::to_string);
        let sum = format!("audit: {} users, {} differences", report.users, report.difference_count);
        Ok(Report { lines: differences.chain([sum]).collect(), is_good: report.difference_count == 0 })
    }

    /// What [`Job::ReconcileCache`] finds, and mends unless this is a dry run.
    ///
    /// # Errors
    /// Redis or the database does not answer.
    pub async fn compare_cache(&self, is_dry_run: bool) -> anyhow::Result<Report> {
        let clock = self.clock.clone();
        let Some(found) = jobs::reconcile_cache(&self.config, self.store.clone(), clock, is_dry_run).await? else {
            let line = "reconcile-cache: data.redis is not configured; there is nothing to compare".into();
            return Ok(Report { lines: vec![line], is_good: true });
        };
        let differences = found.differences.iter().map(ToString::to_string);
        let (compared, differing, repaired) = (found.compared, found.differing, found.repaired);
        let sum = format!("reconcile-cache: {compared} compared, {differing} differing, {repaired} repaired");
        Ok(Report { lines: differences.chain([sum]).collect(), is_good: repaired == differing })
    }
}

async fn unless(
    cut: &CancellationToken,
    running: impl Future<Output = anyhow::Result<Report>>,
) -> anyhow::Result<Report> {
    cut.run_until_cancelled(running).await.unwrap_or_else(|| Err(anyhow!("cut short")))
}

/// The progress of a run, kept with its lease.
struct RunProgress<'r> {
    store: &'r dyn Store,
    run: &'r Run,
    display: &'r dyn Display,
    position: Mutex<Option<String>>,
}

#[async_trait]
impl Progress for RunProgress<'_> {
    fn position(&self) -> Option<String> {
        self.position.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    async fn reached(&self, position: &str, items: u64) -> Result<(), StoreError> {
        if !self.store.renew_run(self.run, Some(position)).await? {
            return Err(StoreError::Unavailable("the lease of the run is lost".into()));
        }
        *self.position.lock().unwrap_or_else(PoisonError::into_inner) = Some(position.to_owned());
        self.display.advance(items);
        Ok(())
    }
}

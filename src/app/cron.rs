//! The regular jobs: their schedules, and their runs. Any number of processes may know the
//! schedules; each period of a job is run once, by one of them. A period that nobody ran
//! when it began is run by the first that is there.

use std::{
    fmt,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use anyhow::{Context, anyhow};
use async_trait::async_trait;
use chrono::{DateTime, Timelike, Utc};
use croner::{Cron, parser::CronParser};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

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

/// A regular job.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Job {
    /// Open this month and the next for every user.
    ResetQuotas,
    /// Free the holds of reservations that are past their expiry.
    ExpireReservations,
    /// Look up the top-ups that stay pending at payment-service, and settle them.
    ReconcileRecharges,
    /// Compare what Redis has of accounts and API keys with the database, and drop from it
    /// what differs.
    ReconcileCache,
    /// Prove that every balance, quota and rollup follows from its history.
    Audit,
}

impl Job {
    pub const ALL: [Self; 5] =
        [Self::ResetQuotas, Self::ExpireReservations, Self::ReconcileRecharges, Self::ReconcileCache, Self::Audit];

    pub fn name(self) -> &'static str {
        match self {
            Self::ResetQuotas => "reset-quotas",
            Self::ExpireReservations => "expire-reservations",
            Self::ReconcileRecharges => "reconcile-recharges",
            Self::ReconcileCache => "reconcile-cache",
            Self::Audit => "audit",
        }
    }

    /// In the billing zone: second, minute, hour, day of month, month, day of week.
    pub fn schedule(self) -> &'static str {
        match self {
            Self::ResetQuotas => "0 0 0 1 * *",
            Self::ExpireReservations => "0 * * * * *",
            Self::ReconcileRecharges => "0 */5 * * * *",
            Self::ReconcileCache => "30 */5 * * * *",
            Self::Audit => "0 30 3 * * *",
        }
    }

    pub fn description(self) -> &'static str {
        match self {
            Self::ResetQuotas => "open this month and the next for every user",
            Self::ExpireReservations => "free the holds of reservations that are past their expiry",
            Self::ReconcileRecharges => "look up pending top-ups at payment-service, and settle them",
            Self::ReconcileCache => "compare Redis with the database, and drop from it what differs",
            Self::Audit => "prove that balances, quotas and rollups follow from their history; exit 1 if not",
        }
    }

    /// Whether it runs every so many minutes, in any zone alike.
    fn is_frequent(self) -> bool {
        !matches!(self, Self::ResetQuotas | Self::Audit)
    }

    /// How long a run may take; one that hangs must not keep the next ones from running.
    fn limit(self) -> Duration {
        match self {
            Self::ResetQuotas | Self::Audit => Duration::from_secs(6 * 3_600),
            _ => Duration::from_secs(30 * 60),
        }
    }
}

impl fmt::Display for Job {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

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
const RENEWAL: Duration = LEASE.checked_div(4).unwrap();

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

    /// Ends soon after `cut`.
    async fn perform(&self, job: Job, progress: &dyn Progress, cut: &CancellationToken) -> anyhow::Result<Report> {
        match job {
            Job::ExpireReservations | Job::ReconcileRecharges => self.settle(job, cut).await,
            _ => {
                let read = cut.run_until_cancelled(self.read_or_open(job, progress)).await;
                read.unwrap_or_else(|| Err(anyhow!("cut short")))
            }
        }
    }

    /// Jobs that settle, through lanes of their own.
    async fn settle(&self, job: Job, cut: &CancellationToken) -> anyhow::Result<Report> {
        let (config, store) = (&*self.config, self.store.clone());
        if job == Job::ExpireReservations {
            let swept = jobs::sweep(config, store, self.clock.clone(), cut).await?;
            let line = format!("expire-reservations: {} holds freed, {} failed", swept.freed, swept.failed);
            return Ok(Report { lines: vec![line], is_good: swept.failed == 0 });
        }
        let done = jobs::reconcile_recharges(config, store, self.clock.clone(), cut).await?;
        let line = format!(
            "reconcile-recharges: {} credited, {} failed, {} expired, {} left, {} errors",
            done.credited, done.failed, done.expired, done.left, done.errors
        );
        Ok(Report { lines: vec![line], is_good: done.errors == 0 })
    }

    /// Jobs that may be dropped anywhere.
    async fn read_or_open(&self, job: Job, progress: &dyn Progress) -> anyhow::Result<Report> {
        let (config, store) = (&*self.config, self.store.clone());
        match job {
            Job::ResetQuotas => {
                let reset = reset_quotas(&*store, &config.catalog(), &self.calendar, progress).await?;
                let named = reset.named.iter().map(|user| format!("reset-quotas: user {user} was left out"));
                let sum = format!("reset-quotas: {} users open, {} failed", reset.users, reset.failed);
                Ok(Report { lines: named.chain([sum]).collect(), is_good: reset.failed == 0 })
            }
            Job::ReconcileCache => self.compare_cache(false).await,
            Job::Audit => {
                let report = audit::audit(&*store).await?;
                let differences = report.differences.iter().map(ToString::to_string);
                let sum = format!("audit: {} users, {} differences", report.users, report.difference_count);
                Ok(Report { lines: differences.chain([sum]).collect(), is_good: report.difference_count == 0 })
            }
            Job::ExpireReservations | Job::ReconcileRecharges => Err(anyhow!("{job} settles")),
        }
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

/// When the period began that an instant is in.
fn period_began(job: Job, at: DateTime<Utc>, zone: chrono_tz::Tz) -> anyhow::Result<DateTime<Utc>> {
    // In the hour that comes twice when clocks go back, minutes of the zone name two instants.
    let zone = if job.is_frequent() { chrono_tz::UTC } else { zone };
    // Schedules know no fractions of a second.
    let at = at.with_timezone(&zone).with_nanosecond(0).unwrap_or_else(|| at.with_timezone(&zone));
    let schedule = schedule(job)?;
    let began = schedule.find_previous_occurrence(&at, true)?;
    // A time that the clocks skipped is found from before it alone.
    let next = schedule.find_next_occurrence(&began, false)?;
    Ok(if next <= at { next } else { began }.to_utc())
}

fn schedule(job: Job) -> anyhow::Result<Cron> {
    let parser = CronParser::builder().seconds(croner::parser::Seconds::Required).build();
    parser.parse(job.schedule()).with_context(|| format!("the schedule of {job}"))
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

#[cfg(test)]
mod tests {
    use super::*;

    fn began(job: Job, at: &str, zone: &str) -> String {
        let began = period_began(job, at.parse().unwrap(), zone.parse().unwrap()).unwrap();
        began.format("%Y-%m-%dT%H:%M:%SZ").to_string()
    }

    #[test]
    fn a_period_begins_with_its_first_instant() {
        let began = |at: &str| began(Job::ResetQuotas, at, "Asia/Shanghai");
        assert_eq!(began("2026-10-31T15:59:59.999999Z"), "2026-09-30T16:00:00Z");
        assert_eq!(began("2026-10-31T16:00:00Z"), "2026-10-31T16:00:00Z");
        assert_eq!(began("2026-10-31T16:00:00.000001Z"), "2026-10-31T16:00:00Z");
        assert_eq!(began("2028-02-29T15:59:59Z"), "2028-01-31T16:00:00Z");
        assert_eq!(began("2028-02-29T16:00:00Z"), "2028-02-29T16:00:00Z");
    }

    #[test]
    fn periods_follow_the_clocks_of_the_zone() {
        // Before and after the change to summer time, and back.
        for (at, expected) in [
            ("2026-03-28T12:00:00Z", "2026-03-28T02:30:00Z"),
            ("2026-03-29T12:00:00Z", "2026-03-29T01:30:00Z"),
            ("2026-10-24T12:00:00Z", "2026-10-24T01:30:00Z"),
            ("2026-10-25T12:00:00Z", "2026-10-25T02:30:00Z"),
        ] {
            assert_eq!(began(Job::Audit, at, "Europe/Berlin"), expected);
        }
    }

    #[test]
    fn minutes_go_on_in_the_hour_that_comes_twice() {
        let minute = |at: &str| began(Job::ExpireReservations, at, "Europe/Berlin");
        assert_eq!(minute("2026-10-25T00:30:10Z"), "2026-10-25T00:30:00Z");
        assert_eq!(minute("2026-10-25T01:30:10Z"), "2026-10-25T01:30:00Z");
        assert_eq!(began(Job::ReconcileCache, "2026-10-25T01:34:10Z", "Europe/Berlin"), "2026-10-25T01:30:30Z");
    }

    #[test]
    fn a_month_whose_first_midnight_is_skipped_begins_all_the_same() {
        // Clocks went from 24:00 to 01:00 on that day.
        let at = "2017-10-01T04:00:01Z";
        let october = began(Job::ResetQuotas, at, "America/Asuncion");
        assert!(october.starts_with("2017-10-01T"), "{october}");
    }

    #[test]
    fn every_schedule_is_understood() {
        for job in Job::ALL {
            assert!(began(job, "2026-11-21T12:00:00Z", "Asia/Shanghai").as_str() <= "2026-11-21T12:00:00Z", "{job}");
        }
    }
}

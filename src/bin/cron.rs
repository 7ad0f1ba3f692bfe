//! Jobs beside the service: run one now, or all on their schedules.

use std::{path::PathBuf, pin::Pin, process::ExitCode, sync::Arc, time::Duration};

use billing_service::{
    app,
    biz::{audit, calendar::SystemClock, recharge::reconcile::Reconciled},
    command,
    config::Config,
    data::Store,
};
use clap::{Parser, ValueEnum};
use tokio::sync::Semaphore;
use tokio_cron_scheduler::{Job, JobScheduler};

/// Runs the jobs of the billing service on their schedules, or one of them now.
#[derive(Parser)]
#[command(name = "cron")]
struct Arguments {
    /// Configuration file; -conf works too.
    #[arg(long, default_value = "configs/config.yaml")]
    conf: PathBuf,
    /// Run this job now and exit.
    #[arg(long, value_name = "JOB")]
    once: Option<JobName>,
    /// With --once reconcile-cache: print what differs, and change nothing.
    #[arg(long, requires = "once")]
    dry_run: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum JobName {
    /// Prove that every balance, quota and rollup follows from its history; exit 1
    /// when one does not.
    Audit,
    /// Free the holds of reservations that are past their expiry.
    ExpireReservations,
    /// Look up the top-ups that stay pending at payment-service, and settle them.
    ReconcileRecharges,
    /// Compare what Redis has of accounts and API keys with the database, and drop from it
    /// what differs.
    ReconcileCache,
}

/// In the billing zone: second, minute, hour, day of month, month, day of week.
const AUDIT_SCHEDULE: &str = "0 30 3 * * *";
const EXPIRE_SCHEDULE: &str = "0 * * * * *";
const RECONCILE_SCHEDULE: &str = "0 */5 * * * *";
const RECONCILE_CACHE_SCHEDULE: &str = "30 */5 * * * *";

/// How long a run may take; one that hangs must not keep the next ones from running.
const JOB_LIMIT: Duration = Duration::from_secs(30 * 60);
const AUDIT_LIMIT: Duration = Duration::from_secs(6 * 3_600);

fn main() -> ExitCode {
    command::exit_code(run())
}

#[tokio::main]
async fn run() -> anyhow::Result<ExitCode> {
    let arguments = Arguments::parse_from(command::arguments());
    let config = command::prepare(&arguments.conf)?;
    if arguments.dry_run && arguments.once != Some(JobName::ReconcileCache) {
        anyhow::bail!("--dry-run is of reconcile-cache only");
    }
    let (store, code);
    match arguments.once {
        Some(job) => {
            store = app::connect_existing(&config).await?;
            code = match job {
                JobName::Audit => audit(&*store).await?,
                JobName::ExpireReservations => expire_reservations(&config, store.clone()).await?,
                JobName::ReconcileRecharges => reconcile_recharges(&config, store.clone()).await?,
                JobName::ReconcileCache => reconcile_cache(&config, store.clone(), arguments.dry_run).await?,
            };
        }
        // Beside a server that may be about to make its first database.
        None => {
            store = app::connect(&config).await?;
            run_schedules(store.clone(), config).await?;
            code = ExitCode::SUCCESS;
        }
    }
    app::close(&*store).await;
    Ok(code)
}

/// Runs until asked to stop. Two crons at once do no harm: an audit only reads, and a
/// hold is freed and a top-up credited once, whoever comes first.
async fn run_schedules(store: Arc<dyn Store>, config: Config) -> anyhow::Result<()> {
    // Caught before it says that it waits.
    let stop = command::stop_signal()?;
    let mut scheduler = JobScheduler::new().await?;
    let zone = config.billing.timezone;
    let config = Arc::new(config);
    let job = |run: fn(Arc<Config>, Arc<dyn Store>) -> Running| {
        let (config, store) = (config.clone(), store.clone());
        move || run(config.clone(), store.clone())
    };
    let audit = job(|_, store| Box::pin(async move { audit(&*store).await }));
    scheduler.add(scheduled(AUDIT_SCHEDULE, zone, ("audit", AUDIT_LIMIT), audit)?).await?;
    let expire = job(|config, store| Box::pin(async move { expire_reservations(&config, store).await }));
    scheduler.add(scheduled(EXPIRE_SCHEDULE, zone, ("expire-reservations", JOB_LIMIT), expire)?).await?;
    if config.payment_service.is_some() {
        let reconcile = job(|config, store| Box::pin(async move { reconcile_recharges(&config, store).await }));
        scheduler.add(scheduled(RECONCILE_SCHEDULE, zone, ("reconcile-recharges", JOB_LIMIT), reconcile)?).await?;
    }
    if config.data.redis.is_some() {
        let reconcile = job(|config, store| Box::pin(async move { reconcile_cache(&config, store, false).await }));
        scheduler.add(scheduled(RECONCILE_CACHE_SCHEDULE, zone, ("reconcile-cache", JOB_LIMIT), reconcile)?).await?;
    }
    scheduler.start().await?;
    tracing::info!(%zone, "waiting for the schedules");
    stop.await;
    scheduler.shutdown().await?;
    Ok(())
}

/// One run of a job.
type Running = Pin<Box<dyn Future<Output = anyhow::Result<ExitCode>> + Send>>;

/// A job that logs when it fails or takes longer than its limit. While it runs it does not
/// begin again.
fn scheduled(
    schedule: &str,
    zone: chrono_tz::Tz,
    (name, limit): (&'static str, Duration),
    job: impl Fn() -> Running + Send + Sync + 'static,
) -> anyhow::Result<Job> {
    tracing::info!(name, schedule, "scheduled");
    let place = Arc::new(Semaphore::new(1));
    let run = move |_, _| -> Pin<Box<dyn Future<Output = ()> + Send>> {
        let Ok(place) = place.clone().try_acquire_owned() else {
            tracing::warn!(name, "the job is still running, and left out this time");
            return Box::pin(std::future::ready(()));
        };
        let running = job();
        Box::pin(async move {
            match tokio::time::timeout(limit, running).await {
                Ok(Ok(_)) => {}
                Ok(Err(error)) => tracing::error!(%error, name, "job failed"),
                Err(_) => tracing::error!(name, "the job took too long and was given up"),
            }
            drop(place);
        })
    };
    Ok(Job::new_async_tz(schedule, zone, run)?)
}

async fn audit(store: &dyn Store) -> anyhow::Result<ExitCode> {
    let report = audit::audit(store).await?;
    for difference in &report.differences {
        println!("{difference}");
    }
    println!("audit: {} users, {} differences", report.users, report.difference_count);
    if report.difference_count == 0 {
        return Ok(ExitCode::SUCCESS);
    }
    tracing::error!(differences = report.difference_count, "the books do not balance");
    Ok(ExitCode::FAILURE)
}

async fn expire_reservations(config: &Config, store: Arc<dyn Store>) -> anyhow::Result<ExitCode> {
    let swept = app::sweep(config, store, SystemClock).await?;
    println!("expire-reservations: {} holds freed, {} failed", swept.freed, swept.failed);
    Ok(if swept.failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

async fn reconcile_recharges(config: &Config, store: Arc<dyn Store>) -> anyhow::Result<ExitCode> {
    let Reconciled { credited, failed, expired, left, errors } =
        app::reconcile_recharges(config, store, SystemClock).await?;
    println!(
        "reconcile-recharges: {credited} credited, {failed} failed, {expired} expired, {left} left, {errors} errors"
    );
    Ok(if errors == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

async fn reconcile_cache(config: &Config, store: Arc<dyn Store>, is_dry_run: bool) -> anyhow::Result<ExitCode> {
    let Some(reconciled) = app::reconcile_cache(config, store, SystemClock, is_dry_run).await? else {
        println!("reconcile-cache: data.redis is not configured; there is nothing to compare");
        return Ok(ExitCode::SUCCESS);
    };
    for difference in &reconciled.differences {
        println!("{difference}");
    }
    let (compared, differing, repaired) = (reconciled.compared, reconciled.differing, reconciled.repaired);
    println!("reconcile-cache: {compared} compared, {differing} differing, {repaired} repaired");
    if differing > 0 {
        tracing::error!(differing, repaired, "Redis and the database differed");
    }
    Ok(if repaired == differing { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

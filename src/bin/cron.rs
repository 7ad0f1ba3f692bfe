//! Jobs beside the service: run one now, or all on their schedules.

use std::{
    io::IsTerminal,
    path::PathBuf,
    process::ExitCode,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context, bail};
use billing_service::{
    app::{
        self,
        cron::{Display, Job, Report, Runner},
    },
    biz::calendar::SystemClock,
    command,
};
use clap::{Parser, builder::PossibleValuesParser};
use tokio::sync::Semaphore;
use tokio_cron_scheduler::JobScheduler;
use tokio_util::sync::CancellationToken;

/// Runs the jobs of the billing service on their schedules, or one of them now.
#[derive(Parser)]
#[command(name = "cron")]
struct Arguments {
    /// Configuration file; -conf works too.
    #[arg(long, default_value = "configs/config.yaml")]
    conf: PathBuf,
    /// Run this job now and exit.
    #[arg(long, value_name = "JOB", value_parser = PossibleValuesParser::new(Job::ALL.map(Job::name)))]
    once: Option<String>,
    /// With --once reconcile-cache: print what differs, and change nothing.
    #[arg(long, requires = "once")]
    dry_run: bool,
    /// Print the jobs and when they run next, and exit.
    #[arg(long, conflicts_with = "once")]
    list: bool,
}

/// Runs that were missed, as by a process that died, are caught up with this often; the
/// schedules themselves are exact.
const CATCH_UP_SCHEDULE: &str = "15 * * * * *";

/// How long runs may take to end when the process is asked to stop.
const STOP_TIMEOUT: Duration = Duration::from_secs(10);

fn main() -> ExitCode {
    command::exit_code(run())
}

#[tokio::main]
async fn run() -> anyhow::Result<ExitCode> {
    let arguments = Arguments::parse_from(command::arguments());
    let config = Arc::new(command::prepare(&arguments.conf)?);
    let once = match &arguments.once {
        Some(name) => Some(Job::ALL.into_iter().find(|job| job.name() == name).context("an unknown job")?),
        None => None,
    };
    if arguments.dry_run && once != Some(Job::ReconcileCache) {
        bail!("--dry-run is of reconcile-cache only");
    }
    // Caught before it says that it waits.
    let stop_signal = command::stop_signal()?;
    let is_service = once.is_none() && !arguments.list;
    // The service may run beside a server that is about to make its first database.
    let store = if is_service { app::connect(&config).await? } else { app::connect_existing(&config).await? };
    let stop = CancellationToken::new();
    let runner = Arc::new(Runner::new(config, store.clone(), Arc::new(SystemClock), stop.clone()));
    tokio::spawn({
        let stop = stop.clone();
        async move {
            stop_signal.await;
            stop.cancel();
        }
    });
    let code = match once {
        Some(_) if arguments.dry_run => print(&runner.compare_cache(true).await?),
        Some(job) => run_now(&runner, job).await?,
        None if arguments.list => list(&runner)?,
        None => {
            run_schedules(runner, stop).await?;
            ExitCode::SUCCESS
        }
    };
    app::close(&*store).await;
    Ok(code)
}

async fn run_now(runner: &Runner, job: Job) -> anyhow::Result<ExitCode> {
    match runner.run_now(job, &Shown::of(job)).await? {
        Some(report) => Ok(print(&report)),
        None => bail!("{job} runs elsewhere at the moment"),
    }
}

fn list(runner: &Runner) -> anyhow::Result<ExitCode> {
    for job in Job::ALL {
        let next = if runner.jobs().any(|wanted| wanted == job) {
            runner.next(job)?.format("%Y-%m-%dT%H:%M:%SZ").to_string()
        } else {
            "not configured".to_owned()
        };
        println!("{:<20} {:<15} next {next}: {}", job.name(), job.schedule(), job.description());
    }
    Ok(ExitCode::SUCCESS)
}

fn print(report: &Report) -> ExitCode {
    report.lines.iter().for_each(|line| println!("{line}"));
    if report.is_good { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Runs until asked to stop, beginning with what was missed. Runs that are cut short go on
/// later, here or elsewhere.
async fn run_schedules(runner: Arc<Runner>, stop: CancellationToken) -> anyhow::Result<()> {
    let mut scheduler = JobScheduler::new().await?;
    let places = Arc::new(Places::new());
    let zone = runner.zone();
    for job in runner.jobs() {
        tracing::info!(%job, schedule = job.schedule(), "scheduled");
        let (runner, places) = (runner.clone(), places.clone());
        let trigger = tokio_cron_scheduler::Job::new_async_tz(job.schedule(), zone, move |_, _| {
            Box::pin(run_due(runner.clone(), places.clone(), job))
        });
        scheduler.add(trigger?).await?;
    }
    let catch_up = {
        let (runner, places) = (runner.clone(), places.clone());
        move || {
            for job in runner.jobs() {
                tokio::spawn(run_due(runner.clone(), places.clone(), job));
            }
        }
    };
    catch_up();
    let trigger = tokio_cron_scheduler::Job::new_tz(CATCH_UP_SCHEDULE, zone, move |_, _| catch_up());
    scheduler.add(trigger?).await?;
    scheduler.start().await?;
    tracing::info!(%zone, "waiting for the schedules");
    stop.cancelled().await;
    scheduler.shutdown().await?;
    places.until_free().await;
    Ok(())
}

/// One run at a time of each job in this process.
struct Places(Vec<Arc<Semaphore>>);

impl Places {
    fn new() -> Self {
        Self(Job::ALL.iter().map(|_| Arc::new(Semaphore::new(1))).collect())
    }

    fn of(&self, job: Job) -> Arc<Semaphore> {
        let number = Job::ALL.iter().position(|known| *known == job).unwrap_or_default();
        self.0[number].clone()
    }

    /// Waits until the runs have ended, for a bounded time.
    async fn until_free(&self) {
        let free = async {
            for place in &self.0 {
                let _ = place.acquire().await;
            }
        };
        if tokio::time::timeout(STOP_TIMEOUT, free).await.is_err() {
            tracing::warn!("a run did not end in time");
        }
    }
}

async fn run_due(runner: Arc<Runner>, places: Arc<Places>, job: Job) {
    let Ok(_place) = places.of(job).try_acquire_owned() else { return };
    match runner.run_due(job, &Shown::of(job)).await {
        Ok(None) => {}
        Ok(Some(report)) => {
            for line in &report.lines {
                println!("{line}");
            }
            if !report.is_good {
                tracing::error!(%job, "the run found what should not be");
            }
        }
        Err(error) => tracing::error!(%error, %job, "the run failed, and is begun again"),
    }
}

/// Shows how far a run has got: on a terminal in place, otherwise in a log line now and then.
struct Shown {
    job: Job,
    done: AtomicU64,
    begun: Instant,
    /// Seconds after `begun` at which it was last shown.
    shown: AtomicU64,
}

/// Seconds between two log lines.
const SHOW_EVERY: u64 = 5;

impl Shown {
    fn of(job: Job) -> Self {
        Self { job, done: AtomicU64::new(0), begun: Instant::now(), shown: AtomicU64::new(0) }
    }
}

impl Display for Shown {
    fn advance(&self, items: u64) {
        let done = self.done.fetch_add(items, Ordering::Relaxed) + items;
        let seconds = self.begun.elapsed().as_secs();
        if std::io::stderr().is_terminal() {
            eprint!("\r{}: {done} users in {seconds} s ", self.job);
        } else if seconds >= self.shown.load(Ordering::Relaxed) + SHOW_EVERY {
            self.shown.store(seconds, Ordering::Relaxed);
            tracing::info!(job = %self.job, done, seconds, "in progress");
        }
    }
}

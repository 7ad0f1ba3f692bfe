//! Jobs beside the service: run one now, or all on their schedules.

use std::{path::PathBuf, process::ExitCode, sync::Arc};

use billing_service::{app, biz::audit, command, data::Store};
use clap::{Parser, ValueEnum};
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
}

#[derive(Clone, Copy, ValueEnum)]
enum JobName {
    /// Prove that every balance, quota and rollup follows from its history; exit 1
    /// when one does not.
    Audit,
}

/// In the billing zone: second, minute, hour, day of month, month, day of week.
const AUDIT_SCHEDULE: &str = "0 30 3 * * *";

fn main() -> ExitCode {
    command::exit_code(run())
}

#[tokio::main]
async fn run() -> anyhow::Result<ExitCode> {
    let arguments = Arguments::parse_from(command::arguments());
    let config = command::prepare(&arguments.conf)?;
    let (store, code);
    match arguments.once {
        Some(JobName::Audit) => {
            store = app::connect_existing(&config).await?;
            code = audit(&*store).await?;
        }
        // Beside a server that may be about to make its first database.
        None => {
            store = app::connect(&config).await?;
            run_schedules(store.clone(), config.billing.timezone).await?;
            code = ExitCode::SUCCESS;
        }
    }
    app::close(&*store).await;
    Ok(code)
}

/// Runs until asked to stop. An audit only reads, so two crons at once do no harm.
async fn run_schedules(store: Arc<dyn Store>, zone: chrono_tz::Tz) -> anyhow::Result<()> {
    // Caught before it says that it waits.
    let stop = command::stop_signal()?;
    let mut scheduler = JobScheduler::new().await?;
    let daily = Job::new_async_tz(AUDIT_SCHEDULE, zone, move |_, _| {
        let store = store.clone();
        Box::pin(async move {
            if let Err(error) = audit(&*store).await {
                tracing::error!(%error, "audit failed");
            }
        })
    })?;
    scheduler.add(daily).await?;
    scheduler.start().await?;
    tracing::info!(audit = AUDIT_SCHEDULE, %zone, "waiting for the schedules");
    stop.await;
    scheduler.shutdown().await?;
    Ok(())
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
